"""COCO on disk: ``annotations/PART.json``, the canonical form of a converted dataset.

The encoding itself is in [spineline.datasets.coco][].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from spineline.datasets.coco import coco_from_records, coco_text, records_from_coco
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.dataset import read_coco_file
from spineline.datasets.labels import LabelSet
from spineline.datasets.splits import PARTS, Part
from spineline.datasets.types import ImageRecord


def read_coco(path: Path) -> tuple[ImageRecord, ...]:
    """The records of one COCO file; ``file`` is the image's name as the file gives it.

    Raises:
        AnnotationError: missing, not JSON, or not COCO.
    """
    try:
        return records_from_coco(read_coco_file(path))
    except AnnotationError as error:
        text = str(error)
        raise AnnotationError(text if str(path) in text else f"{path}: {text}") from error


def write_coco(root: Path, records: Mapping[Part, Sequence[ImageRecord]], labels: LabelSet) -> None:
    """Write one COCO file per part, also for parts without images."""
    folder = root / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        names = [f"{record.image_id}.png" for record in records[part]]
        text = coco_text(coco_from_records(records[part], labels, names))
        (folder / f"{part}.json").write_text(text, encoding="utf-8", newline="\n")
