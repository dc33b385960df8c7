"""Statistics of the pipeline's figures that take weights; the draws are the datasets' own."""

from __future__ import annotations

import numpy as np

from spineline.datasets.common.bootstrap import (
    DRAWS,
    BoolArray,
    FloatArray,
    IntArray,
    calibration_error,
    divide,
    draw_weights,
    interval,
    per_study,
    ratio,
)

__all__ = [
    "DRAWS",
    "BoolArray",
    "FloatArray",
    "IntArray",
    "calibration_error",
    "divide",
    "draw_weights",
    "interval",
    "macro_f1",
    "per_study",
    "ratio",
    "weighted_auc",
]


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
