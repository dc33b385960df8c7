"""The metrics of ``pipeline val``, one function each, in addition to the metrics of grades.

Every function takes a table of [spineline.pipeline.evaluation.match][] and bootstrap weights (B,
S), of which row 0 weights the data as they are. It returns the metric for each row, (B,), NaN if
undefined, and the number of things it counts. "Design" below is the project's table of definitions,
section 9.

Whatever the pipeline did not find, or failed on, counts against it in every metric. A label
without a prediction is wrong in accuracies and a miss of its class in F1 scores. In the AUC of v5,
it ranks on the wrong side of every other label.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from spineline.datasets.common.arrays import BoolArray, FloatArray, IntArray
from spineline.datasets.metrics.bootstrap import Counted, divide, per_study, ratio, share
from spineline.datasets.metrics.grades import (
    abnormal_auc,
    binary_accuracy,
    binary_auc,
    binary_ece,
    binary_sensitivity,
    binary_specificity,
    macro_f1,
    seven_accuracy,
    seven_ece,
    seven_macro_f1,
)
from spineline.datasets.metrics.levels import NEAR_PX
from spineline.pipeline.evaluation.match import DISTANCE_MM, LabelTable, ReportTable


def report_recall(table: ReportTable, weights: FloatArray) -> Counted:
    """True positives over labels with codes.

    The design's ``report.recall``: TP / labels. A prediction is a TP if it is the most confident
    one of its level in that image, and lies < 8 px (Euclidean, native pixels) from that level's
    label. Both codes, seven and binary, must be right, and the confidence at least 0.25. Each label
    is hit once.
    """
    studies = weights.shape[1]
    hits = weights @ per_study(table.study, table.hit, studies)
    labels = weights @ per_study(table.label_study, np.ones(len(table.label_study)), studies)
    return divide(hits, labels), len(table.label_study)


def report_precision(table: ReportTable, weights: FloatArray) -> Counted:
    """True positives over predictions with a confidence of at least 0.25.

    Design: ``report.precision``, "TP / predictions"; a TP as for `report_recall`. Predictions on a
    label without codes can be neither right nor wrong and are not counted.
    """
    return ratio(weights, table.study, table.hit, np.ones(len(table.study))), len(table.study)


def report_ap(table: ReportTable, weights: FloatArray, *, joint: bool = False) -> Counted:
    """The report's average precision.

    Design: ``report.ap``, "predictions by falling confidence, ``tp`` the list of 0/1; mean over i =
    1 … N-1 of mean(tp[:i])". It is undefined for fewer than two predictions. In a bootstrap draw, a
    prediction is in the list as often as its study was drawn.

    Args:
        table: of predictions.
        weights: (B, S).
        joint: sort by joint confidence instead. A hit must also have the right codes, which the
            detector's confidence ignores; the joint confidence includes their probabilities.
    """
    order: IntArray = table.joint if joint else np.arange(len(table.study))
    values = np.full(len(weights), np.nan)
    hit, study = table.hit[order], table.study[order]
    for row, times in enumerate(weights[:, study].astype(np.int64)):
        hits = np.repeat(hit, times)
        if len(hits) > 1:
            values[row] = np.mean(np.cumsum(hits)[:-1] / np.arange(1, len(hits)))
    return values, len(table.study)


def level_accuracy_8px(table: LabelTable, weights: FloatArray) -> Counted:
    """Share of labels found at less than 8 px.

    Design: ``level_accuracy_8px``, "share of labels whose level's most confident point lies < 8 px
    away".
    """
    every = np.ones(len(table.study), dtype=np.bool_)
    return share(weights, table.study, table.distance_px < NEAR_PX, every)


def level_accuracy_6mm(
    table: LabelTable, weights: FloatArray, *, disc: bool | None = None
) -> Counted:
    """Share of labels found within 6 mm; only of discs or of vertebrae if ``disc`` is given.

    Design: ``level_accuracy_6mm``, "the same with <= 6 mm, by pixel spacing; also split disc /
    vertebra"; ``ccf.l_disc``, ``ccf.l_vertebra``, "L: share within 6 mm";
    ``tianchi.keypoint_recall``. Labels of images without spacing are not counted.
    """
    counted = _measured(table) if disc is None else _measured(table) & (table.disc == disc)
    return share(weights, table.study, _within(table), counted)


def ccf_c(table: LabelTable, weights: FloatArray, *, disc: bool) -> Counted:
    """Classification of one kind on the located points.

    Design: ``ccf.c_disc``, ``ccf.c_vertebra``, "C: AUC of normal (v1) against abnormal on the
    points so located", that is graded ones within 6 mm; anything but v1 alone is abnormal.
    """
    return abnormal_auc(table, weights, disc=disc, among=_within(table) & _measured(table))


def ccf_score(table: LabelTable, weights: FloatArray) -> Counted:
    """Design: ``ccf.score``, "mean(L) x mean(C)", means of disc and vertebra."""
    localised = [level_accuracy_6mm(table, weights, disc=disc)[0] for disc in (True, False)]
    classified = [ccf_c(table, weights, disc=disc)[0] for disc in (True, False)]
    values = (localised[0] + localised[1]) / 2 * ((classified[0] + classified[1]) / 2)
    return values, int(_measured(table).sum())


def tianchi_macro_f1(table: LabelTable, weights: FloatArray) -> Counted:
    """Mean F1 over vertebra v1, v2 and disc v1 … v5.

    Design: ``tianchi.macro_f1``, "macro F1 over disc v1–v5 and vertebra v1–v2; a point further than
    6 mm or missing is a miss of its class". A disc with v5 beside its grade counts in both classes,
    for label and prediction alike. A point further than 6 mm away predicts no class, right or
    wrong. Graded structures of images with spacing are counted.
    """
    counted = _measured(table) & (table.seven >= 0)
    given = table.tags_given & (_within(table) & counted)[:, None]
    values = macro_f1(weights, table.study, table.tags & counted[:, None], given)
    return values, int(counted.sum())


REPORT_METRICS: dict[str, Callable[[ReportTable, FloatArray], Counted]] = {
    "report.recall": report_recall,
    "report.precision": report_precision,
    "report.ap": report_ap,
    "report.ap_joint": partial(report_ap, joint=True),
}
POINT_METRICS: dict[str, Callable[[LabelTable, FloatArray], Counted]] = {
    "level_accuracy_8px": level_accuracy_8px,
    "level_accuracy_6mm": level_accuracy_6mm,
    "level_accuracy_6mm.disc": partial(level_accuracy_6mm, disc=True),
    "level_accuracy_6mm.vertebra": partial(level_accuracy_6mm, disc=False),
}
GRADE_METRICS: dict[str, Callable[[LabelTable, FloatArray], Counted]] = {
    "seven.accuracy": seven_accuracy,
    "seven.macro_f1": seven_macro_f1,
    "seven.ece": seven_ece,
    "binary.accuracy": binary_accuracy,
    "binary.sensitivity": binary_sensitivity,
    "binary.specificity": binary_specificity,
    "binary.auc": binary_auc,
    "binary.auc_disc": partial(binary_auc, discs_only=True),
    "binary.ece": binary_ece,
    "ccf.l_disc": partial(level_accuracy_6mm, disc=True),
    "ccf.l_vertebra": partial(level_accuracy_6mm, disc=False),
    "ccf.c_disc": partial(ccf_c, disc=True),
    "ccf.c_vertebra": partial(ccf_c, disc=False),
    "ccf.score": ccf_score,
    "tianchi.macro_f1": tianchi_macro_f1,
    "tianchi.keypoint_recall": level_accuracy_6mm,
}


def _within(table: LabelTable) -> BoolArray:
    return table.distance_mm <= DISTANCE_MM + 1e-9


def _measured(table: LabelTable) -> BoolArray:
    """(L,) whether the label's image has a pixel spacing."""
    return ~np.isnan(table.distance_mm)
