"""The older cervical project's metrics, ``seed.*``, by its own unusual rule.

The project found healthy and sick cervical discs with torchvision's Faster R-CNN. It published
precision 0.773, recall 0.817, F1 0.795 and average precision 0.42 on 109 test images, matched at
IoU 0.5. The rule below is that of its last evaluator, ``common/evaluator.py``, applied after
``postprocessing`` of ``common/utils.py``:
https://github.com/resolator/vertebra-detection (read at commits 963ad73 and c6f2e97). Description
and code are our own; nothing of theirs is copied.

First, boxes are filtered by torchvision's defaults: confidence above 0.05, suppression per class
at IoU 0.5, at most 100 boxes. Then near-duplicates are removed. By falling confidence, each box
adds up its overlaps with the boxes after it, in order. From the place where that running sum
passes 0.65, the less confident of the box and each later one is removed, whether they overlap or
not.

Then, in each image, every label is compared with every box, so a box may serve several labels:

- A label that some box of its class overlaps by at least 0.5 is one true positive.
- Each box of another class that overlaps a label by at least 0.5 is a false negative.
- False positives are the labels of the image minus its true positives.

So ``fp`` counts missed labels. A box that lies on no label is never counted, and a label without
any box is not a false negative. Hence "precision" is the fraction of labels that were found, which
is usually called recall. "Recall" is about the fraction of boxes on a label that have its class.

"Average precision" is not the area under a curve of detections. Each label forms a pair with each
box that overlaps it. The pairs are ranked by the box's confidence, whatever its class, and scored
by whether the *label* is sick (scikit-learn's ``average_precision_score``, not interpolated). It
falls towards the fraction of sick labels, and below it if healthy discs have higher confidences.
The project has 0.316 on its training images, at a precision and recall of 0.998. Do not compare
any of the four with a metric of the same name; use the one-to-one rule beside them for that.

Overlaps count pixels inclusively here: one is added to each side, also of the intersection.

Known differences: the project scored frames resized to 384 × 384 and cropped to 330 × 330. Here
boxes and labels are native pixels of the whole frame, so the added pixel weighs less in a larger
frame. Its training loop removed near-duplicates at 0.65. Its demonstration, which printed the
figures of a whole file, used 0.5 by default. It does not say which of the two gave the published
figures, and 0.65 is used here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spineline.datasets.boxes import iou_inclusive, suppressed_boxes
from spineline.datasets.common.arrays import BoolArray, FloatArray, IntArray
from spineline.datasets.metrics.bootstrap import divide, per_study, running_totals
from spineline.datasets.metrics.coco import BoxesOfImage
from spineline.detect.results import Detections

SEED_IOU = 0.5
"""A box lies on a label if it overlaps it by at least this much."""

SEED_CONFIDENCE = 0.05
"""Boxes must have a higher confidence than this: torchvision's default."""

SEED_NMS_IOU = 0.5
"""Suppression per class: torchvision's default."""

SEED_MAX_DETECTIONS = 100
"""Most boxes per image before near-duplicates are removed: torchvision's default."""

SEED_NEAR_DUPLICATE_IOU = 0.65
"""Running sum of overlaps above which boxes are removed, whatever their class."""


@dataclass(frozen=True, slots=True, eq=False)
class SeedCounts:
    """What the older evaluator counts.

    Attributes:
        tp, wrong, labels: (images,) labels with a box of their class on them; boxes of another
            class, counted once for each label they lie on; number of labels.
        pair_image: (P,) index of the image of each pair of a label and a box on it.
        pair_confidence: (P,) confidence of the box, by falling confidence.
        pair_positive: (P,) whether the label is of the positive class (sick).
        has_positive: whether there is a positive class.
    """

    tp: IntArray
    wrong: IntArray
    labels: IntArray
    pair_image: IntArray
    pair_confidence: npt.NDArray[np.float32]
    pair_positive: BoolArray
    has_positive: bool


@dataclass(frozen=True, slots=True, eq=False)
class SeedRates:
    """The older metrics, one number for each row of weights, (B,).

    Attributes:
        precision, recall, f1: 0 where a divisor is 0, as in the older evaluator.
        average_precision: 0 without any pair; NaN if no pair has a sick label, or there is no
            positive class.
    """

    precision: FloatArray
    recall: FloatArray
    f1: FloatArray
    average_precision: FloatArray


