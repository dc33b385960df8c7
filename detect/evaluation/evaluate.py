"""One evaluator of detections: the same boxes are scored by every rule in use.

`evaluate_detections` returns what ``spineline detect val`` writes as ``metrics.json``:

    coco: pycocotools' mean average precision
    one_to_one: precision, recall, F1 and average precision, each label matched once
        (spineline.detect.evaluation.matching); class_agnostic: the same without regard to classes
    seed: the older cervical project's metrics (spineline.detect.evaluation.seed_metrics)
    level_accuracy_8px: only for datasets whose classes are levels, under whatever names

A metric of ``one_to_one`` and ``seed`` is ``{value, ci95: [low, high], n}``. ``ci95`` holds the
2.5 % and 97.5 % points of a bootstrap over studies. ``n`` is the number of labels, detections or
pairs in the metric's denominator. An undefined metric is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spineline.datasets.bare.classes import levels_of_names
from spineline.datasets.coco import boxed_structures, coco_from_records
from spineline.datasets.common.arrays import BoolArray, FloatArray, IntArray
from spineline.datasets.labels import HEALTH_NAMES, LEVELS, Classes, class_names
from spineline.datasets.metrics.bootstrap import DRAWS, draw_weights, ratio, with_interval
from spineline.datasets.metrics.coco import BoxesOfImage, CocoMetrics, coco_metrics, coco_rows
from spineline.datasets.metrics.levels import NEAR_PX, level_distances, level_labels
from spineline.datasets.types import ImageRecord
from spineline.detect.evaluation import seed_metrics
from spineline.detect.evaluation.matching import (
    Matches,
    best_f1,
    confusion,
    match,
    precision_recall,
    rates,
)
from spineline.detect.results import Detections

SICK = HEALTH_NAMES[1]
"""The class whose average precision the older project reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchingRules:
    """How detections are scored.

    Attributes:
        match_iou: smallest overlap of a match, for ``one_to_one`` and the confusion.
        match_confidence: lowest confidence for precision, recall, F1 and the confusion.
        least_confidence: lowest confidence of the detections given; ``seed`` sees none below it.
        draws, seed: number of draws and random seed of the bootstrap; 0 draws: no intervals.
    """

    match_iou: float = 0.5
    match_confidence: float = 0.5
    least_confidence: float = 0.001
    draws: int = DRAWS
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class LevelHits:
    """Labels of the eleven levels, and whether each is found (L rows).

    Attributes:
        image: (L,) index of the image.
        level: (L,) index into the levels.
        hit: (L,) whether the level's most confident box has its centre less than 8 px away.
    """

    image: IntArray
    level: IntArray
    hit: BoolArray


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The metrics, and the data for plots and files.

    Attributes:
        metrics: plain values for ``metrics.json``.
        matches: one-to-one matches, class by class.
        confusion: (classes + 1, classes + 1) counts; the row is the label, the last is background.
        truth: the labels as a COCO dict.
        results: the detections as a COCO list of results.
        coco: the metrics of pycocotools.
        levels: hits by level if the dataset's classes are levels, else None.
        weights: (draws + 1, images) how often each image counts.
    """

    metrics: dict[str, Any]
    matches: Matches
    confusion: IntArray
    truth: dict[str, Any]
    results: list[dict[str, Any]]
    coco: CocoMetrics
    levels: LevelHits | None
    weights: FloatArray

    def more_intervals(self) -> dict[str, dict[str, Any]]:
        """``{value, ci95, n}`` by dotted key, for what ``metrics`` holds without an interval."""
        map50, map50_95 = self.coco.drawn(self.weights)
        found = {
            "coco.map50": with_interval(map50, self.coco.labels),
            "coco.map50_95": with_interval(map50_95, self.coco.labels),
        }
        if self.levels is not None:
            hit = self.levels.hit
            values = ratio(self.weights, self.levels.image, hit, np.ones(len(hit)))
            found["level_accuracy_8px"] = with_interval(values, len(hit))
        return found


def evaluate_detections(
    records: Sequence[ImageRecord],
    found: Sequence[Detections],
    labels: Classes,
    rules: MatchingRules,
) -> Evaluation:
    """Score detections by every rule.

    Args:
        records: labels of each image; the bootstrap draws the images of one study together.
        found: detections of each image; their classes must be those of ``labels``.
        labels: the label set, or the names of a dataset's own classes.
        rules: thresholds and the bootstrap.
    """
    names = class_names(labels)
    truth = coco_from_records(records, labels, [Path(str(record.file)).name for record in records])
    results = coco_rows(
        [(each.boxes_xyxy, each.class_index) for each in found], [f.confidence for f in found]
    )
    coco = coco_metrics(truth, results)
    boxed = [boxed_structures(record, labels) for record in records]
    boxes = [(b.boxes_xyxy, b.class_index) for b in boxed]
    studies = {study: n for n, study in enumerate(sorted({r.study_id for r in records}))}
    drawn = draw_weights(len(studies), rules.draws, seed=rules.seed)
    weights = drawn[:, [studies[record.study_id] for record in records]]
    iou, confidence = rules.match_iou, rules.match_confidence
    matched = match(boxes, found, iou=iou)
    localised = match(boxes, found, iou=iou, class_agnostic=True)
    table = confusion(boxes, found, len(names), iou=iou, confidence=confidence)
    are_levels = labels == "level" if isinstance(labels, str) else bool(levels_of_names(names))
    levels = level_hits(records, found) if are_levels else None
    metrics = {
        "images": len(records),
        "studies": len(studies),
        "coco": _coco(coco),
        "one_to_one": {
            "iou": iou,
            "confidence": confidence,
            **_rates(matched, confidence, weights),
            "best_f1": _best(matched),
            "class_agnostic": {
                **_rates(localised, confidence, weights),
                "best_f1": _best(localised),
            },
            "per_class": {
                name: _rates(matched.of_class(n), confidence, weights)
                for n, name in enumerate(names)
            },
        },
        "seed": _seed(boxes, found, names, weights, rules),
        "confusion": {
            "iou": iou,
            "confidence": confidence,
            "names": [*names, "background"],
            "counts": table.tolist(),
        },
        "bootstrap": {"unit": "study", "draws": rules.draws, "seed": rules.seed},
        **({} if levels is None else _level_accuracy(levels)),
    }
    return Evaluation(metrics, matched, table, truth, results, coco, levels, weights)


def _coco(coco: CocoMetrics) -> dict[str, Any]:
    per_class = {name: {"ap50": ap50, "ap50_95": ap} for name, (ap50, ap) in coco.per_class.items()}
    return {"map50": coco.map50, "map50_95": coco.map50_95, "per_class": per_class}


def _level_accuracy(levels: LevelHits) -> dict[str, Any]:
    """``level_accuracy_8px`` of all labels, and of each level."""
    by_level = {level: levels.hit[levels.level == n] for n, level in enumerate(LEVELS)}
    return {
        "level_accuracy_8px": _share(levels.hit),
        "level_accuracy_8px_by_level": {level: _share(hit) for level, hit in by_level.items()},
    }


def level_hits(records: Sequence[ImageRecord], found: Sequence[Detections]) -> LevelHits:
    """Determine which labels are found; ``level_accuracy_8px`` is their proportion.

    Args:
        records: labels; structures outside the eleven levels do not count.
        found: detections of each image; their classes name levels as we do or in other words.
    """
    image, level, hit = [], [], []
    for number, (record, detections) in enumerate(zip(records, found, strict=True)):
        labels = level_labels(record.structures)
        best = detections.best_of_each_class()
        level_of = levels_of_names(best.names)
        points = dict(
            zip(
                (level_of.get(best.names[index], "") for index in best.class_index.tolist()),
                best.centres_xy.tolist(),
                strict=True,
            )
        )
        image += [number] * len(labels)
        level += [LEVELS.index(label.level) for label in labels]
        hit += (level_distances(labels, points) < NEAR_PX).tolist()
    return LevelHits(
        np.array(image, dtype=np.int64), np.array(level, dtype=np.int64), np.array(hit, dtype=bool)
    )


def _share(hit: BoolArray) -> dict[str, Any]:
    return {"value": float(hit.mean()) if len(hit) else None, "n": len(hit)}


def _best(matches: Matches) -> dict[str, Any]:
    value, confidence = best_f1(precision_recall(matches))
    return {"value": value, "confidence": confidence, "chosen_on_scored_data": True}


def _rates(matches: Matches, confidence: float, weights: FloatArray) -> dict[str, Any]:
    found = rates(matches, confidence, weights)
    return {
        "precision": with_interval(found.precision, found.tp + found.fp),
        "recall": with_interval(found.recall, found.labels),
        "f1": with_interval(found.f1, found.labels),
        "average_precision": with_interval(found.average_precision, found.labels),
        "tp": found.tp,
        "fp": found.fp,
        "fn": found.fn,
    }


def _seed(
    boxes: Sequence[BoxesOfImage],
    found: Sequence[Detections],
    names: Sequence[str],
    weights: FloatArray,
    rules: MatchingRules,
) -> dict[str, Any]:
    seen = [seed_metrics.seed_boxes(detections) for detections in found]
    positive = names.index(SICK) if SICK in names else None
    counts = seed_metrics.seed_counts(boxes, seen, positive=positive)
    found_rates = seed_metrics.seed_rates(counts, weights)
    tp, fn, labels = (int(n.sum()) for n in (counts.tp, counts.wrong, counts.labels))
    return {
        "iou": seed_metrics.SEED_IOU,
        "confidence": max(seed_metrics.SEED_CONFIDENCE, rules.least_confidence),
        "nms_iou": seed_metrics.SEED_NMS_IOU,
        "max_detections": seed_metrics.SEED_MAX_DETECTIONS,
        "near_duplicate_iou": seed_metrics.SEED_NEAR_DUPLICATE_IOU,
        "positive": None if positive is None else SICK,
        "precision": with_interval(found_rates.precision, labels),
        "recall": with_interval(found_rates.recall, tp + fn),
        "f1": with_interval(found_rates.f1, labels),
        "average_precision": with_interval(found_rates.average_precision, len(counts.pair_image)),
        "tp": tp,
        "fp": labels - tp,
        "fn": fn,
    }
