"""One-to-one matching of detections to labels, and the metrics that follow from it.

The rule is COCO's (Lin et al. 2014, ``COCOeval``). In each image and class, detections are taken
by falling confidence. Each is matched to the free label with the highest overlap, if that is at
least ``iou``. A detection without a label is a false positive, and a label without a detection is
a false negative. So each label is matched once, and a second box on it counts against precision.
Matches above some confidence do not depend on the boxes below it.

Average precision is the exact area under the interpolated precision-recall curve, over all
confidences of the detections. As in PASCAL VOC since 2010, the precision at a recall is the highest
at that recall or a greater one. COCO's own average precision reads the same curve at 101 recalls.
Boxes are ``xyxy`` in absolute native pixels; areas have no ``+ 1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spineline.datasets.boxes import iou_matrix
from spineline.datasets.common.arrays import BoolArray, FloatArray, IntArray
from spineline.datasets.metrics.bootstrap import divide, running_totals
from spineline.datasets.metrics.coco import BoxesOfImage
from spineline.detect.results import Detections

_CELLS = 4_000_000
"""Most cells in a table that average precision over many draws builds at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Every detection, matched or not, by falling confidence (ties in the order of images).

    Attributes:
        image: (N,) index of the image.
        class_index: (N,) index of the class.
        confidence: (N,) float32.
        hit: (N,) whether the detection is matched to a label.
        labels: (images, classes) number of labels.
    """

    image: IntArray
    class_index: IntArray
    confidence: npt.NDArray[np.float32]
    hit: BoolArray
    labels: IntArray

    def of_class(self, index: int) -> Matches:
        """The matches of one class."""
        which = self.class_index == index
        return Matches(
            self.image[which],
            self.class_index[which],
            self.confidence[which],
            self.hit[which],
            self.labels[:, [index]],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Precision and recall at each confidence that occurs, from the highest down.

    Attributes:
        confidence: (N,) distinct values.
        precision: (N,) precision of detections of at least that confidence; not interpolated.
        recall: (N,) their recall; NaN if there is no label.
    """

    confidence: FloatArray
    precision: FloatArray
    recall: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """Metrics of matches, one number for each row of weights, (B,).

    Attributes:
        precision: fraction of detections that are hits; NaN without any detection.
        recall: fraction of labels that are hit; NaN without any label.
        f1: 2 TP / (2 TP + FP + FN); NaN without detections and labels.
        average_precision: area under the interpolated curve over all confidences; NaN without any
            label.
        tp, fp, fn: hits, unmatched detections and unmatched labels, each image counted once.
    """

    precision: FloatArray
    recall: FloatArray
    f1: FloatArray
    average_precision: FloatArray
    tp: int
    fp: int
    fn: int

    @property
    def labels(self) -> int:
        """Number of labels."""
        return self.tp + self.fn


def match(
    labels: Sequence[BoxesOfImage],
    found: Sequence[Detections],
    *,
    iou: float = 0.5,
    class_agnostic: bool = False,
) -> Matches:
    """Match detections of all confidences to labels; see the module for the rule.

    Args:
        labels: label boxes (N, 4) ``xyxy`` and class indices (N,) of each image.
        found: detections of each image, down to the lowest confidence for average precision.
        iou: smallest overlap of a match.
        class_agnostic: ignore classes, to measure localisation alone. Two boxes of two classes on
            one structure are then one hit and one false positive.

    Raises:
        ValueError: ``labels`` and ``found`` differ in their number of images, or names differ.
    """
    names = found[0].names if found else ()
    if any(detections.names != names for detections in found):
        raise ValueError("detections of different classes cannot be counted together")
    classes = 1 if class_agnostic else len(names)
    counts = np.zeros((len(labels), classes), dtype=np.int64)
    parts = []
    for image, ((boxes, label_class), detections) in enumerate(zip(labels, found, strict=True)):
        wanted = np.zeros_like(label_class) if class_agnostic else label_class
        kinds = np.zeros_like(detections.class_index) if class_agnostic else detections.class_index
        counts[image] = np.bincount(wanted, minlength=classes)
        hit = _hits(boxes, wanted, detections, kinds, iou)
        parts.append((np.full(len(hit), image), kinds, detections.confidence, hit))
    if not parts:
        nothing = np.zeros(0, np.int64)
        return Matches(nothing, nothing, nothing.astype(np.float32), nothing.astype(bool), counts)
    image_index, class_index, confidence, hits = (
        np.concatenate(p) for p in zip(*parts, strict=True)
    )
    order = np.argsort(-confidence, kind="stable")
    return Matches(
        image_index[order].astype(np.int64),
        class_index[order].astype(np.int64),
        confidence[order].astype(np.float32),
        hits[order].astype(np.bool_),
        counts,
    )


def _hits(
    boxes: npt.ArrayLike, wanted: IntArray, detections: Detections, kinds: IntArray, iou: float
) -> BoolArray:
    overlap = iou_matrix(boxes, detections.boxes_xyxy)
    overlap[wanted[:, None] != kinds[None, :]] = -1
    hit = np.zeros(len(detections), dtype=np.bool_)
    if not len(wanted):
        return hit
    for place in np.argsort(-detections.confidence, kind="stable").tolist():
        best = int(np.argmax(overlap[:, place]))
        if overlap[best, place] >= iou:
            hit[place] = True
            overlap[best] = -1
    return hit


