"""``docs/newcomers_hour.md``: its commands in order, and a reader in the browser in between.

Without a browser the corrections are saved by requests to the server of ``spineline review``.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from spineline.converters.sources.result.corrections import Corrections, read_corrections
from spineline.datasets.dataset import load_dataset
from spineline.datasets.labels import LEVELS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "newcomers_hour.md"
DOUBTFUL = ("study8", "study4", "study10")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TRAINED = ("detector.safetensors", "classifier.safetensors", "namer.safetensors")

Points = dict[str, tuple[float, float]]


def commands() -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(r"^```(?:sh|bash|console)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def environment() -> dict[str, str]:
    folder = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def run(command: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


@contextmanager
def served(command: str, folder: Path) -> Iterator[str]:
    """``spineline review`` while it runs: the address that it prints; Ctrl+C ends it."""
    process = subprocess.Popen(
        ["bash", "-ec", f"exec {command.strip()}"], cwd=folder, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        found = None
        while found is None:
            line = process.stdout.readline()
            assert line, "spineline review ended without an address"
            found = re.search(r"open (http://\S+)", line)
        yield found[1]
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert "3 of 12 studies reviewed" in said
    finally:
        process.kill()
        process.wait()


def result_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name / "result.json").read_text(encoding="utf-8"))


def truth(folder: Path) -> dict[str, Points]:
    """Points by study and level as the phantoms were drawn, which no command of the page reads."""
    found = {}
    for entry in json.loads((folder / "hour/phantoms/annotations.json").read_text()):
        (image,) = entry["data"]
        points = image["annotation"][0]["data"]["point"]
        found[entry["studyUid"]] = {p["tag"]["identification"]: tuple(p["coord"]) for p in points}
    return found


def apart(one: tuple[float, float], other: tuple[float, float]) -> float:
    return math.hypot(one[0] - other[0], one[1] - other[1])


class Reader:
    """Someone who follows the page in Chromium."""

    def __init__(self, driver: Any, results: Path) -> None:
        self.driver = driver
        self.results = results
        self.dragged: list[tuple[str, str]] = []

    def wait_for(self, state: Callable[[], object]) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, 120).until(lambda _: state())

    def text(self, id: str) -> str:
        return self.driver.find_element("id", id).text

    def keys(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        self.driver.execute_script("document.getElementById('picture').focus()")
        ActionChains(self.driver).send_keys(*keys).perform()

    def corrections(self, name: str) -> Corrections | None:
        return read_corrections(self.results / name / "corrections.json")

    def added(self, name: str) -> Points:
        found = self.corrections(name)
        changes = () if found is None else found.changes
        return {c.level: c.point_xy for c in changes if c.of is None and c.level and c.point_xy}

    def drag(self, start: tuple[float, float], end: tuple[float, float], image: Any) -> None:
        """Drag from one pixel of the image to another, the whole image in sight."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        left, top, wide, high = self.driver.execute_script(
            "const c = document.getElementById('picture'), b = c.getBoundingClientRect();"
            "return [b.left, b.top, c.clientWidth, c.clientHeight]"
        )
        size = (image["width"], image["height"])
        scale = min(wide / size[0], high / size[1])
        places = [
            (
                round(left + (x + 0.5) * scale + (wide - scale * size[0]) / 2),
                round(top + (y + 0.5) * scale + (high - scale * size[1]) / 2),
            )
            for x, y in (start, ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2), end)
        ]
        actions = ActionBuilder(self.driver)
        mouse = actions.pointer_action
        mouse.move_to_location(*places[0])
        mouse.pointer_down()
        mouse.move_to_location(*places[1])
        mouse.move_to_location(*places[2])
        mouse.pointer_up()
        actions.perform()

    def placed(self, name: str) -> Points:
        """Where the structures are, by their names on the page."""
        found = self.corrections(name)
        assert found is not None
        points = {s["level"]: s["point_xy"] for s in result_of(self.results, name)["structures"]}
        kept = {c.now: c.point_xy or points[c.of] for c in found.changes if c.of is not None}
        return {level: point for level, point in (kept | self.added(name)).items() if level}

    def drag_the_worst(self, name: str, points: Points) -> None:
        """Drag the point that lies furthest beside its structure to its middle."""
        placed = self.placed(name)
        worst = max(LEVELS, key=lambda level: apart(placed[level], points[level]))
        if apart(placed[worst], points[worst]) < 2:
            return  # a reader would leave them all
        self.drag(placed[worst], points[worst], result_of(self.results, name)["image"])
        self.wait_for(lambda: self.placed(name)[worst] != placed[worst])
        assert apart(self.placed(name)[worst], points[worst]) < 1
        self.dragged.append((name, worst))

    def correct(self, name: str, points: Points) -> None:
        self.wait_for(lambda: self.text("study-name") == name and "slice " in self.text("slice"))
        if name == DOUBTFUL[0]:
            self.keys("]")
        else:
            self.driver.find_element("css selector", "[data-do=chain-down]").click()
        self.wait_for(lambda: (found := self.corrections(name)) and len(found.changes) == 11)
        self.keys("a")
        self.wait_for(lambda: set(self.added(name)) == {"T12-L1"})
        if name == DOUBTFUL[0]:
            self.keys("a")
        else:
            self.driver.find_element("css selector", "[data-do=add]").click()
        self.wait_for(lambda: set(self.added(name)) == {"T12-L1", "L1"})
        self.drag_the_worst(name, points)
        before = self.added(name)["L1"][0]
        self.keys(*["\ue013"] * 13, *["\ue015"], "l", "l", "h")  # arrows: up to the top, and to L1
        self.wait_for(lambda: self.added(name)["L1"][0] == pytest.approx(before + 1))
        self.keys("\ue007")  # Enter
        self.wait_for(lambda: (found := self.corrections(name)) and found.looked_at)


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium by its driver, or None where one of them or selenium is missing."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    service = shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError:
        program = None
    if program is None or service is None:
        yield None
        return
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--window-size=1400,900"):  # fmt: skip
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    try:
        yield driver
    finally:
        driver.quit()


