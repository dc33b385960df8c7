"""Every output shows a study's missing levels, abstention and warnings, each in its own way."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from spineline.pipeline.outputs import study_files as outputs
from spineline.pipeline.run.settings import PipelinePredict

CODES = ("no_geometry", "burned_in_text", "missing_levels", "naming_abstained")


def spoil(dataset: pydicom.Dataset) -> None:
    dataset.BurnedInAnnotation = "YES"
    del dataset.ImagePositionPatient


@pytest.fixture
def titles() -> list[str]:
    """Titles of the pictures drawn."""
    return []


@pytest.fixture
def run(tmp_path, fake_models, make_slice, make_spots, make_points, predict, monkeypatch, titles):
    """One spoilt study with everything that can be written of it; the folder of the run."""
    pytest.importorskip("highdicom")
    draw = outputs.draw_overlay

    def drawn(image: np.ndarray, marks: Any, *, title: str, legend: Any) -> np.ndarray:
        titles.append(title)
        return draw(image, marks, title=title, legend=legend)

    monkeypatch.setattr(outputs, "draw_overlay", drawn)
    make_slice(tmp_path / "s" / "im", make_spots(make_points()[:9]), study="s", change=spoil)
    to = "sr,pr,sc,slicer,tianchi,coco,report,page"
    code, *said = predict(tmp_path / "s", f"to={to}", "min_naming_probability=1")
    assert code == 0
    assert "SECRET" not in "".join(said)
    return tmp_path / "o"


def texts_in(dataset: pydicom.Dataset) -> list[str]:
    """All values of text in a DICOM object, sequences too."""
    return [
        str(element.value)
        for element in dataset.iterall()
        if element.VR in ("UT", "ST", "LT", "LO", "SH")
    ]


def test_each_of_them(run: Path, titles: list[str]) -> None:
    study = run / "s"
    result = json.loads((study / "result.json").read_text())
    assert set(CODES) <= {warning["code"] for warning in result["warnings"]}
    assert result["missing_levels"] == ["L5", "L5-S1"]
    assert result["naming"]["abstained"] is True
    codes = [warning["code"] for warning in result["warnings"]]
    shown = {
        "results.csv": (run / "results.csv").read_text(),
        "log.txt": (run / "log.txt").read_text(),
        "overlay.png": titles[-1],
        "report.html": (study / "report.html").read_text(),
        "index.html": (run / "index.html").read_text(),
        "tianchi.json": (run / "tianchi.json").read_text(),
        "tianchi.json of the study": (study / "tianchi.json").read_text(),
        "coco_images.json": (run / "coco_images.json").read_text(),
        "sr": " ".join(texts_in(pydicom.dcmread(study / "report.sr.dcm"))),
        "pr": " ".join(texts_in(pydicom.dcmread(study / "overlay.pr.dcm"))),
        "sc": " ".join(texts_in(pydicom.dcmread(study / "overlay.sc.dcm"))),
    }
    for name, text in shown.items():
        words = text.replace("missing: L5", "missing_levels")  # as pictures say it
        assert [code for code in codes if code not in words] == [], name
    with (run / "results.csv").open() as file:
        assert {row["naming_abstained"] for row in csv.DictReader(file)} == {"1"}
    for name in ("overlay.png", "report.html", "pr", "sr", "sc", "log.txt", "coco_images.json"):
        assert "L5-S1" in shown[name], name
    assert not (study / "points.mrk.json").exists()  # test_slicer has the others


def test_no_word_of_to_is_forgotten_here() -> None:
    """A new output has to be added above, with its warnings."""
    words = PipelinePredict.__dataclass_fields__["to"].metadata["choices"]
    assert set(words) == {"sr", "pr", "sc", "slicer", "tianchi", "coco", "report", "page"}
