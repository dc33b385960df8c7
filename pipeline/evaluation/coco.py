"""COCO mean average precision of boxes by pycocotools, and its bootstrap.

pycocotools matches predictions with labels once, image by image. Whole studies are then drawn, and
only the accumulation is repeated: with weights instead of copied images, which gives the same curve
(a copy of a true positive adds a point to the precision-recall curve that the curve's envelope
covers, and a copy of a false positive adds one where recall does not change).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spineline.datasets.boxes import clip_xyxy, xyxy_to_xywh
from spineline.datasets.labels import LEVELS
from spineline.pipeline.evaluation.bootstrap import BoolArray, FloatArray, IntArray
from spineline.pipeline.evaluation.match import ScoredImage, studies_of

_CHUNK = 64  # draws worked on at once


@dataclass(frozen=True, slots=True)
class CategoryMatches:
    """Matches of one category at each IoU threshold (T = 10, from 0.50 to 0.95).

    Attributes:
        study: (D,) index of the study of each prediction, by falling confidence.
        hit: (T, D) whether the prediction is matched with a label.
        labels: (S,) number of labels by study.
    """

    study: IntArray
    hit: BoolArray
    labels: FloatArray


@dataclass(frozen=True, slots=True)
class CocoFigures:
    """Figures for each row of the bootstrap weights, and the number of labels."""

    map50: FloatArray
    map50_95: FloatArray
    labels: int


def coco_figures(images: Sequence[ScoredImage], weights: FloatArray) -> CocoFigures:
    """Mean average precision over the levels at IoU 0.50, and over IoU 0.50 … 0.95.

    Design: ``coco.map50``, ``coco.map50_95``, "pycocotools, boxes". Boxes are clipped to the image,
    as in COCO files; all predictions count, at most 100 per image.

    Args:
        images: with labels and predictions.
        weights: (B, S), row 0 all ones; its figures are pycocotools' own.
    """
    studies = studies_of(images)
    study = [studies.index(image.study_id) for image in images]
    return weighted_coco_figures(*_coco_of(images), study, weights)


def weighted_coco_figures(
    truth: dict[str, Any],
    predictions: list[dict[str, Any]],
    study: Sequence[int],
    weights: FloatArray,
) -> CocoFigures:
    """The same for labels and predictions in COCO's form, of any categories.

    Args:
        truth: a COCO dict; images are numbered in their order.
        predictions: rows with ``id``, ``image_id``, ``category_id``, ``bbox``, ``area``,
            ``iscrowd`` and ``score``.
        study: index of the study of each image.
        weights: (B, S), row 0 all ones; its figures are pycocotools' own.
    """
    evaluation = _evaluate(truth, predictions)
    matches = _matches(evaluation, study, weights.shape[1], len(truth["categories"]))
    precision = np.full((len(weights), len(matches), 10), np.nan)
    for n, category in enumerate(matches):
        for start in range(0, len(weights), _CHUNK):
            rows = slice(start, start + _CHUNK)
            precision[rows, n] = average_precision(category, weights[rows])
    map50 = _mean(precision[:, :, :1])
    map50_95 = _mean(precision)
    map50[0], map50_95[0] = _pycocotools_figures(evaluation)
    return CocoFigures(map50, map50_95, int(sum(m.labels.sum() for m in matches)))


def average_precision(matches: CategoryMatches, weights: FloatArray) -> FloatArray:
    """(B, T) average precision at 101 recall points, NaN where a draw has no label."""
    times = weights[:, matches.study]
    labels = weights @ matches.labels
    thresholds = np.linspace(0, 1, 101)
    result = np.full((len(weights), len(matches.hit)), np.nan)
    some = labels > 0
    result[some] = 0
    if not len(matches.study) or not some.any():
        return result
    times, labels = times[some], labels[some]
    hits = np.cumsum(times[:, None, :] * matches.hit[None], axis=2)
    seen = np.cumsum(times, axis=1)[:, None, :]
    precision = hits / (seen + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, :, ::-1], axis=2)[:, :, ::-1]
    recall = hits / labels[:, None, None]
    total = np.zeros(recall.shape[:2])
    for threshold in thresholds:
        first = np.argmax(recall >= threshold, axis=2)
        value = np.take_along_axis(envelope, first[:, :, None], axis=2)[:, :, 0]
        total += np.where(recall[:, :, -1] >= threshold, value, 0)
    result[some] = total / len(thresholds)
    return result


def _mean(precision: FloatArray) -> FloatArray:
    """(B,) mean over categories and thresholds that are defined."""
    flat = precision.reshape(len(precision), -1)
    defined = np.isfinite(flat)
    total = np.where(defined, flat, 0).sum(axis=1)
    return np.where(defined.any(axis=1), total / np.maximum(defined.sum(axis=1), 1), np.nan)


def _coco_of(images: Sequence[ScoredImage]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Labels of the eleven levels as a COCO dict, and predictions as rows."""
    labels: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []
    for n, image in enumerate(images, 1):
        for label in image.labels:
            if label.level in LEVELS:
                labels.append(_annotation(len(labels) + 1, n, image, label.level, label.box_xyxy))
        for p in image.predictions:
            row = _annotation(len(predictions) + 1, n, image, p.level, p.box_xyxy)
            predictions.append({**row, "score": p.confidence})
    truth = {
        "images": [{"id": n} for n in range(1, len(images) + 1)],
        "categories": [{"id": rank + 1, "name": name} for rank, name in enumerate(LEVELS)],
        "annotations": labels,
    }
    return truth, predictions


