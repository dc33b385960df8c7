"""Files by the DICOMDIR of a medium, and files compressed by gzip."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.fileset import FileSet

from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.dicom.directory import read_directory
from spineline.datasets.dicom.index import index, read_study
from spineline.datasets.dicom.pixels import read_pixels
from spineline.datasets.dicom.select import choose_slice
from spineline.datasets.dicom.study import scan
from spineline.datasets.dicom.types import Study

WriteDicom = Callable[..., Path]


def studies_of(source: Path) -> tuple[Study, ...]:
    found = scan(source)
    assert tuple(read_study(study) for study in index(source)) == found
    return found


@pytest.fixture
def medium(tmp_path: Path, write_dicom: WriteDicom) -> Path:
    """A medium of two studies of three slices each, written by pydicom, and a file beside them."""
    files = FileSet()
    for study in ("1.5", "1.6"):
        for n in range(3):
            path = write_dicom(f"in/{study}.{n}", study=study, series=f"{study}.1", index=n,
                               StudyDate="20200101", StudyTime="101010", StudyID="1",
                               AccessionNumber="1", PatientID=study)  # fmt: skip
            files.add(path)
    files.write(tmp_path / "cd")
    write_dicom("cd/stray/x", study="1.7", series="1.7.1")
    return tmp_path / "cd"


def test_a_directory_names_the_files_of_its_medium(medium: Path) -> None:
    studies = studies_of(medium / "DICOMDIR")
    assert [(s.study_uid, len(s.series[0].slices)) for s in studies] == [("1.5", 3), ("1.6", 3)]
    assert not any(study.single_file for study in studies)
    assert choose_slice(studies[0]).warnings == ()


def test_a_folder_with_a_directory_gives_the_files_beside_it_too(medium: Path) -> None:
    assert [study.study_uid for study in studies_of(medium)] == ["1.5", "1.6", "1.7"]


@pytest.mark.parametrize("source", ["DICOMDIR", "."])
def test_files_that_are_missing_are_named(medium: Path, source: str) -> None:
    records = read_directory(medium / "DICOMDIR")
    gone = next(record.path for record in records if record.study_uid == "1.5")
    gone.unlink()
    (study,) = (s for s in studies_of(medium / source) if s.study_uid == "1.5")
    (warning,) = (w for w in choose_slice(study).warnings if w.code == "files_left_out")
    assert str(warning) == (
        f"files_left_out: file {gone.name} was left out: DICOMDIR names it, but it is not there"
    )


def test_a_study_of_which_no_file_is_there_fails(medium: Path) -> None:
    for record in read_directory(medium / "DICOMDIR"):
        if record.study_uid == "1.6":
            record.path.unlink()
    (lost,) = (s for s in studies_of(medium / "DICOMDIR") if s.study_uid == "1.6")
    with pytest.raises(DicomReadError, match=r"no usable DICOM image .*it is not there"):
        choose_slice(lost)


def test_names_are_found_in_small_letters_with_versions(medium: Path) -> None:
    names = [record.path for record in read_directory(medium / "DICOMDIR")]
    folder = names[0].parent
    for path in [path for path in names if path.parent == folder]:
        path.rename(path.with_name(f"{path.name.lower()}.;1"))
    shutil.move(folder, folder.with_name(folder.name.lower()))
    assert all(record.exists for record in read_directory(medium / "DICOMDIR"))


def test_names_that_lead_elsewhere_are_none(medium: Path) -> None:
    path = medium / "DICOMDIR"
    dataset = pydicom.dcmread(path)
    images = [r for r in dataset.DirectoryRecordSequence if r.DirectoryRecordType == "IMAGE"]
    with pydicom.config.disable_value_validation():
        images[0].ReferencedFileID = ["..", "in", "1.5.0"]
        dataset.save_as(path)
    assert len(read_directory(path)) == 5


@pytest.mark.parametrize("kept", [200, 500, 1000, 1800])
def test_a_directory_that_is_damaged(medium: Path, kept: int) -> None:
    (medium / "DICOMDIR").write_bytes((medium / "DICOMDIR").read_bytes()[:kept])
    with pytest.raises(DicomReadError, match=r"a DICOMDIR that cannot be read .*name the folder"):
        scan(medium / "DICOMDIR")
    assert len(studies_of(medium)) == 3


def gzipped(path: Path, cut: int = 0) -> Path:
    data = gzip.compress(path.read_bytes(), mtime=0)
    packed = path.with_name(f"{path.name}.dcm.gz")
    packed.write_bytes(data[: len(data) - cut])
    path.unlink()
    return packed


def test_files_compressed_by_gzip_are_read(tmp_path: Path, write_dicom: WriteDicom) -> None:
    planes = [np.random.default_rng(n).integers(0, 999, (80, 96), dtype=np.uint16) for n in (0, 1)]
    plain = write_dicom("p/a", planes[0])
    for n, plane in enumerate(planes):
        gzipped(write_dicom(f"s/{n}", plane, index=n))
    gzipped(write_dicom("s/odd", planes[0], index=2, NumberOfFrames=1))  # left to pydicom
    (study,) = studies_of(tmp_path / "s")
    assert [header.path.name for header in study.series[0].slices] == [
        "0.dcm.gz", "1.dcm.gz", "odd.dcm.gz",
    ]  # fmt: skip
    np.testing.assert_array_equal(read_pixels(study.series[0].slices[1]), planes[1])
    shutil.copy(plain, tmp_path / "s" / "again")
    (study,) = studies_of(tmp_path / "s")
    assert [rejection.kind for rejection in study.rejections] == ["duplicate"]


@pytest.mark.parametrize("cut", [400, 100])
def test_gzip_files_cut_short_are_damaged(
    tmp_path: Path, write_dicom: WriteDicom, cut: int
) -> None:
    noise = np.random.default_rng(0).integers(0, 999, (80, 96), dtype=np.uint16)
    write_dicom("s/a", noise)
    packed = gzipped(write_dicom("s/b", noise, index=1))
    packed.write_bytes(packed.read_bytes()[:cut])
    (study,) = studies_of(tmp_path / "s")
    assert {rejection.kind for rejection in study.rejections} == {"damaged"}


def test_gzip_files_of_cut_pixels_and_of_other_things(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    noise = np.random.default_rng(0).integers(0, 999, (80, 96), dtype=np.uint16)
    packed = gzipped(write_dicom("s/b", noise), cut=600)
    (tmp_path / "s" / "notes.gz").write_bytes(gzip.compress(b"text" * 100))
    (study,) = studies_of(tmp_path / "s")
    assert [rejection.kind for rejection in study.rejections] == ["foreign"]
    with pytest.raises(DicomReadError, match=f"{packed.name}: cannot be read"):
        read_pixels(study.series[0].slices[0])


def test_a_gzip_bomb_is_not_read(write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzipped(
        write_dicom(
            "s/b", np.zeros((512, 512), np.uint16) + np.arange(2).repeat(256).astype(np.uint16)
        )
    )
    header = scan(packed)[0].series[0].slices[0]
    monkeypatch.setattr("spineline.datasets.dicom.pixels.MAX_DICOM_BYTES", 100_000)
    with pytest.raises(DicomReadError, match="inflated, it holds more than"):
        read_pixels(header)