def correct_by_requests(address: str, name: str, points: Points) -> None:
    """What the page of the browser sends in the end, at once."""
    with urllib.request.urlopen(f"{address}api/studies/{name}") as answer:
        digest = json.load(answer)["result_sha256"]
    names = (*LEVELS, "S1", "S1-S2")
    changes: list[dict[str, Any]] = [
        {"of": level, "level": names[rank + 2]} for rank, level in enumerate(LEVELS)
    ]
    changes += [
        {"of": None, "level": level, "point_xy": points[level]} for level in ("T12-L1", "L1")
    ]
    value = {
        "result_sha256": digest, "revision": 0, "looked_at": True, "comment": "",
        "changes": changes,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{address}api/studies/{name}/corrections", json.dumps(value).encode(),
        {"Content-Type": "application/json"}, method="PUT",
    )  # fmt: skip
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_newcomers_hour(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="needs the package uvicorn (spineline[review])")
    pytest.importorskip("starlette", reason="needs the package starlette (spineline[review])")
    draw, predict, review, convert, train, again = commands()
    assert not any("annotations.json" in command for command in commands())
    results = tmp_path / "hour" / "results"

    run(draw, tmp_path)
    said = run(predict, tmp_path)
    assert {name for name in DOUBTFUL if re.search(rf"^{name}: .*abstained", said, re.M)} == {
        *DOUBTFUL
    }
    drawn = truth(tmp_path)
    first = {path.parent.name: result_of(results, path.parent.name)
             for path in results.glob("*/result.json")}  # fmt: skip
    assert len(first) == 12

    with browser() as driver, served(review, tmp_path) as address:
        reader = Reader(driver, results)
        if driver is not None:
            driver.get(address)
        for name in DOUBTFUL:
            points = drawn[first[name]["study_uid"]]
            if driver is not None:
                reader.correct(name, points)
            else:
                correct_by_requests(address, name, points)

    assert len(reader.dragged) >= 2 or driver is None
    run(convert, tmp_path)
    dataset = load_dataset(tmp_path / "hour" / "corrected")
    assert [len(dataset.records[part]) for part in ("train", "val", "test")] == [2, 1, 0]
    records = [record for part in dataset.records.values() for record in part]
    assert {record.image_id for record in records} == {*DOUBTFUL}
    for record in records:
        points = drawn[first[record.image_id]["study_uid"]]
        placed = {s.level: s.point_xy for s in record.structures}
        assert list(placed) == list(LEVELS)  # no longer one level off, and none missing
        assert max(apart(placed[level], points[level]) for level in LEVELS) < 8
        for name, level in reader.dragged:
            if name == record.image_id:
                assert apart(placed[level], points[level]) < 1
        before = {s["level"]: s["point_xy"] for s in first[record.image_id]["structures"]}
        assert apart(placed["L3"], before["L2"]) < 8  # the same place under its right name
    conversion = json.loads((tmp_path / "hour/corrected/conversion.json").read_text())
    assert conversion["counts"]["left_out"] == 9

    run(train, tmp_path)
    trained = tmp_path / "hour" / "trained"
    assert all((trained / name).is_file() for name in TRAINED)
    for stage in ("detector", "namer"):
        record = yaml.safe_load((trained / stage / "run.yaml").read_text())
        assert record["settings"]["weights"].startswith("lumbar-")
    members = [yaml.safe_load(p.read_text()) for p in trained.glob("classifier/*/run.yaml")]
    assert len(members) >= 2
    assert all(record["settings"]["weights"] for record in members)

    run(again, tmp_path)
    second = {path.parent.name: result_of(tmp_path / "hour/again", path.parent.name)
              for path in (tmp_path / "hour/again").glob("*/result.json")}  # fmt: skip
    assert set(second) == set(first)
    assert {one["weights"]["name"] for one in first.values()} == {"default"}
    assert {one["weights"]["name"] for one in second.values()} == {",".join(TRAINED)}
    assert {one["status"] for one in second.values()} == {"ok"}
    assert all(len(one["structures"]) >= 10 for one in second.values())
