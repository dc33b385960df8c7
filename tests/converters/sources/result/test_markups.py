"""Markups of 3D Slicer beside results: never passed over in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from spineline.converters.formats.slicer import MarkupPoint, markups_document
from spineline.converters.sources.result.read import read_results
from spineline.datasets.labels import LEVELS
from spineline.datasets.predictions import RESULT_SCHEMA


def place(n: int) -> list[float]:
    return [1.5, 10.0 + n, 200.0 - 13.25 * n]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of one result with its markups, as ``pipeline predict to=slicer`` writes them."""
    structures = [
        {"level": level, "point_xy": [48, 14 + 13 * n], "point_mm": place(n), "confidence": 0.9,
         "seven": {"class": 3 if "-" in level else 0}, "binary": {"class": 0}}
        for n, level in enumerate(LEVELS)
    ]  # fmt: skip
    content = {
        "schema": RESULT_SCHEMA, "status": "ok", "study_uid": None, "series_uid": None,
        "instance_uid": None, "image": {"width": 96, "height": 160, "spacing_rc_mm": None},
        "structures": structures, "naming": {"abstained": False},
    }  # fmt: skip
    folder = tmp_path / "run" / "a-1"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(content))
    points = [MarkupPoint(s, "bulging 0.83", place(n), True) for n, s in enumerate(LEVELS)]
    write(folder, markups_document("spineline", points))
    (tmp_path / "images").mkdir()
    Image.new("L", (96, 160), 90).save(tmp_path / "images" / "a-1.png")
    return folder


def write(folder: Path, content: Any) -> None:
    (folder / "points.mrk.json").write_text(json.dumps(content))


def left_out(folder: Path) -> list[str]:
    source = read_results(folder.parent, folder.parents[1] / "images")
    assert len(source.records) + len(source.left_out) == 1
    assert all(entry.failed and entry.reason == "edited_markups" for entry in source.left_out)
    return [entry.detail for entry in source.left_out]


def move(markup: dict[str, Any]) -> None:
    markup["controlPoints"][7]["position"][1] += 3.2


def rename(markup: dict[str, Any]) -> None:
    markup["controlPoints"][0]["label"] = "T11-T12"


def delete(markup: dict[str, Any]) -> None:
    del markup["controlPoints"][10]


def add(markup: dict[str, Any]) -> None:
    new = {**markup["controlPoints"][0], "label": "S1", "position": [0, 0, 0]}
    markup["controlPoints"].append(new)


def double(markup: dict[str, Any]) -> None:
    markup["controlPoints"].append(markup["controlPoints"][3])


def grade(markup: dict[str, Any]) -> None:
    markup["controlPoints"][8]["description"] = "v4"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (move, "L4 lies 3.2 mm off"),
        (rename, "T12-L1 is not there; T11-T12 is new"),
        (delete, "L5-S1 is not there"),
        (add, "S1 is new"),
        (double, "1 levels are marked twice"),
        (grade, "L4-L5 is graded v4"),
    ],
)
def test_edited_markups_are_complained_of(run, edit, words):
    assert left_out(run) == []
    content = json.loads((run / "points.mrk.json").read_text())
    edit(content["markups"][0])
    write(run, content)
    (said,) = left_out(run)
    assert said.startswith(f"a-1/result.json: points.mrk.json beside it was edited: {words}")
    assert "spineline convert slicer annotations=RESULTS images=STUDIES" in said
    (run / "points.mrk.json").unlink()
    assert left_out(run) == []


def test_saved_again_by_slicer_without_a_change(run):
    """In RAS, with keys of its own and more digits."""
    content = json.loads((run / "points.mrk.json").read_text())
    (markup,) = content["markups"]
    markup["coordinateSystem"] = "RAS"
    for point in markup["controlPoints"]:
        x, y, z = point["position"]
        point["position"] = [-x - 1e-9, -y + 1e-9, z]
    markup.update(measurements=[], lastUsedControlPointNumber=11)
    write(run, content)
    assert left_out(run) == []


def test_another_file_and_one_that_is_broken(run):
    (run / "F.fcsv").write_text("# CoordinateSystem = LPS\n1,1,2,3,0,0,0,1,1,1,0,L3,,\n")
    (said,) = left_out(run)
    assert "F.fcsv beside it was edited" in said
    (run / "F.fcsv").unlink()
    write(run, [])
    (said,) = left_out(run)
    assert said.startswith("a-1/result.json: points.mrk.json: ")
