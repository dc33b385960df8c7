"""The stations of a whole spine, of which the lowest is lumbar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.common.remarks import (
    Remark,
)
from spineline.datasets.dicom.geometry import (
    pixel_to_patient,
)
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.stacks.demerits import penalty_of
from spineline.datasets.dicom.stacks.stack import (
    Demerit,
    Stack,
    height_mm,
    shares_coordinates,
    words_and_times,
)

_STATION_SHARE = 0.35
"""A stack this fraction of its height above another shows another station of a whole spine."""
_COLUMN_MM = 60.0
"""Largest distance, seen from above, of the centres of two stations of one scan."""


def with_stations(stacks: Sequence[Stack]) -> list[Stack]:
    """Add a demerit to stacks that lie well above another stack that is as good."""
    text = "shows an upper station of a whole spine"
    return [
        replace(stack, seen=(*stack.seen, Demerit(7, text)))
        if any(_lies_above(stack, other) for other in stacks)
        else stack
        for stack in stacks
    ]


def _lies_above(stack: Stack, other: Stack) -> bool:
    heights = [_centre_height(each.first) for each in (stack, other)]
    if heights[0] is None or heights[1] is None or penalty_of(other) > penalty_of(stack):
        return False
    if not (shares_coordinates(stack.first, other.first) or _are_in_column(stack, other)):
        return False
    tall = min(height_mm(stack.first), height_mm(other.first))
    return heights[0] - heights[1] > _STATION_SHARE * tall


def _are_in_column(one: Stack, other: Stack) -> bool:
    """Whether two stacks are alike but for their height, so that both are stations of one scan.

    De-identification may give each a frame of reference of its own.
    """
    kinds = [words_and_times(stack.first) for stack in (one, other)]
    centres = [_centre(stack.first) for stack in (one, other)]
    if kinds[0] != kinds[1] or centres[0] is None or centres[1] is None:
        return False
    return bool(np.hypot(*(centres[0] - centres[1])[:2]) < _COLUMN_MM)


def _centre_height(header: SliceHeader) -> float | None:
    """Height of a slice's centre in the patient, mm."""
    centre = _centre(header)
    return None if centre is None else float(centre[2])


def _centre(header: SliceHeader) -> FloatArray | None:
    """A slice's centre in the patient, LPS mm."""
    if not header.has_geometry:
        return None
    middle = [[(header.columns - 1) / 2, (header.rows - 1) / 2]]
    return pixel_to_patient(header, np.array(middle))[0]


def upper_stations(best: Stack, stacks: Sequence[Stack]) -> list[Remark]:
    """A warning if the chosen stack is the lowest of several stations."""
    count = sum(_lies_above(replace(stack, seen=()), best) for stack in stacks)
    if not count:
        return []
    wording = "{series.shown} was chosen, the lowest of {count} stations of a whole spine"
    return [best.remark("slice_choice", wording, count=count + 1)]
