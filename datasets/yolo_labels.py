"""YOLO label files: the one rule of what a line may say, for every command that reads them.

A line is ``class cx cy w h``: class index from 0, centre and size of the box divided by the image's
width and height. As in Ultralytics, a number may lie 0.01 beyond 0 … 1. A box without width or
height, which Ultralytics drops while it trains, is refused: it is a mistake in the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.common.errors import AnnotationError

_BEYOND = 0.01


@dataclass(frozen=True, slots=True)
class YoloBoxes:
    """The boxes of one label file, line by line.

    Attributes:
        class_index: (N,) int64, from 0.
        boxes_cxcywhn: (N, 4) float64, normalised centre and size.
    """

    class_index: npt.NDArray[np.int64]
    boxes_cxcywhn: FloatArray

    def without_repeats(self) -> YoloBoxes:
        """Each box once, as Ultralytics counts lines that repeat another."""
        table = np.column_stack([self.class_index, self.boxes_cxcywhn])
        first = np.sort(np.unique(table, axis=0, return_index=True)[1])
        return YoloBoxes(self.class_index[first], self.boxes_cxcywhn[first])


def read_yolo_labels(path: Path, *, classes: int) -> YoloBoxes:
    """Read one label file.

    Raises:
        AnnotationError: missing, not UTF-8, or a line is no box.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: cannot be read ({error})") from error
    return parse_yolo_labels(text, classes=classes, where=str(path))


def parse_yolo_labels(text: str, *, classes: int, where: str = "label file") -> YoloBoxes:
    """The boxes of a label file's text; blank lines say nothing.

    Args:
        text: lines of ``class cx cy w h``.
        classes: number of classes there are.
        where: named in messages.

    Raises:
        AnnotationError: a line is no box; names the line.

    >>> parse_yolo_labels("3 0.5 0.5 0.25 0.125", classes=11).boxes_cxcywhn.tolist()
    [[0.5, 0.5, 0.25, 0.125]]
    """
    rows = [
        _parse_line(line, classes, f"{where}:{number}")
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    return YoloBoxes(table[:, 0].astype(np.int64), table[:, 1:])


def _parse_line(line: str, classes: int, where: str) -> list[float]:
    words = line.split()
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise AnnotationError(f"{where}: {line[:80]!r} is not made of numbers") from error
    if len(values) != 5:
        raise AnnotationError(f"{where}: {len(values)} values, wanted class cx cy w h")
    if not values[0].is_integer() or not 0 <= values[0] < classes:
        raise AnnotationError(f"{where}: class {words[0]}, allowed 0 … {classes - 1}")
    if not all(-_BEYOND <= value <= 1 + _BEYOND for value in values[1:]):
        raise AnnotationError(f"{where}: {line[:80]!r}: centre and size lie within 0 … 1")
    if min(values[3:]) <= 0:
        raise AnnotationError(f"{where}: {line[:80]!r}: the box has no width or no height")
    return values
