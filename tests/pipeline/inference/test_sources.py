"""How a source's studies are found: which headers are read where, and what odd ones cost."""

from __future__ import annotations

import logging
import os
import shutil
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.dicom.study import scan
from spineline.datasets.volumes.archives import MAX_NESTED, unpacking
from spineline.pipeline import Pipeline
from spineline.pipeline.inference import sources
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.process_pool import FORKS, Limits
from spineline.pipeline.inference.sources import Case, find_cases, load_frame
from spineline.pipeline.inference.warnings import codes_of


def in_chinese(dataset: Dataset) -> None:
    """A header that is no plain one: pydicom has to read it."""
    dataset.SpecificCharacterSet, dataset.SeriesDescription = "ISO_IR 192", "矢状位 T2"


@pytest.fixture
def trapped(monkeypatch) -> None:
    """Headers of two names drive pydicom mad, in processes that begin with this one's modules."""
    read = pydicom.dcmread

    def dcmread(path, *words, **keys):
        name = Path(path).name
        if name == "hangs":
            time.sleep(600)
        if name == "crashes":
            os._exit(3)
        return read(path, *words, **keys)

    monkeypatch.setattr(pydicom, "dcmread", dcmread)


@pytest.mark.skipif(not FORKS, reason="the trap reaches forks alone")
@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_header_that_hangs_or_crashes_its_reader_costs_its_file(
    tmp_path, monkeypatch, trapped, make_study, make_slice, make_spots, few: bool
) -> None:
    if not few:
        monkeypatch.setattr(sources, "_FEW_FILES", 1)
    make_study(tmp_path / "cohort" / "a")
    make_study(tmp_path / "cohort" / "b", change=in_chinese)
    for number, name in enumerate(("hangs", "crashes")):
        path = tmp_path / "cohort" / "b" / name
        make_slice(path, make_spots(), study="b", number=7 + number, change=in_chinese)
    limits = Limits(seconds=2)
    cases = find_cases(tmp_path / "cohort", workers=1, limits=limits)
    assert [case.name for case in cases] == ["a", "b"]
    assert [len(case.files.paths) for case in cases] == [3, 3]
    assert cases[0].files.rejections == ()
    reasons = {r.path.name: r.reason for r in cases[1].files.rejections}
    assert sorted(reasons) == ["crashes", "hangs"]
    assert "longer than timeout=2 seconds" in reasons["hangs"]
    assert "exit status 3" in reasons["crashes"]


def test_plain_headers_of_few_files_start_no_process(
    tmp_path, monkeypatch, make_study, make_slice, make_spots
) -> None:
    make_study(tmp_path / "cohort" / "a")
    (tmp_path / "cohort" / "a" / "notes.txt").write_text("no DICOM")
    (tmp_path / "cohort" / "a" / "empty.dcm").touch()

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a process was wanted")

    monkeypatch.setattr(sources, "ProcessPool", refused)
    (case,) = find_cases(tmp_path / "cohort", workers=1)
    assert len(case.files.paths) == 3
    make_slice(tmp_path / "cohort" / "a" / "odd", make_spots(), study="a", change=in_chinese)
    with pytest.raises(AssertionError, match="a process was wanted"):
        find_cases(tmp_path / "cohort", workers=1)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_same_studies_whoever_reads(
    tmp_path, monkeypatch, make_study, make_slice, make_spots, workers: int
) -> None:
    for name in ("a", "b", "c"):
        make_study(tmp_path / "cohort" / name, change=in_chinese if name == "b" else None)
    dimmer = (make_spots() * 0.9).astype(np.uint8)
    make_slice(tmp_path / "cohort" / "c" / "im9", dimmer, study="c", number=1,
               position=(4.0, -100.0, 100.0), change=in_chinese)  # fmt: skip
    whole = Path(tmp_path / "cohort" / "a" / "im1").read_bytes()
    (tmp_path / "cohort" / "a" / "short.dcm").write_bytes(whole[:300])
    expected = find_cases(tmp_path / "cohort")
    assert [len(case.files.paths) for case in expected] == [3, 3, 3]  # im9 is im0 once more
    assert find_cases(tmp_path / "cohort", workers=workers) == expected
    monkeypatch.setattr(sources, "_FEW_FILES", 1)
    assert find_cases(tmp_path / "cohort", workers=workers) == expected


