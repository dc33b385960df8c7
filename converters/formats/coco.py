"""COCO on disk: ``annotations/PART.json``, the canonical form of a converted dataset.

A part that has images has a second file name, ``annotations/person_keypoints_PART.json``, under
which Datumaro and CVAT find boxes and points. They read only one kind of file and prefer
``instances_``, so no file of that name is written.

[spineline.datasets.coco][] defines the encoding, and [spineline.datasets.dataset][] reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from spineline.datasets.coco import coco_from_records, coco_text
from spineline.datasets.common.files import link_or_copy
from spineline.datasets.labels import LabelSet
from spineline.datasets.splits import PARTS, Part
from spineline.datasets.types import ImageRecord


def write_coco(root: Path, records: Mapping[Part, Sequence[ImageRecord]], labels: LabelSet) -> None:
    """Write one COCO file per part, including parts without images."""
    folder = root / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        names = [f"{record.image_id}.png" for record in records[part]]
        text = coco_text(coco_from_records(records[part], labels, names))
        path = folder / f"{part}.json"
        path.write_text(text, encoding="utf-8", newline="\n")
        if records[part]:
            second = folder / f"person_keypoints_{part}.json"
            second.unlink(missing_ok=True)
            link_or_copy(path, second)
