"""The page of ``spineline review`` in a real browser, as a reader uses it: mouse, keys, windows."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spineline.converters.sources.result.corrections import Corrections, read_corrections
from spineline.datasets.dicom.geometry import Reorientation
from spineline.datasets.labels import LEVELS
from spineline.pipeline.review.images import ResultImages
from spineline.pipeline.review.studies import ReviewedStudies

uvicorn = pytest.importorskip("uvicorn", reason="needs the package uvicorn (spineline[review])")

from spineline.pipeline.review.server import review_app  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the package selenium")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    service = shutil.which("chromedriver")
    if program is None or service is None:
        pytest.skip("needs Chromium and its chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    try:
        yield made
    finally:
        made.quit()


class Page:
    """The page in one window of the browser."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver = driver
        self.address = address
        self.window = driver.current_window_handle
        self.scale = 1.0

    def open(self, width: int = 1400) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get("about:blank")
        self.complaints()
        self.driver.get(self.address)
        self.wait_for(lambda: len(self.levels()) > 0 and "slice" in self.text("slice"))

    def run(self, code: str, *values: object) -> Any:
        return self.driver.execute_script(code, *values)

    def wait_for(self, state: Callable[[], bool]) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        failing = (AssertionError,)  # such as that nothing is stored yet
        WebDriverWait(self.driver, 60, ignored_exceptions=failing).until(lambda _: state())

    def text(self, id: str) -> str:
        return self.run("return document.getElementById(arguments[0]).textContent", id)

    def levels(self) -> list[str]:
        code = (
            "return [...document.querySelectorAll('#structures [id^=level-]')].map((s) => s.value)"
        )
        return self.run(code)

    def keys(self, *keys: str, hold: str = "") -> None:
        """Press keys on the picture, the modifier held down meanwhile."""
        from selenium.webdriver.common.action_chains import ActionChains

        self.run("document.getElementById('picture').focus()")
        actions = ActionChains(self.driver)
        for key in keys:
            actions = (
                actions.key_down(hold).send_keys(key).key_up(hold)
                if hold
                else actions.send_keys(key)
            )
        actions.perform()

    def saved(self) -> None:
        self.wait_for(lambda: self.text("saved") == "saved")

    def drag(self, start: tuple[float, float], by: tuple[int, int], button: int = 0) -> None:
        """Drag on the picture, from a place on its canvas."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder
        from selenium.webdriver.common.actions.mouse_button import MouseButton

        box = self.run("const b = document.getElementById('picture').getBoundingClientRect();"
                       "return [b.left, b.top]")  # fmt: skip
        actions = ActionBuilder(self.driver)
        mouse = actions.pointer_action
        x, y = round(box[0] + start[0]), round(box[1] + start[1])
        mouse.move_to_location(x, y)
        mouse.pointer_down(MouseButton.RIGHT if button else MouseButton.LEFT)
        mouse.move_to_location(x + by[0] // 2, y + by[1] // 2)
        mouse.move_to_location(x + by[0], y + by[1])
        mouse.pointer_up(MouseButton.RIGHT if button else MouseButton.LEFT)
        actions.perform()

    def place_of(self, point_xy: list[float], size: tuple[int, int]) -> tuple[float, float]:
        """Where a stored pixel of an upright image is on the canvas, the whole image in sight."""
        wide, high = self.run("const c = document.getElementById('picture');"
                              "return [c.clientWidth, c.clientHeight]")  # fmt: skip
        scale = min(wide / size[0], high / size[1])
        self.scale = scale
        return (
            (point_xy[0] + 0.5) * scale + (wide - scale * size[0]) / 2,
            (point_xy[1] + 0.5) * scale + (high - scale * size[1]) / 2,
        )

    def brightness(self) -> float:
        return self.run(
            """
            const c = document.getElementById("picture");
            const data = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
            let sum = 0;
            for (let n = 0; n < data.length; n += 4) sum += data[n + 2];
            return sum / (data.length / 4);
            """
        )

    def complaints(self) -> list[str]:
        """Lines of the console, and requests for anything but this server."""
        lines = [entry["message"] for entry in self.driver.get_log("browser")]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                address = message["params"]["request"]["url"]
                if not address.startswith((self.address, "data:", "about:")):
                    lines.append(f"asked for {address}")
        return lines


@pytest.fixture
def results(tmp_path: Path, make_study, fake_models, predict) -> Path:
    """What the fakes make of three studies."""
    for name in ("a", "b", "c"):
        make_study(tmp_path / "in" / name)
    predict(tmp_path / "in")
    return tmp_path / "o"


@pytest.fixture
def serve(results: Path) -> Iterator[Callable[..., str]]:
    """Start a server of the results, and give its address."""
    servers = []

    def start(**keys: Any) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        studies = ReviewedStudies(results, ResultImages(results, None, ExitStack()))
        app = review_app(studies, token="t0ken", port=port, **keys)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{port}/t0ken/"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def page(driver, serve) -> Page:
    made = Page(driver, serve())
    made.open()
    return made


@pytest.fixture
def stored(results: Path) -> Callable[..., Corrections]:
    def read(name: str = "a") -> Corrections:
        found = read_corrections(results / name / "corrections.json")
        assert found is not None
        return found

    return read


def spots_upside_down() -> np.ndarray:
    """The fakes' spine with its head at the bottom of the stored image."""
    image = np.full((150, 120), 20, np.uint8)
    for rank in range(11):
        y, x = 129 - 10 * rank, round(60 + 6 * math.sin(rank / 4))
        image[y - 2 : y + 3, x - 2 : x + 3] = 250
    return image