# What a source is, and what it is not


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", r"empty: .*; nor does it hold images \(.*png.*\) directly in it, nor volumes or"),
        ("notes.txt", r"notes\.txt"),
        ("study.zip", r"study\.zip: only pipeline predict unpacks archives"),
        ("nowhere", r"nowhere"),
    ],
)
def test_a_source_that_holds_nothing_to_look_at(tmp_path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "study.zip").write_bytes(b"PK")
    with pytest.raises(SpinelineError, match=message):
        find_cases(tmp_path / name)


def test_archives_beside_a_study_are_left_out_and_told_of(tmp_path, make_study, caplog) -> None:
    make_study(tmp_path / "cohort" / "a")
    (tmp_path / "cohort" / "b").mkdir()
    (tmp_path / "cohort" / "b" / "more.tar.gz").write_bytes(b"none")
    assert [case.name for case in find_cases(tmp_path / "cohort")] == ["a"]
    assert "b/more.tar.gz: left out: only pipeline predict unpacks archives" in caplog.text


def test_archives_within_archives_have_an_end(tmp_path, make_study) -> None:
    """The innermost of so many holds a study; one more, and it is not reached."""
    make_study(tmp_path / "study")
    (tmp_path / "cohort").mkdir()
    inner = Path(shutil.make_archive(str(tmp_path / "deep0"), "zip", tmp_path / "study"))
    for depth in range(1, MAX_NESTED + 1):
        outer = tmp_path / f"deep{depth}.zip"
        with zipfile.ZipFile(outer, "w") as zipped:
            zipped.write(inner, inner.name)
        inner = outer
    with unpacking() as archives:
        (problem,) = find_cases(inner, unpacking=archives)
        (case,) = find_cases(tmp_path / f"deep{MAX_NESTED - 1}.zip", unpacking=archives)
    assert f"an archive in {MAX_NESTED} others; unpack it and give the folder" in problem.problem
    with pytest.raises(SpinelineError, match=f"an archive in {MAX_NESTED} others"):
        load_frame(problem)
    assert (case.problem, case.name) == ("", f"deep{MAX_NESTED - 1}")


def test_cases_of_one_name_are_told_apart_whatever_their_kind(tmp_path, make_study) -> None:
    """And none of them is called like a file that a run writes beside its folders."""
    for folder in ("x", "y"):
        make_study(tmp_path / folder)
        (tmp_path / "cohort" / folder).mkdir(parents=True)
        for name in ("Same", "results.csv"):
            shutil.make_archive(str(tmp_path / "cohort" / folder / name), "zip", tmp_path / folder)
    with unpacking() as archives:
        cases = find_cases(tmp_path / "cohort", unpacking=archives)
    names = {"Same", "Same-2", "results.csv-2", "results.csv_study"}
    assert {case.name for case in cases} == names
    assert len(cases) == 4


def test_hidden_images_are_no_slices_of_a_stack(tmp_path, make_spots) -> None:
    for name in ("im1.png", "im2.png", ".im3.png"):
        cv2.imwrite(str(tmp_path / name), make_spots())
    (case,) = find_cases(tmp_path, stack=True)
    assert [path.name for path in case.stack] == ["im1.png", "im2.png"]


def test_how_far_the_headers_are_is_told(tmp_path, monkeypatch, caplog, make_study) -> None:
    caplog.set_level(logging.INFO, "spineline")
    make_study(tmp_path / "a", slices=7, change=in_chinese)
    monkeypatch.setattr(sources, "_FEW_FILES", 3)
    monkeypatch.setattr(sources, "_CHUNK", 2)
    assert len(find_cases(tmp_path)[0].files.paths) == 7
    told = [record.getMessage() for record in caplog.records]
    assert [text for text in told if "headers" in text] == [
        f"DICOM headers: {count} of 7" for count in (4, 6)
    ]


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
    monkeypatch.setattr(sources, "look_at_sagittal", lambda pixels: dark)
    (told,) = load_frame(case).warnings
    assert (told.code, "grades are less certain" in told.text) == ("fat_suppressed", True)


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
