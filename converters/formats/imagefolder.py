"""``images/PART/metadata.jsonl``: boxes in the format of Hugging Face's ``imagefolder``.

Each image has one line: ``file_name``, its study, and ``objects`` with lists of equal length. These
are ``bbox`` (left, top, width, height, clipped to the frame), ``categories`` (class index from 0),
``names``, ``levels``, ``points`` and ``pathology`` (``v2,v5``; empty if unlabelled). Coordinates
are those of the COCO files. ``load_dataset("imagefolder", data_dir="OUT/images")`` finds the parts
by their folders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spineline.datasets.boxes import xyxy_to_xywh
from spineline.datasets.coco import boxed_structures
from spineline.datasets.labels import LABEL_SETS, LabelSet
from spineline.datasets.splits import PARTS, Part
from spineline.datasets.types import ImageRecord


def imagefolder_row(record: ImageRecord, labels: LabelSet) -> dict[str, Any]:
    """Convert a record to a line of ``metadata.jsonl``."""
    boxed = boxed_structures(record, labels)
    classes = boxed.class_index.tolist()
    return {
        "file_name": f"{record.image_id}.png",
        "study_id": record.study_id,
        "objects": {
            "bbox": xyxy_to_xywh(boxed.boxes_xyxy).tolist(),
            "categories": classes,
            "names": [LABEL_SETS[labels][index] for index in classes],
            "levels": [s.level for s in boxed.structures],
            "points": [list(map(float, s.point_xy)) for s in boxed.structures],
            "pathology": [",".join(s.pathology) for s in boxed.structures],
        },
    }


def write_imagefolder(
    root: Path, records: Mapping[Part, Sequence[ImageRecord]], labels: LabelSet
) -> None:
    """Write ``metadata.jsonl`` beside the images of each part that has some."""
    for part in PARTS:
        rows = [json.dumps(imagefolder_row(r, labels), ensure_ascii=False) for r in records[part]]
        if rows:
            path = root / "images" / part / "metadata.jsonl"
            path.write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")
