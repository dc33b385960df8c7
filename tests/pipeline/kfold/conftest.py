"""Small datasets to cross-validate on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spineline.converters.formats.coco import write_coco
from spineline.converters.formats.yolo import write_yolo
from spineline.datasets.boxes import boxes_from_points
from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.datasets.splits import records_by_part
from spineline.datasets.types import ImageRecord, Structure

POINTS = np.stack([np.full(11, 30.0), 7.0 + 5.0 * np.arange(11)], axis=1)


@pytest.fixture(scope="session")
def make_record() -> Callable[..., ImageRecord]:
    """Build the record of an image of 64 x 64 pixels; ``tags_of`` a rank are its codes."""

    def make(
        study: str, tags_of: Callable[[int], tuple[str, ...]], image: str = "", **options: Any
    ) -> ImageRecord:
        structures = tuple(
            Structure(level, kind_of_level(level), tuple(point), tuple(box), tags_of(rank))  # type: ignore[arg-type]
            for rank, (level, point, box) in enumerate(
                zip(LEVELS, POINTS.tolist(), boxes_from_points(POINTS).tolist(), strict=True)
            )
        )
        return ImageRecord(image or f"{study}-000", study, 64, 64, structures, **options)

    return make


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., Path]:
    """Write records and the pixels of each, by the part that its study is in."""

    def write(
        root: Path,
        records: Sequence[ImageRecord],
        parts: Mapping[str, str],
        labels: Any = "level",
        pixels: Callable[[ImageRecord], np.ndarray] | None = None,
    ) -> Path:
        by_part = records_by_part(records, parts)  # type: ignore[arg-type]
        for part, held in by_part.items():
            (root / "images" / part).mkdir(parents=True)
            for record in held:
                rng = np.random.default_rng(int(record.image_id[:3]))
                image = pixels(record) if pixels else rng.integers(0, 255, (64, 64), dtype=np.uint8)
                Image.fromarray(image).save(root / "images" / part / f"{record.image_id}.png")
        write_yolo(root, by_part, labels)
        write_coco(root, by_part, labels)
        return root

    return write


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn of the folds, which takes longer than all else of a small run."""
    monkeypatch.setattr("spineline.pipeline.kfold.report.rows_png", lambda *_: b"no picture")
