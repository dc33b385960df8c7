"""Datasets of a few pixels, written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spineline.datasets.annotations import ImageRecord, Structure
from spineline.datasets.coco import coco_from_records, coco_text
from spineline.datasets.labels import LabelSet, kind_of_level
from spineline.datasets.splits import PARTS

WriteDataset = Callable[..., Path]


@pytest.fixture
def make_structure() -> Callable[..., Structure]:
    """A structure from its level, point, half box size and tags."""

    def make(
        level: str,
        point_xy: tuple[float, float],
        half_wh: tuple[float, float],
        pathology: Sequence[str] = (),
        findings: Sequence[str] = (),
    ) -> Structure:
        (x, y), (w, h) = point_xy, half_wh
        box = (x - w, y - h, x + w, y + h)
        tags = tuple(pathology)
        return Structure(level, kind_of_level(level), point_xy, box, tags, tuple(findings))

    return make


@pytest.fixture
def write_dataset(tmp_path: Path) -> WriteDataset:
    """Write a converted dataset: records and their pixels by part, COCO alone."""

    def write(
        parts: Mapping[str, Sequence[tuple[ImageRecord, NDArray[np.uint8]]]],
        labels: LabelSet = "level",
    ) -> Path:
        root = tmp_path / "dataset"
        for part in PARTS:
            items = parts.get(part, ())
            (root / "images" / part).mkdir(parents=True)
            for record, pixels in items:
                Image.fromarray(pixels).save(root / "images" / part / f"{record.image_id}.png")
            records = [record for record, _ in items]
            names = [f"{record.image_id}.png" for record in records]
            (root / "annotations").mkdir(exist_ok=True)
            text = coco_text(coco_from_records(records, labels, names))
            (root / "annotations" / f"{part}.json").write_text(text, encoding="utf-8")
        return root

    return write
