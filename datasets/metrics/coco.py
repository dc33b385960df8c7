"""COCO's average precision of boxes by pycocotools, and its bootstrap.

pycocotools matches detections with labels once, image by image. Images are then drawn, and only the
accumulation is repeated, with weights instead of copied images. This gives the same curve. A copy
of a true positive adds a point to the precision-recall curve that its envelope covers. A copy of a
false positive adds a point where recall does not change.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spineline.datasets.boxes import xyxy_to_xywh
from spineline.datasets.common.arrays import BoolArray, FloatArray, IntArray

BoxesOfImage = tuple[npt.NDArray[np.floating], IntArray]
"""Boxes of one image, (N, 4) ``xyxy`` in native pixels, and their class indices, (N,)."""

_CHUNK = 64  # draws processed at once


def coco_rows(
    boxes: Sequence[BoxesOfImage], scores: Sequence[npt.NDArray[np.floating]]
) -> list[dict[str, Any]]:
    """Convert detections to COCO's list of results; images and classes are numbered from 1.

    Args:
        boxes: boxes of each image.
        scores: (N,) confidence of each box, by image.
    """
    return [
        {"image_id": number, "category_id": index + 1, "bbox": box, "score": score}
        for number, ((xyxy, classes), confidence) in enumerate(zip(boxes, scores, strict=True), 1)
        for box, index, score in zip(
            xyxy_to_xywh(xyxy).tolist(), classes.tolist(), confidence.tolist(), strict=True
        )
    ]


def coco_truth(boxes: Sequence[BoxesOfImage], names: Sequence[str]) -> dict[str, Any]:
    """Make the part of a COCO dict that [coco_metrics][] reads, from the labels of each image."""
    rows = coco_rows(boxes, [np.ones(len(classes)) for _, classes in boxes])
    return {
        "images": [{"id": number} for number in range(1, len(boxes) + 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        "annotations": rows,
    }


@dataclass(frozen=True, slots=True, eq=False)
class CocoMetrics:
    """Metrics of pycocotools.

    Attributes:
        map50, map50_95: average precision at IoU 0.5, and its mean over IoU 0.50 … 0.95, both
            averaged over classes with labels; None without any label.
        per_class: by class name, (average precision at 0.5, mean over 0.50 … 0.95); None if the
            class has no label.
        labels: number of labels.
    """

    map50: float | None
    map50_95: float | None
    per_class: dict[str, tuple[float | None, float | None]]
    labels: int
    _evaluation: Any

    def drawn(
        self, weights: FloatArray, column: Sequence[int] | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return (B,) ``map50`` and (B,) ``map50_95`` per row of weights; row 0 is pycocotools'
        own.

        Args:
            weights: (B, S) how often each study or image counts; row 0 is all ones.
            column: column of each image in ``weights``; None: one column per image.
        """
        matches = self._matches(column, weights.shape[1])
        precision = np.full((len(weights), len(matches), 10), np.nan)
        for n, category in enumerate(matches):
            for start in range(0, len(weights), _CHUNK):
                rows = slice(start, start + _CHUNK)
                precision[rows, n] = _average_precision(category, weights[rows])
        map50, map50_95 = _mean_of_defined(precision[:, :, :1]), _mean_of_defined(precision)
        map50[0] = np.nan if self.map50 is None else self.map50
        map50_95[0] = np.nan if self.map50_95 is None else self.map50_95
        return map50, map50_95

    def _matches(self, column: Sequence[int] | None, columns: int) -> list[_CategoryMatches]:
        """Matches of each category, from pycocotools' list by category, area and image."""
        areas = len(self._evaluation.params.areaRng)
        images = len(self._evaluation.params.imgIds)
        owners = range(images) if column is None else column
        result = []
        for k in range(len(self.per_class)):
            first = k * areas * images  # the first area range is "all"
            each = zip(owners, self._evaluation.evalImgs[first : first + images], strict=True)
            found = [(owner, e) for owner, e in each if e is not None]
            labels = np.zeros(columns)
            for owner, e in found:
                labels[owner] += len(e["gtIds"])
            score = np.concatenate([np.zeros(0), *(e["dtScores"] for _, e in found)])
            order = np.argsort(-score, kind="mergesort")
            hit = np.concatenate([np.zeros((10, 0)), *(e["dtMatches"] for _, e in found)], axis=1)
            owner_of = np.repeat([s for s, _ in found], [len(e["dtIds"]) for _, e in found])
            result.append(
                _CategoryMatches(owner_of.astype(np.int64)[order], (hit > 0)[:, order], labels)
            )
        return result


def coco_metrics(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> CocoMetrics:
    """Compute COCO's box metrics by pycocotools with its own settings (100 boxes per image).

    Args:
        truth: a COCO dict with images, annotations and categories; images are numbered in order.
        results: COCO's list of results.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    sides = []
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        for rows in (truth["annotations"], results):
            side = COCO()
            numbered = [_numbered(number, row) for number, row in enumerate(rows, 1)]
            side.dataset = {**truth, "annotations": numbered}
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class)
    names = [str(c["name"]) for c in sorted(truth["categories"], key=lambda c: int(c["id"]))]
    return CocoMetrics(
        map50=_known_mean(precision[0]),
        map50_95=_known_mean(precision),
        per_class={
            name: (_known_mean(precision[0, :, k]), _known_mean(precision[:, :, k]))
            for k, name in enumerate(names)
        },
        labels=len(truth["annotations"]),
        _evaluation=evaluation,
    )


def _numbered(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    _, _, width, height = row["bbox"]
    return {**row, "id": number, "area": width * height, "iscrowd": 0}


def _known_mean(precision: FloatArray) -> float | None:
    """Mean of the defined values in pycocotools' table, where -1 is undefined."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


@dataclass(frozen=True, slots=True)
class _CategoryMatches:
    """Matches of one category at each IoU threshold (T = 10, from 0.50 to 0.95).

    Attributes:
        column: (D,) column of each detection's image in the weights, by falling confidence.
        hit: (T, D) whether the detection is matched with a label.
        labels: (S,) number of labels by column.
    """

    column: IntArray
    hit: BoolArray
    labels: FloatArray


def _average_precision(matches: _CategoryMatches, weights: FloatArray) -> FloatArray:
    """(B, T) average precision at 101 recall points, NaN if a draw has no label."""
    times = weights[:, matches.column]
    labels = weights @ matches.labels
    thresholds = np.linspace(0, 1, 101)
    result = np.full((len(weights), len(matches.hit)), np.nan)
    some = labels > 0
    result[some] = 0
    if not len(matches.column) or not some.any():
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


def _mean_of_defined(precision: FloatArray) -> FloatArray:
    """(B,) mean over the defined categories and thresholds."""
    flat = precision.reshape(len(precision), -1)
    defined = np.isfinite(flat)
    total = np.where(defined, flat, 0).sum(axis=1)
    return np.where(defined.any(axis=1), total / np.maximum(defined.sum(axis=1), 1), np.nan)
