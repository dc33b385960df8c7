"""Lossless conversion between records and COCO.

Standard content is written as any COCO reader expects it. ``bbox`` is (left, top, width, height),
clipped to the frame, ``keypoints`` is the structure's point, and category ids start at 1. Other
content is added. An image carries study, UIDs and spacing. An annotation carries ``attributes``
with level, kind, pathology, findings and the unclipped ``box_xyxy``. Structures without a box in
this label set (unlabelled, T11-T12, outside the frame) are in ``structures_without_box``. The level
of a disc without one is null. Coordinates are those of [spineline.datasets.types][].
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from spineline.datasets.boxes import clip_box, clip_xyxy, xyxy_to_xywh
from spineline.datasets.common.arrays import FloatArray, IntArray
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.labels import (
    HEALTH_NAMES,
    KIND_OF_SEVEN,
    LABEL_SETS,
    LEVELS,
    NO_LEVEL,
    Classes,
    LabelSet,
    class_names,
    kind_of_level,
)
from spineline.datasets.quality_control import MIN_BOX_SIDE
from spineline.datasets.types import ImageRecord, Structure

COCO_SCHEMA = "spineline-coco/1"
CATEGORY_OFFSET = 1
"""COCO category id = class index + 1."""

_EDITED = 0.01
"""If ``bbox`` is further than this (pixels) from the clipped record box, it was edited."""

_IMAGE_KEYS = ("study_uid", "series_uid", "instance_uid")


@dataclass(frozen=True, slots=True)
class BoxedStructures:
    """The boxes that files of one label set hold for one record.

    Attributes:
        structures: structures that have a box, in the record's order.
        class_index: (N,) int64.
        boxes_xyxy: (N, 4) float64, clipped to the frame.
        without_box: the record's other structures.
    """

    structures: tuple[Structure, ...]
    class_index: IntArray
    boxes_xyxy: FloatArray
    without_box: tuple[Structure, ...]


def boxed_structures(record: ImageRecord, labels: Classes) -> BoxedStructures:
    """Return what YOLO, VOC and COCO files hold of a record: clipped boxes with a class.

    A structure has no box if it has no class in the label set or its point lies outside the frame.
    It also has none if less than a pixel of its box is left inside the frame.
    """
    structures, classes, boxes, without_box = [], [], [], []
    for structure in record.structures:
        index = structure.class_in(labels)
        box = left, top, right, bottom = clip_box(structure.box_xyxy, record.width, record.height)
        large = min(right - left, bottom - top) >= MIN_BOX_SIDE
        if index is not None and large and "outside_frame" not in structure.findings:
            structures.append(structure)
            classes.append(index)
            boxes.append(box)
        else:
            without_box.append(structure)
    return BoxedStructures(
        structures=tuple(structures),
        class_index=np.array(classes, dtype=np.int64),
        boxes_xyxy=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        without_box=tuple(without_box),
    )


def coco_from_records(
    records: Sequence[ImageRecord], labels: Classes, file_names: Sequence[str]
) -> dict[str, Any]:
    """Convert records to a COCO dict.

    Args:
        records: records in the order of their image ids 1, 2, ….
        labels: the label set or own classes of the categories.
        file_names: file name of each record's image, relative to the images folder of its part.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    without_box: list[dict[str, Any]] = []
    for number, (record, file_name) in enumerate(zip(records, file_names, strict=True), 1):
        images.append(_image(number, record, file_name))
        boxed = boxed_structures(record, labels)
        boxes = xyxy_to_xywh(boxed.boxes_xyxy).tolist()
        for structure, index, box in zip(
            boxed.structures, boxed.class_index.tolist(), boxes, strict=True
        ):
            annotations.append(_annotation(len(annotations) + 1, number, structure, index, box))
        without_box.extend(
            {
                "image_id": number,
                "keypoints": [*s.point_xy, 2],
                "attributes": _attributes(s),
            }
            for s in boxed.without_box
        )
    return {
        "info": {"description": "spineline dataset", "schema": COCO_SCHEMA, "labels": labels},
        "licenses": [],
        "images": images,
        "categories": _categories(labels),
        "annotations": annotations,
        "structures_without_box": without_box,
    }


