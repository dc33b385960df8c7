"""The frame of a case: its slice, its warnings, and slices that cannot be read."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.dicom.study import scan
from spineline.pipeline import Pipeline
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.sources import frame
from spineline.pipeline.inference.sources.case import Case
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import load_frame
from spineline.pipeline.inference.warnings import codes_of

# Frames that cannot be looked at, or that something is to be said of


def test_a_constant_image_is_an_error(tmp_path) -> None:
    cv2.imwrite(str(tmp_path / "even.png"), np.full((90, 80), 7, np.uint8))
    with pytest.raises(SpinelineError, match=r"even\.png: constant image, nothing can be seen"):
        load_frame(find_cases(tmp_path / "even.png")[0])


def test_a_case_of_nothing_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="a case without a study needs the path of an image"):
        load_frame(Case("nothing"))


def test_a_plain_image_in_which_fat_is_dark_is_told_of(tmp_path, monkeypatch, make_spots) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), make_spots())
    (case,) = find_cases(tmp_path / "a.png")
    assert load_frame(case).warnings == ()
    dark = SimpleNamespace(has_suppressed_fat=True)
    monkeypatch.setattr(frame, "look_at_sagittal", lambda pixels: dark)
    (told,) = load_frame(case).warnings
    assert (told.code, "grades are less certain" in told.text) == ("fat_suppressed", True)


# Several slices of a study


def analysed(pipeline: Pipeline, study: Path, slices: Any) -> Analysis:
    (case,) = find_cases(study, slices=slices)
    (analysis,) = pipeline.analyse([load_frame(case)])
    return analysis


def test_one_slice_is_what_the_slice_alone_gives(tmp_path, fake_pipeline, make_study) -> None:
    make_study(tmp_path / "s", slices=5)
    (study,) = scan(tmp_path)
    middle = study.series[0].slices[2]
    named = load_frame(Case("s", study=study, header=middle))
    (alone,) = fake_pipeline.analyse([named])
    one = analysed(fake_pipeline, tmp_path, 1)
    assert replace(one.result, warnings=()) == replace(alone.result, warnings=())
    np.testing.assert_array_equal(one.frame.image, named.image)


def test_no_name_of_a_file_is_in_what_is_told_of_a_slice_that_cannot_be_read(
    tmp_path, fake_pipeline, make_study
) -> None:
    make_study(tmp_path / "s", slices=5)
    beside = tmp_path / "s" / "im1"
    shutil.move(beside, tmp_path / "s" / "SECRET-ID")
    dataset = pydicom.dcmread(tmp_path / "s" / "SECRET-ID")
    dataset.PixelData = dataset.PixelData[:100]
    dataset.save_as(tmp_path / "s" / "SECRET-ID")
    analysis = analysed(fake_pipeline, tmp_path, "auto")
    (note,) = [n for n in analysis.frame.notes if "was not used" in n.text]
    assert "SECRET" not in note.text
    assert analysis.result.slices is not None
    assert analysis.result.slices.looked_at == (3, 4)


@pytest.mark.parametrize("pixels", [b"", bytes(100), None], ids=["none", "cut short", "black"])
@pytest.mark.parametrize("damaged", [1, 2, 4])
def test_a_middle_slice_that_cannot_be_read_is_left_out(
    tmp_path, make_study, pixels: bytes | None, damaged: int
) -> None:
    make_study(tmp_path / "s", slices=7)
    for number in (3, 4, 2, 5)[:damaged]:
        dataset = pydicom.dcmread(tmp_path / "s" / f"im{number}")
        dataset.PixelData = bytes(len(dataset.PixelData)) if pixels is None else pixels
        dataset.save_as(tmp_path / "s" / f"im{number}")
    (case,) = find_cases(tmp_path / "s", slices="auto")
    if damaged > 3:
        with pytest.raises(SpinelineError, match="im3"):
            load_frame(case)
        return
    frame = load_frame(case)
    assert frame.header.path.name == ("im4" if damaged == 1 else "im2")
    told = [each for each in frame.warnings if each.code == "files_left_out"]
    assert len(told) == damaged
    assert "file im3 was left out: " in told[0].text


@pytest.mark.parametrize("whole", ["a", "b"])
def test_the_better_of_equal_series_keeps_what_is_told_of_the_study(
    tmp_path, fake_pipeline, make_slice, make_spots, make_points, whole: str
) -> None:
    for series in "ab":
        image = make_spots(make_points() if series == whole else make_points()[:5])
        for number in (1, 2, 3):
            make_slice(
                tmp_path / "s" / f"{series}{number}", image, study="s", series=series,
                number=number, description=f"T2_TSE_SAG {series}",
                position=(-4.0 * number, -100.0, 100.0),
            )  # fmt: skip
    damaged = (tmp_path / "s" / "a1").read_bytes()[:400]
    (tmp_path / "s" / "cut.dcm").write_bytes(damaged)
    result = analysed(fake_pipeline, tmp_path, "auto").result
    assert len(result.structures) == 11
    assert codes_of(result.warnings).count("files_left_out") == 1
