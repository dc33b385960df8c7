"""YOLO as Ultralytics reads it: ``labels/PART/ID.txt`` and ``data.yaml``.

A line is ``class cx cy w h``: class index from 0, centre and size of the clipped box divided by the
image's width and height. Nine digits keep the rounding below a millionth of a pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from spineline.datasets.boxes import FloatArray, xyxy_to_cxcywhn
from spineline.datasets.coco import boxed_structures
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.common.yaml_files import YamlError, read_yaml
from spineline.datasets.labels import LABEL_SETS, LabelSet
from spineline.datasets.splits import PARTS, Part
from spineline.datasets.types import ImageRecord

_DATA_YAML = """\
# Ultralytics dataset file. The path is empty on purpose: Ultralytics then takes the folder that
# this file lies in, so that the dataset can be moved.
path: ''
train: images/train
val: images/val
test: images/test
names:
"""


@dataclass(frozen=True, slots=True)
class YoloBoxes:
    """The boxes of one label file.

    Attributes:
        class_index: (N,) int64, from 0.
        boxes_cxcywhn: (N, 4) float64, normalised centre and size.
    """

    class_index: npt.NDArray[np.int64]
    boxes_cxcywhn: FloatArray


@dataclass(frozen=True, slots=True)
class YoloData:
    """What a ``data.yaml`` says: class names by index, image folders by part."""

    root: Path
    names: tuple[str, ...]
    folders: dict[Part, Path]


def yolo_text(record: ImageRecord, labels: LabelSet) -> str:
    """The label file of a record; empty where it has no box."""
    boxed = boxed_structures(record, labels)
    boxes = xyxy_to_cxcywhn(boxed.boxes_xyxy, record.width, record.height)
    rows = np.column_stack([boxed.class_index, boxes])
    return ("%d %.9f %.9f %.9f %.9f\n" * len(rows)) % tuple(rows.ravel().tolist())


def parse_yolo(text: str, *, classes: int, where: str = "label file") -> YoloBoxes:
    """The boxes of a label file's text.

    Args:
        text: lines of ``class cx cy w h``.
        classes: number of classes there are.
        where: named in messages.

    Raises:
        AnnotationError: a line is no box; names the line.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            rows.append(_parse_line(line, classes, f"{where}:{number}"))
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    return YoloBoxes(table[:, 0].astype(np.int64), table[:, 1:])


def data_yaml_text(names: Sequence[str]) -> str:
    """The text of ``data.yaml``."""
    listed = yaml.safe_dump(dict(enumerate(names)), sort_keys=False, allow_unicode=True)
    return _DATA_YAML + "".join(f"  {line}\n" for line in listed.splitlines())


def parse_data_yaml(content: Any, root: Path) -> YoloData:
    """What the content of a ``data.yaml`` says; ``root`` is its folder.

    Raises:
        AnnotationError: no names or image folders, or not of the kind Ultralytics reads.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("names"), (Mapping, list)):
        raise AnnotationError(f"{root / 'data.yaml'}: wanted train, val and names")
    names = content["names"]
    listed = list(enumerate(names)) if isinstance(names, list) else list(names.items())
    if all(type(index) is int for index, _ in listed):
        listed.sort()
    if [index for index, _ in listed] != list(range(len(listed))):
        raise AnnotationError(f"{root / 'data.yaml'}: names are not numbered 0, 1, 2, …")
    base = root / str(content.get("path") or "")
    folders = {part: base / str(content[part]) for part in PARTS if content.get(part)}
    return YoloData(root, tuple(str(name) for _, name in listed), folders)


def read_data_yaml(path: Path) -> YoloData:
    """Read ``data.yaml``.

    Raises:
        AnnotationError: missing, not YAML, or not a dataset file.
    """
    try:
        content = read_yaml(path)
    except (OSError, YamlError) as error:
        raise AnnotationError(f"{path}: cannot be read as YAML ({error})") from error
    return parse_data_yaml(content, path.parent)


def read_yolo(path: Path, *, classes: int) -> YoloBoxes:
    """Read one label file.

    Raises:
        AnnotationError: missing, or a line is no box.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: cannot be read ({error})") from error
    return parse_yolo(text, classes=classes, where=str(path))


def write_yolo(root: Path, records: Mapping[Part, Sequence[ImageRecord]], labels: LabelSet) -> None:
    """Write label files and ``data.yaml`` into a dataset folder."""
    for part in PARTS:
        folder = root / "labels" / part
        folder.mkdir(parents=True, exist_ok=True)
        for record in records[part]:
            text = yolo_text(record, labels)
            (folder / f"{record.image_id}.txt").write_text(text, encoding="utf-8", newline="\n")
    text = data_yaml_text(LABEL_SETS[labels])
    (root / "data.yaml").write_text(text, encoding="utf-8", newline="\n")


def _parse_line(line: str, classes: int, where: str) -> list[float]:
    words = line.split()
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise AnnotationError(f"{where}: {line[:80]!r} is not made of numbers") from error
    if len(values) != 5:
        msg = f"{where}: {len(values)} values, wanted class cx cy w h"
        raise AnnotationError(msg)
    if not values[0].is_integer() or not 0 <= values[0] < classes:
        msg = f"{where}: class {words[0]}, allowed 0 … {classes - 1}"
        raise AnnotationError(msg)
    if not all(0.0 <= value <= 1.0 for value in values[1:]):
        raise AnnotationError(f"{where}: {line[:80]!r}: centre and size lie within 0 … 1")
    return values
