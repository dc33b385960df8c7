"""Slices with a series UID each: which of them form one series."""

from __future__ import annotations

from pathlib import Path

import pytest

from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.stacks.series import series_of


def single(number: int, **fields: object) -> SliceHeader:
    """A sagittal slice with a series UID and a frame of reference of its own."""
    values: dict[str, object] = {
        "path": Path(f"s/{number}"), "study_uid": "1", "series_uid": f"1.{number}",
        "instance_uid": f"2.{number}", "rows": 9, "columns": 9, "spacing_rc_mm": (1.0, 1.0),
        "orientation": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0), "position": (4.0 * number, 0.0, 0.0),
        "instance_number": number, "words": "T2 SAG", "frame_of_reference_uid": f"3.{number}",
    }  # fmt: skip
    return SliceHeader(**{**values, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(("folders", "series"), [("aaa", 1), ("abc", 3)])
def test_frames_of_their_own_are_joined_in_one_folder_only(folders: str, series: int) -> None:
    """Single slices of several patients under one study UID share everything else."""
    slices = [single(n, path=Path(f"{folder}/{n}")) for n, folder in enumerate(folders)]
    assert len(series_of(slices)) == series


@pytest.mark.parametrize(("count", "series"), [(2, 2), (3, 1)])
def test_two_slices_without_a_place_are_no_series(count: int, series: int) -> None:
    lost = {"position": None, "orientation": None, "frame_of_reference_uid": "3"}
    assert len(series_of([single(n, **lost) for n in range(count)])) == series
