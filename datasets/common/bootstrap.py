"""Bootstrap over studies: weights instead of copies.

A draw of S studies with replacement is a row of S whole numbers, how often each study was drawn.
Row 0 is all ones, the data as they are, so one formula gives the value and its interval.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

DRAWS = 1000
CALIBRATION_BINS = 15
"""Bins of the expected calibration error of grades, as many as Guo et al. 2017 use."""


def draw_weights(studies: int, draws: int = DRAWS, *, seed: int = 0) -> FloatArray:
    """(draws + 1, studies) times each study is drawn; row 0 is the data as they are."""
    rng = np.random.default_rng(seed)
    weights = np.ones((draws + 1, studies))
    for row in range(1, draws + 1 if studies else 1):
        weights[row] = np.bincount(rng.integers(0, studies, studies), minlength=studies)
    return weights


def interval(values: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    """2.5 % and 97.5 % points of the draws (axis 0, row 0 set aside) that are defined.

    None where no draw is defined.
    """
    draws = values[1:]
    if not len(draws):
        return None
    defined = np.isfinite(draws).reshape(len(draws), -1).all(axis=1)
    if not defined.any():
        return None
    low, high = np.percentile(draws[defined], [2.5, 97.5], axis=0)
    return low, high


def per_study(study: IntArray, amount: npt.ArrayLike, studies: int) -> FloatArray:
    """(S,) or (S, C) sums of the rows' amounts, (N,) or (N, C), by study."""
    values = np.asarray(amount, dtype=np.float64)
    total = np.zeros((studies, *values.shape[1:]))
    np.add.at(total, study, values)
    return total


def running_totals(
    weights: FloatArray, study: IntArray, place: IntArray, places: int, amount: npt.ArrayLike
) -> FloatArray:
    """(B, places) weighted sum of the amounts at each place and those before it.

    Args:
        weights: (B, S) times each study counts.
        study: (N,) index of the study.
        place: (N,) 0 … places; what stands at ``places`` or later is left out.
        places: number of places.
        amount: (N,).
    """
    table = np.zeros((weights.shape[1], places))
    within = place < places
    np.add.at(table, (study[within], place[within]), np.asarray(amount, np.float64)[within])
    return weights @ np.cumsum(table, axis=1)


def ratio(
    weights: FloatArray, study: IntArray, top: npt.ArrayLike, bottom: npt.ArrayLike
) -> FloatArray:
    """(B,) weighted sum of ``top`` over that of ``bottom``, (N,) each; NaN where that is 0."""
    studies = weights.shape[1]
    above = weights @ per_study(study, top, studies)
    below = weights @ per_study(study, bottom, studies)
    return divide(above, below)


def calibration_error(
    weights: FloatArray,
    study: IntArray,
    stated: npt.ArrayLike,
    happened: npt.ArrayLike,
    *,
    bins: int = CALIBRATION_BINS,
) -> FloatArray:
    """(B,) expected calibration error: how far stated probabilities are from what happened.

    Over bins of equal width, each with its upper end, the mean by count of the distance between the
    mean stated probability and the share that happened (Guo et al., "On calibration of modern
    neural networks", ICML 2017). NaN where nothing is counted.

    Args:
        weights: (B, S) times each study counts.
        study: (N,) index of the study.
        stated: (N,) probabilities in 0 … 1; NaN where none was stated, which is not counted.
        happened: (N,) 0 or 1.
        bins: of equal width, over 0 … 1.
    """
    probability = np.asarray(stated, dtype=np.float64)
    known = np.isfinite(probability)
    number = np.where(known, probability, 0.0)
    place = np.clip(np.ceil(number * bins).astype(np.int64) - 1, 0, bins - 1)
    in_bin = (place[:, None] == np.arange(bins)) & known[:, None]
    excess = in_bin * (number - np.asarray(happened, dtype=np.float64))[:, None]
    studies = weights.shape[1]
    apart = np.abs(weights @ per_study(study, excess, studies)).sum(axis=1)
    return divide(apart, weights @ per_study(study, known, studies))


def divide(above: FloatArray, below: FloatArray) -> FloatArray:
    """Quotient, NaN where the divisor is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)
