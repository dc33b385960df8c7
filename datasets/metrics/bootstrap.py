"""Bootstrap over studies: weights instead of copies.

A draw of S studies with replacement is a row of S integers: how often each study was drawn. Row 0
is all ones, the unchanged data, so one formula gives the value and its interval.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import BoolArray, FloatArray, IntArray

Counted = tuple[FloatArray, int]
"""A metric for each row of weights, (B,), NaN if undefined; and the number of items counted."""

DRAWS = 1000


def draw_weights(studies: int, draws: int = DRAWS, *, seed: int = 0) -> FloatArray:
    """Return (draws + 1, studies) how often each study is drawn; row 0 is the unchanged data."""
    rng = np.random.default_rng(seed)
    weights = np.ones((draws + 1, studies))
    for row in range(1, draws + 1 if studies else 1):
        weights[row] = np.bincount(rng.integers(0, studies, studies), minlength=studies)
    return weights


def interval(values: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    """Return the 2.5 % and 97.5 % points of the defined draws (axis 0, without row 0).

    The result is None if no draw is defined.
    """
    draws = values[1:]
    if not len(draws):
        return None
    defined = np.isfinite(draws).reshape(len(draws), -1).all(axis=1)
    if not defined.any():
        return None
    low, high = np.percentile(draws[defined], [2.5, 97.5], axis=0)
    return low, high


def with_interval(values: FloatArray, n: int) -> dict[str, Any]:
    """Return a metric as in ``metrics.json``, rounded to six digits; None if it is undefined.

    >>> with_interval(np.array([0.5, 0.25, 0.75]), 8)
    {'value': 0.5, 'ci95': [0.2625, 0.7375], 'n': 8}

    Args:
        values: (B,) the metric for each row of weights.
        n: number of labels or predictions counted.
    """
    value, bounds = float(values[0]), interval(values)
    if not math.isfinite(value):
        return {"value": None, "ci95": [None, None], "n": n}
    ends = [None, None] if bounds is None else [round(float(end), 6) for end in bounds]
    return {"value": round(value, 6), "ci95": ends, "n": n}


def per_study(study: IntArray, amount: npt.ArrayLike, studies: int) -> FloatArray:
    """Sum the rows' amounts, (N,) or (N, C), by study; (S,) or (S, C)."""
    values = np.asarray(amount, dtype=np.float64)
    total = np.zeros((studies, *values.shape[1:]))
    np.add.at(total, study, values)
    return total


def running_totals(
    weights: FloatArray, study: IntArray, place: IntArray, places: int, amount: npt.ArrayLike
) -> FloatArray:
    """Return (B, places) weighted cumulative sums of the amounts by place.

    Args:
        weights: (B, S) how often each study counts.
        study: (N,) index of the study.
        place: (N,) 0 … places; rows at ``places`` or later are left out.
        places: number of places.
        amount: (N,) amounts.
    """
    table = np.zeros((weights.shape[1], places))
    within = place < places
    np.add.at(table, (study[within], place[within]), np.asarray(amount, np.float64)[within])
    return weights @ np.cumsum(table, axis=1)


def ratio(
    weights: FloatArray, study: IntArray, top: npt.ArrayLike, bottom: npt.ArrayLike
) -> FloatArray:
    """Return (B,) the weighted sum of ``top`` over that of ``bottom``, (N,) each; NaN for 0."""
    studies = weights.shape[1]
    above = weights @ per_study(study, top, studies)
    below = weights @ per_study(study, bottom, studies)
    return divide(above, below)


def share(weights: FloatArray, study: IntArray, right: BoolArray, counted: BoolArray) -> Counted:
    """Return (B,) the fraction of right rows among the counted ones, (N,) each."""
    return ratio(weights, study, right & counted, counted), int(counted.sum())


def divide(above: FloatArray, below: FloatArray) -> FloatArray:
    """Divide; NaN if the divisor is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)