def result_of(results: Path, name: str = "a") -> dict[str, Any]:
    return json.loads((results / name / "result.json").read_text())


def test_a_study_is_opened_and_nothing_is_asked_of_others(page: Page) -> None:
    assert page.text("study-name") == "a"
    assert page.levels() == list(LEVELS)
    assert page.text("slice") == "slice 2 of 3"
    assert page.brightness() > 5
    assert page.complaints() == []


def test_a_point_is_dragged_and_undone(page: Page, results: Path, stored) -> None:
    structure = result_of(results)["structures"][4]
    start = page.place_of(structure["point_xy"], (120, 150))
    page.drag(start, (30, 12))
    page.saved()
    (change,) = stored().changes
    x, y = structure["point_xy"]
    assert change.of == structure["level"]
    assert change.point_xy == pytest.approx((x + 30 / page.scale, y + 12 / page.scale), abs=0.5)
    assert change.point_mm is not None
    page.keys("z", hold="\ue009")
    page.wait_for(lambda: stored().changes == () and page.text("saved") == "saved")
    page.keys("y", hold="\ue009")
    page.wait_for(lambda: len(stored().changes) == 1)


def test_all_names_are_shifted_there_and_back(page: Page, stored) -> None:
    page.keys("]")
    page.saved()
    page.wait_for(lambda: len(stored().changes) == 11)
    assert page.levels()[0] == "L1-L2"
    assert page.levels()[-2:] == ["S1", "S1-S2"]
    page.driver.refresh()
    page.wait_for(lambda: len(page.levels()) == 11)
    assert page.levels()[-2:] == ["S1", "S1-S2"]  # also after the page was loaded anew
    page.keys("\ue013", hold="\ue008")  # Shift and arrow up
    page.wait_for(lambda: stored().changes == ())
    assert page.levels() == list(LEVELS)


