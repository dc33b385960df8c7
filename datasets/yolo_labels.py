"""YOLO label files: the rule for valid lines, for every command that reads them.

A line is ``class cx cy w h``: class index from 0, centre and size of the box divided by the image's
width and height. As in Ultralytics, a number may lie 0.01 outside 0 … 1. A box without width or
height, which Ultralytics drops in training, is refused as a mistake in the data.

Also as in Ultralytics, the lines of a file may be outlines instead (``class x y x y x y …``). Their
bounding boxes are used. Key points may follow a box if ``data.yaml`` has a ``kpt_shape``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.common.errors import AnnotationError, first_line

_BEYOND = 0.01


@dataclass(frozen=True, slots=True)
class YoloBoxes:
    """The boxes of one label file, line by line.

    Attributes:
        class_index: (N,) int64, from 0.
        boxes_cxcywhn: (N, 4) float64, normalised centre and size.
        points_xyn: (N, 2) float64, the only key point of a box that has one and labels it, else
            NaN.
    """

    class_index: npt.NDArray[np.int64]
    boxes_cxcywhn: FloatArray
    points_xyn: FloatArray

    def without_repeats(self) -> YoloBoxes:
        """Keep each box once, as Ultralytics does with repeated lines."""
        table = np.column_stack([self.class_index, self.boxes_cxcywhn])
        first = np.sort(np.unique(table, axis=0, return_index=True)[1])
        points = self.points_xyn[first]
        return YoloBoxes(self.class_index[first], self.boxes_cxcywhn[first], points)


def read_yolo_labels(
    path: Path, *, classes: int, keypoint_shape: tuple[int, int] = (0, 0)
) -> YoloBoxes:
    """Read one label file; see [parse_yolo_labels][].

    Raises:
        AnnotationError: the file is missing or not UTF-8, or a line is not a valid box.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: cannot be read ({first_line(error)})") from error
    return parse_yolo_labels(text, classes=classes, where=str(path), keypoint_shape=keypoint_shape)


def parse_yolo_labels(
    text: str,
    *,
    classes: int,
    where: str = "label file",
    keypoint_shape: tuple[int, int] = (0, 0),
) -> YoloBoxes:
    """Parse the boxes of a label file; blank lines are ignored.

    Args:
        text: lines of ``class cx cy w h``.
        classes: number of classes.
        where: source for messages.
        keypoint_shape: number of key points after a box, and the length of each (2, or 3 with the
            visibility); (0, 0) if ``data.yaml`` has no ``kpt_shape``.

    Raises:
        AnnotationError: a line is not a valid box; the message gives the line.

    >>> parse_yolo_labels("3 0.5 0.5 0.25 0.125", classes=11).boxes_cxcywhn.tolist()
    [[0.5, 0.5, 0.25, 0.125]]
    >>> parse_yolo_labels("0 0.25 0.5 0.75 0.5 0.5 1", classes=1).boxes_cxcywhn.tolist()
    [[0.5, 0.75, 0.5, 0.5]]
    """
    behind = keypoint_shape[0] * keypoint_shape[1]
    rows = [
        (number, [_number(word, line, f"{where}:{number}") for word in line.split()])
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]
    outlines = sum(len(row) > 6 and len(row) != 5 + behind for _, row in rows)
    if outlines and outlines < len(rows):
        msg = f"{where}: {outlines} of its {len(rows)} lines are outlines; wanted all, or none"
        raise AnnotationError(msg)
    boxes, points = [], []
    for number, row in rows:
        place = f"{where}:{number}"
        box = _box_of_outline(row, place) if outlines else row
        points.append(_point(box[5:], keypoint_shape) if len(box) == 5 + behind else [np.nan] * 2)
        box = box[:5] if len(box) == 5 + behind else box
        _check_box(box, classes, place)
        boxes.append(box)
    table = np.array(boxes, dtype=np.float64).reshape(-1, 5)
    points_xyn = np.array(points, dtype=np.float64).reshape(-1, 2)
    return YoloBoxes(table[:, 0].astype(np.int64), table[:, 1:], points_xyn)


def _number(word: str, line: str, where: str) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise AnnotationError(f"{where}: {line[:80]!r} is not made of numbers") from error


def _box_of_outline(row: list[float], where: str) -> list[float]:
    """Class, centre and size of the box around an outline."""
    x, y = np.array(row[1::2]), np.array(row[2::2])
    if len(x) != len(y):
        raise AnnotationError(f"{where}: {len(row)} values, wanted class and pairs of x and y")
    left, top, right, bottom = x.min(), y.min(), x.max(), y.max()
    centre = [(left + right) / 2, (top + bottom) / 2]
    return [row[0], *map(float, centre), float(right - left), float(bottom - top)]


def _point(values: list[float], shape: tuple[int, int]) -> list[float]:
    """The only key point of a box, or NaN."""
    unseen = shape[1] == 3 and shape[0] == 1 and not values[2]
    return values[:2] if shape[0] == 1 and not unseen else [np.nan, np.nan]


def _check_box(values: list[float], classes: int, where: str) -> None:
    if len(values) != 5:
        raise AnnotationError(f"{where}: {len(values)} values, wanted class cx cy w h")
    if not values[0].is_integer() or not 0 <= values[0] < classes:
        raise AnnotationError(f"{where}: class {values[0]:g}, allowed 0 … {classes - 1}")
    shown = " ".join(f"{value:g}" for value in values)
    if not all(-_BEYOND <= value <= 1 + _BEYOND for value in values[1:]):
        raise AnnotationError(f"{where}: {shown!r}: centre and size lie within 0 … 1")
    if min(values[3:]) <= 0:
        raise AnnotationError(f"{where}: {shown!r}: the box has no width or no height")
