"""The figures, one function each.

Every function takes the tables of `metrics_match` and bootstrap weights (B, S), row 0 being the
data as they are, and returns the figure for each row, (B,), NaN where it is undefined, with the
number of things it counts. "Design" below is the project's table of definitions, section 9.

Whatever the pipeline did not find, or failed on, counts against it in every figure: a label without
a prediction is a wrong answer in accuracies, a miss of its class in F1 scores, and ranks on the
wrong side of every other label in the AUC of `binary_auc`.
"""

from __future__ import annotations

import numpy as np

from spineline.datasets.labels import SEVEN_NAMES
from spineline.pipeline.evaluation.bootstrap import (
    BoolArray,
    FloatArray,
    IntArray,
    calibration_error,
    divide,
    macro_f1,
    per_study,
    ratio,
    weighted_auc,
)
from spineline.pipeline.evaluation.match import (
    DISTANCE_MM,
    REPORT_DISTANCE_PX,
    LabelTable,
    ReportTable,
)

Counted = tuple[FloatArray, int]

_SEVEN = len(SEVEN_NAMES)


def report_recall(table: ReportTable, weights: FloatArray) -> Counted:
    """True positives over labels that carry codes.

    Design: ``report.recall``, "TP / labels. A prediction is a TP if it is the most confident one of
    its level in that image, lies < 8 px (Euclidean, native pixels) from the label of the same
    level, and both codes (seven and binary) are right. Each label is hit once. Confidence >= 0.25".
    """
    studies = weights.shape[1]
    hits = weights @ per_study(table.study, table.hit, studies)
    labels = weights @ per_study(table.label_study, np.ones(len(table.label_study)), studies)
    return divide(hits, labels), len(table.label_study)


def report_precision(table: ReportTable, weights: FloatArray) -> Counted:
    """True positives over predictions of at least 0.25 confidence.

    Design: ``report.precision``, "TP / predictions"; a TP as for `report_recall`. Predictions on a
    label without codes can be neither right nor wrong and are not counted.
    """
    return ratio(weights, table.study, table.hit, np.ones(len(table.study))), len(table.study)


def report_ap(table: ReportTable, weights: FloatArray) -> Counted:
    """The report's average precision.

    Design: ``report.ap``, "predictions by falling confidence, ``tp`` the list of 0/1; mean over
    i = 1 … N-1 of mean(tp[:i])". Undefined below two predictions. In a bootstrap draw a prediction
    stands in the list as often as its study was drawn.
    """
    return _report_ap(table, weights, np.arange(len(table.study))), len(table.study)


def report_ap_joint(table: ReportTable, weights: FloatArray) -> Counted:
    """The report's average precision with predictions by falling joint confidence.

    The detector's confidence says nothing of the codes, which a hit must have right too; times
    their probabilities it does. The formula is that of `report_ap`.
    """
    return _report_ap(table, weights, table.joint), len(table.study)


def _report_ap(table: ReportTable, weights: FloatArray, order: IntArray) -> FloatArray:
    values = np.full(len(weights), np.nan)
    hit, study = table.hit[order], table.study[order]
    for row, times in enumerate(weights[:, study].astype(np.int64)):
        hits = np.repeat(hit, times)
        if len(hits) > 1:
            values[row] = np.mean(np.cumsum(hits)[:-1] / np.arange(1, len(hits)))
    return values


def level_accuracy_8px(table: LabelTable, weights: FloatArray) -> Counted:
    """Share of labels found at less than 8 px.

    Design: ``level_accuracy_8px``, "share of labels whose level's most confident point lies < 8 px
    away".
    """
    return _share(table, weights, table.distance_px < REPORT_DISTANCE_PX, _all(table))


def level_accuracy_6mm(
    table: LabelTable, weights: FloatArray, *, disc: bool | None = None
) -> Counted:
    """Share of labels found within 6 mm; of discs or vertebrae alone where ``disc`` is given.

    Design: ``level_accuracy_6mm``, "the same with <= 6 mm, by pixel spacing; also split disc /
    vertebra". Labels of images without spacing are not counted.
    """
    return _share(table, weights, _within(table), _measured(table, disc))


