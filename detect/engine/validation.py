"""Validation in our own training loop, with the settings of ``detect val``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from spineline.datasets.boxes import cxcywhn_to_xyxy
from spineline.datasets.images import read_uint8_image
from spineline.datasets.metrics.coco import BoxesOfImage, coco_metrics, coco_rows, coco_truth
from spineline.detect.backend import Detector
from spineline.detect.engine.dataset import YoloImage
from spineline.detect.evaluation.matching import match, rates
from spineline.detect.results import Detections

COLUMNS = (
    "metrics/precision(B)",
    "metrics/recall(B)",
    "metrics/mAP50(B)",
    "metrics/mAP50-95(B)",
    "metrics/F1(B)",
)
"""Columns of ``results.csv``: Ultralytics' names, and F1. Precision, recall and F1 are those of
one-to-one matching at IoU 0.5 and confidence 0.5."""

METRICS = {
    "map50": COLUMNS[2],
    "map50_95": COLUMNS[3],
    "f1": COLUMNS[4],
    "precision": COLUMNS[0],
    "recall": COLUMNS[1],
}
"""Metrics whose best weights are kept, and their columns."""

_BATCH = 16


@dataclass(slots=True)
class Validation:
    """The images of the validation part.

    Attributes:
        images: files and labels.
        names: class names.
        keep: keep decoded images in memory.
    """

    images: tuple[YoloImage, ...]
    names: tuple[str, ...]
    keep: bool
    _pixels: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)

    def pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """Return one image, uint8 (H, W)."""
        found = self._pixels.get(index)
        if found is None:
            found = read_uint8_image(self.images[index].file)
            if self.keep:
                self._pixels[index] = found
        return found

    def detect(self, detector: Detector, indices: Sequence[int]) -> list[Detections]:
        """Detect on some of the images, with the settings of ``detect val``."""
        found: list[Detections] = []
        for start in range(0, len(indices), _BATCH):
            images = [self.pixels(index) for index in indices[start : start + _BATCH]]
            found += detector.detect(images, confidence=0.001, iou=0.7, max_detections=300)
        return found

    def metrics(self, found: Sequence[Detections]) -> dict[str, float]:
        """Compute the metrics of the detections in all images, by column.

        Precision without any detection is 0, as in Ultralytics' results. Metrics that need labels
        are NaN without any.
        """
        labels = [labels_of(image) for image in self.images]
        boxes = [(each.boxes_xyxy, each.class_index) for each in found]
        results = coco_rows(boxes, [each.confidence for each in found])
        coco = coco_metrics(coco_truth(labels, self.names), results)
        one_to_one = rates(match(labels, found), confidence=0.5)
        precision, recall, f1 = (
            float(values[0]) for values in (one_to_one.precision, one_to_one.recall, one_to_one.f1)
        )
        if math.isnan(precision) and one_to_one.labels:
            precision = 0.0
        values = (precision, recall, coco.map50, coco.map50_95, f1)
        return {
            name: math.nan if value is None else value
            for name, value in zip(COLUMNS, values, strict=True)
        }


def labels_of(image: YoloImage) -> BoxesOfImage:
    """Return an image's label boxes (N, 4) ``xyxy`` in native pixels, and their classes (N,)."""
    height, width = image.size_hw
    boxes = cxcywhn_to_xyxy(image.box_cxcywhn.astype(np.float64), width, height)
    return boxes, image.class_index.astype(np.int64)


def pictured(images: Sequence[YoloImage]) -> int:
    """Return the index of the image for pictures: the first one that has a label."""
    return next((i for i, image in enumerate(images) if len(image.class_index)), 0)
