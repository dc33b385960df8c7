"""Validation in our own training loop, with the settings of ``detect val``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from spineline.datasets.boxes import cxcywhn_to_xyxy, xyxy_to_xywh
from spineline.datasets.images import read_uint8_image
from spineline.detect.backend import Detector
from spineline.detect.engine.dataset import YoloImage
from spineline.detect.evaluation.matching import one_to_one
from spineline.detect.evaluation.metrics import coco_figures, coco_results
from spineline.detect.results import Detections

COLUMNS = (
    "metrics/precision(B)",
    "metrics/recall(B)",
    "metrics/mAP50(B)",
    "metrics/mAP50-95(B)",
    "metrics/F1(B)",
)
"""Columns of ``results.csv``; Ultralytics' names, and F1. Precision, recall and F1 are those of
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
        """One image, uint8 (H, W)."""
        found = self._pixels.get(index)
        if found is None:
            found = read_uint8_image(self.images[index].file)
            if self.keep:
                self._pixels[index] = found
        return found

    def detect(self, detector: Detector, indices: Sequence[int]) -> list[Detections]:
        """What a detector finds in some of the images, with the settings of ``detect val``."""
        found: list[Detections] = []
        for start in range(0, len(indices), _BATCH):
            images = [self.pixels(index) for index in indices[start : start + _BATCH]]
            found += detector.detect(images, confidence=0.001, iou=0.7, max_detections=300)
        return found

    def figures(self, found: Sequence[Detections]) -> dict[str, float]:
        """The figures of what was found in all images, by column.

        Precision without any detection is 0, as in Ultralytics' results; NaN is without any label.
        """
        truth = coco_truth(self.images, self.names)
        results = coco_results(
            [image["id"] for image in truth["images"]],
            found,
            [category["id"] for category in truth["categories"]],
        )
        coco = coco_figures(truth, results)
        rates = one_to_one([labels_of(image) for image in self.images], found)
        precision = 0.0 if rates.precision is None and rates.rates.labels else rates.precision
        values = (precision, rates.recall, coco.map50, coco.map50_95, rates.f1)
        return {
            name: float("nan") if value is None else value
            for name, value in zip(COLUMNS, values, strict=True)
        }


def labels_of(image: YoloImage) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """An image's label boxes (N, 4) ``xyxy`` in native pixels, and their class indices (N,)."""
    height, width = image.size_hw
    boxes = cxcywhn_to_xyxy(image.box_cxcywhn.astype(np.float64), width, height)
    return boxes, image.class_index.astype(np.int64)


def pictured(images: Sequence[YoloImage]) -> int:
    """The index of the image that pictures show: the first that has a label."""
    return next((i for i, image in enumerate(images) if len(image.class_index)), 0)


def coco_truth(images: Sequence[YoloImage], names: tuple[str, ...]) -> dict[str, Any]:
    """The labels of images as a COCO dict; ids count from 1."""
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        boxes, classes = labels_of(image)
        for box, index in zip(xyxy_to_xywh(boxes).tolist(), classes.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": index + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return {
        "images": [
            {"id": n, "file_name": i.file.name, "height": i.size_hw[0], "width": i.size_hw[1]}
            for n, i in enumerate(images, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, 1)],
    }