def seven_accuracy(table: LabelTable, weights: FloatArray) -> Counted:
    """Share of labelled structures whose seven-class code is right.

    Design: ``seven.accuracy``, "on labelled structures, crops at predicted points"; the crop is
    that of the level's most confident prediction, wherever it lies; no prediction is a wrong
    answer.
    """
    return _graded_share(table, weights, table.seven_given == table.seven, table.seven >= 0)


def seven_macro_f1(table: LabelTable, weights: FloatArray) -> Counted:
    """Mean over the seven classes of F1, no prediction being a miss.

    Design: ``seven.macro_f1``, "on labelled structures, crops at predicted points". Classes that
    occur neither among labels nor predictions are left out (as in scikit-learn).
    """
    labelled = table.seven >= 0
    truth = _one_hot(table.seven) & labelled[:, None]
    given = _one_hot(table.seven_given) & labelled[:, None]
    values = _multi_f1(weights, table.study, truth, given)
    return _unless_ungraded(table, values), int(labelled.sum())


def seven_ece(table: LabelTable, weights: FloatArray) -> Counted:
    """Expected calibration error of the probability of the seven-class code that is given.

    Counted are labelled structures with a graded prediction: what was not found states nothing.
    """
    stated = np.where(table.seven >= 0, table.seven_probability, np.nan)
    right = table.seven_given == table.seven
    return calibration_error(weights, table.study, stated, right), int(np.isfinite(stated).sum())


def seven_confusion(table: LabelTable, weights: FloatArray) -> tuple[FloatArray, int]:
    """(B, 7, 8) counts of labelled structures: row the label's code, column the answer's.

    Design: ``seven.confusion``. The eighth column counts labels without a graded prediction.
    """
    labelled = table.seven >= 0
    given = np.where(table.seven_given >= 0, table.seven_given, _SEVEN)
    cell = np.zeros((len(table.study), _SEVEN * (_SEVEN + 1)))
    rows = np.flatnonzero(labelled)
    cell[rows, table.seven[rows] * (_SEVEN + 1) + given[rows]] = 1
    counts = weights @ per_study(table.study, cell, weights.shape[1])
    return counts.reshape(-1, _SEVEN, _SEVEN + 1), int(labelled.sum())


def binary_accuracy(table: LabelTable, weights: FloatArray) -> Counted:
    """Share of labelled structures whose binary code is right.

    Design: ``binary.accuracy``, "V5 against not V5"; vertebrae count, as in the report.
    """
    return _graded_share(table, weights, table.binary_given == table.binary, table.binary >= 0)


def binary_sensitivity(table: LabelTable, weights: FloatArray) -> Counted:
    """Share of structures labelled v5 that are called v5. Design: ``binary.sensitivity``."""
    return _graded_share(table, weights, table.binary_given == 1, table.binary == 1)


def binary_specificity(table: LabelTable, weights: FloatArray) -> Counted:
    """Share of structures labelled otherwise that are called not v5.

    Design: ``binary.specificity``.
    """
    return _graded_share(table, weights, table.binary_given == 0, table.binary == 0)


def binary_auc(table: LabelTable, weights: FloatArray, *, discs_only: bool = False) -> Counted:
    """Area under the ROC curve of the probability of v5.

    Design: ``binary.auc``, "V5 against not V5", over all labelled structures; only discs can carry
    v5, so vertebrae are easy negatives, and ``discs_only`` leaves them out. A label without a
    prediction ranks on the wrong side of every other, so that silence never helps.
    """
    counted = (table.binary >= 0) & (table.disc | (not discs_only))
    positive = table.binary == 1
    missing = np.where(positive, -np.inf, np.inf)
    score = np.where(np.isnan(table.v5_probability), missing, table.v5_probability)
    values = weighted_auc(
        weights, table.study[counted], score[counted], positive[counted].astype(bool)
    )
    return _unless_ungraded(table, values), int(counted.sum())


def binary_ece(table: LabelTable, weights: FloatArray) -> Counted:
    """Expected calibration error of the probability of v5, counted as `seven_ece` counts."""
    stated = np.where(table.binary >= 0, table.v5_probability, np.nan)
    happened = table.binary == 1
    return calibration_error(weights, table.study, stated, happened), int(np.isfinite(stated).sum())


