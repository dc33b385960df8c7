"""The evaluator: the same predictions scored by every rule in use.

`evaluate_images` returns the metrics that ``spineline pipeline val`` writes as ``metrics.json``.
Each is ``{value, ci95: [low, high], n}``: the value, the 2.5 % and 97.5 % quantiles of a bootstrap
over studies, and the number of labels or predictions. Undefined metrics (no positives, no pixel
spacing) are null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from spineline.datasets.boxes import clip_xyxy
from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.labels import LEVELS
from spineline.datasets.metrics.bootstrap import (
    DRAWS,
    Counted,
    draw_weights,
    interval,
    with_interval,
)
from spineline.datasets.metrics.coco import BoxesOfImage, coco_metrics, coco_rows, coco_truth
from spineline.datasets.metrics.grades import seven_confusion
from spineline.datasets.metrics.levels import level_labels
from spineline.datasets.metrics.tree import nested
from spineline.pipeline.evaluation.match import (
    LabelTable,
    ScoredImage,
    label_table,
    report_table,
    studies_of,
)
from spineline.pipeline.evaluation.metrics import GRADE_METRICS, POINT_METRICS, REPORT_METRICS
from spineline.pipeline.evaluation.naming import NAMING_METRICS, naming_table, offset_accuracy

METRICS_SCHEMA = "spineline-metrics/1"

_NEED_GRADES = ("seven.", "binary.", "tianchi.macro_f1")
"""Metrics that are undefined if structures were found but no classifier ran."""


def evaluate_images(
    images: Sequence[ScoredImage],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    leave_out_abstained: bool = False,
) -> dict[str, Any]:
    """All metrics of the design's section on numbers, as a tree of plain values.

    Args:
        images: labels with predictions; an image on which the pipeline failed has no predictions.
        draws: of the bootstrap over studies.
        seed: of the bootstrap.
        leave_out_abstained: count images with an abstained naming only in ``naming.*``; else they
            count as images without predictions.

    Returns:
        ``{"report": {"recall": {value, ci95, n}, …}, "level_accuracy_8px": {value, ci95, n},
        "level_accuracy_6mm": {value, ci95, n, "disc": {…}, "vertebra": {…}}, …}``.
    """
    counted = _counted(images, leave_out_abstained=leave_out_abstained)
    weights = draw_weights(len(studies_of(counted)), draws, seed=seed)
    labels = label_table(counted)
    found = _drawn_metrics(counted, labels, weights, _naming_metrics(images, draws, seed))
    flat = {name: with_interval(values, n) for name, (values, n) in found.items()}
    flat["seven.confusion"] = _confusion(labels, weights)
    return nested(flat | _coco(counted, weights))


def _naming_metrics(images: Sequence[ScoredImage], draws: int, seed: int) -> dict[str, Counted]:
    """Metrics of the naming's probability, over all images, abstained or not."""
    table, weights = naming_table(images), draw_weights(len(studies_of(images)), draws, seed=seed)
    return {key: metric(table, weights) for key, metric in NAMING_METRICS.items()}


def _drawn_metrics(
    images: Sequence[ScoredImage],
    labels: LabelTable,
    weights: FloatArray,
    naming: Mapping[str, Counted],
) -> dict[str, Counted]:
    """The metrics of points and grades by dotted name, in every draw.

    The same studies and weights give the same draws, so the differences between two sets of
    predictions are paired by study.

    Args:
        images: as they count, see [_counted][].
        labels: their table.
        weights: (1 + draws, studies).
        naming: metrics of the naming's probability, which are merged in.
    """
    report = report_table(images)
    found = {key: metric(report, weights) for key, metric in REPORT_METRICS.items()}
    found |= {key: metric(labels, weights) for key, metric in POINT_METRICS.items()}
    found |= {"offset_accuracy": offset_accuracy(naming_table(images), weights), **naming}
    for key, metric in GRADE_METRICS.items():
        values, n = metric(labels, weights)
        undefined = labels.ungraded and key.startswith(_NEED_GRADES)
        found[key] = np.full_like(values, np.nan) if undefined else values, n
    return found


def paired_differences(
    images: Sequence[ScoredImage],
    others: Sequence[ScoredImage],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    leave_out_abstained: bool = False,
) -> dict[str, Any]:
    """The difference of each metric of ``images`` from that of ``others``, paired by study.

    Args:
        images: labels with the predictions of one pipeline.
        others: the same labels with the predictions of another, in the same order.
        draws: of the bootstrap over studies, the same for both.
        seed: of the bootstrap.
        leave_out_abstained: as in [evaluate_images][]; the studies then need not be the same, and
            images that either abstains from are left out of both.

    Returns:
        The tree of ``metrics.json`` with ``{value, ci95, n}`` of each difference, without COCO's
        metrics and the confusion matrix.
    """
    if leave_out_abstained:
        both = [not a.abstained and not b.abstained for a, b in zip(images, others, strict=True)]
        images = [image for image, counts in zip(images, both, strict=True) if counts]
        others = [image for image, counts in zip(others, both, strict=True) if counts]
    first, second = (_all_drawn(each, draws, seed) for each in (images, others))
    return nested(
        {name: with_interval(values - second[name][0], n) for name, (values, n) in first.items()}
    )


def _all_drawn(images: Sequence[ScoredImage], draws: int, seed: int) -> dict[str, Counted]:
    counted = _counted(images, leave_out_abstained=False)
    weights = draw_weights(len(studies_of(counted)), draws, seed=seed)
    return _drawn_metrics(
        counted, label_table(counted), weights, _naming_metrics(images, draws, seed)
    )


def _counted(images: Sequence[ScoredImage], *, leave_out_abstained: bool) -> list[ScoredImage]:
    """Leave abstained images out, or count them as images without predictions."""
    if leave_out_abstained:
        return [image for image in images if not image.abstained]
    return [replace(i, predictions=()) if i.abstained else i for i in images]


def _confusion(labels: LabelTable, weights: FloatArray) -> dict[str, Any]:
    """7 × 7 counts (row: label, column: prediction), and the missed labels of each row."""
    counts, n = seven_confusion(labels, weights)
    low, high = interval(counts) or (counts[0], counts[0])
    tables = [np.rint(t).astype(int) for t in (counts[0], low, high)]
    value, below, above = (t[:, :7].tolist() for t in tables)
    return {"value": value, "ci95": [below, above], "n": n, "missed": tables[0][:, 7].tolist()}


def _coco(images: Sequence[ScoredImage], weights: FloatArray) -> dict[str, Any]:
    """Mean average precision over the levels, of boxes clipped to the image as in COCO files."""
    labels = [_boxes(image, level_labels(image.labels)) for image in images]
    found = [_boxes(image, image.predictions) for image in images]
    confidence = [np.array([p.confidence for p in i.predictions]) for i in images]
    coco = coco_metrics(coco_truth(labels, LEVELS), coco_rows(found, confidence))
    studies = studies_of(images)
    map50, map50_95 = coco.drawn(weights, [studies.index(image.study_id) for image in images])
    return {
        "coco.map50": with_interval(map50, coco.labels),
        "coco.map50_95": with_interval(map50_95, coco.labels),
    }


def _boxes(image: ScoredImage, structures: Sequence[Any]) -> BoxesOfImage:
    return (
        clip_xyxy([s.box_xyxy for s in structures], image.width, image.height),
        np.array([LEVELS.index(s.level) for s in structures], dtype=np.int64),
    )
