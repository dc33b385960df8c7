"""The older cervical project's metrics, ``seed.*``, by its own rule, odd as it is.

The project found healthy and sick cervical discs with torchvision's Faster R-CNN and published
precision 0.773, recall 0.817, F1 0.795 and average precision 0.42 on 109 test images, matched at
IoU 0.5. The rule below is that of its last evaluator, ``common/evaluator.py``, with
``postprocessing`` of ``common/utils.py`` before it:
https://github.com/resolator/vertebra-detection (read at commits 963ad73 and c6f2e97). This is a
description and code of our own; none of theirs is copied.

Boxes first: torchvision's defaults (confidence above 0.05, suppression per class at IoU 0.5, at
most 100 boxes), then near-duplicates go: each box, by falling confidence, adds up its overlaps with
the boxes after it, in order; from the place where that running sum passes 0.65 on, of the box and
each later one the less confident goes, whether those two overlap or not.

Then, in each image, every label meets every box, so a box may serve several labels:

- a label that some box of its class overlaps by at least 0.5 is a true positive, once;
- each box of another class that overlaps it so far is a false negative;
- false positives are the labels of the image less its true positives.

So ``fp`` counts labels that were missed. A box that lies on nothing is never counted, however many
there are; a label on which no box lies is no false negative. Hence "precision" is the share of
labels that were found (what is called recall elsewhere), and "recall" is, of the boxes that lie on
a label, about the share that has its class. "Average precision" is no area under a curve of
detections: each label with each box that overlaps it makes a pair; the pairs are ranked by the
box's confidence, whatever its class, and scored by whether the *label* is sick (scikit-learn's
``average_precision_score``, not interpolated). It falls towards the share of sick labels and below
it where healthy discs are the surer ones: the project has 0.316 on its training images, at a
precision and recall of 0.998. Do not compare any of the four with a metric of the same name; the
one-to-one rule stands beside them for that.

Overlap counts pixels inclusively here: one is added to each side, of the shared part too.

Known differences: the project scored frames resized to 384 × 384 and cropped to 330 × 330; here
boxes and labels are native pixels of the whole frame, so that the added pixel weighs less in a
larger frame. Its training loop removed near-duplicates at 0.65, its demonstration, which printed
the figures of a whole file, at 0.5 by default; which of the two the published figures have is not
said, and 0.65 is taken.
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
"""A box that overlaps a label by this much or more lies on it."""

SEED_CONFIDENCE = 0.05
"""Boxes must be more confident than this: torchvision's default."""

SEED_NMS_IOU = 0.5
"""Suppression per class: torchvision's default."""

SEED_MAX_DETECTIONS = 100
"""Most boxes per image before near-duplicates go: torchvision's default."""

SEED_NEAR_DUPLICATE_IOU = 0.65
"""Running sum of overlaps from which on boxes go, whatever their class."""


@dataclass(frozen=True, slots=True, eq=False)
class SeedCounts:
    """What the older evaluator counts.

    Attributes:
        tp, wrong, labels: (images,) labels with a box of their class on them; boxes of another
            class, counted once for each label they lie on; labels.
        pair_image: (P,) index of the image of each pair of a label and a box on it.
        pair_confidence: (P,) of the box, by falling confidence.
        pair_positive: (P,) whether the label is of the positive class (sick).
        has_positive: whether the classes have a positive one at all.
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
        precision, recall, f1: 0 where a divisor is 0, as the older evaluator has it.
        average_precision: 0 without any pair; NaN where no pair has a sick label, or the classes
            know no sick.
    """

    precision: FloatArray
    recall: FloatArray
    f1: FloatArray
    average_precision: FloatArray


def seed_boxes(
    detections: Detections, *, near_duplicate_iou: float = SEED_NEAR_DUPLICATE_IOU
) -> Detections:
    """The boxes that the older project's evaluator would have seen, by falling confidence."""
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
        labels: of each image, label boxes (N, 4) ``xyxy`` and their class indices (N,).
        found: detections of each image, as [seed_boxes][] leaves them.
        positive: index of the class sick; None where the classes know none, and average precision
            has no meaning.
        iou: least overlap, pixels counted inclusively.
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
    """The four metrics.

    Args:
        counts: of all images.
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
