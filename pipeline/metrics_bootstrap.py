"""Bootstrap over studies: weights instead of copies, and the statistics that take weights.

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


def ratio(
    weights: FloatArray, study: IntArray, top: npt.ArrayLike, bottom: npt.ArrayLike
) -> FloatArray:
    """(B,) weighted sum of ``top`` over that of ``bottom``, (N,) each; NaN where that is 0."""
    studies = weights.shape[1]
    above = weights @ per_study(study, top, studies)
    below = weights @ per_study(study, bottom, studies)
    return divide(above, below)


def divide(above: FloatArray, below: FloatArray) -> FloatArray:
    """Quotient, NaN where the divisor is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)


def weighted_auc(
    weights: FloatArray, study: IntArray, score: FloatArray, positive: BoolArray
) -> FloatArray:
    """(B,) area under the ROC curve: the chance that a positive scores above a negative.

    Ties count one half (Hanley and McNeil 1982). NaN where a draw has no positive or no negative.

    Args:
        weights: (B, S) times each study counts.
        study: (N,) index of the study.
        score: (N,), may be infinite.
        positive: (N,).
    """
    if not len(score):
        return np.full(len(weights), np.nan)
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(_ranks(score[order])) > 0])
    item = weights[:, study[order]]
    up = np.add.reduceat(item * positive[order], starts, axis=1)
    down = np.add.reduceat(item * ~positive[order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down
    wins = (up * (below + down / 2)).sum(axis=1)
    return divide(wins, up.sum(axis=1) * down.sum(axis=1))


def _ranks(ordered: FloatArray) -> IntArray:
    """Dense ranks of sorted values; unlike differences they work for infinities."""
    return np.cumsum(np.r_[False, ordered[1:] != ordered[:-1]]).astype(np.int64)


def macro_f1(
    true_positive: FloatArray, false_positive: FloatArray, missed: FloatArray
) -> FloatArray:
    """(B,) mean over classes of F1 = 2 TP / (2 TP + FP + FN), (B, C) counts each.

    A class that occurs neither among labels nor among predictions is left out of the mean, as
    scikit-learn's ``f1_score(average="macro")`` does; NaN where none occurs.
    """
    f1 = divide(2 * true_positive, 2 * true_positive + false_positive + missed)
    occurs = np.isfinite(f1)
    return divide(np.where(occurs, f1, 0).sum(axis=1), occurs.sum(axis=1).astype(np.float64))
