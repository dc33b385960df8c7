"""One evaluator of detections: the same boxes scored by every rule in use.

`evaluate` gives what ``spineline detect val`` writes as ``metrics.json``:

    coco: pycocotools' mean average precision
    one_to_one: precision, recall, F1 and average precision, each label hit once
        (spineline.detect.evaluation.matching); class_agnostic: the same without regard to classes
    seed: the older cervical project's figures (spineline.detect.evaluation.seed_metrics)
    level_accuracy_8px: of datasets whose classes are the levels

A figure of ``one_to_one`` and ``seed`` is ``{value, ci95: [low, high], n}``: the value, the 2.5 %
and 97.5 % points of a bootstrap over studies, and the number of labels, detections or pairs that
the value is a share of. What is undefined is null.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spineline.datasets.coco import boxed_structures, coco_from_records
from spineline.datasets.common.bootstrap import DRAWS, FloatArray, divide, draw_weights, interval
from spineline.datasets.labels import HEALTH_NAMES, LABEL_SETS, LabelSet
from spineline.datasets.types import ImageRecord
from spineline.detect.evaluation import seed_metrics
from spineline.detect.evaluation.matching import (
    Labels,
    Matches,
    OneToOne,
    Rates,
    average_precision,
    one_to_one,
)
from spineline.detect.evaluation.metrics import coco_figures, coco_results, confusion, level_hits
from spineline.detect.results import Detections

SICK = HEALTH_NAMES[1]
"""The class whose average precision the older project's rule gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How detections are scored.

    Attributes:
        match_iou: least overlap of a hit, for ``one_to_one`` and the confusion.
        match_confidence: least confidence for precision, recall, F1 and the confusion.
        least_confidence: of the detections given, which bounds what ``seed`` can see.
        draws, seed: of the bootstrap over studies; 0 draws: no intervals.
    """

    match_iou: float = 0.5
    match_confidence: float = 0.5
    least_confidence: float = 0.001
    draws: int = DRAWS
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Figures, and what pictures and files are made of.

    Attributes:
        metrics: plain values for ``metrics.json``.
        one_to_one: with the precision-recall curve.
        confusion: (classes + 1, classes + 1) counts, row the label, the last is background.
        truth: the labels as a COCO dict.
        results: the detections as COCO's list of results.
    """

    metrics: dict[str, Any]
    one_to_one: OneToOne
    confusion: npt.NDArray[np.int64]
    truth: dict[str, Any]
    results: list[dict[str, Any]]


def evaluate(
    records: Sequence[ImageRecord], found: Sequence[Detections], labels: LabelSet, rules: Rules
) -> Evaluation:
    """Score detections by every rule.

    Args:
        records: labels of each image; images of one study are drawn together.
        found: detections of each image, of a detector whose classes are those of ``labels``.
        labels: the label set.
        rules: thresholds and the bootstrap.
    """
    names = LABEL_SETS[labels]
    files = [Path(str(record.file)).name for record in records]
    truth = coco_from_records(records, labels, files)
    ids = [int(image["id"]) for image in truth["images"]]
    categories = sorted(int(c["id"]) for c in truth["categories"])
    results = coco_results(ids, found, categories)
    boxed = [boxed_structures(record, labels) for record in records]
    boxes = [(b.boxes_xyxy, b.class_index) for b in boxed]
    weights = _image_weights(records, rules)
    iou, confidence = rules.match_iou, rules.match_confidence
    matched = one_to_one(boxes, found, iou=iou, confidence=confidence)
    localised = one_to_one(boxes, found, iou=iou, confidence=confidence, class_agnostic=True)
    table = confusion(boxes, found, len(names), iou=iou, confidence=confidence)
    metrics = {
        "images": len(records),
        "studies": len({record.study_id for record in records}),
        "coco": _coco(coco_figures(truth, results)),
        "one_to_one": _one_to_one(matched, localised, weights),
        "seed": _seed(boxes, found, names, weights, rules),
        "confusion": {
            "iou": iou,
            "confidence": confidence,
            "names": [*names, "background"],
            "counts": table.tolist(),
        },
        "bootstrap": {"unit": "study", "draws": rules.draws, "seed": rules.seed},
    }
    if labels == "level":
        metrics |= _level_accuracy(records, found)
    return Evaluation(metrics, matched, table, truth, results)


