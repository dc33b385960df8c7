"""Slices of one patient whose labels name the same vertebra differently.

Neighbouring slices show the same spine in nearly the same place. Where the structures of one lie on
those of another, but under the names of other levels, one of the two is mislabelled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

import numpy as np

from spineline.datasets.labels import LEVELS
from spineline.datasets.quality_control import Finding
from spineline.datasets.types import ImageRecord

_LEAST_COMMON = 4
"""Structures that two slices must share, so that one stray point says nothing."""


def disagreeing_levels(records: Iterable[ImageRecord]) -> list[Finding]:
    """A finding for each image whose levels lie off those of most other slices of the patient.

    Images are compared where they have the same size and pixel spacing and are of the same
    patient, or of the same study where the patient is not known. Where as many slices say one thing
    as the other, the later ones in the order of their ids are found.

    Args:
        records: images with structures; those without a known level are passed over.
    """
    groups: dict[tuple[object, ...], list[ImageRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda r: r.image_id):
        spine = record.patient_id or record.study_id
        groups[spine, record.width, record.height, record.spacing_rc_mm].append(record)
    found: list[Finding] = []
    for group in groups.values():
        found += _of_one_spine(group) if len(group) > 1 else []
    return found


def _of_one_spine(group: Sequence[ImageRecord]) -> list[Finding]:
    agreeing = [
        [other for other in group if other is record or level_shift(record, other) == 0]
        for record in group
    ]
    most = max(agreeing, key=len)
    found = []
    for record in group:
        shifts = {other.image_id: level_shift(record, other) for other in most}
        off = [shift for shift in shifts.values() if shift]
        if len(off) * 2 <= len(most):
            continue
        levels, where = abs(median(off)) / 2, "below" if median(off) > 0 else "above"
        detail = (
            f"its names lie {levels:g} level{'' if levels == 1 else 's'} {where} those of "
            f"{', '.join(sorted(shifts))}, which show the same spine"
        )
        action = "none: check which of them is right"
        found.append(
            Finding(record.image_id, record.study_id, None, "levels_disagree", detail, action)
        )
    return found


def level_shift(record: ImageRecord, other: ImageRecord) -> int | None:
    """Ranks by which the names of one image lie below those of another; None where it is not known.

    A rank is a disc or a vertebra, so that a shift by one vertebra is 2.

    Args:
        record: the image.
        other: another one of the same size that shows the same spine.
    """
    own, there = _spine(record), _spine(other)
    if min(len(own), len(there)) < _LEAST_COMMON:
        return None
    points = np.array([point for _, point in there])
    reach = float(np.median(np.hypot(*np.diff(points, axis=0).T))) / 2
    shifts = []
    for rank, point in own:
        distances = np.hypot(*(points - point).T)
        if distances.min() < reach:
            shifts.append(there[int(distances.argmin())][0] - rank)
    if len(shifts) < _LEAST_COMMON:
        return None
    shift = round(median(shifts))
    return shift if sum(s == shift for s in shifts) * 2 > len(shifts) else None


def _spine(record: ImageRecord) -> list[tuple[int, tuple[float, float]]]:
    """Rank and point of the structures with a level, from the top down."""
    return sorted(
        (LEVELS.index(s.level), s.point_xy) for s in record.structures if s.level in LEVELS
    )
