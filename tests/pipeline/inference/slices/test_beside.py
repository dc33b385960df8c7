"""Which slices are looked at beside the chosen one."""

from __future__ import annotations

from pathlib import Path

import pytest

from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.select import Choice, choose_slice
from spineline.datasets.dicom.types import Series, Study
from spineline.pipeline.inference.slices.beside import slices_beside

SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.2588, 0.9659, 0.0, 0.0, 0.0, -1.0)  # 15 degrees about the long axis


def make_series(places: list[float], description: str = "T2_TSE_SAG", **fields: object) -> Series:
    """Slices at places in mm to the patient's right."""
    slices = []
    for n, place in enumerate(places):
        values: dict[str, object] = {
            "path": Path(f"{description}-{n}.dcm"),
            "study_uid": "1",
            "series_uid": description,
            "instance_uid": f"{description}.{n}",
            "rows": 320,
            "columns": 320,
            "spacing_rc_mm": (1.0, 1.0),
            "orientation": SAGITTAL,
            "position": (-place, 0.0, 0.0),
            "series_description": description,
            "modality": "MR",
            "instance_number": n + 1,
            "image_type": ("ORIGINAL", "PRIMARY", "M"),
            "words": description,
        }
        slices.append(SliceHeader(**{**values, **fields}))  # type: ignore[arg-type]
    return Series(description, description, tuple(slices))


def choose(*series: Series) -> Choice:
    return choose_slice(Study("1", "study", Path(), series), read=lambda header: None)  # type: ignore[arg-type, return-value]


def numbers(headers: tuple[SliceHeader, ...]) -> list[int]:
    return [header.instance_number or 0 for header in headers]


EVEN = [4.4 * n for n in range(9)]


def test_two_beside_the_middle_and_two_in_reserve() -> None:
    beside = slices_beside(choose(make_series(EVEN)), "auto")
    assert (numbers(beside.near), numbers(beside.far)) == ([4, 6], [3, 7])
    assert beside.t1 == ()


@pytest.mark.parametrize(("count", "near"), [(2, [4]), (3, [4, 6]), (4, [4, 6, 3]), (99, None)])
def test_a_number_counts_the_chosen_slice(count: int, near: list[int] | None) -> None:
    beside = slices_beside(choose(make_series(EVEN)), count)
    assert numbers(beside.near) == near if near else len(beside.near) == 8
    assert beside.far == beside.t1 == ()


@pytest.mark.parametrize(
    "series",
    [
        make_series([0, 4, 8, 12, 16, 20, 30]),
        make_series([n * 4.4 for n in range(7)], orientation=OBLIQUE),
        make_series([0.0] * 7, position=None),
    ],
    ids=["uneven", "oblique", "no positions"],
)
def test_four_where_the_geometry_is_in_doubt(series: Series) -> None:
    beside = slices_beside(choose(series), "auto")
    assert len(beside.near) == 4
    assert beside.far == ()


def test_without_positions_numbers_say_what_lies_beside() -> None:
    beside = slices_beside(choose(make_series([0.0] * 7, position=None)), 3)
    assert numbers(beside.near) == [3, 5]


def test_of_thin_slices_the_next_is_three_millimetres_away() -> None:
    beside = slices_beside(choose(make_series([float(n) for n in range(21)])), "auto")
    assert numbers(beside.near) == [8, 14]
    assert numbers(beside.far) == [5, 17]


def test_a_thin_slab_has_what_it_has() -> None:
    beside = slices_beside(choose(make_series([0.0, 0.5, 1.0])), "auto")
    assert numbers(beside.near) == [1, 3]


def test_one_slice_has_none_beside_it() -> None:
    beside = slices_beside(choose(make_series([0.0])), "auto")
    assert beside.near == beside.far == ()


def test_of_the_t1_the_slice_at_the_same_place() -> None:
    t1 = make_series([0.0, 6.0, 12.0, 18.5, 24.0, 30.0], "T1_TSE_SAG")
    beside = slices_beside(choose(make_series(EVEN), t1), "auto")  # the middle lies at 17.6 mm
    assert numbers(beside.t1) == [4]
