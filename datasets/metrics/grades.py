"""Metrics of grades: the seven classes, v5 against not v5, normal against abnormal.

Each metric takes a [GradeTable][] and bootstrap weights (B, S). It returns its value for each row
of weights, NaN if undefined, and the number of structures counted. A structure without an answer
counts as wrong in accuracies and as a miss of its class in F1. In the area of v5 it ranks on the
wrong side of every other. Answers without a probability have no calibration error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import BoolArray, FloatArray, IntArray
from spineline.datasets.labels import SEVEN_NAMES, Kind
from spineline.datasets.metrics.bootstrap import Counted, divide, per_study, share
from spineline.datasets.metrics.kind_masks import masked_seven

CALIBRATION_BINS = 15
"""Number of bins of the expected calibration error of grades, as in Guo et al. 2017."""

V5_THRESHOLD = 0.5
"""Lowest probability that is called v5, if the weights do not give another threshold."""

_SEVEN = len(SEVEN_NAMES)


@dataclass(frozen=True, slots=True, eq=False)
class GradeTable:
    """Structures with the codes of their labels and of the answers (N rows).

    Attributes:
        study: (N,) index of the study.
        disc: (N,) whether it is a disc, else a vertebra.
        seven, binary: (N,) codes of the label, -1 if unlabelled.
        seven_given, binary_given: (N,) codes of the answer, -1 without an answer.
        seven_probability: (N,) probability of the answered code; NaN without one.
        v5_probability: (N,) probability of v5; NaN without one.
        abnormal_probability: (N,) see [abnormal_probability][]; NaN without one.
    """

    study: IntArray
    disc: BoolArray
    seven: IntArray
    binary: IntArray
    seven_given: IntArray
    binary_given: IntArray
    seven_probability: FloatArray
    v5_probability: FloatArray
    abnormal_probability: FloatArray


Metric = Callable[[GradeTable, FloatArray], Counted]


def grade_table(
    study: IntArray,
    kinds: Sequence[Kind],
    labels: tuple[IntArray, IntArray],
    seven: npt.NDArray[np.floating] | None,
    v5: npt.NDArray[np.floating] | None,
    *,
    seven_given: IntArray | None = None,
    threshold: float = V5_THRESHOLD,
) -> GradeTable:
    """Make the table of structures that a classifier graded.

    Args:
        study: (N,) index of the study.
        kinds: kind of each structure.
        labels: (N,) seven-class codes and (N,) binary codes.
        seven: (N, 7) probabilities, or None without that head.
        v5: (N,) probability of v5, or None without that head.
        seven_given: (N,) answered codes; None for the most probable ones.
        threshold: lowest probability that is answered as v5.
    """
    disc = np.array([kind == "disc" for kind in kinds], dtype=np.bool_)
    none, unknown = np.full(len(study), -1), np.full(len(study), np.nan)
    abnormal, stated = unknown, unknown
    given = none if seven is None else seven.argmax(axis=1) if seven_given is None else seven_given
    if seven is not None:
        stated = seven[np.arange(len(seven)), given]
        normal = masked_seven(kinds, seven)[np.arange(len(disc)), _normal_code(disc)]
        no_head = np.zeros(len(disc))
        abnormal = abnormal_probability(normal, no_head if v5 is None else np.where(disc, v5, 0))
    return GradeTable(
        study=study,
        disc=disc,
        seven=labels[0],
        binary=labels[1],
        seven_given=given,
        binary_given=none if v5 is None else (v5 >= threshold).astype(np.int64),
        seven_probability=stated,
        v5_probability=unknown if v5 is None else np.asarray(v5, dtype=np.float64),
        abnormal_probability=abnormal,
    )


def abnormal_probability(normal: npt.ArrayLike, v5: npt.ArrayLike) -> FloatArray:
    """Return (N,) the probability of anything but v1 alone: 1 - P(v1 | grades) (1 - P(v5)).

    The seven-class code of a disc with v1 and v5 is that of v1. Only the second factor
    distinguishes it from a normal disc.

    Args:
        normal: (N,) probability of the kind's normal code among the codes of its kind.
        v5: (N,) probability of v5; 0 for a vertebra, or if it is unknown.
    """
    return 1 - np.asarray(normal, dtype=np.float64) * (1 - np.asarray(v5, dtype=np.float64))


def _normal_code(disc: BoolArray) -> IntArray:
    codes = (SEVEN_NAMES.index("vertebra-normal"), SEVEN_NAMES.index("disc-normal"))
    return np.array(codes)[disc.astype(np.int64)]


def seven_accuracy(table: GradeTable, weights: FloatArray) -> Counted:
    """Fraction of labelled structures whose seven-class code is right."""
    return share(weights, table.study, table.seven_given == table.seven, table.seven >= 0)


def seven_macro_f1(table: GradeTable, weights: FloatArray) -> Counted:
    """Mean F1 over the seven classes that occur among labels or answers."""
    labelled, codes = table.seven >= 0, np.arange(_SEVEN)
    truth = (table.seven[:, None] == codes) & labelled[:, None]
    given = (table.seven_given[:, None] == codes) & labelled[:, None]
    return macro_f1(weights, table.study, truth, given), int(labelled.sum())


def seven_ece(table: GradeTable, weights: FloatArray) -> Counted:
    """Expected calibration error of the probability of the answered seven-class code."""
    stated = np.where(table.seven >= 0, table.seven_probability, np.nan)
    right = table.seven_given == table.seven
    return calibration_error(weights, table.study, stated, right), int(np.isfinite(stated).sum())


def seven_confusion(table: GradeTable, weights: FloatArray) -> tuple[FloatArray, int]:
    """(B, 7, 8) counts of labelled structures: the row is the label, the column the answer.

    The eighth column counts labels without an answer.
    """
    rows = np.flatnonzero(table.seven >= 0)
    given = np.where(table.seven_given >= 0, table.seven_given, _SEVEN)
    cell = np.zeros((len(table.study), _SEVEN * (_SEVEN + 1)))
    cell[rows, table.seven[rows] * (_SEVEN + 1) + given[rows]] = 1
    counts = weights @ per_study(table.study, cell, weights.shape[1])
    return counts.reshape(-1, _SEVEN, _SEVEN + 1), len(rows)


def abnormal_auc(
    table: GradeTable, weights: FloatArray, *, disc: bool, among: BoolArray | None = None
) -> Counted:
    """Area under the ROC curve of normal (v1 alone) against abnormal.

    Args:
        table: graded structures.
        weights: (B, S) how often each study counts.
        disc: whether discs are counted, else vertebrae.
        among: (N,) structures to count; None for all that are labelled and graded.
    """
    abnormal = (table.seven != _normal_code(table.disc)) | (table.binary == 1)
    counted = (table.disc == disc) & (table.seven >= 0) & np.isfinite(table.abnormal_probability)
    if among is not None:
        counted &= among
    values = weighted_auc(
        weights, table.study[counted], table.abnormal_probability[counted], abnormal[counted]
    )
    return values, int(counted.sum())


def binary_accuracy(table: GradeTable, weights: FloatArray) -> Counted:
    """Fraction of labelled structures whose binary code is right, vertebrae included."""
    return share(weights, table.study, table.binary_given == table.binary, table.binary >= 0)


def binary_sensitivity(table: GradeTable, weights: FloatArray) -> Counted:
    """Fraction of structures labelled v5 that are called v5."""
    return share(weights, table.study, table.binary_given == 1, table.binary == 1)


def binary_specificity(table: GradeTable, weights: FloatArray) -> Counted:
    """Fraction of structures labelled otherwise that are called not v5."""
    return share(weights, table.study, table.binary_given == 0, table.binary == 0)


def binary_auc(table: GradeTable, weights: FloatArray, *, discs_only: bool = False) -> Counted:
    """Area under the ROC curve of the probability of v5.

    Only discs can carry v5, so vertebrae are easy negatives, and ``discs_only`` leaves them out. A
    label without an answer ranks on the wrong side of every other, so missing answers never help.
    """
    counted = (table.binary >= 0) & (table.disc | (not discs_only))
    positive = table.binary == 1
    missing = np.where(positive, -np.inf, np.inf)
    score = np.where(np.isnan(table.v5_probability), missing, table.v5_probability)
    values = weighted_auc(weights, table.study[counted], score[counted], positive[counted])
    return values, int(counted.sum())


def binary_ece(table: GradeTable, weights: FloatArray) -> Counted:
    """Expected calibration error of the probability of v5."""
    stated = np.where(table.binary >= 0, table.v5_probability, np.nan)
    error = calibration_error(weights, table.study, stated, table.binary == 1)
    return error, int(np.isfinite(stated).sum())


SEVEN_METRICS: Mapping[str, Metric] = {
    "seven.accuracy": seven_accuracy,
    "seven.macro_f1": seven_macro_f1,
    "seven.ece": seven_ece,
    "abnormal.auc_disc": partial(abnormal_auc, disc=True),
    "abnormal.auc_vertebra": partial(abnormal_auc, disc=False),
}
"""Metrics of a classifier's seven-class head, by dotted key."""