def ccf_l(table: LabelTable, weights: FloatArray, *, disc: bool) -> Counted:
    """Localisation of one kind.

    Design: ``ccf.l_disc``, ``ccf.l_vertebra``, "L: share within 6 mm".
    """
    return level_accuracy_6mm(table, weights, disc=disc)


def ccf_c(table: LabelTable, weights: FloatArray, *, disc: bool) -> Counted:
    """Classification of one kind on the points that were located.

    Design: ``ccf.c_disc``, ``ccf.c_vertebra``, "C: AUC of normal (v1) against abnormal on the
    points so located", that is labelled ones within 6 mm; abnormal is anything but v1 alone.
    """
    counted = _within(table) & _measured(table, disc) & (table.sick >= 0)
    counted &= np.isfinite(table.sick_probability)
    values = weighted_auc(
        weights,
        table.study[counted],
        table.sick_probability[counted],
        (table.sick == 1)[counted],
    )
    return values, int(counted.sum())


def ccf_score(table: LabelTable, weights: FloatArray) -> Counted:
    """Design: ``ccf.score``, "mean(L) x mean(C)", means of disc and vertebra."""
    localised = [ccf_l(table, weights, disc=disc)[0] for disc in (True, False)]
    classified = [ccf_c(table, weights, disc=disc)[0] for disc in (True, False)]
    values = (localised[0] + localised[1]) / 2 * ((classified[0] + classified[1]) / 2)
    return values, int(_measured(table, None).sum())


def tianchi_macro_f1(table: LabelTable, weights: FloatArray) -> Counted:
    """Mean F1 over vertebra v1, v2 and disc v1 … v5.

    Design: ``tianchi.macro_f1``, "macro F1 over disc v1–v5 and vertebra v1–v2; a point further than
    6 mm or missing is a miss of its class". A disc with v5 beside its grade counts in both classes,
    for label and prediction alike; a point further than 6 mm claims nothing, right or wrong.
    Counted are labelled structures of images with spacing.
    """
    counted = _measured(table, None) & (table.seven >= 0)
    given = table.tags_given & _within(table)[:, None]
    values = _multi_f1(
        weights, table.study, table.tags & counted[:, None], given & counted[:, None]
    )
    return _unless_ungraded(table, values), int(counted.sum())


def tianchi_keypoint_recall(table: LabelTable, weights: FloatArray) -> Counted:
    """Share of all labels, graded or not, within 6 mm of their level's prediction.

    Design: ``tianchi.keypoint_recall``.
    """
    return level_accuracy_6mm(table, weights)


def _all(table: LabelTable) -> BoolArray:
    return np.ones(len(table.study), dtype=bool)


def _within(table: LabelTable) -> BoolArray:
    return table.distance_mm <= DISTANCE_MM + 1e-9


def _measured(table: LabelTable, disc: bool | None) -> BoolArray:
    """Labels of images with spacing, of one kind where it is given."""
    of_kind = _all(table) if disc is None else table.disc == disc
    return ~np.isnan(table.distance_mm) & of_kind


def _share(table: LabelTable, weights: FloatArray, right: BoolArray, counted: BoolArray) -> Counted:
    return ratio(weights, table.study, right & counted, counted), int(counted.sum())


def _graded_share(
    table: LabelTable, weights: FloatArray, right: BoolArray, counted: BoolArray
) -> Counted:
    values, n = _share(table, weights, right, counted)
    return _unless_ungraded(table, values), n


def _unless_ungraded(table: LabelTable, values: FloatArray) -> FloatArray:
    """NaN where structures were found and no classifier ran: there is nothing to score."""
    graded = (table.seven_given >= 0) | (table.binary_given >= 0)
    return np.full_like(values, np.nan) if table.found.any() and not graded.any() else values


def _one_hot(code: IntArray) -> BoolArray:
    return code[:, None] == np.arange(_SEVEN)[None, :]


def _multi_f1(
    weights: FloatArray, study: IntArray, truth: BoolArray, given: BoolArray
) -> FloatArray:
    """(B,) macro F1 of (N, C) truth against (N, C) claims."""
    studies = weights.shape[1]
    counts = [
        weights @ per_study(study, rows, studies)
        for rows in (truth & given, given & ~truth, truth & ~given)
    ]
    return macro_f1(*counts)