def coco_text(coco: Mapping[str, Any]) -> str:
    """Format a COCO dict as JSON, one image or annotation per line."""
    parts = [
        f"{_dumps(name)}: {rows_text(value) if isinstance(value, list) else _dumps(value)}"
        for name, value in coco.items()
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def rows_text(rows: Sequence[Any]) -> str:
    """Format a list as JSON, one item per line."""
    lines = ",\n".join(_dumps(row) for row in rows)
    return f"[\n{lines}\n]" if lines else "[]"


def labels_of_coco(coco: Mapping[str, Any]) -> LabelSet:
    """Return the label set of a COCO dict, as named in ``info`` or deduced from its categories.

    Raises:
        AnnotationError: the categories are not those of a label set, in its order.
    """
    try:
        categories = sorted(coco["categories"], key=lambda c: c["id"])
        names = tuple(str(c["name"]) for c in categories)
        ids = [int(c["id"]) for c in categories]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(f"COCO: categories cannot be read ({error!r:.300})") from error
    for labels, wanted in LABEL_SETS.items():
        if names == wanted and ids == list(range(CATEGORY_OFFSET, len(ids) + CATEGORY_OFFSET)):
            return labels
    msg = (
        f"COCO: categories {', '.join(names)[:200]!r} are those of no label set in its order "
        f"(allowed: {', '.join(LABEL_SETS)}, ids from {CATEGORY_OFFSET})"
    )
    raise AnnotationError(msg)


def records_from_coco(coco: Mapping[str, Any]) -> tuple[ImageRecord, ...]:
    """Convert a COCO dict to records, in the order of its images; ``file`` is the file name.

    Boxes edited since the file was written take precedence: if ``bbox`` does not agree with the
    unclipped ``box_xyxy``, ``bbox`` is used.

    Raises:
        AnnotationError: the content is not COCO, or contradicts itself.
    """
    if not isinstance(coco, Mapping):
        raise AnnotationError(f"COCO: holds a {type(coco).__name__}, wanted an object")
    try:
        names = {int(c["id"]): str(c["name"]) for c in coco["categories"]}
        sizes = {int(i["id"]): (int(i["width"]), int(i["height"])) for i in coco["images"]}
        if len(sizes) != len(coco["images"]):
            raise AnnotationError("COCO: two images have the same id")
        found: dict[int, list[Structure]] = {image_id: [] for image_id in sizes}
        for annotation in coco["annotations"]:
            image_id = int(annotation["image_id"])
            found[image_id].append(_structure(annotation, names, sizes[image_id]))
        for item in coco.get("structures_without_box", ()):
            found[int(item["image_id"])].append(_structure(item, names, None))
        return tuple(_record(image, found[int(image["id"])]) for image in coco["images"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise AnnotationError(f"COCO: cannot be read as records ({error!r:.300})") from error


def _categories(labels: Classes) -> list[dict[str, Any]]:
    return [
        {
            "id": index + CATEGORY_OFFSET,
            "name": name,
            "supercategory": _supercategory(labels, index),
            "keypoints": ["centre"],
            "skeleton": [],
        }
        for index, name in enumerate(class_names(labels))
    ]


def _supercategory(labels: Classes, index: int) -> str:
    if labels == "level":
        return kind_of_level(LEVELS[index])
    return KIND_OF_SEVEN[index] if labels == "seven" else "structure"


def _image(number: int, record: ImageRecord, file_name: str) -> dict[str, Any]:
    return {
        "id": number,
        "file_name": file_name,
        "width": record.width,
        "height": record.height,
        "record_id": record.image_id,
        "study_id": record.study_id,
        **{name: getattr(record, name) for name in _IMAGE_KEYS},
        "spacing_rc_mm": None if record.spacing_rc_mm is None else list(record.spacing_rc_mm),
        "findings": list(record.findings),
        **({} if record.patient_id is None else {"patient_id": record.patient_id}),
    }


def _annotation(
    number: int, image: int, structure: Structure, index: int, box_xywh: list[float]
) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": index + CATEGORY_OFFSET,
        "bbox": box_xywh,
        "area": box_xywh[2] * box_xywh[3],
        "iscrowd": 0,
        "segmentation": [],
        "keypoints": [*structure.point_xy, 2],
        "num_keypoints": 1,
        "attributes": _attributes(structure),
    }


def _attributes(structure: Structure) -> dict[str, Any]:
    return {
        "level": structure.level or None,
        "kind": structure.kind,
        "pathology": list(structure.pathology),
        "box_xyxy": list(structure.box_xyxy),
        "findings": list(structure.findings),
    }


def _record(image: Mapping[str, Any], structures: Sequence[Structure]) -> ImageRecord:
    file_name = str(image["file_name"])
    image_id = str(image.get("record_id") or file_name.rpartition(".")[0])
    spacing = image.get("spacing_rc_mm")
    return ImageRecord(
        image_id=image_id,
        study_id=str(image.get("study_id") or image_id),
        width=int(image["width"]),
        height=int(image["height"]),
        structures=tuple(sorted(structures, key=_from_top)),
        spacing_rc_mm=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        file=file_name,
        findings=tuple(str(name) for name in image.get("findings", ())),
        patient_id=None if (patient := image.get("patient_id")) is None else str(patient),
        **{name: image.get(name) for name in _IMAGE_KEYS},
    )


def _from_top(structure: Structure) -> tuple[float, ...]:
    """Sort key: level, or place for discs without one, as [spineline.datasets.types][] requires."""
    if structure.level == NO_LEVEL:
        return structure.place
    return (LEVELS.index(structure.level) if structure.level in LEVELS else -1,)


def _structure(
    item: Mapping[str, Any], names: Mapping[int, str], size_wh: tuple[int, int] | None
) -> Structure:
    attributes = item.get("attributes") or {}
    level, pathology = _level_and_tags(item, attributes, names)
    box = _box(item, attributes, size_wh)
    if item.get("keypoints"):
        point = (float(item["keypoints"][0]), float(item["keypoints"][1]))
    else:
        point = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    return Structure(
        level=level,
        kind=kind_of_level(level) if level else "disc",
        point_xy=point,
        box_xyxy=box,
        pathology=pathology,
        findings=tuple(str(name) for name in attributes.get("findings", ())),
    )


def _level_and_tags(
    item: Mapping[str, Any], attributes: Mapping[str, Any], names: Mapping[int, str]
) -> tuple[str, tuple[str, ...]]:
    """Level and pathology; files of other tools have only a category, a level or a health."""
    tags = tuple(str(tag) for tag in attributes.get("pathology", ()))
    if "level" in attributes:
        return str(attributes["level"] or NO_LEVEL), tags
    name = names[int(item["category_id"])]
    if name in HEALTH_NAMES and not tags:
        return NO_LEVEL, (name,)
    return name, tags


def _box(
    item: Mapping[str, Any], attributes: Mapping[str, Any], size_wh: tuple[int, int] | None
) -> tuple[float, float, float, float]:
    whole = [float(v) for v in attributes["box_xyxy"]] if "box_xyxy" in attributes else None
    if size_wh is not None:
        left, top, width, height = (float(v) for v in item["bbox"])
        stated = [left, top, left + width, top + height]
        edited = whole is None or bool(
            np.abs(clip_xyxy([whole], *size_wh)[0] - stated).max() > _EDITED
        )
        whole = stated if edited else whole
    if whole is None or len(whole) != 4:
        raise ValueError("a structure has no box")
    return cast("tuple[float, float, float, float]", tuple(whole))


_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
