"""Slices of one patient whose labels name the same vertebra differently.

Neighbouring slices show the same spine in nearly the same place. If the structures of one lie on
those of another but have the names of other levels, one of the two is mislabelled.
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
"""Fewest structures that two slices must share, so that one stray point does not decide."""


def disagreeing_levels(records: Iterable[ImageRecord]) -> list[Finding]:
    """Find images whose levels disagree with those of most other slices of the patient.

    Images are compared if they have the same size, pixel spacing and patient, or the same study if
    the patient is unknown. If equally many slices disagree, the later ones by id are reported.

    Args:
        records: images with structures; those without a known level are ignored.
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
    """Return how many ranks the names of one image lie below those of another, or None.

    Vertebrae and discs both count as ranks, so a shift by one vertebra is 2. The result is None if
    too few structures coincide, or their shifts differ.

    Args:
        record: the image.
        other: another image of the same size that shows the same spine.
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
