"""The slices to read beside the chosen one, selected from headers alone.

Distances are in mm along the normal of the chosen slice.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.select import Choice
from spineline.datasets.dicom.stacks.stack import in_order
from spineline.pipeline.inference.settings import SliceCount

_NEAR = 2  # slices beside the chosen one, where nothing is odd
_MOST = 4
_STEP_MM = 3.0  # of thinner slices, neighbours show the same
_EVEN = 1.5  # the widest gap of a stack by its narrowest
_TILT = 10.0  # degrees between the normal and the patient's x axis

Distances = list[tuple[float, SliceHeader]]


@dataclass(frozen=True, slots=True)
class Beside:
    """Slices beside the chosen one, the nearest first.

    Attributes:
        near: always read.
        far: read if the others leave a doubt.
        t1: the slice of a T1 series nearest to the chosen one, or none.
    """

    near: tuple[SliceHeader, ...] = ()
    far: tuple[SliceHeader, ...] = ()
    t1: tuple[SliceHeader, ...] = ()


def slices_beside(choice: Choice, slices: SliceCount) -> Beside:
    """The slices to read beside the one of a choice.

    ``auto`` takes two, and four if the stack's geometry is in doubt: slices without positions,
    uneven gaps, or an oblique stack. A number takes one less than that.
    """
    stack = _by_distance(choice)
    even = bool(choice.neighbours)
    spaced = [header for _, header in (_spaced(stack) if even else stack)]
    if not isinstance(slices, str):
        return Beside(tuple(spaced[: slices - 1]))
    count = _MOST if _is_odd(choice, stack) else _NEAR
    nearest = sorted(choice.t1_slices, key=lambda header: abs(_distance(header, choice.slice)))
    return Beside(tuple(spaced[:count]), tuple(spaced[count:_MOST]), tuple(nearest[:1]))


def _by_distance(choice: Choice) -> Distances:
    """The other slices of the stack, the nearest first; without positions, by their order."""
    chosen = choice.slice
    if choice.neighbours:
        return [(_distance(header, chosen), header) for header in choice.neighbours]
    alike = in_order([h for h in choice.series.slices if _is_alike(h, chosen)])
    middle = next((n for n, header in enumerate(alike) if header is chosen), None)
    if middle is None:
        return []
    places = ((float(n - middle), header) for n, header in enumerate(alike) if n != middle)
    return sorted(places, key=lambda place: (abs(place[0]), place[0]))


def _is_alike(header: SliceHeader, chosen: SliceHeader) -> bool:
    same_size = (header.rows, header.columns) == (chosen.rows, chosen.columns)
    return same_size and header.orientation == chosen.orientation


def _distance(header: SliceHeader, chosen: SliceHeader) -> float:
    if header.position is None or chosen.position is None or chosen.normal is None:
        return 0.0
    return float(np.subtract(header.position, chosen.position) @ chosen.normal)


def _spaced(stack: Distances) -> Distances:
    """Slices at least a step away from the chosen one, and from each other."""
    kept: Distances = []
    for distance, header in stack:
        taken = [0.0, *(place for place, _ in kept)]
        if min(abs(distance - place) for place in taken) >= _STEP_MM - 0.1:
            kept.append((distance, header))
    return kept or stack


def _is_odd(choice: Choice, stack: Sequence[tuple[float, SliceHeader]]) -> bool:
    """Whether the stack's geometry makes it doubtful that its middle is the patient's."""
    normal = choice.slice.normal
    if not choice.neighbours or normal is None:
        return True
    places = sorted([0.0, *(distance for distance, _ in stack)])
    gaps = [upper - lower for lower, upper in itertools.pairwise(places)]
    tilt = np.degrees(np.arccos(np.clip(abs(normal[0]), 0, 1)))
    return bool(max(gaps) > _EVEN * min(gaps) or tilt > _TILT)