def seed_boxes(
    detections: Detections, *, near_duplicate_iou: float = SEED_NEAR_DUPLICATE_IOU
) -> Detections:
    """Return the boxes that the older project's evaluator would see, by falling confidence."""
    kept = detections.where(detections.confidence > np.float32(SEED_CONFIDENCE)).by_confidence()
    gone = suppressed_boxes(kept.boxes_xyxy, SEED_NMS_IOU, kept.class_index)
    kept = kept.where(~gone).first(SEED_MAX_DETECTIONS)
    overlap = iou_inclusive(kept.boxes_xyxy)
    gone = np.zeros(len(kept), dtype=np.bool_)
    for place in range(len(kept)):
        later = np.cumsum(overlap[place, place + 1 :]) > near_duplicate_iou
        less = kept.confidence[place + 1 :] < kept.confidence[place]
        gone[place + 1 :] |= later & less
        gone[place] |= bool((later & ~less).any())
    return kept.where(~gone)


def seed_counts(
    labels: Sequence[BoxesOfImage],
    found: Sequence[Detections],
    *,
    positive: int | None,
    iou: float = SEED_IOU,
) -> SeedCounts:
    """Count as the older evaluator does.

    Args:
        labels: label boxes (N, 4) ``xyxy`` and class indices (N,) of each image.
        found: detections of each image, as [seed_boxes][] leaves them.
        positive: index of the class sick; None if there is no such class, and average precision
            has no meaning.
        iou: smallest overlap, with pixels counted inclusively.
    """
    tp, wrong = np.zeros(len(labels), np.int64), np.zeros(len(labels), np.int64)
    image_of, confidence, label_class = [], [], []
    for image, ((boxes, wanted), detections) in enumerate(zip(labels, found, strict=True)):
        on = iou_inclusive(boxes, detections.boxes_xyxy) >= iou
        right = on & (wanted[:, None] == detections.class_index[None, :])
        tp[image] = right.any(axis=1).sum()
        wrong[image] = (on & ~right).sum()
        rows, columns = np.nonzero(on)
        image_of.append(np.full(len(rows), image, np.int64))
        confidence.append(detections.confidence[columns])
        label_class.append(wanted[rows])
    nothing = np.zeros(0, np.int64)
    pair_confidence = np.concatenate([nothing.astype(np.float32), *confidence])
    order = np.argsort(-pair_confidence, kind="stable")
    wanted = np.concatenate([nothing, *label_class])[order]
    return SeedCounts(
        tp=tp,
        wrong=wrong,
        labels=np.array([len(wanted) for _, wanted in labels], dtype=np.int64),
        pair_image=np.concatenate([nothing, *image_of])[order],
        pair_confidence=pair_confidence[order],
        pair_positive=wanted == (-1 if positive is None else positive),
        has_positive=positive is not None,
    )


def seed_rates(counts: SeedCounts, weights: FloatArray | None = None) -> SeedRates:
    """Compute the four metrics.

    Args:
        counts: counts of all images.
        weights: (B, images) how often each image counts; None: once each (B = 1).
    """
    table = np.ones((1, len(counts.labels))) if weights is None else weights
    tp = table @ counts.tp.astype(np.float64)
    fp = table @ (counts.labels - counts.tp).astype(np.float64)
    fn = table @ counts.wrong.astype(np.float64)
    pairs = table @ per_study(counts.pair_image, np.ones(len(counts.pair_image)), len(counts.tp))
    precision, recall = _or_zero(tp, tp + fp), _or_zero(tp, tp + fn)
    average = _average_precision(counts, table)
    if counts.has_positive:
        average = np.where(pairs > 0, average, 0.0)
    return SeedRates(
        precision, recall, _or_zero(2 * precision * recall, precision + recall), average
    )


def _average_precision(counts: SeedCounts, weights: FloatArray) -> FloatArray:
    """(B,) sum over distinct confidences of the recall gained there times the precision there."""
    if not counts.pair_positive.any():
        return np.full(len(weights), np.nan)
    levels, place = np.unique(-counts.pair_confidence, return_inverse=True)
    total = running_totals(
        weights, counts.pair_image, place, len(levels), np.ones(len(counts.pair_image))
    )
    sick = running_totals(weights, counts.pair_image, place, len(levels), counts.pair_positive)
    gained = np.diff(sick, axis=1, prepend=0)
    return divide((gained * _or_zero(sick, total)).sum(axis=1), sick[:, -1])


def _or_zero(above: FloatArray, below: FloatArray) -> FloatArray:
    return np.nan_to_num(divide(above, below), nan=0.0)