def _evaluate(truth: dict[str, Any], predictions: list[dict[str, Any]]) -> Any:
    """A COCOeval that has matched and accumulated; pycocotools' own talk is not shown."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for content in (truth, {**truth, "annotations": predictions}):
            coco = COCO()
            coco.dataset = content
            coco.createIndex()
            sides.append(coco)
        evaluation = COCOeval(sides[0], sides[1], "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _annotation(
    number: int, image_number: int, image: ScoredImage, level: str, box_xyxy: Sequence[float]
) -> dict[str, Any]:
    box = xyxy_to_xywh(clip_xyxy(list(box_xyxy), image.width, image.height))[0]
    return {
        "id": number,
        "image_id": image_number,
        "category_id": LEVELS.index(level) + 1,
        "bbox": [float(v) for v in box],
        "area": float(box[2] * box[3]),
        "iscrowd": 0,
    }


def _pycocotools_figures(evaluation: Any) -> tuple[float, float]:
    """Means of the precision table (T, R, K, area, maxDets) over what is defined (-1 is not)."""
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    at_50, at_all = precision[0], precision
    return tuple(float(p[p > -1].mean()) if (p > -1).any() else np.nan for p in (at_50, at_all))  # type: ignore[return-value]


def _matches(
    evaluation: Any, study: Sequence[int], studies: int, categories: int
) -> list[CategoryMatches]:
    """Matches of each category out of pycocotools' lists per category, area and image."""
    areas, images = len(evaluation.params.areaRng), len(study)
    result = []
    for k in range(categories):
        first = k * areas * images  # the first area range is "all"
        found = list(zip(study, evaluation.evalImgs[first : first + images], strict=True))
        found = [(owner, e) for owner, e in found if e is not None]
        labels = np.zeros(studies)
        for owner, e in found:
            labels[owner] += len(e["gtIds"])
        score = np.concatenate([np.zeros(0), *(e["dtScores"] for _, e in found)])
        order = np.argsort(-score, kind="mergesort")
        hit = np.concatenate([np.zeros((10, 0)), *(e["dtMatches"] for _, e in found)], axis=1) > 0
        owners = np.repeat([s for s, _ in found], [len(e["dtIds"]) for _, e in found])
        result.append(CategoryMatches(owners.astype(np.int64)[order], hit[:, order], labels))
    return result