def rates(matches: Matches, confidence: float, weights: FloatArray | None = None) -> Rates:
    """Return precision, recall, F1 and counts at a confidence, and average precision.

    Args:
        matches: matches of one class, or of all classes counted together.
        confidence: lowest confidence for everything but average precision.
        weights: (B, images) how often each image counts; None: once each (B = 1).
    """
    images = len(matches.labels)
    table = np.ones((1, images)) if weights is None else weights
    kept = matches.confidence >= np.float32(confidence)
    by_image = [
        np.bincount(matches.image[kept & matches.hit], minlength=images),
        np.bincount(matches.image[kept], minlength=images),
        matches.labels.sum(axis=1),
    ]
    tp, found, labels = (table @ count.astype(np.float64) for count in by_image)
    hits, detections, wanted = (int(count.sum()) for count in by_image)
    return Rates(
        precision=divide(tp, found),
        recall=divide(tp, labels),
        f1=divide(2 * tp, found + labels),
        average_precision=_average_precision(matches, table),
        tp=hits,
        fp=detections - hits,
        fn=wanted - hits,
    )


def precision_recall(matches: Matches) -> Curve:
    """Return precision and recall at each confidence that occurs."""
    ends = _ends(matches.confidence)
    tp = np.cumsum(matches.hit)[ends]
    labels = int(matches.labels.sum())
    recall = tp / labels if labels else np.full(len(ends), np.nan)
    return Curve(matches.confidence[ends].astype(np.float64), tp / (ends + 1), recall)


def _average_precision(matches: Matches, table: FloatArray) -> FloatArray:
    """(B,) area under the interpolated precision-recall curve; NaN if a draw has no label."""
    labels = table @ matches.labels.sum(axis=1).astype(np.float64)
    # Precision peaks where a hit has just been added, so it is needed only there.
    ends = _ends(matches.confidence)
    group = np.searchsorted(ends, np.arange(len(matches.hit)))
    with_hit = np.unique(group[matches.hit])
    place, places = np.searchsorted(with_hit, group), len(with_hit)
    area = np.empty(len(table))
    rows = max(_CELLS // max(places, 1), 1)
    for start in range(0, len(table), rows):
        some = table[start : start + rows]
        tp = running_totals(some, matches.image, place, places, matches.hit)
        detected = running_totals(some, matches.image, place, places, np.ones(len(place)))
        area[start : start + rows] = _area(tp, detected)
    return divide(area, labels)


def _area(tp: FloatArray, detected: FloatArray) -> FloatArray:
    """(B,) sum over hits of the highest precision there or at any lower confidence."""
    precision = np.divide(tp, detected, out=np.zeros_like(tp), where=detected > 0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    area: FloatArray = (np.diff(tp, axis=1, prepend=0) * envelope).sum(axis=1)
    return area


def _ends(confidence: npt.NDArray[np.float32]) -> IntArray:
    """Last index of each run of equal confidences."""
    if not len(confidence):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.r_[confidence[1:] != confidence[:-1], True])


def best_f1(curve: Curve) -> tuple[float | None, float | None]:
    """Return the highest F1 over all confidences and its confidence, or None if F1 is undefined.

    The confidence is chosen on the data that it is scored on, so F1 is no estimate for other data.
    """
    total = curve.precision + curve.recall
    f1 = np.divide(
        2 * curve.precision * curve.recall, total, out=np.zeros_like(total), where=total > 0
    )
    if not len(f1) or np.isnan(curve.recall).any():
        return None, None
    best = int(np.argmax(f1))
    return float(f1[best]), float(curve.confidence[best])


def confusion(
    labels: Sequence[BoxesOfImage],
    found: Sequence[Detections],
    classes: int,
    *,
    confidence: float = 0.25,
    iou: float = 0.5,
) -> IntArray:
    """Count the confusion of classes between overlapping labels and detections.

    Detections of at least ``confidence`` are matched to labels one to one by falling overlap,
    whatever their class. A box without a match of at least ``iou`` counts as background.

    Args:
        labels: label boxes (N, 4) ``xyxy`` and class indices (N,) of each image.
        found: detections of each image.
        classes: number of classes.
        confidence: lowest confidence.
        iou: smallest overlap of a match.

    Returns:
        (classes + 1, classes + 1): the row is the label, the column the detection, the last is
        background.
    """
    table = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for (boxes, label_class), detections in zip(labels, found, strict=True):
        kept = detections.at_least(confidence)
        overlap = iou_matrix(boxes, kept.boxes_xyxy)
        taken = np.full(len(boxes), classes)  # class of the detection on each label
        beside = kept.class_index.copy()  # class of each unmatched detection, else -1
        for place in np.argsort(-overlap, axis=None, kind="stable").tolist():
            row, column = divmod(place, len(kept))
            if overlap[row, column] < iou:
                break
            if taken[row] == classes and beside[column] >= 0:
                taken[row], beside[column] = beside[column], -1
        np.add.at(table, (label_class, taken), 1)
        np.add.at(table[classes], beside[beside >= 0], 1)
    return table
