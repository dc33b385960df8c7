"""The server of ``spineline review``: whom it answers, what it saves and what it refuses."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spineline.converters.sources.result.corrections import read_corrections
from spineline.datasets.common.errors import AnnotationError, ConfigError, SpinelineError
from spineline.datasets.common.locks import held_folder
from spineline.pipeline.review.folder import results_folder
from spineline.pipeline.review.images import ResultImages
from spineline.pipeline.review.settings import Review
from spineline.pipeline.review.studies import ReviewedStudies

pytest.importorskip("starlette", reason="needs the package starlette (spineline[review])")
httpx = pytest.importorskip("httpx", reason="needs the package httpx")

from starlette.testclient import TestClient  # noqa: E402

from spineline.pipeline.review.review import review  # noqa: E402
from spineline.pipeline.review.server import MOST_BYTES, review_app  # noqa: E402

TOKEN, PORT = "t0ken", 8765
BASE = f"http://127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the results of the first test stay, of which each has a copy."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def results(kept: Path, tmp_path: Path, make_study, fake_models, predict) -> Path:
    """What the fakes make of two studies."""
    if not (kept / "o").exists():
        for name in ("a", "b"):
            make_study(kept / "in" / name)
        predict(kept / "in", out=kept / "o")
    return Path(shutil.copytree(kept / "o", tmp_path / "o"))


@pytest.fixture
def client(results: Path) -> Any:
    """A browser at the page of these results; keys are those of the application."""

    def made(**keys: Any) -> TestClient:
        studies = ReviewedStudies(results, ResultImages(results, None, ExitStack()), reviewer="me")
        app = review_app(studies, token=TOKEN, port=PORT, **keys)
        return TestClient(app, base_url=f"{BASE}/{TOKEN}/")

    return made


def value_of(client: Any, name: str = "a", **more: Any) -> dict[str, Any]:
    found = client.get(f"api/studies/{name}").json()
    stored = found["corrections"]
    value = {"revision": stored["revision"] if stored else 0, "changes": [], "comment": ""}
    return {**value, "result_sha256": found["result_sha256"], "looked_at": False, **more}


def saved(client: Any, name: str = "a", **more: Any) -> Any:
    return client.put(f"api/studies/{name}/corrections", json=value_of(client, name, **more))


def test_the_page_is_fenced_in(client) -> None:
    for path in ("", "assets/review.js", "api/studies", "api/nothing"):
        headers = client().get(path).headers
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; script-src 'self'"
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    page = client().get("").text
    assert "http" not in page.replace("http-equiv", "")
    assert "style=" not in page
    assert "onclick" not in page


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": f"localhost:{PORT}"}, 200),
        ({"host": "evil.example"}, 421),
        ({"host": f"127.0.0.1:{PORT + 1}"}, 421),
        ({"origin": BASE}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_only_the_page_itself_is_answered(client, headers: dict[str, str], status: int) -> None:
    assert client().get("api/studies", headers=headers).status_code == status


@pytest.mark.parametrize("path", ["/", "/api/studies", "/t0kem/api/studies", "/t0ken", "/t0ke/"])
def test_without_the_token_there_is_nothing(client, path: str) -> None:
    assert client().get(f"{BASE}{path}").status_code == 404


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "..%2f..%2fetc", ".hidden", "a%2f..", "%00", "none", "a%5c..", "o%2fa"]
)
def test_other_places_than_studies_are_refused(client, name: str) -> None:
    for path in (f"api/studies/{name}", f"api/studies/{name}/slices/0", f"assets/{name}"):
        assert client().get(f"{BASE}/{TOKEN}/{path}").status_code == 404
    body = {"revision": 0}
    put = client().put(f"{BASE}/{TOKEN}/api/studies/{name}/corrections", json=body)
    assert put.status_code == 404


def test_a_study_and_its_slices(client, results: Path) -> None:
    found = client().get("api/studies/a").json()
    assert found["result"] == json.loads((results / "a" / "result.json").read_text())
    assert found["image"] == {"count": 3, "graded": 1}
    assert found["corrections"] is None
    response = client().get("api/studies/a/slices/1")
    about = json.loads(response.headers["x-slice"])
    greys = np.frombuffer(response.content, "<u2").reshape(about["rows"], about["columns"])
    point = found["result"]["structures"][0]["point_xy"]
    assert greys[round(point[1]), round(point[0])] * about["slope"] + about["offset"] == 250 * 16
    assert 0 <= about["window"][0] < about["window"][1] <= 4095
    assert client().get("api/studies/a/slices/3").status_code == 404


def test_saving_counts_revisions_and_leaves_the_result_alone(client, results: Path) -> None:
    page, before = client(), (results / "a" / "result.json").read_bytes()
    changes = [{"of": "L4", "point_xy": [55.0, 91.0], "seven": 1}, {"of": "L5", "seven": 0}]
    assert saved(page, changes=changes, comment="Ü").json()["revision"] == 1
    assert saved(page, changes=changes, looked_at=True).json()["revision"] == 2
    assert (results / "a" / "result.json").read_bytes() == before
    stored = read_corrections(results / "a" / "corrections.json")
    assert stored is not None
    (change,) = stored.changes  # that of L5 says what the result says
    assert (change.of, change.point_xy, change.seven) == ("L4", (55.0, 91.0), 1)
    # im1 lies in the plane x = 0 at 1.25 mm a pixel, from (-100, 100) on.
    assert change.point_mm == pytest.approx((0.0, -100 + 55 * 1.25, 100 - 91 * 1.25))
    assert (stored.reviewer, stored.time, stored.looked_at) == ("me", None, True)


def test_what_was_saved_in_between_is_not_lost(client) -> None:
    page = client()
    old = value_of(page, comment="from an old window")
    assert saved(page, comment="first").status_code == 200
    answer = page.put("api/studies/a/corrections", json=old)
    assert answer.status_code == 409
    assert "another window" in answer.json()["error"]
    assert page.get("api/studies/a").json()["corrections"]["comment"] == "first"


def test_a_result_that_is_written_anew_is_told(client, results: Path) -> None:
    page, path = client(), results / "a" / "result.json"
    assert saved(page, changes=[{"of": "L4", "seven": 1}]).status_code == 200
    old = value_of(page)
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert page.put("api/studies/a/corrections", json=old).status_code == 409
    assert page.get("api/studies/a").json()["stale"]
    listed = {one["name"]: one["status"] for one in page.get("api/studies").json()["studies"]}
    assert listed == {"a": "stale", "b": "open"}
    assert saved(page, looked_at=True).json()["revision"] == 2
    (kept,) = (results / "a").glob("corrections.earlier-*.json")
    assert json.loads(kept.read_text())["changes"] == [{"of": "L4", "seven": 1}]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"changes": [{"of": "L4", "level": "L5"}]}, "two structures would be named L5"),
        ({"changes": [{"of": "L4", "seven": 2}]}, "of a vertebra"),
        ({"changes": [{"of": "L4", "point_xy": [1e9, 0]}]}, "outside the image"),
        ({"comment": "x" * 5000}, "at most 4000 letters"),
        ({"looked_at": "yes"}, "looked_at"),
        ({"else": 1}, "unknown key"),
    ],
)
def test_changes_that_cannot_be_are_refused(client, results: Path, more: Any, words: str) -> None:
    answer = saved(client(), **more)
    assert answer.status_code == 422
    assert words in answer.json()["error"]
    assert not (results / "a" / "corrections.json").exists()


def test_bodies_that_are_none(client) -> None:
    page, place = client(), "api/studies/a/corrections"
    kind = {"content-type": "application/json"}
    assert page.put(place, content=b"x" * (MOST_BYTES + 1), headers=kind).status_code == 413
    parts = (b"x" * 4096 for _ in range(100))  # without a length in the header
    assert page.put(place, content=parts, headers=kind).status_code == 413
    assert page.put(place, content=b"{", headers=kind).status_code == 400
    assert page.put(place, content=b"[]", headers=kind).status_code == 400
    assert page.put(place, content=b"[" * 100_000, headers=kind).status_code == 400
    assert page.put(place, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert page.post(place, json={}).status_code == 405


def test_readonly_saves_nothing(client, results: Path) -> None:
    page = client(readonly=True)
    assert page.get("api/setup").json()["readonly"]
    assert saved(page).status_code == 403
    assert not (results / "a" / "corrections.json").exists()


def test_a_full_disk_is_said(client, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = client()
    assert saved(page, comment="kept").status_code == 200

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    answer = saved(page, comment="lost")
    assert answer.status_code == 507
    assert "the disk is full" in answer.json()["error"]
    monkeypatch.undo()
    assert page.get("api/studies/a").json()["corrections"]["comment"] == "kept"
    assert {path.name for path in (results / "a").iterdir()} == {
        "result.json", "overlay.png", "log.txt", "corrections.json"
    }  # fmt: skip


def test_corrections_that_cannot_be_read_are_left_alone(client, results: Path) -> None:
    page, path = client(), results / "a" / "corrections.json"
    path.write_text("{half")
    assert "cannot be read" in page.get("api/studies/a").json()["problem"]
    answer = page.put("api/studies/a/corrections", json=value_of_broken(page))
    assert answer.status_code == 422
    assert path.read_text() == "{half"


def value_of_broken(page: Any) -> dict[str, Any]:
    sha256 = page.get("api/studies/a").json()["result_sha256"]
    return {
        "revision": 0, "result_sha256": sha256, "looked_at": True, "comment": "", "changes": []
    }  # fmt: skip


def test_the_list(client, results: Path, change_result: Callable[..., None]) -> None:
    change_result("b", naming={"offset_probability": 0.4, "alternatives": [], "abstained": True},
                  warnings=[{"code": "naming_abstained", "text": "a guess"}])  # fmt: skip
    line = {
        "study": "c", "status": "failed", "reason": "no pixels", "weights": "", "settings": "",
        "version": "", "seconds": 0.1, "kind": "reading", "input": "",
    }  # fmt: skip
    with (results / "manifest.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    page = client()
    listed = page.get("api/studies").json()
    assert [one["name"] for one in listed["studies"]] == ["b", "a", "c"]
    assert listed["studies"][2]["reason"] == "no pixels"
    assert page.get("api/studies/c").json() == {"error": "c: no pixels"}
    saved(page, "b", looked_at=True)

    def names(**query: Any) -> list[str]:
        return [one["name"] for one in page.get("api/studies", params=query).json()["studies"]]

    assert names(status="done") == ["b"]
    assert names(status="failed") == ["c"]
    assert names(code="naming_abstained") == ["b"]
    assert names(text="A") == ["a"]
    assert names(offset=1, limit=1) == ["a"]
    assert page.get("api/studies", params={"limit": 0}).status_code == 400
    rows = list(csv.DictReader(io.StringIO(page.get("api/status.csv").text)))
    assert [(row["study"], row["status"]) for row in rows] == [
        ("a", "open"), ("b", "done"), ("c", "failed")
    ]  # fmt: skip


@pytest.fixture
def change_result(results: Path) -> Callable[..., None]:
    def change(name: str, **values: Any) -> None:
        path = results / name / "result.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def test_a_comment_is_no_formula_in_the_table(client) -> None:
    page = client()
    saved(page, comment="=HYPERLINK(1)")
    assert "'=HYPERLINK(1)" in page.get("api/status.csv").text


@pytest.fixture
def elsewhere(kept: Path, results: Path, tmp_path: Path) -> Iterator[Path]:
    """The images, away from where the run found them."""
    yield (kept / "in").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(kept / "in")


def test_without_images_the_rest_works(client, results: Path, elsewhere: Path) -> None:
    page = client()
    assert "images=" in page.get("api/studies/a").json()["image"]["problem"]
    answer = page.get("api/studies/a/slices/0")
    assert (answer.status_code, "images=" in answer.json()["error"]) == (422, True)
    assert saved(page, changes=[{"of": "L4", "point_xy": [50, 90]}]).status_code == 200
    images = ResultImages(results, elsewhere, ExitStack())
    assert ReviewedStudies(results, images).study("a")["image"] == {"count": 3, "graded": 1}


def test_pseudonymous_results_find_their_images_by_the_salt(
    tmp_path: Path, make_study, fake_models, predict
) -> None:
    make_study(tmp_path / "in" / "a")
    predict(tmp_path / "in", "names=hash")
    images = ResultImages(tmp_path / "o", tmp_path / "in", ExitStack())
    studies = ReviewedStudies(tmp_path / "o", images)
    (name,) = studies.names()
    assert name.startswith("study-")
    assert studies.study(name)["image"] == {"count": 3, "graded": 1}


def test_a_second_writer_is_refused(results: Path) -> None:
    with (
        held_folder(results, "writing", inside=True),
        pytest.raises(SpinelineError, match="add readonly=true"),
    ):
        review(Review(source=results))


def test_a_folder_without_results_is_refused(kept: Path, results: Path) -> None:
    assert results_folder(results) == results
    with pytest.raises(AnnotationError, match="is a single study"):
        results_folder(results / "a")
    with pytest.raises(AnnotationError, match=r"holds no STUDY/result\.json"):
        results_folder(kept / "in")


@pytest.mark.slow
def test_a_server_that_is_killed_loses_nothing_and_holds_nothing(results: Path) -> None:
    """The command itself, from another process, as a browser would speak to it."""
    for turn in (1, 2):
        command = [sys.executable, "-m", "spineline.pipeline.cli.main", "review"]
        server = subprocess.Popen(
            [*command, f"source={results}", "timestamps=true"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=results.parent,
        )
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            address = next(word for word in said.split() if word.startswith("http://127.0.0.1:"))
            with httpx.Client(base_url=address, timeout=60) as page:
                assert saved(page, comment=f"turn {turn}").json()["revision"] == turn
            if turn == 1:
                other = subprocess.run(
                    [*command, f"source={results}"],
                    capture_output=True,
                    text=True,
                    check=False,
                    cwd=results.parent,
                )
                assert (other.returncode, "readonly=true" in other.stderr) == (1, True)
        finally:
            server.kill()
            server.wait()
    stored = read_corrections(results / "a" / "corrections.json")
    assert stored is not None
    assert (stored.comment, stored.revision) == ("turn 2", 2)
    assert str(stored.time).endswith("+00:00")


@pytest.mark.slow
def test_ctrl_c_is_the_ordinary_end(results: Path) -> None:
    command = [sys.executable, "-m", "spineline.pipeline.cli.main", "review", f"source={results}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=results.parent) as server:
        assert server.stdout is not None
        said = server.stdout.readline()
        address = next(word for word in said.split() if word.startswith("http://127.0.0.1:"))
        assert httpx.get(address, timeout=60).status_code == 200
        server.send_signal(signal.SIGINT)
        assert "0 of 2 studies reviewed" in server.stdout.read()
    assert server.returncode == 0


def test_without_uvicorn(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigError, match=r"pip install 'spineline\[review\]'"):
        review(Review(source=results, readonly=True))
