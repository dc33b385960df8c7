"""The older cervical project's prepared markup, as JSON.

``[{"img_path": …, "annotation": [{"label": 1 | 2, "bbox": [left, top, right, bottom]}]}]``. Label 0
is the background, so classes count from 1: with ``labels=health``, 1 is healthy and 2 is sick. The
coordinates of a box are those of the record. Files are in ``fasterrcnn``: ``markup.json`` with all
images, and ``train.json``, ``val.json``, ``test.json``. ``img_path`` is relative to the dataset's
folder. An earlier form, whose labels are true (sick) and false, can be read too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from spineline.converters.sources.source import LARGEST_COORDINATE, EntryError, PixelBox
from spineline.datasets.coco import boxed_structures
from spineline.datasets.labels import HEALTH_TAGS, LabelSet
from spineline.datasets.splits import PARTS, Part
from spineline.datasets.types import ImageRecord

PREPARED_FOLDER = "fasterrcnn"
LABEL_OFFSET = 1


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """One entry of the markup: the image's path, its boxes and their tags."""

    img_path: str
    boxes_xyxy: tuple[PixelBox, ...]
    tags: tuple[str, ...]


def prepared_entry(record: ImageRecord, labels: LabelSet, img_path: str) -> dict[str, Any]:
    """Convert a record to an entry of the markup: boxes clipped to the frame, classes from 1."""
    boxed = boxed_structures(record, labels)
    classes, boxes = boxed.class_index.tolist(), boxed.boxes_xyxy.tolist()
    return {
        "img_path": img_path,
        "annotation": [
            {
                "label": index + LABEL_OFFSET,
                "bbox": [int(v) if v.is_integer() else v for v in box],
            }
            for index, box in zip(classes, boxes, strict=True)
        ],
    }


def parse_prepared(entry: Any, where: str) -> PreparedImage:
    """Parse an entry of the markup.

    Raises:
        EntryError: the entry, a label or a box is not valid.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("img_path"), str):
        raise EntryError("bad_entry", f"{where}: wanted an object with img_path and annotation")
    listed = entry.get("annotation")
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise EntryError("bad_entry", f"{where}: annotation is not a list of objects")
    tags = [_tag(item.get("label"), f"{where}, box {n}") for n, item in enumerate(listed)]
    boxes = [_box(item.get("bbox"), f"{where}, box {n}") for n, item in enumerate(listed)]
    return PreparedImage(entry["img_path"], tuple(boxes), tuple(tags))


def prepared_path(entry: Any) -> PurePosixPath:
    """Return the image's path in an entry, with slashes; empty without one."""
    if isinstance(entry, dict) and isinstance(entry.get("img_path"), str):
        return PurePosixPath(entry["img_path"].replace("\\", "/"))
    return PurePosixPath()


def write_prepared(
    root: Path, records: Mapping[Part, Sequence[ImageRecord]], labels: LabelSet
) -> None:
    """Write the markup of a dataset, for all images and for each part."""
    folder = root / PREPARED_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    everything: list[dict[str, Any]] = []
    for part in PARTS:
        entries = [
            prepared_entry(record, labels, f"images/{part}/{record.image_id}.png")
            for record in records[part]
        ]
        everything += entries
        _write(folder / f"{part}.json", entries)
    _write(folder / "markup.json", everything)


def _write(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    text = f"[\n{lines}\n]\n" if lines else "[]\n"
    path.write_text(text, encoding="utf-8", newline="\n")


def _tag(label: Any, where: str) -> str:
    if isinstance(label, bool):
        return HEALTH_TAGS[int(label)]
    if isinstance(label, int) and label - LABEL_OFFSET in range(len(HEALTH_TAGS)):
        return HEALTH_TAGS[label - LABEL_OFFSET]
    allowed = ", ".join(f"{n} ({tag})" for n, tag in enumerate(HEALTH_TAGS, LABEL_OFFSET))
    raise EntryError("unknown_label", f"{where}: label is {str(label)[:40]!r}, allowed {allowed}")


def _box(values: Any, where: str) -> PixelBox:
    numbers = isinstance(values, list) and len(values) == 4
    if not numbers or not all(type(v) in (int, float) for v in values):
        raise EntryError("not_a_number", f"{where}: bbox is not a list of four numbers")
    if not all(abs(v) <= LARGEST_COORDINATE for v in values):
        raise EntryError("not_a_number", f"{where}: bbox is absurdly large, wanted pixels")
    left, top, right, bottom = (float(value) for value in values)
    if right < left or bottom < top:
        detail = f"{where}: bbox {values} is turned inside out, wanted left, top, right, bottom"
        raise EntryError("bad_entry", detail)
    return left, top, right, bottom