def _image_weights(records: Sequence[ImageRecord], rules: Rules) -> FloatArray:
    """(draws + 1, images) how often each image counts: as often as its study is drawn."""
    studies = sorted({record.study_id for record in records})
    place = {study: n for n, study in enumerate(studies)}
    drawn = draw_weights(len(studies), rules.draws, seed=rules.seed)
    return drawn[:, [place[record.study_id] for record in records]]


def _figure(values: FloatArray, n: int) -> dict[str, Any]:
    bounds = interval(values)
    value = _plain(values[0])
    if bounds is None or value is None:
        return {"value": value, "ci95": [None, None], "n": n}
    return {"value": value, "ci95": [_plain(bounds[0]), _plain(bounds[1])], "n": n}


def _plain(value: Any) -> float | None:
    number = float(value)
    return round(number, 6) if math.isfinite(number) else None


def _coco(figures: Any) -> dict[str, Any]:
    return {
        "map50": figures.map50,
        "map50_95": figures.map50_95,
        "per_class": {
            name: {"ap50": ap50, "ap50_95": ap} for name, (ap50, ap) in figures.per_class.items()
        },
    }


def _one_to_one(matched: OneToOne, localised: OneToOne, weights: FloatArray) -> dict[str, Any]:
    per_class = {
        name: _rates(matched.matches.of_class(index), rates, matched.confidence, weights)
        for index, (name, rates) in enumerate(matched.per_class.items())
    }
    return {
        "iou": matched.iou,
        "confidence": matched.confidence,
        **_rates(matched.matches, matched.rates, matched.confidence, weights),
        "best_f1": _best(matched),
        "class_agnostic": {
            **_rates(localised.matches, localised.rates, localised.confidence, weights),
            "best_f1": _best(localised),
        },
        "per_class": per_class,
    }


def _best(matched: OneToOne) -> dict[str, Any]:
    return {
        "value": matched.best_f1,
        "confidence": matched.best_confidence,
        "chosen_on_scored_data": True,
    }


def _rates(
    matches: Matches, rates: Rates, confidence: float, weights: FloatArray
) -> dict[str, Any]:
    kept = matches.at_least(confidence)
    images = len(matches.labels)
    tp = weights @ np.bincount(matches.image[kept & matches.hit], minlength=images)
    found = weights @ np.bincount(matches.image[kept], minlength=images)
    labels = weights @ matches.labels.sum(axis=1).astype(np.float64)
    return {
        "precision": _figure(divide(tp, found), rates.tp + rates.fp),
        "recall": _figure(divide(tp, labels), rates.labels),
        "f1": _figure(divide(2 * tp, found + labels), rates.labels),
        "average_precision": _figure(average_precision(matches, weights), rates.labels),
        "tp": rates.tp,
        "fp": rates.fp,
        "fn": rates.fn,
    }


def _seed(
    boxes: Labels,
    found: Sequence[Detections],
    names: Sequence[str],
    weights: FloatArray,
    rules: Rules,
) -> dict[str, Any]:
    seen = [seed_metrics.seed_boxes(detections) for detections in found]
    positive = names.index(SICK) if SICK in names else None
    counts = seed_metrics.seed_counts(boxes, seen, positive=positive)
    figures = seed_metrics.seed_figures(counts, weights)
    tp, fn, labels = (int(n.sum()) for n in (counts.tp, counts.wrong, counts.labels))
    return {
        "iou": seed_metrics.SEED_IOU,
        "confidence": max(seed_metrics.SEED_CONFIDENCE, rules.least_confidence),
        "nms_iou": seed_metrics.SEED_NMS_IOU,
        "max_detections": seed_metrics.SEED_MAX_DETECTIONS,
        "near_duplicate_iou": seed_metrics.SEED_NEAR_DUPLICATE_IOU,
        "positive": None if positive is None else SICK,
        "precision": _figure(figures.precision, labels),
        "recall": _figure(figures.recall, tp + fn),
        "f1": _figure(figures.f1, labels),
        "average_precision": _figure(figures.average_precision, len(counts.pair_image)),
        "tp": tp,
        "fp": labels - tp,
        "fn": fn,
    }


def _level_accuracy(records: Sequence[ImageRecord], found: Sequence[Detections]) -> dict[str, Any]:
    levels = level_hits(records, found)
    hits, labels = sum(h for h, _ in levels.values()), sum(n for _, n in levels.values())
    return {
        "level_accuracy_8px": {"value": _share(hits, labels), "n": labels},
        "level_accuracy_8px_by_level": {
            level: {"value": _share(h, n), "n": n} for level, (h, n) in levels.items()
        },
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
