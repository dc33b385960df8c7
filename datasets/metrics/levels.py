"""Distances of the most confident point of each level from the label of that level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.labels import LEVELS
from spineline.datasets.types import Structure

NEAR_PX = 8.0
"""A point closer than this to its label, in native pixels, is right: the report's criterion."""


def level_labels(structures: Sequence[Structure]) -> tuple[Structure, ...]:
    """Return the structures of the eleven levels, without others."""
    return tuple(structure for structure in structures if structure.level in LEVELS)


def level_distances(
    labels: Sequence[Structure], points_xy: Mapping[str, Sequence[float]]
) -> FloatArray:
    """Return (L,) the Euclidean distance of each label to its level's point, in native pixels.

    The distance is infinite if the level has no point.

    Args:
        labels: structures of one image.
        points_xy: the most confident point of each detected level, in native pixels.
    """
    return np.array(
        [
            math.dist(label.point_xy, points_xy[label.level])
            if label.level in points_xy
            else math.inf
            for label in labels
        ],
        dtype=np.float64,
    )
