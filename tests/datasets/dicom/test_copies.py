"""What is a further copy, and what merely repeats a UID."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.dicom.index import index, read_study
from spineline.datasets.dicom.select import choose_slice
from spineline.datasets.dicom.study import scan
from spineline.datasets.dicom.types import Study

WriteDicom = Callable[..., Path]
RNG = np.random.default_rng(0)
NOISE = [RNG.integers(0, 4096, (80, 96), dtype=np.uint16) for _ in range(8)]


def studies_of(source: Path) -> tuple[Study, ...]:
    """What a scan finds, which an index has to find as well."""
    found = scan(source)
    assert tuple(read_study(study) for study in index(source)) == found
    return found


def counts(study: Study) -> tuple[list[int], list[str]]:
    return [len(series.slices) for series in study.series], [r.kind for r in study.rejections]


def test_instance_uids_repeat_from_series_to_series(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    for series in (1, 2, 3):
        for n in range(5):
            write_dicom(f"s/{series}/{n}", NOISE[n], series=f"1.{series}", index=n,
                        SOPInstanceUID=f"7.{n}")  # fmt: skip
    (study,) = studies_of(tmp_path / "s")
    assert counts(study) == ([5, 5, 5], [])


@pytest.mark.parametrize("syntax", [None, RLELossless], ids=["plain", "rle"])
def test_one_instance_uid_for_a_whole_series(
    tmp_path: Path, write_dicom: WriteDicom, syntax: str | None
) -> None:
    for n in range(7):
        write_dicom(f"s/{n}", NOISE[n], index=n, SOPInstanceUID="7.7", syntax=syntax)
    (study,) = studies_of(tmp_path / "s")
    assert counts(study) == ([7], [])
    choice = choose_slice(study)
    assert choice.slice.position == (-12.0, -100.0, 120.0)
    assert choice.warnings == ()


def test_one_instance_uid_and_no_positions(tmp_path: Path, write_dicom: WriteDicom) -> None:
    for n in range(5):
        write_dicom(f"s/{n}", NOISE[n], index=n, SOPInstanceUID="7.7", ImagePositionPatient=None)
    (study,) = studies_of(tmp_path / "s")
    assert counts(study) == ([5], [])


def test_instance_and_series_uids_repeat_from_study_to_study(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    for study in ("1.5", "1.6"):
        for n in range(3):
            write_dicom(f"c/{study}/{n}", NOISE[n], index=n, study=study)
    assert [counts(study) for study in studies_of(tmp_path / "c")] == [([3], []), ([3], [])]


def as_implicit(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.ContentTime = "101112"
    dataset.save_as(path, implicit_vr=True, little_endian=True)


def as_compressed(path: Path, syntax: pydicom.uid.UID = RLELossless) -> None:
    dataset = pydicom.dcmread(path)
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: None, id="same bytes"),
        pytest.param(as_implicit, id="another header"),
        pytest.param(as_compressed, id="compressed"),
        pytest.param(lambda path: as_compressed(path, JPEG2000Lossless), id="JPEG 2000"),
    ],
)
def test_a_copy_is_known_however_it_is_stored(
    tmp_path: Path, write_dicom: WriteDicom, change: Callable[[Path], None]
) -> None:
    for n in range(3):
        path = write_dicom(f"s/{n}", NOISE[n], index=n)
    shutil.copy(path, tmp_path / "s" / "again")
    change(tmp_path / "s" / "again")
    (study,) = studies_of(tmp_path / "s")
    assert counts(study) == ([3], ["duplicate"])
    assert study.rejections[0].reason == "the same instance as 2"
    (warning,) = choose_slice(study).warnings
    assert str(warning) == (
        "files_left_out: 1 further copy of slices was left out, such as file again"
    )


def test_of_two_files_of_one_slice_the_readable_one_is_taken(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    for n in range(3):
        path = write_dicom(f"s/{n}", NOISE[n], index=n)
    (tmp_path / "s" / "0cut").write_bytes(path.read_bytes()[:-500])
    (study,) = studies_of(tmp_path / "s")
    assert counts(study) == ([3], ["damaged"])
    assert {header.path.name for header in study.series[0].slices} == {"0", "1", "2"}


def test_a_copied_folder_is_counted_in_its_studys_warnings(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    for n in range(3):
        write_dicom(f"c/a/{n}", NOISE[n], index=n)
    shutil.copytree(tmp_path / "c" / "a", tmp_path / "c" / "backup")
    (study,) = studies_of(tmp_path / "c")
    assert counts(study) == ([3], ["duplicate"] * 3)
    (warning,) = choose_slice(study).warnings
    assert str(warning) == (
        "files_left_out: 3 further copies of slices were left out, such as file 0"
    )
    assert dict(warning.parameters)["count"] == 3


@pytest.mark.parametrize("spoil", [{"Rows": 0}, {"Rows": None, "Columns": None}])
@pytest.mark.parametrize("place", ["b", "a"], ids=["own folder", "one folder"])
def test_a_study_of_which_every_file_is_set_aside_is_there_and_fails(
    tmp_path: Path, write_dicom: WriteDicom, spoil: dict[str, object], place: str
) -> None:
    for n in range(3):
        write_dicom(f"c/a/{n}", NOISE[n], index=n)
    for n in range(2):
        write_dicom(f"c/{place}/x{n}", NOISE[n], index=n, study="1.9", **spoil)
    good, lost = sorted(studies_of(tmp_path / "c"), key=lambda study: study.study_uid)
    assert counts(good) == ([3], [])
    assert (lost.study_uid, lost.series, len(lost.rejections)) == ("1.9", (), 2)
    with pytest.raises(DicomReadError, match=r"no usable DICOM image \(x0: .*; x1: "):
        choose_slice(lost)


def test_a_series_uid_for_every_slice(tmp_path: Path, write_dicom: WriteDicom) -> None:
    for n in range(7):
        write_dicom(f"s/t2{n}", NOISE[n], series=f"1.2.{n}", index=n, SOPInstanceUID=f"2.{n}",
                    SeriesNumber=4)  # fmt: skip
        write_dicom(f"s/t1{n}", NOISE[n], series=f"1.1.{n}", index=n, SOPInstanceUID=f"1.{n}",
                    SeriesNumber=3, SeriesDescription="T1_TSE_SAG")  # fmt: skip
    (study,) = studies_of(tmp_path / "s")
    assert counts(study) == ([7, 7], [])
    choice = choose_slice(study)
    assert choice.slice.path.name == "t23"
    assert choice.warnings == ()
    assert len(choice.t1_slices) == 7


@pytest.mark.parametrize(
    "of_slice",
    [
        lambda n: {"SeriesDescription": f"T2_TSE_SAG slice {n + 1}/7"},
        lambda n: {"SeriesNumber": 401 + n},
        lambda n: {"EchoTime": 102 + n / 1000},
    ],
    ids=["description", "number", "echo time"],
)
def test_a_series_uid_for_every_slice_and_values_that_differ_by_slice(
    tmp_path: Path, write_dicom: WriteDicom, of_slice: Callable[[int], dict[str, object]]
) -> None:
    for n in range(7):
        write_dicom(f"s/t2{n}", NOISE[n], series=f"1.2.{n}", index=n, SOPInstanceUID=f"2.{n}",
                    **of_slice(n))  # fmt: skip
    (study,) = studies_of(tmp_path / "s")
    assert counts(study) == ([7], [])
    assert choose_slice(study).slice.path.name == "t23"


def test_a_series_uid_for_every_slice_of_two_acquisitions(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    for n in range(10):
        write_dicom(f"s/{n}", RNG.integers(0, 4096, (80, 96), dtype=np.uint16), series=f"1.{n}",
                    index=n % 5, SOPInstanceUID=f"2.{n}", InstanceNumber=n)  # fmt: skip
    (study,) = studies_of(tmp_path / "s")
    assert counts(study) == ([10], [])
    choice = choose_slice(study)
    assert choice.slice.instance_number == 2
    assert len(choice.alternatives[0].slices) == 5


@pytest.mark.parametrize(
    "other",
    [
        {"SeriesNumber": 9},
        {"SeriesDescription": "T2_TSE_SAG_2"},
        {"PixelSpacing": [0.5, 0.5]},
        {"ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]},
    ],
    ids=["number", "description", "spacing", "orientation"],
)
def test_single_slices_that_differ_stay_apart(
    tmp_path: Path, write_dicom: WriteDicom, other: dict[str, object]
) -> None:
    write_dicom("s/a", series="1.1", index=0)
    write_dicom("s/b", series="1.2", index=1, **other)
    (study,) = studies_of(tmp_path / "s")
    assert len(study.series) == 2
