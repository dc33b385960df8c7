"""``to=sc``: the overlay as a secondary capture."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from spineline.pipeline.inference.suitability import Refusal
from spineline.pipeline.inference.warnings import warning
from spineline.pipeline.outputs.study_files import overlay_png
from spineline.pipeline.outputs.study_files import write_study as write_results

pytest.importorskip("highdicom")


@pytest.fixture
def write(writer_of):
    """Write the capture of an analysis."""
    return writer_of("sc")


@pytest.mark.parametrize("beside", [True, False], ids=["overlay.png there", "overlay=false"])
def test_a_capture_is_the_overlay(tmp_path, analysis, write, assert_valid, beside) -> None:
    write_results(tmp_path / "o", analysis, overlay=beside, doubtful=0.25)
    path = write(analysis)
    made = pydicom.dcmread(path)
    png = cv2.imdecode(np.frombuffer(overlay_png(analysis), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(made.pixel_array[: len(png)], png[:, :, ::-1])
    assert made.Rows > len(png)
    assert (made.PhotometricInterpretation, made.SamplesPerPixel) == ("RGB", 3)
    assert made.StudyInstanceUID == analysis.result.study_uid
    assert made.SeriesInstanceUID != analysis.result.series_uid
    assert (made.PatientName, made.PatientID) == ("SECRET^NAME", "SECRET-ID")
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == analysis.result.instance_uid
    assert made.PatientOrientation == ["P", "F"]
    assert made.ImageType == ["DERIVED", "SECONDARY"]
    assert made.BurnedInAnnotation == "NO"  # none that tells who the patient is
    assert "research use only" in made.DerivationDescription
    assert made.SeriesDescription == "spineline 00000000: research use only"
    assert "DateOfSecondaryCapture" not in made
    assert_valid(path)


def text_below(made: Dataset, png: bytes) -> str:
    """What Tesseract reads in the pixels below the overlay, in one line."""
    if shutil.which("tesseract") is None:
        pytest.skip("Tesseract is not installed")
    overlay = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    band = np.ascontiguousarray(255 - made.pixel_array[len(overlay) :])
    done = subprocess.run(
        ["tesseract", "-", "-", "--psm", "6"],
        input=cv2.imencode(".png", band)[1].tobytes(), capture_output=True, check=True,
    )  # fmt: skip
    return " ".join(done.stdout.decode().split())


@pytest.mark.parametrize("shape", [(150, 120), (300, 60), (1200, 1200)], ids=str)
@pytest.mark.parametrize("forced", [False, True], ids=["", "forced"])
def test_what_it_is_good_for_stands_in_the_pixels(
    tmp_path, make_slice, make_spots, make_points, analyse, write, shape, forced
) -> None:
    points = make_points(gap=shape[0] / 15, top=shape[0] / 8, x=shape[1] / 2)
    make_slice(tmp_path / "s.dcm", make_spots(points, shape), study="s")
    analysis = analyse(tmp_path / "s.dcm", min_naming_probability=1.0 if forced else 0.0)
    if forced:
        refusal = Refusal("contrast", "no fluid is bright").remark(forced=True)
        warnings = (*analysis.result.warnings, refusal)
        result = replace(analysis.result, warnings=warnings, status="forced")
        analysis = replace(analysis, result=result)
    said = text_below(pydicom.dcmread(write(analysis)), overlay_png(analysis))
    assert "RESEARCH USE ONLY, not for diagnosis" in said
    assert ("FORCED: this is not a sagittal T2 image" in said) == forced
    assert said.endswith("LEVELS ARE A GUESS") == forced


def test_text_that_may_be_in_the_source_leaves_the_question_open(analysis, write) -> None:
    warned = replace(analysis.result, warnings=(warning("burned_in_text", "it may show text"),))
    made = pydicom.dcmread(write(replace(analysis, result=warned)))
    assert "BurnedInAnnotation" not in made
    assert "also: burned_in_text" in made.DerivationDescription


def test_a_guess_is_said(tmp_path, make_study, analyse, write) -> None:
    make_study(tmp_path / "s")
    made = pydicom.dcmread(write(analyse(tmp_path / "s", min_naming_probability=1.0)))
    assert made.DerivationDescription.endswith("levels are a guess")
    assert made.SeriesDescription.endswith("levels are a guess")


@pytest.mark.parametrize(
    ("stored", "orientation"),
    [
        (lambda image: image[::-1], (0, 1, 0, 0, 0, 1)),
        (lambda image: image.T, (0, 0, -1, 0, 1, 0)),
        (lambda image: image.T[::-1, ::-1], (0, 0, 1, 0, -1, 0)),
    ],
    ids=["feet first", "lying", "lying and mirrored"],
)
def test_the_picture_is_upright_however_the_slice_is_stored(
    tmp_path, make_study, make_spots, analyse, write, stored, orientation
) -> None:
    make_study(tmp_path / "s", np.ascontiguousarray(stored(make_spots())), orientation=orientation)
    assert pydicom.dcmread(write(analyse(tmp_path / "s"))).PatientOrientation == ["P", "F"]


def test_an_oblique_slice_has_more_letters_than_one(
    tmp_path, make_study, analyse, write, assert_valid
) -> None:
    make_study(tmp_path / "s", orientation=(0.28, 0.96, 0, 0.2688, -0.0784, -0.96))
    path = write(analyse(tmp_path / "s"))
    assert pydicom.dcmread(path).PatientOrientation == ["PL", "FL"]
    assert_valid(path)


def test_without_orientation_none_is_claimed(analyse_slice, write) -> None:
    def change(ds: Dataset) -> None:
        del ds.ImageOrientationPatient
        ds.BurnedInAnnotation, ds.LossyImageCompression = "YES", "01"
        ds.PatientName = "Mononym"

    path = write(analyse_slice(change))
    made = pydicom.dcmread(path)
    assert "PatientOrientation" in made
    assert not made.PatientOrientation
    assert (made.BurnedInAnnotation, made.LossyImageCompression) == ("YES", "01")
    assert made.PatientName == "Mononym"


def test_a_frame_is_pointed_at_by_its_number(
    tmp_path, make_multi_frame, analyse, write, assert_valid
) -> None:
    make_multi_frame(tmp_path / "e" / "enhanced.dcm")
    path = write(analyse(tmp_path / "e"))
    assert pydicom.dcmread(path).SourceImageSequence[0].ReferencedFrameNumber == 2
    assert_valid(path)