BINARY_METRICS: Mapping[str, Metric] = {
    "binary.accuracy": binary_accuracy,
    "binary.sensitivity": binary_sensitivity,
    "binary.specificity": binary_specificity,
    "binary.auc": binary_auc,
    "binary.ece": binary_ece,
}
"""Metrics of a classifier's binary head, by dotted key."""


def weighted_auc(
    weights: FloatArray, study: IntArray, score: npt.NDArray[np.floating], positive: BoolArray
) -> FloatArray:
    """Return (B,) the area under the ROC curve: P(a positive scores above a negative).

    Ties count one half (Hanley and McNeil 1982). The area is NaN if a draw has no positive or no
    negative. For a row of ones, it equals scikit-learn's to the last digit.

    Args:
        weights: (B, S) how often each study counts.
        study: (N,) index of the study.
        score: (N,) scores, which may be infinite.
        positive: (N,) whether the row is positive.
    """
    rank = np.unique(score, return_inverse=True)[1]
    up = np.zeros((weights.shape[1], rank.max(initial=-1) + 1))
    down = np.zeros_like(up)
    np.add.at(up, (study, rank), positive)
    np.add.at(down, (study, rank), ~positive)
    up, down = weights @ up, weights @ down
    wins = (up * (np.cumsum(down, axis=1) - down / 2)).sum(axis=1)
    values = divide(wins, up.sum(axis=1) * down.sum(axis=1))
    if np.isfinite(values[0]) and (weights[0] == 1).all():
        from sklearn.metrics import roc_auc_score

        values[0] = roc_auc_score(positive, rank)
    return values


