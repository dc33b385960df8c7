"""Stacks: parallel slices of one size and one kind; their middle, order and neighbours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from spineline.datasets.common.remarks import (
    Remark,
    SeriesText,
    remark,
)
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.kinds import (
    DixonPart,
    dixon_part,
    fat_suppression,
    is_real_part,
    no_anatomy,
    weighting,
)
from spineline.datasets.dicom.types import Series

_LEAST_STEPS = 3
_GAP = 1.5
"""Steps this many times as wide as the others of a stack are gaps."""
_SHIFT_SHARE = 0.25
"""Slices shifted by this fraction of their height within their plane do not form a stack."""


class Demerit(NamedTuple):
    """A disadvantage of a stack.

    Attributes:
        weight: weight in the choice among stacks.
        text: description; if it is empty, there is no warning.
        code: code of that warning.
    """

    weight: int
    text: str
    code: str = "slice_choice"


@dataclass(frozen=True, slots=True)
class Stack:
    """Parallel slices of one size and one kind in one series.

    Attributes:
        series: the series of the slices, without its other stacks.
        slices: sorted along the normal.
        part: which image of a Dixon scan they are.
        seen: demerits from the pixels, and from the stack's place among others.
        is_compared: whether its contrast was compared with that of other stacks of its place.
    """

    series: Series
    slices: tuple[SliceHeader, ...]
    part: DixonPart | None = None
    seen: tuple[Demerit, ...] = ()
    is_compared: bool = False

    @property
    def first(self) -> SliceHeader:
        """The first slice; all are of its kind."""
        return self.slices[0]

    def remark(self, code: str, wording: str, reason: str = "", **counts: int) -> Remark:
        """Make a remark on the series, which ``{series.shown}`` stands for in the wording."""
        series = SeriesText(self.series.description.replace("'", ""), self.first.series_number)
        reasons = {"reason": reason} if reason else {}
        return remark(code, wording, series=series, **reasons, **counts)


def stacks_of(series: Series) -> list[Stack]:
    """Group the series' slices into stacks, in order of first occurrence."""
    groups: list[tuple[object, list[SliceHeader]]] = []
    for header in series.slices:
        kind = _kind_of(header)
        home = (group for other, group in groups if other == kind and _in_line(group[0], header))
        group = next(home, None)
        if group is None:
            groups.append((kind, [header]))
        else:
            group.append(header)
    stacks = [slices for _, group in groups for slices in _repeats(tuple(group))]
    return [Stack(_narrowed(series, slices), slices, dixon_part(slices[0])) for slices in stacks]


def _kind_of(header: SliceHeader) -> object:
    """Values by which slices of one series belong to different stacks."""
    spacing = header.spacing_rc_mm and tuple(round(mm, 2) for mm in header.spacing_rc_mm)
    return (
        (header.rows, header.columns, spacing, header.position is None),
        (dixon_part(header), no_anatomy(header), weighting(header), is_real_part(header)),
        re.sub(r"[\d\W_]+", " ", header.series_description.upper()).strip(),
    )


def _in_line(one: SliceHeader, other: SliceHeader) -> bool:
    """Whether two slices are parallel, and not shifted within their plane."""
    if one.orientation is None or other.orientation is None:
        return one.orientation is other.orientation
    parallel = bool(np.abs(np.subtract(one.orientation, other.orientation)).max() < 0.02)
    if not parallel or not (one.has_geometry and other.has_geometry):
        return parallel
    shift = np.subtract(one.position, other.position) @ np.array(one.orientation[3:])  # type: ignore[arg-type]
    return bool(abs(shift) < _SHIFT_SHARE * height_mm(one))


def _repeats(slices: tuple[SliceHeader, ...]) -> list[tuple[SliceHeader, ...]]:
    """Split slices that repeat every place equally often, such as two acquisitions.

    Echoes and images with suppressed fat stay together: of these, one is chosen at each place. If
    numbers repeat, the order of the files' names shows which slices belong together, if names run
    along the stack.
    """
    along = _positions(slices)
    numbers = {(header.instance_number, header.frame) for header in slices}
    kinds = {_within_place(header)[:2] for header in slices}
    if along is None or len(kinds) > 1:
        return [slices]
    is_numbered = len(numbers) == len(slices)
    places: dict[float, list[SliceHeader]] = {}
    for header, place in zip(slices, np.round(along, 2), strict=True):
        places.setdefault(float(place), []).append(header)
    counts = {len(place) for place in places.values()}
    if len(counts) > 1:
        return [slices]
    order = _within_place if is_numbered else _by_name
    split = list(zip(*(sorted(place, key=order) for place in places.values()), strict=True))
    if is_numbered:
        return split
    runs = [[_by_name(header) for header in part] for part in split]
    run_along = all(run in (sorted(run), sorted(run)[::-1]) for run in runs)
    return split if run_along else [slices]


def _by_name(header: SliceHeader) -> tuple[tuple[int, int, str], ...]:
    """Key of a slice by its file's path, in which ``im2`` comes before ``im10``."""
    parts = re.split(r"(\d+)", str(header.path))
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def _narrowed(series: Series, slices: tuple[SliceHeader, ...]) -> Series:
    """The series with these of its slices, described as they are."""
    if len(slices) == len(series.slices):
        return series
    description = slices[0].series_description or series.description
    return Series(series.series_uid, description, slices)


