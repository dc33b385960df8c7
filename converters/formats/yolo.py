"""YOLO as Ultralytics reads it: ``labels/PART/ID.txt`` and ``data.yaml``.

Nine digits of a box's centre and size keep the rounding below a millionth of a pixel. Label files
are read by [spineline.datasets.yolo_labels][].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from spineline.datasets.boxes import xyxy_to_cxcywhn
from spineline.datasets.coco import boxed_structures
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


def yolo_text(record: ImageRecord, labels: LabelSet) -> str:
    """The label file of a record, with clipped boxes; empty where it has no box."""
    boxed = boxed_structures(record, labels)
    boxes = xyxy_to_cxcywhn(boxed.boxes_xyxy, record.width, record.height)
    rows = np.column_stack([boxed.class_index, boxes])
    return ("%d %.9f %.9f %.9f %.9f\n" * len(rows)) % tuple(rows.ravel().tolist())


def data_yaml_text(names: Sequence[str]) -> str:
    """The text of ``data.yaml``."""
    listed = yaml.safe_dump(dict(enumerate(names)), sort_keys=False, allow_unicode=True)
    return _DATA_YAML + "".join(f"  {line}\n" for line in listed.splitlines())


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
