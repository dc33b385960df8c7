"""Reading of predictions: ``predictions.json`` of ``detect predict``, and ``result.json``.

Coordinates are those of [spineline.datasets.types][].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spineline.datasets.common.errors import AnnotationError, first_line
from spineline.datasets.common.files import read_json

RESULT_SCHEMA = "spineline-result/3"
"""Name of the layout of ``result.json`` of ``pipeline predict``."""

RESULT_SCHEMAS = (RESULT_SCHEMA, "spineline-result/2", "spineline-result/1")
"""Layouts that can be read; the second has no status, and the first has warnings as text."""


@dataclass(frozen=True, slots=True)
class ResultImage:
    """The image that a ``result.json`` describes.

    Attributes:
        study_uid, series_uid, instance_uid: identity of the image; None for plain images.
        width, height: size of the image in pixels.
        spacing_rc_mm: pixel spacing (between rows, between columns), or None.
        file: file name of a volume, or of the image in a stack; else None.
        slice_index: index of the slice in that volume or stack, from 0; else None.
    """

    study_uid: str | None
    series_uid: str | None
    instance_uid: str | None
    width: int
    height: int
    spacing_rc_mm: tuple[float, float] | None
    file: str | None = field(default=None, kw_only=True)
    slice_index: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class PredictedBox:
    """One box: class name, confidence, and coordinates in native pixels."""

    name: str
    confidence: float
    box_xyxy: tuple[float, float, float, float]


def read_predictions(path: Path) -> dict[str, tuple[PredictedBox, ...]]:
    """Read the boxes of each image, by file name; images without boxes have an empty tuple.

    Raises:
        AnnotationError: the file cannot be read, or is not a file of predictions.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise AnnotationError(
            f"predictions={path}: cannot be read as JSON ({first_line(error)})"
        ) from error
    try:
        return parse_predictions(content)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        msg = f"predictions={path}: not the predictions.json of detect predict ({error!r:.300})"
        raise AnnotationError(msg) from error


def parse_predictions(content: Mapping[str, Any]) -> dict[str, tuple[PredictedBox, ...]]:
    """Parse the content of the file into the boxes of each image.

    Raises:
        KeyError, TypeError, ValueError: the content is of another kind.
    """
    names = {int(image["id"]): str(image["file_name"]) for image in content["images"]}
    found: dict[str, list[PredictedBox]] = {name: [] for name in names.values()}
    for row in content["predictions"]:
        left, top, width, height = (float(value) for value in row["bbox"])
        score = float(row["score"])
        if not all(math.isfinite(v) for v in (left, top, width, height, score)):
            raise ValueError("a box is not made of finite numbers")
        box = (left, top, left + width, top + height)
        found[names[int(row["image_id"])]].append(PredictedBox(str(row["category"]), score, box))
    return {name: tuple(boxes) for name, boxes in found.items()}
