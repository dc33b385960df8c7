"""Slices grouped by series, also where every slice has a series UID of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from spineline.datasets.dicom.header import (
    SliceHeader,
)
from spineline.datasets.dicom.types import Series

_NUMBER = re.compile(r"(?<![A-Z0-9])\d+")
"""A number in words that is not part of one, as T2 is."""


def series_of(headers: Sequence[SliceHeader]) -> tuple[Series, ...]:
    """Group the slices of a study by series, sorted by series number, then UID.

    Some scanners export every slice with a series UID of its own. Slices that share everything else
    that a series has in common then form one series, named by the UID of its first slice. Of three
    or more, numbers in descriptions, series numbers, and fractions of echo times may differ. So may
    the frames of reference in one folder, if they repeat no more than the series UIDs.
    """
    grouped: dict[str, list[SliceHeader]] = {}
    for header in headers:
        grouped.setdefault(header.series_uid, []).append(header)
    series = [slices for slices in grouped.values() if len(slices) > 1]
    alone = [slices[0] for slices in grouped.values() if len(slices) == 1]
    for likeness in _LIKENESSES:
        joined = likeness.joined(alone)
        series += joined
        taken = {header.series_uid for slices in joined for header in slices}
        alone = [header for header in alone if header.series_uid not in taken]
    found = [_series(slices) for slices in (*series, *([header] for header in alone))]
    return tuple(sorted(found, key=lambda s: (s.slices[0].series_number or 0, s.series_uid)))


@dataclass(frozen=True, slots=True)
class _Likeness:
    """What slices with a series UID each must have in common to form one series.

    Attributes:
        exactly: the same series number, words and echo time; else numbers in words and fractions of
            the echo time may differ.
        framed: the same frame of reference; else the same folder, and a frame of reference each.
        least: fewest slices; two must also state where they lie.
    """

    exactly: bool
    framed: bool
    least: int

    def joined(self, alone: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
        """The series that slices form, without frames of reference that separate them."""
        alike: dict[object, list[SliceHeader]] = {}
        for header in alone:
            alike.setdefault(self._shared(header), []).append(header)
        series = [slices for slices in alike.values() if self._is_series(slices)]
        return series if self.framed else [_without_frames(slices) for slices in series]

    def _is_series(self, slices: Sequence[SliceHeader]) -> bool:
        enough = len(slices) >= self.least and _are_distinct(slices)
        return enough and (self.framed or _have_own_frames(slices))

    def _shared(self, header: SliceHeader) -> object:
        """What the slices of one series share; the slice's own UID if too little is stated."""
        words, echo = header.words, header.echo_time_ms
        is_silent = (header.series_number, words, echo) == (None, "", None)
        is_placed = None not in (header.orientation, header.position)
        if header.frames > 1 or is_silent or not (is_placed or self.least > 2):
            return header.series_uid
        rounded = [
            None if values is None else tuple(round(value, 3) for value in values)
            for values in (header.orientation, header.spacing_rc_mm)
        ]
        return (
            header.series_number if self.exactly else None,
            words if self.exactly else _NUMBER.sub("", words),
            header.modality,
            header.image_type,
            echo if self.exactly or echo is None else round(echo),
            header.frame_of_reference_uid if self.framed else header.path.parent,
            (header.rows, header.columns, header.position is None, *rounded),
        )


_LIKENESSES = (
    _Likeness(exactly=True, framed=True, least=2),
    _Likeness(exactly=False, framed=True, least=3),
    _Likeness(exactly=True, framed=False, least=3),
    _Likeness(exactly=False, framed=False, least=3),
)
"""In the order in which they are tried, the strictest first."""


def _are_distinct(slices: Sequence[SliceHeader]) -> bool:
    """Whether no two slices have the same place, or no two have the same number."""
    places = {(header.position, header.location_mm) for header in slices}
    return len(slices) in (len(places), len({header.instance_number for header in slices}))


def _have_own_frames(slices: Sequence[SliceHeader]) -> bool:
    """Whether every slice has a frame of reference of its own."""
    return len({header.frame_of_reference_uid for header in slices}) == len(slices)


def _without_frames(slices: Sequence[SliceHeader]) -> list[SliceHeader]:
    """The slices without frames of reference, so that they share their coordinates."""
    return [replace(header, frame_of_reference_uid="") for header in slices]


def _series(slices: Sequence[SliceHeader]) -> Series:
    ordered = _sorted_along_normal(slices)
    return Series(ordered[0].series_uid, ordered[0].series_description, ordered)


def _sorted_along_normal(slices: Sequence[SliceHeader]) -> tuple[SliceHeader, ...]:
    """Sort by position along the first slice's normal, then instance number, frame and path."""
    normal = next((s.normal for s in slices if s.normal is not None), None)

    def place(header: SliceHeader) -> tuple[float, int, int, str]:
        along = 0.0
        if normal is not None and header.position is not None:
            along = round(float(normal @ header.position), 3)
        return along, header.instance_number or 0, header.frame or 0, str(header.path)

    return tuple(sorted(slices, key=place))
