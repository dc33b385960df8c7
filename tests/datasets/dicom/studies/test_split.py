"""Files with a study UID each: which of them are one study."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from spineline.datasets.dicom.index import index, read_study

WriteDicom = Callable[..., Path]
STUDY, SERIES = "1.2.77", "1.2.78"


@pytest.fixture
def slices(write_dicom: WriteDicom) -> Callable[..., list[Path]]:
    """``slices(5, "a", series=True)`` → slices of a folder, with a study UID each.

    Further keys are tags; those that are called with the slice's number differ by slice.
    """

    def write(count: int, folder: str = "s", series: str | None = SERIES, **tags) -> list[Path]:
        return [
            write_dicom(
                f"{folder}/im{n}.dcm",
                index=n,
                study=f"{STUDY}.{folder.encode().hex()}.{n}",
                series=series or f"{SERIES}.{n}",
                SOPInstanceUID=f"{SERIES}.{n}.9",
                **{k: v(n) if callable(v) else v for k, v in tags.items()},
            )
            for n in range(count)
        ]

    return write


def shapes(source: Path) -> list[tuple[str, list[int]]]:
    """Names of the studies found, and the numbers of slices of their series."""
    found = [read_study(study) for study in index(source)]
    return [(study.name, [len(series.slices) for series in study.series]) for study in found]


SHARED = {"FrameOfReferenceUID": "1.2.79"}


@pytest.mark.parametrize(
    ("series", "tags"),
    [
        pytest.param(SERIES, SHARED, id="series and frame shared"),
        pytest.param(None, SHARED, id="frame shared"),
        pytest.param(SERIES, {"FrameOfReferenceUID": lambda n: f"1.2.{n + 1}"}, id="series shared"),
        pytest.param(SERIES, {"PatientID": None}, id="no patient, no frame"),
        pytest.param(
            SERIES,
            {"ImagePositionPatient": lambda n: [4.0 * n, 0.5 * n - 100, 2.0 * n]},
            id="shifted evenly",
        ),
        pytest.param(
            SERIES,
            {"ImagePositionPatient": lambda n: [4.0 * (n + 2 * (n > 2)), -100, 120]},
            id="a gap",
        ),
    ],
)
def test_slices_of_a_stack_are_one_study(slices, tmp_path, caplog, series, tags) -> None:
    slices(5, series=series, **tags)
    assert shapes(tmp_path) == [("s", [5])]
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("series", "tags", "is_told"),
    [
        pytest.param(None, {"FrameOfReferenceUID": lambda n: f"1.2.{n + 1}"}, True, id="no link"),
        pytest.param(None, {"PatientID": None}, True, id="nothing stated"),
        pytest.param(None, {**SHARED, "PatientID": "P{}".format}, True, id="patients"),
        pytest.param(SERIES, {**SHARED, "PatientID": "P{}".format}, True, id="patients, series"),
        pytest.param(SERIES, {**SHARED, "StudyDate": "2020010{}".format}, True, id="days"),
        pytest.param(
            SERIES,
            {**SHARED, "ImagePositionPatient": lambda n: [4.0 * n, -100 + 3 * n * n, 120]},
            False,
            id="not on a line",
        ),
        pytest.param(
            SERIES,
            {**SHARED, "ImagePositionPatient": lambda n: [float(n * n), -100, 120]},
            False,
            id="uneven",
        ),
        pytest.param(SERIES, {**SHARED, "ImagePositionPatient": [0, 0, 0]}, False, id="one place"),
        pytest.param(SERIES, {**SHARED, "ImagePositionPatient": None}, False, id="no place"),
        pytest.param(
            SERIES, {**SHARED, "Rows": lambda n: 80 - n, "Columns": 96}, False, id="sizes"
        ),
    ],
)
def test_other_slices_are_studies_of_their_own(
    slices, tmp_path, caplog, series, tags, is_told: bool
) -> None:
    caplog.set_level(logging.WARNING)
    slices(4, series=series, **tags)
    assert len(shapes(tmp_path)) == 4
    told = ["lie like those of one study have a study UID each" in m for m in caplog.messages]
    assert told == [True] * is_told


def test_few_slices_beside_the_stacks_are_of_the_study(slices, write_dicom, tmp_path) -> None:
    slices(4, series=None, **SHARED)
    transverse = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    keys = {"series": "1.5", "ImageOrientationPatient": transverse, **SHARED}
    write_dicom("s/scout.dcm", study="1.6", **keys)
    assert [(name, sorted(counts)) for name, counts in shapes(tmp_path)] == [("s", [1, 4])]


def test_many_strangers_with_one_frame_stay_apart(slices, write_dicom, tmp_path) -> None:
    slices(3, **SHARED)
    for n in range(5):
        place = [7.0 * n * n, 3.0 * n, -2.0 * n * n]
        keys = {"study": f"1.7.{n}", "series": f"1.8.{n}", "ImagePositionPatient": place, **SHARED}
        write_dicom(f"s/x{n}.dcm", **keys)
    assert sorted(counts for _, counts in shapes(tmp_path)) == [[1]] * 5 + [[3]]


def test_folders_and_studies_of_several_files_stay_apart(slices, write_dicom, tmp_path) -> None:
    for folder in ("a", "b"):
        slices(3, folder, **SHARED)
    for n in range(3):
        write_dicom(f"c/{n}.dcm", study="1.9", series="1.9.1", index=n, **SHARED)
    assert shapes(tmp_path) == [("a", [3]), ("b", [3]), ("c", [3])]


def test_two_slices_are_too_few(slices, tmp_path) -> None:
    slices(2, **SHARED)
    assert len(shapes(tmp_path)) == 2
