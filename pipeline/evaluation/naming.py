"""Naming scored by image: whether all names are right, and whether the probability is calibrated.

A spine whose structures are all found, but named one level too high, scores 0 in every metric by
level. Here it is one error of one image.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from spineline.datasets.common.arrays import BoolArray, FloatArray, IntArray
from spineline.datasets.labels import LEVELS
from spineline.datasets.metrics.bootstrap import Counted, ratio, share
from spineline.datasets.metrics.grades import calibration_error
from spineline.datasets.metrics.levels import NEAR_PX, level_labels
from spineline.pipeline.evaluation.match import ScoredImage, studies_of

BINS = 10
"""Bins of equal width of the expected calibration error."""


@dataclass(frozen=True, slots=True)
class NamingTable:
    """One row per image (I rows).

    Attributes:
        study: (I,) index of the study.
        right: (I,) whether the names are right, abstained or not; see `names_right`.
        given: (I,) whether something was found and the naming was not abstained.
        probability: (I,) predicted probability that the names are right; NaN if there is none.
    """

    study: IntArray
    right: BoolArray
    given: BoolArray
    probability: FloatArray


def naming_table(images: Sequence[ScoredImage]) -> NamingTable:
    """One row per image."""
    index = {study: n for n, study in enumerate(studies_of(images))}
    return NamingTable(
        study=np.array([index[image.study_id] for image in images], dtype=np.int64),
        right=np.array([names_right(image) for image in images], dtype=bool),
        given=np.array([bool(i.predictions) and not i.abstained for i in images], dtype=bool),
        probability=np.array([image.naming_probability for image in images], dtype=np.float64),
    )


def names_right(image: ScoredImage) -> bool:
    """Whether more than half of the structures that lie on a label have that label's name.

    A structure lies on the nearest label, of any level, if it is less than 8 px away. An image
    without such structures counts as not right.
    """
    shifts: Counter[int] = Counter()
    labels = level_labels(image.labels)
    for found in image.predictions:
        distances = [math.dist(found.point_xy, label.point_xy) for label in labels]
        if distances and min(distances) < NEAR_PX:
            nearest = labels[distances.index(min(distances))]
            shifts[LEVELS.index(found.level) - LEVELS.index(nearest.level)] += 1
    return shifts[0] * 2 > shifts.total()


def offset_accuracy(table: NamingTable, weights: FloatArray) -> Counted:
    """Share of images that are named correctly and not abstained."""
    every = np.ones(len(table.study), dtype=np.bool_)
    return share(weights, table.study, table.right & table.given, every)


def coverage(table: NamingTable, weights: FloatArray) -> Counted:
    """Share of images that are named: something was found, and the naming was not abstained."""
    return share(weights, table.study, table.given, np.ones(len(table.study), dtype=np.bool_))


def mean_probability(table: NamingTable, weights: FloatArray) -> Counted:
    """Mean probability of the names, which should equal the share of right names."""
    known = np.isfinite(table.probability)
    stated = np.where(known, table.probability, 0)
    return ratio(weights, table.study, stated, known), int(known.sum())


def brier(table: NamingTable, weights: FloatArray) -> Counted:
    """Mean squared difference of the probability from 1 if the names are right, else from 0."""
    known = np.isfinite(table.probability)
    error = np.where(known, (table.probability - table.right) ** 2, 0)
    return ratio(weights, table.study, error, known), int(known.sum())


def expected_calibration_error(table: NamingTable, weights: FloatArray) -> Counted:
    """Mean over images of |mean probability - share of right names| of their bin."""
    values = calibration_error(weights, table.study, table.probability, table.right, bins=BINS)
    return values, int(np.isfinite(table.probability).sum())


NAMING_METRICS: dict[str, Callable[[NamingTable, FloatArray], Counted]] = {
    "naming.coverage": coverage,
    "naming.probability": mean_probability,
    "naming.brier": brier,
    "naming.ece": expected_calibration_error,
}
"""Metrics of the naming's probability, by dotted key."""