def macro_f1(
    weights: FloatArray, study: IntArray, truth: BoolArray, given: BoolArray
) -> FloatArray:
    """Return (B,) the mean over classes of F1 = 2 TP / (2 TP + FP + FN).

    A class that occurs neither in labels nor in answers is left out of the mean, as in
    scikit-learn's ``f1_score(average="macro")``. The result is NaN if no class occurs.

    Args:
        weights: (B, S) how often each study counts.
        study: (N,) index of the study.
        truth: (N, C) whether the class is labelled.
        given: (N, C) whether the class is answered.
    """
    hits, wrong, missed = (
        weights @ per_study(study, rows, weights.shape[1])
        for rows in (truth & given, given & ~truth, truth & ~given)
    )
    f1 = divide(2 * hits, 2 * hits + wrong + missed)
    occurs = np.isfinite(f1)
    return divide(np.where(occurs, f1, 0).sum(axis=1), occurs.sum(axis=1).astype(np.float64))


def calibration_error(
    weights: FloatArray,
    study: IntArray,
    stated: npt.ArrayLike,
    happened: npt.ArrayLike,
    *,
    bins: int = CALIBRATION_BINS,
) -> FloatArray:
    """Return (B,) the expected calibration error of stated probabilities.

    Bins have equal width and include their upper end. The error is the mean, weighted by count, of
    the difference between mean stated probability and frequency (Guo et al., "On calibration of
    modern neural networks", ICML 2017). It is NaN if nothing is counted.

    Args:
        weights: (B, S) how often each study counts.
        study: (N,) index of the study.
        stated: (N,) probabilities in 0 … 1; NaN if none was stated, which is not counted.
        happened: (N,) 0 or 1.
        bins: number of bins of equal width over 0 … 1.
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
