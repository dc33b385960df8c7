"""One evaluator: the same predictions scored by every rule in use.

`evaluate` gives the tree of figures that ``spineline pipeline val`` writes as ``metrics.json``;
each figure is ``{value, ci95: [low, high], n}``: the value, the 2.5 % and 97.5 % points of a
bootstrap over studies, and the number of labels or predictions it counts. What is undefined
(no positives, no pixel spacing) is null.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from spineline.pipeline.evaluation import figures, naming
from spineline.pipeline.evaluation.bootstrap import DRAWS, FloatArray, draw_weights, interval
from spineline.pipeline.evaluation.coco import coco_figures
from spineline.pipeline.evaluation.match import (
    LabelTable,
    ReportTable,
    ScoredImage,
    label_table,
    report_table,
    studies_of,
)

SCHEMA = "spineline-metrics/1"

_REPORT: dict[str, Callable[[ReportTable, FloatArray], figures.Counted]] = {
    "report.recall": figures.report_recall,
    "report.precision": figures.report_precision,
    "report.ap": figures.report_ap,
    "report.ap_joint": figures.report_ap_joint,
}
_POINT: dict[str, Callable[[LabelTable, FloatArray], figures.Counted]] = {
    "level_accuracy_8px": figures.level_accuracy_8px,
    "level_accuracy_6mm": figures.level_accuracy_6mm,
    "level_accuracy_6mm.disc": partial(figures.level_accuracy_6mm, disc=True),
    "level_accuracy_6mm.vertebra": partial(figures.level_accuracy_6mm, disc=False),
}
_NAMING: dict[str, Callable[[naming.NamingTable, FloatArray], figures.Counted]] = {
    "naming.coverage": naming.coverage,
    "naming.probability": naming.mean_probability,
    "naming.brier": naming.brier,
    "naming.ece": naming.expected_calibration_error,
}
_GRADE: dict[str, Callable[[LabelTable, FloatArray], figures.Counted]] = {
    "seven.accuracy": figures.seven_accuracy,
    "seven.macro_f1": figures.seven_macro_f1,
    "seven.ece": figures.seven_ece,
    "binary.accuracy": figures.binary_accuracy,
    "binary.sensitivity": figures.binary_sensitivity,
    "binary.specificity": figures.binary_specificity,
    "binary.auc": figures.binary_auc,
    "binary.auc_disc": partial(figures.binary_auc, discs_only=True),
    "binary.ece": figures.binary_ece,
    "ccf.l_disc": partial(figures.ccf_l, disc=True),
    "ccf.l_vertebra": partial(figures.ccf_l, disc=False),
    "ccf.c_disc": partial(figures.ccf_c, disc=True),
    "ccf.c_vertebra": partial(figures.ccf_c, disc=False),
    "ccf.score": figures.ccf_score,
    "tianchi.macro_f1": figures.tianchi_macro_f1,
    "tianchi.keypoint_recall": figures.tianchi_keypoint_recall,
}


Abstained = Literal["wrong", "leave_out"]


def evaluate(
    images: Sequence[ScoredImage],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    abstained: Abstained = "wrong",
) -> dict[str, Any]:
    """Every figure of the design's section on numbers, as a tree of plain values.

    Args:
        images: labels with predictions; an image that the pipeline failed on has no predictions.
        draws: of the bootstrap over studies.
        seed: of the bootstrap.
        abstained: images whose naming the pipeline abstained from count as images without
            predictions (``wrong``), or in ``naming.*`` alone (``leave_out``).

    Returns:
        ``{"report": {"recall": {value, ci95, n}, …}, "level_accuracy_8px": {value, ci95, n},
        "level_accuracy_6mm": {value, ci95, n, "disc": {…}, "vertebra": {…}}, …}``.
    """
    doubt = _naming_figures(images, draws, seed)
    if abstained == "wrong":
        images = [replace(i, predictions=()) if i.abstained else i for i in images]
    else:
        images = [image for image in images if not image.abstained]
    weights = draw_weights(len(studies_of(images)), draws, seed=seed)
    report, labels = report_table(images), label_table(images)
    flat: dict[str, Any] = {key: _figure(f(report, weights)) for key, f in _REPORT.items()}
    flat |= {key: _figure(f(labels, weights)) for key, f in _POINT.items()}
    flat["offset_accuracy"] = _figure(naming.offset_accuracy(naming.naming_table(images), weights))
    flat |= doubt
    flat |= {key: _figure(f(labels, weights)) for key, f in _GRADE.items()}
    flat["seven.confusion"] = _confusion(labels, weights)
    coco = coco_figures(images, weights)
    flat["coco.map50"] = _figure((coco.map50, coco.labels))
    flat["coco.map50_95"] = _figure((coco.map50_95, coco.labels))
    return _nested(flat)


def _naming_figures(images: Sequence[ScoredImage], draws: int, seed: int) -> dict[str, Any]:
    """Figures on the naming's probability, of every image, abstained or not."""
    weights = draw_weights(len(studies_of(images)), draws, seed=seed)
    table = naming.naming_table(images)
    return {key: _figure(f(table, weights)) for key, f in _NAMING.items()}


def flatten(metrics: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Figures by dotted key, in order: the way back from the tree."""
    flat: dict[str, dict[str, Any]] = {}
    for name, value in metrics.items():
        if not isinstance(value, dict):
            continue
        if "value" in value:
            flat[prefix + name] = {k: value[k] for k in value if not isinstance(value[k], dict)}
        flat |= flatten(value, f"{prefix}{name}.")
    return flat


def _figure(counted: figures.Counted) -> dict[str, Any]:
    values, n = counted
    bounds = interval(values)
    value = _plain(values[0])
    if bounds is None or value is None:
        return {"value": value, "ci95": [None, None], "n": n}
    return {"value": value, "ci95": [_plain(bounds[0]), _plain(bounds[1])], "n": n}


def _confusion(labels: LabelTable, weights: FloatArray) -> dict[str, Any]:
    """7 × 7 counts (row: label, column: answer), and the labels of each row without an answer."""
    counts, n = figures.seven_confusion(labels, weights)
    low, high = interval(counts) or (counts[0], counts[0])
    tables = [np.rint(t).astype(int) for t in (counts[0], low, high)]
    value, below, above = (t[:, :7].tolist() for t in tables)
    return {"value": value, "ci95": [below, above], "n": n, "missed": tables[0][:, 7].tolist()}


def _plain(value: Any) -> float | None:
    number = float(value)
    return round(number, 6) if math.isfinite(number) else None


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, figure in flat.items():
        *groups, name = key.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[name] = figure
    return tree