def test_everything_by_keyboard(page: Page, stored) -> None:
    page.keys("\ue015")  # down: the first
    page.keys("5")
    page.wait_for(lambda: stored().changes[0].seven == 4)
    page.keys("v")
    page.wait_for(lambda: stored().changes[0].v5 is True)
    page.keys("1")
    page.wait_for(lambda: "T12-L1 is a disc" in page.text("saved"))
    page.keys("\ue015", "2")
    page.wait_for(lambda: {c.of: c.seven for c in stored().changes} == {"T12-L1": 4, "L1": 1})
    page.keys("l", "L", "J")
    page.wait_for(lambda: stored().changes[1].point_xy is not None)
    page.wait_for(lambda: page.text("saved") == "saved")
    page.keys("\ue015", "\ue017")  # the next, deleted
    page.wait_for(lambda: any(c.deleted and c.of == "L1-L2" for c in stored().changes))
    page.keys("a")
    page.wait_for(lambda: any(c.of is None and c.level == "L1-L2" for c in stored().changes))
    page.keys("?")
    page.wait_for(lambda: page.run("return document.getElementById('help').open"))
    page.driver.switch_to.active_element.send_keys("\ue00c")
    page.wait_for(lambda: not page.run("return document.getElementById('help').open"))
    page.keys("c")
    page.driver.switch_to.active_element.send_keys("3 of 5?\ue00c")
    page.wait_for(lambda: stored().comment == "3 of 5?")
    page.keys("\ue007")  # enter: looked at, on to the next
    page.wait_for(lambda: page.text("study-name") == "b" and page.text("slice") != "")
    assert stored().looked_at
    page.wait_for(lambda: page.text("progress") == "1 of 3 reviewed")
    assert page.complaints() == []


