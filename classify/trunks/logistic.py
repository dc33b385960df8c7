"""Heads fitted in one step: logistic regression on features, as a linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spineline.datasets.common.arrays import FloatArray, IntArray

_ABSENT_BIAS = -20.0
"""Bias of a class without crops; its weights are zero."""


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A linear head: the logits of K classes are ``features @ weight.T + bias``.

    Attributes:
        weight: (K, F).
        bias: (K,).
    """

    weight: FloatArray
    bias: FloatArray


def fit_logistic(
    features: FloatArray, codes: IntArray, classes: Sequence[int], *, c: float, weights: FloatArray
) -> LinearHead:
    """Fit a logistic regression with an L2 penalty (scikit-learn's) over the classes that occur.

    Args:
        features: (N, F).
        codes: (N,), each one of ``classes``.
        classes: the codes of the head's rows, in order.
        c: inverse strength of the penalty.
        weights: (N,) of the crops in the loss.
    """
    from sklearn.linear_model import LogisticRegression

    place = {code: n for n, code in enumerate(classes)}
    weight = np.zeros((len(classes), features.shape[1]))
    bias = np.full(len(classes), _ABSENT_BIAS)
    present = np.unique(codes)
    if len(present) < 2:
        bias[[place[int(code)] for code in present]] = 0.0
        return LinearHead(weight, bias if len(present) else np.zeros(len(classes)))
    model = LogisticRegression(C=c, max_iter=2000)
    model.fit(features.astype(np.float64), codes, sample_weight=weights)
    slopes, offsets = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn returns only the second class
        slopes = np.concatenate([-slopes, slopes]) / 2
        offsets = np.concatenate([-offsets, offsets]) / 2
    for code, slope, offset in zip(model.classes_, slopes, offsets, strict=True):
        weight[place[int(code)]], bias[place[int(code)]] = slope, offset
    return LinearHead(weight, bias)