def height_mm(header: SliceHeader) -> float:
    """Height of a slice in mm; 0 without pixel spacing."""
    return header.rows * header.spacing_rc_mm[0] if header.spacing_rc_mm else 0.0


def geometry_of(stack: Stack) -> object:
    """Values that stacks at the same places have in common."""
    middle = middle_slice(stack)[0]
    rounded = [
        None if values is None else tuple(round(value, 1) for value in values)
        for values in (middle.orientation, middle.position, middle.spacing_rc_mm)
    ]
    return middle.rows, middle.columns, *rounded


def words_and_times(header: SliceHeader) -> object:
    """Values by which the headers of two stacks state different contrasts."""
    times = header.echo_time_ms, header.repetition_time_ms, header.inversion_time_ms
    return header.words, header.scan_options, header.image_type, *times


def middle_slice(stack: Stack) -> tuple[SliceHeader, int, list[Remark]]:
    """The middle slice, its index in the stack, and warnings."""
    slices = stack.slices
    along = _positions(slices)
    if along is None:
        ordered = in_order(slices)
        chosen = ordered[len(ordered) // 2]
        if len(slices) == 1:
            return chosen, 0, []
        by = "slice location" if _has_locations(slices) else "instance number"
        text = f"slices have no distinct positions; the middle is by {by}"
        text += ", and millimetres across the slices are unknown" if chosen.has_geometry else ""
        warning = stack.remark("slice_choice", "{series.shown}: {reason}", text)
        return chosen, ordered.index(chosen), [warning]
    distance = np.abs(along - (along.min() + along.max()) / 2)
    nearest = along[distance <= distance.min() + 1e-3].max()
    places = [n for n in range(len(slices)) if abs(along[n] - nearest) <= 1e-3]
    place = min(places, key=lambda n: _within_place(slices[n]))
    warnings = []
    if len(places) > 1:
        kinds = {_within_place(slices[n])[:2] for n in places}
        text = "of several middle images, "
        text += "the one with fat and the longest echo" if len(kinds) > 1 else "the first by number"
        text += " was chosen"
        warnings.append(stack.remark("slice_choice", "{series.shown}: {reason}", text))
    if gap := _gap(along):
        warnings.append(stack.remark("slice_choice", "{series.shown}: {reason}", gap))
    return slices[place], place, warnings


def in_order(slices: Sequence[SliceHeader]) -> list[SliceHeader]:
    """Slices without distinct positions in order: by their slice locations, or else numbers."""
    if _has_locations(slices):
        return sorted(slices, key=lambda s: s.location_mm or 0.0)
    return sorted(slices, key=lambda s: (s.instance_number or 0, s.frame or 0, str(s.path)))


def _has_locations(slices: Sequence[SliceHeader]) -> bool:
    """Whether every slice has a slice location of its own."""
    locations = {header.location_mm for header in slices}
    return None not in locations and len(locations) == len(slices)


def _gap(along: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    """A text about gaps in a stack of otherwise even steps, or empty."""
    steps = np.diff(np.unique(np.round(along, 2)))
    if len(steps) < _LEAST_STEPS:
        return ""
    usual, widest = float(np.median(steps)), float(steps.max())
    wide = int((steps > _GAP * usual).sum())
    if not 0 < wide <= max(1, len(steps) // 4):
        return ""
    return f"slices seem to be missing: some lie {widest:.1f} mm apart, and most {usual:.1f} mm"


def neighbours_of(stack: Stack, chosen: SliceHeader) -> tuple[SliceHeader, ...]:
    """The stack's other slices, one per place, by distance from the chosen one."""
    along = _positions(stack.slices)
    if along is None:
        return ()
    middle = along[next(n for n, each in enumerate(stack.slices) if each is chosen)]
    at_place: dict[float, SliceHeader] = {}
    for header, place in zip(stack.slices, np.round(along - middle, 2), strict=True):
        other = at_place.setdefault(float(place), header)
        if _within_place(header) < _within_place(other):
            at_place[float(place)] = header
    at_place.pop(0.0, None)
    return tuple(at_place[place] for place in sorted(at_place, key=lambda p: (abs(p), p)))


def shares_coordinates(one: SliceHeader, other: SliceHeader) -> bool:
    """Return whether two slices of a study share a coordinate system.

    De-identification may give every series its own frame of reference. Two stacks with exactly the
    same tilt were still planned on the same scan.
    """
    uids = one.frame_of_reference_uid, other.frame_of_reference_uid
    if uids[0] == uids[1] or not all(uids):
        return True
    if one.orientation is None or other.orientation is None:
        return False
    tilted = float(np.abs(one.orientation).max()) < 1 - 1e-6
    return tilted and bool(np.allclose(one.orientation, other.orientation, rtol=0, atol=1e-6))


def _within_place(header: SliceHeader) -> tuple[bool, float, int, str, int]:
    return (
        fat_suppression(header) is not None,
        -(header.echo_time_ms or 0.0),
        header.instance_number or 0,
        header.instance_uid,
        header.frame or 0,
    )


def _positions(
    slices: Sequence[SliceHeader],
) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    """Position of each slice along the normal in mm, or None if it does not distinguish them."""
    normal = slices[0].normal
    positions = [s.position for s in slices if s.position is not None]
    if normal is None or len(positions) != len(slices):
        return None
    along = np.array(positions, dtype=np.float64) @ normal
    if len(slices) > 1 and along.max() - along.min() < 1e-3:
        return None
    return along