def test_through_the_open_ones_by_enter_alone(page: Page, stored) -> None:
    """With the list filtered, each study comes once, and the last says that it was the last."""
    page.run(
        "const s = document.getElementById('by-status'); s.value = 'open';"
        "s.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    page.wait_for(lambda: page.text("count") == "3 studies, doubtful ones first")
    for name, done in (("b", 1), ("c", 2)):
        page.keys("\ue007")
        page.wait_for(lambda name=name: page.text("study-name") == name)  # type: ignore[misc]
        progress = f"{done} of 3 reviewed"
        page.wait_for(lambda progress=progress: page.text("progress") == progress)  # type: ignore[misc]
    page.keys("\ue007")
    page.wait_for(lambda: page.text("saved") == "no further open study in the list")
    assert page.text("progress") == "3 of 3 reviewed"
    assert all(stored(name).looked_at for name in "abc")


def test_names_from_one_structure_on_and_one_alone(page: Page, stored) -> None:
    page.keys(*["\ue015"] * 10)  # L5
    page.keys("\ue015", hold="\ue00a")  # Alt and arrow down: L5 and L5-S1
    page.wait_for(lambda: [c.now for c in stored().changes] == ["S1", "S1-S2"])
    page.keys("\ue013", hold="\ue00a")
    page.wait_for(lambda: stored().changes == ())
    page.keys("\ue013", hold="\ue00a")  # L4 is there already
    page.wait_for(lambda: "would occur twice" in page.text("saved"))
    page.keys(",")  # L5 and L4 change places, and the page tells of the order
    page.wait_for(lambda: {c.of: c.now for c in stored().changes} == {"L4": "L5", "L5": "L4"})
    page.wait_for(lambda: "not below the level above" in page.text("notices"))


def test_slices_window_and_zoom(page: Page, stored, results: Path) -> None:
    before = page.brightness()
    page.keys("\ue014")
    page.wait_for(lambda: page.text("slice").startswith("slice 3 of 3 · not the slice"))
    page.keys("\ue015", "l")
    page.wait_for(lambda: "on the slice of the result" in page.text("saved"))
    page.keys("\ue011")
    page.wait_for(lambda: page.text("slice") == "slice 2 of 3")
    page.drag((40, 40), (0, 120), button=2)
    assert page.brightness() < before
    page.keys("f")
    assert page.brightness() == pytest.approx(before, rel=0.05)  # one structure is chosen by now
    page.keys("b")
    assert page.run("return document.querySelector('[data-do=boxes]').ariaPressed") == "true"
    page.keys("+", "+")
    page.drag((30, 300), (60, 0))  # moves the picture
    page.keys("-", "f")
    assert not (results / "a" / "corrections.json").exists()


def test_two_windows_lose_nothing_of_each_other(page: Page, driver, stored) -> None:
    first = driver.current_window_handle
    driver.switch_to.new_window("tab")
    try:
        other = Page(driver, page.address)
        other.open()
        other.keys("\ue015", "6")
        other.saved()
        driver.switch_to.window(first)
        page.run("window.onfocus = null")
        page.keys("\ue015", "\ue015", "2")
        page.wait_for(lambda: {c.of: c.seven for c in stored().changes} == {"T12-L1": 5, "L1": 1})
        page.saved()
        driver.switch_to.window(other.window)
        other.run("window.dispatchEvent(new Event('focus'))")
        other.wait_for(lambda: other.run("return document.getElementById('grade-1').value") == "1")
    finally:
        driver.switch_to.window(other.window)
        driver.close()
        driver.switch_to.window(first)


def test_two_windows_at_the_same_structure(page: Page, driver, stored, results: Path) -> None:
    """What was done last counts, the page says so, and undo brings back the other's."""
    page.keys("\ue015", "6")
    page.saved()
    path = results / "a" / "corrections.json"
    other = json.loads(path.read_text())
    other["changes"][0]["seven"], other["revision"] = 2, 2
    path.write_text(json.dumps(other))  # as another window would
    page.keys("5")
    page.wait_for(lambda: (stored().revision, stored().changes[0].seven) == (3, 4))
    page.wait_for(lambda: "Another window changed T12-L1 too" in page.text("notices"))
    page.keys("z", hold="\ue009")
    page.wait_for(lambda: stored().changes[0].seven == 2)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(("flip_x", "flip_y"), [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize("scaled_hw", [None, (80, 90)])
def test_points_are_turned_as_the_pipeline_turns_them(
    page: Page, transpose: bool, flip_x: bool, flip_y: bool, scaled_hw: Any
) -> None:
    turn = Reorientation(transpose, flip_x, flip_y, (40, 90), scaled_hw)
    plain = {
        "transpose": transpose, "flip_x": flip_x, "flip_y": flip_y, "size_hw": [40, 90],
        "scale_xy": list(turn.scale_xy),
    }  # fmt: skip
    shown, back = page.driver.execute_async_script(
        """
        const [turn, point, done] = arguments;
        import(document.baseURI.split("#")[0] + "assets/viewer.js").then((viewer) => {
          const shown = viewer.toShown(turn, ...point);
          done([shown, viewer.toStored(turn, ...shown)]);
        });
        """,
        plain,
        [3.25, 17.5],
    )
    assert shown == pytest.approx(turn.from_native([[3.25, 17.5]])[0].tolist())
    assert back == pytest.approx([3.25, 17.5])


def test_a_study_that_is_stored_upside_down(
    tmp_path: Path, make_study, fake_models, predict, driver, serve, results: Path
) -> None:
    """It is shown upright, and a point dragged down has another place in stored pixels."""
    image = spots_upside_down()
    make_study(tmp_path / "in" / "0", image, orientation=(0, 1, 0, 0, 0, 1))
    predict(tmp_path / "in")
    page = Page(driver, serve())
    page.address += "#0"
    page.open()
    structure = result_of(results, "0")["structures"][4]
    x, y = structure["point_xy"]
    page.drag(page.place_of([x, 149 - y], (120, 150)), (0, 20))
    page.saved()
    found = read_corrections(results / "0" / "corrections.json")
    assert found is not None
    assert found.changes[0].of == structure["level"]
    assert found.changes[0].point_xy == pytest.approx((x, y - 20 / page.scale), abs=0.5)


def test_a_result_written_anew_is_told_and_the_old_work_kept(
    page: Page, results: Path, stored
) -> None:
    page.keys("\ue015", "6")
    page.saved()
    path = results / "a" / "result.json"
    path.write_text(json.dumps(result_of(results)))
    page.driver.refresh()
    page.wait_for(lambda: "rewritten" in page.text("notices"))
    assert page.run("return document.getElementById('grade-0').disabled")
    page.driver.find_element("css selector", "#notices button").click()
    page.keys("\ue015", "\ue015", "2")
    page.saved()
    assert [c.of for c in stored().changes] == ["L1"]
    assert len(list((results / "a").glob("corrections.earlier-*.json"))) == 1


def test_a_server_that_is_gone_is_told_and_work_is_saved_later(
    page: Page, results: Path, stored, driver
) -> None:
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **offline})
    try:
        page.keys("\ue015", "6")
        page.wait_for(lambda: "not saved, trying again" in page.text("saved"))
    finally:
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **offline})
    page.saved()
    assert stored().changes[0].seven == 5


