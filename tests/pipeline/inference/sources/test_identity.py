"""What may identify a patient is hidden, or warned of."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import load_frame
from spineline.pipeline.inference.warnings import codes_of


def named(ds: Dataset) -> None:
    ds.PatientName, ds.SeriesDescription, ds.SeriesNumber = "Qwertzmann^Xaverine", "Qwertzmann", 7


@pytest.mark.parametrize("pseudonymous", [False, True])
def test_neither_notes_nor_warnings_tell_the_patients_name(
    tmp_path, make_study, pseudonymous: bool
) -> None:
    """The name stands in a folder, a file and a description; that it does is told."""
    make_study(tmp_path / "qwertzmann", change=named)
    damaged = (tmp_path / "qwertzmann" / "im0").read_bytes()[:150]
    (tmp_path / "qwertzmann" / "im-Xaverine9").write_bytes(damaged)
    (case,) = find_cases(tmp_path / "qwertzmann")
    frame = load_frame(replace(case, is_pseudonymous=pseudonymous))
    texts = " ".join(each.text for each in (*frame.notes, *frame.warnings)).lower()
    assert "of series 7" in texts
    assert "qwertz" not in texts
    assert "xaver" not in texts
    assert "identity_in_name" in codes_of(frame.warnings)


# What is told of who the patient is


@pytest.mark.parametrize("other", ["ID-2", " id-1 ", ""])
def test_two_patients_under_one_study_uid_are_told(tmp_path, make_study, other: str) -> None:
    for folder, number in (("a", "ID-1"), ("b", other)):
        make_study(tmp_path / "s" / folder, change=lambda ds, n=number: setattr(ds, "PatientID", n))
    for path in (tmp_path / "s" / "b").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.StudyInstanceUID = pydicom.dcmread(tmp_path / "s" / "a" / "im0").StudyInstanceUID
        dataset.save_as(path)
    (case,) = find_cases(tmp_path / "s")
    frame = load_frame(replace(case, slices="auto"))
    for each in (frame, *frame.around.rivals):
        told = [w.text for w in each.warnings if w.text.startswith("files of 2 patients have this")]
        assert len(told) == (other == "ID-2")
    assert frame.around.rivals


@pytest.mark.parametrize("split", [False, True], ids=["two-studies", "one-series-in-two-folders"])
@pytest.mark.parametrize("number", ["", "ID-1"])
def test_studies_under_one_uid_without_patient_numbers_are_told(
    tmp_path, make_study, number: str, split: bool
) -> None:
    for folder in ("a", "b"):
        make_study(tmp_path / "s" / folder, change=lambda ds: setattr(ds, "PatientID", number))
    study = pydicom.dcmread(tmp_path / "s" / "a" / "im0").StudyInstanceUID
    for n, path in enumerate(sorted((tmp_path / "s" / "b").iterdir())):
        if split:
            path.unlink()
            continue
        dataset = pydicom.dcmread(path)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, "1.2.3.4"
        dataset.SOPInstanceUID = f"1.2.3.4.{n}"
        dataset.save_as(path)
    if split:
        (tmp_path / "s" / "a" / "im0").rename(tmp_path / "s" / "b" / "im0")
    (case,) = find_cases(tmp_path / "s")
    told = [w.text for w in load_frame(case).warnings if "2 folders of this study hold" in w.text]
    assert len(told) == (not split and not number)


@pytest.mark.parametrize("value", ["YES", "NO", None])
def test_burned_in_annotation(tmp_path, make_study, value) -> None:
    def mark(ds: pydicom.Dataset) -> None:
        if value is not None:
            ds.BurnedInAnnotation = value

    make_study(tmp_path / "s", change=mark)
    warnings = load_frame(find_cases(tmp_path / "s")[0]).warnings
    assert [each.code for each in warnings] == ["burned_in_text"] * (value == "YES")


@pytest.mark.parametrize(
    ("stored", "orientation"),
    [
        (lambda image: image, (0, 1, 0, 0, 0, -1)),
        (lambda image: image, (0, 1, 0, 0, 0, 1)),
        (lambda image: image, (0, 0, -1, 0, 1, 0)),
    ],
    ids=["upright", "feet first", "lying"],
)
def test_text_in_the_pixels_is_told_however_the_slice_is_stored(
    tmp_path, analyse, make_study, make_spots, stored, orientation
) -> None:
    image = np.ascontiguousarray(make_spots() // 2)
    make_study(tmp_path / "plain", image, orientation=orientation)
    assert "burned_in_text" not in codes_of(analyse(tmp_path / "plain").result.warnings)
    cv2.putText(image, "DOE JOHN", (5, 145), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 255, 1)
    make_study(tmp_path / "s", stored(image), orientation=orientation)
    warnings = analyse(tmp_path / "s").result.warnings
    assert any("looks like a row of letters" in each.text for each in warnings)
    assert not any("DOE" in each.text for each in warnings)


def test_what_the_header_says_is_not_said_again(tmp_path, analyse, make_study, make_spots) -> None:
    image = make_spots() // 2
    cv2.putText(image, "DOE JOHN", (5, 145), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 255, 1)
    make_study(tmp_path / "s", image, change=lambda ds: setattr(ds, "BurnedInAnnotation", "YES"))
    warnings = analyse(tmp_path / "s").result.warnings
    assert [each.code for each in warnings].count("burned_in_text") == 1
