"""YOLO as Ultralytics reads it: ``labels/PART/ID.txt`` and ``data.yaml``; optionally with points.

Nine digits of a box's centre and size keep the rounding error below a millionth of a pixel.
[spineline.datasets.yolo_labels][] reads label files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from spineline.datasets.boxes import xyxy_to_cxcywhn
from spineline.datasets.coco import boxed_structures
from spineline.datasets.labels import LABEL_SETS, LabelSet
from spineline.datasets.splits import PARTS, Part
from spineline.datasets.types import ImageRecord

_HEAD = """\
# Ultralytics dataset file. The path is empty on purpose: Ultralytics then takes the folder that
# this file lies in, so that the dataset can be moved.
path: ''
"""

LABELSTUDIO_FOLDER = "labelstudio"
POSE_FOLDER = "pose"
"""Folder of ``to=pose``: a dataset of its own, whose labels have a key point after each box."""


def yolo_text(record: ImageRecord, labels: LabelSet) -> str:
    """Format the label file of a record with clipped boxes; empty if it has no box."""
    boxed = boxed_structures(record, labels)
    boxes = xyxy_to_cxcywhn(boxed.boxes_xyxy, record.width, record.height)
    rows = np.column_stack([boxed.class_index, boxes])
    return ("%d %.9f %.9f %.9f %.9f\n" * len(rows)) % tuple(rows.ravel().tolist())


def pose_text(record: ImageRecord, labels: LabelSet) -> str:
    """Format the label file of a record for ``yolo pose``, with a point after each box."""
    boxed = boxed_structures(record, labels)
    size_wh = np.array([record.width, record.height])
    points = np.array([s.point_xy for s in boxed.structures]).reshape(-1, 2) / size_wh
    lines = yolo_text(record, labels).splitlines()
    return "".join(
        f"{line} {x:.9f} {y:.9f} 2\n"
        for line, (x, y) in zip(lines, points.clip(0, 1).tolist(), strict=True)
    )


def data_yaml_text(
    names: Sequence[str], parts: Sequence[Part] = PARTS, *, pose: bool = False
) -> str:
    """Format ``data.yaml``.

    Args:
        names: class names, by class index.
        parts: parts that have images. Ultralytics requires ``train`` and ``val`` and fails on a
            ``test`` without images, so an empty ``test`` is left out.
        pose: whether labels have one key point after each box.
    """
    keys = "".join(f"{part}: images/{part}\n" for part in PARTS if part in parts or part != "test")
    shape = "kpt_shape: [1, 3]\nflip_idx: [0]\n" if pose else ""
    listed = yaml.safe_dump(dict(enumerate(names)), sort_keys=False, allow_unicode=True)
    return _HEAD + keys + shape + "names:\n" + "".join(f"  {x}\n" for x in listed.splitlines())


def write_yolo(root: Path, records: Mapping[Part, Sequence[ImageRecord]], labels: LabelSet) -> None:
    """Write label files, ``data.yaml`` and ``classes.txt`` (class names) into a dataset folder."""
    _write(root, records, labels, yolo_text)
    _write_text(root / "classes.txt", _classes_text(labels))


def write_labelstudio(
    root: Path, records: Mapping[Part, Sequence[ImageRecord]], labels: LabelSet
) -> None:
    """Write ``labelstudio``: all parts in one folder, as Label Studio's YOLO import requires.

    The import lists ``images`` without subfolders.
    """
    folder = root / LABELSTUDIO_FOLDER
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    _write_text(folder / "classes.txt", _classes_text(labels))
    for part in PARTS:
        for record in records[part]:
            _write_text(folder / "labels" / f"{record.image_id}.txt", yolo_text(record, labels))


def write_pose(root: Path, records: Mapping[Part, Sequence[ImageRecord]], labels: LabelSet) -> None:
    """Write the labels of a dataset for ``yolo pose`` into the folder ``pose``."""
    _write(root / POSE_FOLDER, records, labels, pose_text)


def _write(
    root: Path,
    records: Mapping[Part, Sequence[ImageRecord]],
    labels: LabelSet,
    text_of: Callable[[ImageRecord, LabelSet], str],
) -> None:
    for part in PARTS:
        folder = root / "labels" / part
        folder.mkdir(parents=True, exist_ok=True)
        for record in records[part]:
            _write_text(folder / f"{record.image_id}.txt", text_of(record, labels))
    filled = [part for part in PARTS if records[part]]
    text = data_yaml_text(LABEL_SETS[labels], filled, pose=text_of is pose_text)
    _write_text(root / "data.yaml", text)


def _classes_text(labels: LabelSet) -> str:
    return "".join(f"{name}\n" for name in LABEL_SETS[labels])


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
