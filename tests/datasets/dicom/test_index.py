"""The index of a source: the same studies as a scan, by files alone."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from spineline.datasets.commands.phantom import phantom
from spineline.datasets.commands.settings import DataPhantom
from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.dicom.index import index, index_files, read_study
from spineline.datasets.dicom.study import scan


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "ph"
    phantom(DataPhantom(out=out, n=3, slices=3, size=128, format=("dicom",)))
    return out / "studies"


@pytest.fixture
def cohort(tmp_path, drawn) -> Path:
    """Studies at several depths, one split over folders, a duplicate, foreign and damaged files."""
    root = tmp_path / "cohort"
    studies = sorted(drawn.iterdir())
    shutil.copytree(studies[0], root / "x" / "deep" / "er")
    shutil.copytree(studies[1], root / "y")
    files = sorted(path for path in studies[2].rglob("*") if path.is_file())
    for n, path in enumerate(files):
        target = root / "z" / ("one" if n % 2 else "two") / f"im{n}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(files[0], root / "z" / "again")
    (root / "y" / "notes.txt").write_text("foreign")
    (root / "broken").mkdir()
    (root / "broken" / "im.dcm").write_bytes(files[0].read_bytes()[:300])
    return root


def test_it_finds_what_a_scan_finds(cohort) -> None:
    found = index(cohort)
    assert [study.name for study in found] == ["broken", "x", "y", "z"]
    assert tuple(read_study(study) for study in found) == scan(cohort)


def test_one_file(drawn) -> None:
    path = next(p for p in sorted(drawn.rglob("*")) if p.is_file())
    (study,) = index(path)
    assert read_study(study) == scan(path)[0]
    assert read_study(study).single_file


@pytest.mark.parametrize("case", ["missing", "empty", "text"])
def test_sources_that_are_none(tmp_path, case: str) -> None:
    source = tmp_path / "s"
    if case != "missing":
        source.mkdir()
    if case == "text":
        (source / "a.txt").write_text("text")
    with pytest.raises(DicomReadError) as of_scan:
        scan(source)
    with pytest.raises(DicomReadError) as of_index:
        index(source)
    assert str(of_index.value) == str(of_scan.value)


def test_a_folder_that_is_left_out(cohort) -> None:
    assert [study.name for study in index(cohort, leave_out=cohort / "x")] == ["broken", "y", "z"]
    everything = index(cohort)
    assert index(cohort, leave_out=cohort) == everything
    assert index(cohort, leave_out=cohort / "none") == everything


def identities(root: Path) -> dict[str, str]:
    return {study.name: study.identity for study in index(root)}


def test_an_identity_is_that_of_its_own_files(cohort, tmp_path) -> None:
    before = identities(cohort)
    assert len(set(before.values())) == len(before) == 4
    shutil.copytree(cohort, tmp_path / "moved")  # with its times of change
    assert identities(tmp_path / "moved") == before
    os.utime(cohort / "y" / "notes.txt", ns=(5, 5))
    os.utime(cohort / "broken" / "im.dcm", ns=(5, 5))
    (cohort / "z" / "again").unlink()
    after = identities(cohort)
    assert after["x"] == before["x"]
    assert {name for name in before if after[name] != before[name]} == {"broken", "y", "z"}


def test_a_file_that_is_gone_when_its_turn_comes(cohort) -> None:
    (study,) = [study for study in index(cohort) if study.name == "y"]
    Path(study.paths[0]).unlink()
    found = read_study(study)
    assert len(found.rejections) == len(study.rejections) + 1
    assert sum(len(series.slices) for series in found.series) == len(study.paths) - 1


def test_entries_are_in_the_order_of_files(cohort) -> None:
    files = sorted(path for path in cohort.rglob("*") if path.is_file())
    entries = index_files(files)
    assert [entry.path for entry in entries] == files
    assert sum(entry.rejection is not None for entry in entries) == 2
    reverse = index(cohort, read=lambda paths: [e for p in paths for e in index_files([p])])
    assert reverse == index(cohort)


@pytest.mark.slow
def test_many_studies_in_one_folder_and_many_rejections_are_no_trouble(tmp_path) -> None:
    """Naming and sharing out rejections goes by look-up, not by comparing all with all."""
    from spineline.datasets.dicom.index import IndexEntry
    from spineline.datasets.dicom.types import Rejection

    for n in range(500):
        (tmp_path / f"s{n:04d}").mkdir()
        (tmp_path / f"s{n:04d}" / "im").touch()

    def read(paths):
        for n, path in enumerate(paths):
            entry = IndexEntry(path, f"1.{n}", f"2.{n}", b"t")
            yield entry
            bad = path.parent / "x" / "bad"
            yield dataclasses.replace(entry, path=bad, rejection=Rejection(bad, "odd"))

    found = index(tmp_path, read=read)
    assert len(found) == 500
    assert {len(study.rejections) for study in found} == {1}
    assert found[7].name == "s0007"
