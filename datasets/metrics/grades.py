"""Metrics of grades: the seven classes, v5 against not v5, normal against abnormal.

Each takes a [GradeTable][] and bootstrap weights (B, S), and gives the metric for each row of
weights, NaN where it is undefined, with the number of structures that it counts. A structure
without an answer is a wrong answer in shares, a miss of its class in F1, and ranks on the wrong
side of every other in the area of v5; what states no probability has no calibration error.
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
"""Bins of the expected calibration error of grades, as many as Guo et al. 2017 use."""

V5_THRESHOLD = 0.5
"""From which probability on v5 is called, where the weights do not say."""

_SEVEN = len(SEVEN_NAMES)


@dataclass(frozen=True, slots=True, eq=False)
class GradeTable:
    """Structures with the codes they are labelled with and the answers they are given (N rows).

    Attributes:
        study: (N,) index of the study.
        disc: (N,) whether it is a disc, else a vertebra.
        seven, binary: (N,) the label's codes, -1 where unlabelled.
        seven_given, binary_given: (N,) the codes answered, -1 where there is no answer.
        seven_probability: (N,) of the code given; NaN where there is none.
        v5_probability: (N,) NaN where there is none.
        abnormal_probability: (N,) see [abnormal_probability][]; NaN where there is none.
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
    """The table of structures that a classifier graded, all of them.

    Args:
        study: (N,) index of the study.
        kinds: of each structure.
        labels: (N,) seven-class codes and (N,) binary codes.
        seven: (N, 7) probabilities, or None without that head.
        v5: (N,) probability of v5, or None without that head.
        seven_given: (N,) the codes answered; None for the most probable ones.
        threshold: from which probability on the answer is v5.
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
    """(N,) probability of anything but v1 alone: 1 - P(v1 among the grades) (1 - P(v5)).

    The seven-class code of a disc with v1 and v5 is that of v1, so that the second factor alone
    tells it from a normal disc.

    Args:
        normal: (N,) probability of the kind's normal code among the codes of its kind.
        v5: (N,) probability of v5; 0 for a vertebra, and where nothing tells it.
    """
    return 1 - np.asarray(normal, dtype=np.float64) * (1 - np.asarray(v5, dtype=np.float64))


def _normal_code(disc: BoolArray) -> IntArray:
    codes = (SEVEN_NAMES.index("vertebra-normal"), SEVEN_NAMES.index("disc-normal"))
    return np.array(codes)[disc.astype(np.int64)]


def seven_accuracy(table: GradeTable, weights: FloatArray) -> Counted:
    """Share of labelled structures whose seven-class code is right."""
    return share(weights, table.study, table.seven_given == table.seven, table.seven >= 0)


def seven_macro_f1(table: GradeTable, weights: FloatArray) -> Counted:
    """Mean F1 over the seven classes that occur among labels or answers."""
    labelled, codes = table.seven >= 0, np.arange(_SEVEN)
    truth = (table.seven[:, None] == codes) & labelled[:, None]
    given = (table.seven_given[:, None] == codes) & labelled[:, None]
    return macro_f1(weights, table.study, truth, given), int(labelled.sum())


def seven_ece(table: GradeTable, weights: FloatArray) -> Counted:
    """Expected calibration error of the probability of the seven-class code that is given."""
    stated = np.where(table.seven >= 0, table.seven_probability, np.nan)
    right = table.seven_given == table.seven
    return calibration_error(weights, table.study, stated, right), int(np.isfinite(stated).sum())


def seven_confusion(table: GradeTable, weights: FloatArray) -> tuple[FloatArray, int]:
    """(B, 7, 8) counts of labelled structures: row the label's code, column the answer's.

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
        table: of graded structures.
        weights: (B, S).
        disc: of discs, else of vertebrae.
        among: (N,) the structures that are counted; None for all that are labelled and graded.
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
    """Share of labelled structures whose binary code is right; vertebrae count."""
    return share(weights, table.study, table.binary_given == table.binary, table.binary >= 0)


def binary_sensitivity(table: GradeTable, weights: FloatArray) -> Counted:
    """Share of structures labelled v5 that are called v5."""
    return share(weights, table.study, table.binary_given == 1, table.binary == 1)


def binary_specificity(table: GradeTable, weights: FloatArray) -> Counted:
    """Share of structures labelled otherwise that are called not v5."""
    return share(weights, table.study, table.binary_given == 0, table.binary == 0)


def binary_auc(table: GradeTable, weights: FloatArray, *, discs_only: bool = False) -> Counted:
    """Area under the ROC curve of the probability of v5.

    Only discs can carry v5, so vertebrae are easy negatives, and ``discs_only`` leaves them out. A
    label without an answer ranks on the wrong side of every other, so that silence never helps.
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
    """(B,) area under the ROC curve: the chance that a positive scores above a negative.

    Ties count one half (Hanley and McNeil 1982). NaN where a draw has no positive or no negative.
    Where row 0 is all ones, its area is scikit-learn's own, to the last digit.

    Args:
        weights: (B, S) times each study counts.
        study: (N,) index of the study.
        score: (N,), may be infinite.
        positive: (N,).
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
    """(B,) mean over classes of F1 = 2 TP / (2 TP + FP + FN).

    A class that occurs neither among labels nor among answers is left out of the mean, as
    scikit-learn's ``f1_score(average="macro")`` does; NaN where none occurs.

    Args:
        weights: (B, S) times each study counts.
        study: (N,) index of the study.
        truth: (N, C) whether the class is labelled.
        given: (N, C) whether it is answered.
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
