"""Several slices of a study, from its files to its results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest

from spineline.datasets.dicom.geometry import patient_to_pixel
from spineline.datasets.dicom.study import scan
from spineline.pipeline import Pipeline
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import load_frame
from spineline.pipeline.run.settings import PipelinePredict, results_hash


def analysed(pipeline: Pipeline, study: Path, slices: Any) -> Analysis:
    (case,) = find_cases(study, slices=slices)
    (analysis,) = pipeline.analyse([load_frame(case)])
    return analysis


def test_the_result_says_which_slices_were_looked_at(tmp_path, fake_pipeline, make_study) -> None:
    make_study(tmp_path / "s", slices=9)
    auto, one = (analysed(fake_pipeline, tmp_path, n).result for n in ("auto", 1))
    assert auto.to_json()["slices"] == {"graded": 5, "looked_at": [4, 5, 6], "other_series": 0}
    assert "slices" not in one.to_json()
    assert replace(auto, slices=None, naming=None) == replace(one, naming=None)
    assert auto.as_stored().slices == auto.slices


def test_outputs_are_of_the_graded_slice(
    tmp_path, fake_models, make_study, make_slice, make_spots, make_points, predict
) -> None:
    """The middle slice shows five levels; the one beside it all, 5 pixels further down."""
    part, whole = make_spots(make_points()[:5]), make_spots(make_points(top=25.0))
    for number, image in enumerate((part, whole, part, part, part), 1):
        make_slice(
            tmp_path / "c" / "s" / f"im{number}", image, study="s", number=number,
            position=(-4.0 * number, -100.0, 100.0),
        )  # fmt: skip
    code, _, err = predict(tmp_path / "c", "to=sr,pr,sc,slicer,report")
    assert code == 0, err
    result = json.loads((tmp_path / "o" / "s" / "result.json").read_text())
    assert result["slices"]["graded"] == 2
    assert len(result["structures"]) == 11
    graded = pydicom.dcmread(tmp_path / "c" / "s" / "im2")
    assert result["instance_uid"] == graded.SOPInstanceUID
    (study,) = scan(tmp_path / "c")
    header = next(h for h in study.series[0].slices if h.instance_uid == graded.SOPInstanceUID)
    for structure in result["structures"]:
        x, y, away = patient_to_pixel(header, [structure["point_mm"]])[0]
        np.testing.assert_allclose([x, y, away], [*structure["point_xy"], 0], atol=2e-3)
    for path in (tmp_path / "o" / "s").glob("*.dcm"):
        assert graded.SOPInstanceUID in str(pydicom.dcmread(path)), path.name
    log = (tmp_path / "o" / "log.txt").read_text()
    assert "slice 2 was graded (11 levels)" in log


@pytest.mark.parametrize("value", ["0", "-1", "1.5"])
def test_other_values_are_refused(tmp_path, make_study, run_cli, value: str) -> None:
    make_study(tmp_path / "s")
    words = (f"source={tmp_path / 's'}", f"out={tmp_path / 'o'}", f"slices={value}")
    code, _, err = run_cli("pipeline", "predict", *words)
    assert code == 2
    assert "slices" in err
    assert not (tmp_path / "o").exists()


def test_a_run_that_goes_on_with_other_slices_does_studies_again(tmp_path) -> None:
    keys = {"source": tmp_path, "out": tmp_path / "o"}
    hashes = {results_hash(PipelinePredict(**keys, slices=n)) for n in ("auto", 1, 3)}
    assert len(hashes) == 3


def test_argmax_looks_at_one(tmp_path, fake_pipeline, make_study) -> None:
    make_study(tmp_path / "s", slices=5)
    settings = replace(fake_pipeline.settings, decode="argmax")
    analysis = analysed(replace(fake_pipeline, settings=settings), tmp_path, "auto")
    assert analysis.result.slices is None
    assert len(analysis.result.structures) == 11


# real images of other scanners, with the bundled networks


@pytest.fixture(scope="module")
def bundled() -> Pipeline:
    return Pipeline.from_settings(ModelSettings())


def write_stack(folder: Path, images: list[np.ndarray], make_slice: Any) -> None:
    """A T2 sagittal stack, slices 3 mm apart, of 0.5 mm pixels."""
    for number, image in enumerate(images, 1):
        make_slice(
            folder / f"im{number}", image, study=folder.name, number=number, spacing=0.5,
            position=(-3.0 * number, -100.0, 100.0),
        )  # fmt: skip


@pytest.mark.parametrize("patient", ["p209", "p152"])
def test_real_neighbours_lose_no_level(
    tmp_path, bundled, make_slice, shared_external, patient: str
) -> None:
    names = [f"{patient}_{place}.png" for place in ("m6", "m3", "p0", "p3", "p6")]
    paths = [shared_external / "spider" / "images" / name for name in names]
    images = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths if path.is_file()]
    write_stack(tmp_path / patient, images, make_slice)
    one, auto = (analysed(bundled, tmp_path, n) for n in (1, "auto"))
    assert len(auto.result.structures) >= len(one.result.structures)
    assert auto.result.slices is not None
    assert len(auto.result.slices.looked_at) >= 3


def test_a_fat_suppressed_study_gets_its_levels_with_the_help_of_its_t1(
    tmp_path, bundled, shared_external
) -> None:
    truth = json.loads((shared_external / "rsna" / "points.json").read_text())
    for series in ("101", "102"):
        for path in sorted((shared_external / "rsna" / "study7001" / series).iterdir()):
            dataset = pydicom.dcmread(path)
            dataset.SOPInstanceUID += f".{series}"  # those of its series are the same ones
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            target = tmp_path / "study" / f"{series}-{path.name}"
            target.parent.mkdir(exist_ok=True)
            dataset.save_as(target)
    result = analysed(bundled, tmp_path, "auto").result
    (study,) = scan(tmp_path)
    slices = next(s.slices for s in study.series if s.series_uid.endswith(result.series_uid or ""))
    labelled = next(h for h in slices if h.instance_number == truth["instance_number"])
    spacing = np.array(truth["spacing_rc_mm"])[::-1]
    points = np.array([s.point_mm for s in result.structures])
    places = patient_to_pixel(labelled, points)[:, :2]
    found = dict(zip([s.level for s in result.structures], places, strict=True))
    away = [np.hypot(*((found[level] - xy) * spacing)) for level, xy in truth["points"].items()]
    assert max(away) <= 8
    assert result.slices is not None
    assert result.slices.other_series == 1
