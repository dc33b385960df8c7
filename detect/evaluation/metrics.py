"""Figures of a detector on a converted dataset: COCO's by pycocotools, and level accuracy."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spineline.datasets.boxes import xyxy_to_xywh
from spineline.datasets.labels import LEVELS
from spineline.datasets.types import ImageRecord
from spineline.detect.results import Detections

NEAR_PX = 8.0
"""A point closer than this to its label, in native pixels, is found: the report's criterion."""


@dataclass(frozen=True, slots=True)
class CocoFigures:
    """What pycocotools says.

    Attributes:
        map50, map50_95: mean over classes with labels of the average precision at IoU 0.5, and of
            its mean over IoU 0.50 … 0.95; None without any label.
        per_class: by class name, (average precision at 0.5, mean over 0.50 … 0.95); None where the
            class has no label.
    """

    map50: float | None
    map50_95: float | None
    per_class: dict[str, tuple[float | None, float | None]]


def coco_results(
    image_ids: Sequence[int], found: Sequence[Detections], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Detections as COCO's list of results.

    Args:
        image_ids: COCO id of each image.
        found: what was detected in each image.
        category_ids: COCO id of each class, by class index.
    """
    rows: list[dict[str, Any]] = []
    for image_id, detections in zip(image_ids, found, strict=True):
        boxes = xyxy_to_xywh(detections.boxes_xyxy).tolist()
        for box, score, index in zip(
            boxes,
            detections.confidence.tolist(),
            detections.class_index.tolist(),
            strict=True,
        ):
            rows.append(
                {
                    "image_id": image_id,
                    "category_id": category_ids[index],
                    "bbox": box,
                    "score": score,
                }
            )
    return rows


def coco_figures(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> CocoFigures:
    """COCO's figures for boxes, by pycocotools with its own settings (100 boxes per image).

    Args:
        truth: a COCO dict with images, annotations and categories.
        results: COCO's list of results.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    categories = sorted(truth["categories"], key=lambda c: int(c["id"]))
    names = [str(c["name"]) for c in categories]
    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO()
        labels.dataset = dict(truth)
        labels.createIndex()
        if not results or not truth["annotations"]:
            return _without_detections(truth, categories)
        evaluation = COCOeval(labels, labels.loadRes([dict(r) for r in results]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class)
    each = [(_mean(precision[0, :, k]), _mean(precision[:, :, k])) for k in range(len(names))]
    return CocoFigures(
        map50=_mean(precision[0]),
        map50_95=_mean(precision),
        per_class=dict(zip(names, each, strict=True)),
    )


def _mean(precision: npt.NDArray[np.float64]) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def _without_detections(
    truth: Mapping[str, Any], categories: Sequence[Mapping[str, Any]]
) -> CocoFigures:
    labelled = {int(a["category_id"]) for a in truth["annotations"]}
    each = [0.0 if int(c["id"]) in labelled else None for c in categories]
    total = 0.0 if labelled else None
    return CocoFigures(
        map50=total,
        map50_95=total,
        per_class={str(c["name"]): (v, v) for c, v in zip(categories, each, strict=True)},
    )


def level_hits(
    records: Sequence[ImageRecord], found: Sequence[Detections]
) -> dict[str, tuple[int, int]]:
    """Per level, how many labels are found and how many there are.

    A label is found if the centre of its level's most confident detection in that image lies less
    than [NEAR_PX][] away (Euclidean, native pixels): ``level_accuracy_8px`` of the evaluation.

    Args:
        records: labels; structures outside the eleven levels do not count.
        found: detections of each image, of a detector whose classes are the levels.
    """
    hits = dict.fromkeys(LEVELS, 0)
    labels = dict.fromkeys(LEVELS, 0)
    for record, detections in zip(records, found, strict=True):
        best = detections.best_of_each_class()
        centres = {
            best.names[index]: centre
            for index, centre in zip(best.class_index.tolist(), best.centres_xy, strict=True)
        }
        for structure in record.structures:
            if structure.level not in labels:
                continue
            labels[structure.level] += 1
            centre = centres.get(structure.level)
            if centre is not None:
                hits[structure.level] += int(_near(centre, structure.point_xy))
    return {level: (hits[level], labels[level]) for level in LEVELS}


def _near(centre: npt.NDArray[np.float32], point_xy: tuple[float, float]) -> bool:
    distance = np.hypot(float(centre[0]) - point_xy[0], float(centre[1]) - point_xy[1])
    return bool(distance < NEAR_PX)


def confusion(
    records_boxes: Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]],
    found: Sequence[Detections],
    classes: int,
    *,
    confidence: float = 0.25,
    iou: float = 0.5,
) -> npt.NDArray[np.int64]:
    """Confusion of classes at places that overlap.

    Detections of at least ``confidence`` are matched to labels one to one by falling overlap,
    whatever their class; what overlaps nothing by ``iou`` is background.

    Args:
        records_boxes: of each image, label boxes (N, 4) ``xyxy`` and their class indices (N,).
        found: detections of each image.
        classes: number of classes.
        confidence: least confidence.
        iou: least overlap.

    Returns:
        (classes + 1, classes + 1): row is the label, column the detection, the last is background.
    """
    table = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for (boxes, labels), detections in zip(records_boxes, found, strict=True):
        kept = detections.at_least(confidence)
        pairs = _matches(iou_matrix(boxes, kept.boxes_xyxy.astype(np.float64)), iou)
        for row, column in pairs:
            table[labels[row], kept.class_index[column]] += 1
        matched_rows, matched_columns = {p[0] for p in pairs}, {p[1] for p in pairs}
        for row in range(len(boxes)):
            table[labels[row], classes] += row not in matched_rows
        for column in range(len(kept)):
            table[classes, kept.class_index[column]] += column not in matched_columns
    return table


def _matches(overlap: npt.NDArray[np.float64], least: float) -> list[tuple[int, int]]:
    order = np.argsort(-overlap, axis=None, kind="stable")
    rows: set[int] = set()
    columns: set[int] = set()
    pairs = []
    for place in order.tolist():
        row, column = divmod(place, overlap.shape[1])
        if overlap[row, column] < least:
            break
        if row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
            pairs.append((row, column))
    return pairs


def iou_matrix(
    a_xyxy: npt.NDArray[np.float64], b_xyxy: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """(N, M) overlap of two sets of boxes: intersection over union, areas without a ``+ 1``."""
    low = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    high = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a = np.prod(a_xyxy[:, 2:] - a_xyxy[:, :2], axis=1)[:, None]
    area_b = np.prod(b_xyxy[:, 2:] - b_xyxy[:, :2], axis=1)[None, :]
    union = area_a + area_b - shared
    result: npt.NDArray[np.float64] = np.divide(
        shared, union, out=np.zeros_like(shared), where=union > 0
    )
    return result
