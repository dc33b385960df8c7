"""COCO on disk: ``annotations/PART.json``, the canonical form of a converted dataset.

The encoding itself is in [spineline.datasets.coco][]; [spineline.datasets.dataset][] reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from spineline.datasets.coco import coco_from_records, coco_text
from spineline.datasets.labels import LabelSet
from spineline.datasets.splits import PARTS, Part
from spineline.datasets.types import ImageRecord


def write_coco(root: Path, records: Mapping[Part, Sequence[ImageRecord]], labels: LabelSet) -> None:
    """Write one COCO file per part, also for parts without images."""
    folder = root / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        names = [f"{record.image_id}.png" for record in records[part]]
        text = coco_text(coco_from_records(records[part], labels, names))
        (folder / f"{part}.json").write_text(text, encoding="utf-8", newline="\n")