def test_readonly_changes_nothing(driver, serve, results: Path) -> None:
    page = Page(driver, serve(readonly=True))
    page.open()
    page.keys("\ue015", "6", "]", "x")
    page.wait_for(lambda: page.text("saved") == "read only")
    assert not (results / "a" / "corrections.json").exists()


def test_many_studies_and_a_name_that_is_code(driver, serve, results: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    for number in range(500):
        folder = results / (f"s{number:03}" if number else name)
        folder.mkdir()
        shutil.copy(results / "a" / "result.json", folder)
    page = Page(driver, serve())
    page.open()
    count = "return document.querySelectorAll('#studies li').length"
    assert page.run(count) == 100
    assert page.text("count") == "503 studies, doubtful ones first"
    page.run("document.getElementById('more').click()")
    page.wait_for(lambda: page.run(count) == 200)
    field = page.driver.find_element("id", "by-text")
    field.send_keys("onerror")
    page.wait_for(lambda: page.run(count) == 1)
    page.driver.find_element("css selector", "#studies button").click()
    page.wait_for(lambda: page.text("study-name") == name)
    page.wait_for(lambda: page.text("slice") == "slice 2 of 3")  # found by the study's UID
    assert page.complaints() == []


@pytest.mark.parametrize("width", [1400, 1000, 700, 400, 360])
def test_nothing_reaches_over_the_edge(page: Page, results: Path, width: int) -> None:
    page.open(width)
    found = page.run(
        """
        const wide = document.documentElement.clientWidth;
        const apart = "dialog, .unseen, .scrolls, option";
        const out = [...document.querySelectorAll("body *")].filter((one) =>
          !one.closest(apart) && one.getBoundingClientRect().right > wide + 0.5);
        const scrolls = document.querySelector(".scrolls");
        if (scrolls.scrollWidth > scrolls.clientWidth) out.push(scrolls);
        return out.map((one) => one.tagName + " " + one.id);
        """
    )
    assert found == []


@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("help_open", [False, True])
def test_axe_finds_no_barrier(page: Page, width: int, help_open: bool) -> None:
    script = axe_core()
    if script is None:
        pytest.skip("needs axe-core (npm install -g axe-core, or its axe.min.js by AXE_CORE)")
    page.open(width)
    page.keys("\ue015", "6")
    page.saved()
    if help_open:
        page.keys("?")
    page.run(script.read_text(encoding="utf-8"))
    found = page.driver.execute_async_script(
        "const done = arguments[0]; axe.run().then((r) => done(r.violations.map((v) =>"
        " [v.id, v.help, v.nodes.map((n) => n.html)])), (e) => done([String(e)]))"
    )
    assert found == []


def axe_core() -> Path | None:
    """The script of axe-core, where it is installed."""
    named = os.environ.get("AXE_CORE")
    if named:
        return Path(named)
    npm = shutil.which("npm")
    if npm is None:
        return None
    done = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, check=False)
    found = Path(done.stdout.strip()) / "axe-core" / "axe.min.js"
    return found if done.returncode == 0 and found.is_file() else None
