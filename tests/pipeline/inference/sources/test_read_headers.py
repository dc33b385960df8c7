"""Headers read by processes: what they cost, what they lose, what they tell."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from spineline.pipeline.inference.process_pool import FORKS, Limits
from spineline.pipeline.inference.sources import read_headers
from spineline.pipeline.inference.sources.find_cases import find_cases


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
        monkeypatch.setattr(read_headers, "_FEW_FILES", 1)
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

    monkeypatch.setattr(read_headers, "ProcessPool", refused)
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
    monkeypatch.setattr(read_headers, "_FEW_FILES", 1)
    assert find_cases(tmp_path / "cohort", workers=workers) == expected


def test_how_far_the_headers_are_is_told(tmp_path, monkeypatch, caplog, make_study) -> None:
    caplog.set_level(logging.INFO, "spineline")
    make_study(tmp_path / "a", slices=7, change=in_chinese)
    monkeypatch.setattr(read_headers, "_FEW_FILES", 3)
    monkeypatch.setattr(read_headers, "_CHUNK", 2)
    assert len(find_cases(tmp_path)[0].files.paths) == 7
    told = [record.getMessage() for record in caplog.records]
    assert [text for text in told if "headers" in text] == [
        f"DICOM headers: {count} of 7" for count in (4, 6)
    ]
