"""Mappings between pixels and the patient, and between stored and standard orientation.

Pixels are (x, y) = (column, row), origin at the centre of the top left pixel. Patient coordinates
are DICOM's LPS in mm. Source of the mapping: DICOM PS3.3, C.7.6.2.1.1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.images import MAX_PIXELS

Scalar = TypeVar("Scalar", bound=np.generic)

MOST_ASPECT = 4.0
"""Larger ratios of pixel height to width, or width to height, in a header are not believed."""

_SQUARE = 0.01  # largest relative difference of width and height of square pixels


def pixel_to_patient(header: SliceHeader, points_xy: npt.ArrayLike) -> FloatArray:
    """Map (N, 2) pixels of a slice to (N, 3) patient coordinates, LPS mm.

    Raises:
        DicomReadError: the slice has no usable spacing, orientation or position
            (see ``SliceHeader.has_geometry``).
    """
    origin, steps, _ = _frame(header)
    points = np.asarray(points_xy, dtype=np.float64).reshape(-1, 2)
    return origin + points @ steps


def patient_to_pixel(header: SliceHeader, points_mm: npt.ArrayLike) -> FloatArray:
    """Map (N, 3) patient coordinates, LPS mm, to (N, 3): x, y in pixels, signed distance in mm.

    The distance is along the slice's normal (row direction x column direction), 0 in the slice.

    Raises:
        DicomReadError: the slice has no usable spacing, orientation or position.
    """
    origin, steps, normal = _frame(header)
    offset = np.asarray(points_mm, dtype=np.float64).reshape(-1, 3) - origin
    # The two steps are orthogonal, so dividing by their squared lengths inverts them.
    pixels = offset @ (steps / (steps**2).sum(axis=1, keepdims=True)).T
    return np.concatenate([pixels, (offset @ normal)[:, None]], axis=1)


def _frame(header: SliceHeader) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Origin (3,), steps of one pixel in x and in y (2, 3), normal (3,); LPS mm."""
    if header.spacing_rc_mm is None or header.orientation is None or header.position is None:
        found = "; ".join(header.problems) or "spacing, orientation or position is absent"
        msg = f"{header.path.name}: pixels cannot be placed in the patient: {found}"
        raise DicomReadError(msg)
    directions = np.array(header.orientation, dtype=np.float64).reshape(2, 3)
    row_mm, column_mm = header.spacing_rc_mm
    steps = directions * np.array([[column_mm], [row_mm]])
    normal = np.cross(directions[0], directions[1]).astype(np.float64)
    return np.array(header.position, dtype=np.float64), steps, normal


@dataclass(frozen=True, slots=True)
class Reorientation:
    """Mapping from stored to displayed image: transpose, then mirror, then make pixels square.

    Pixels become square by enlarging the image along one axis. The outer edges of the image stay
    in place: x of the turned image becomes (x + 0.5) * scale - 0.5.

    Attributes:
        transpose: swap rows and columns.
        flip_x, flip_y: mirror left to right, top to bottom, after the transposition.
        size_hw: rows and columns of the turned image, before it is enlarged.
        scaled_hw: rows and columns of the enlarged image; None if it is not enlarged.
    """

    transpose: bool
    flip_x: bool
    flip_y: bool
    size_hw: tuple[int, int]
    scaled_hw: tuple[int, int] | None = None

    @property
    def is_turned(self) -> bool:
        """Whether the image is transposed or mirrored."""
        return self.transpose or self.flip_x or self.flip_y

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Enlargement of the displayed image relative to the stored one, in x and y."""
        (height, width), (high, wide) = self.size_hw, self.scaled_hw or self.size_hw
        return wide / width, high / height

    def apply(self, pixels: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Return the displayed image of a stored one, (rows, columns)."""
        shown: npt.NDArray[Any] = pixels.T if self.transpose else pixels
        shown = shown[:, ::-1] if self.flip_x else shown
        shown = np.ascontiguousarray(shown[::-1] if self.flip_y else shown)
        if self.scaled_hw is None:
            return shown
        import cv2  # slow to import, and seldom needed

        kept = shown.dtype in (np.uint8, np.uint16, np.float32, np.float64)  # else OpenCV refuses
        values = shown if kept else shown.astype(np.float64)
        scaled = cv2.resize(values, self.scaled_hw[::-1], interpolation=cv2.INTER_LINEAR)
        return scaled.astype(pixels.dtype, copy=False)

    def to_native(self, points_xy: npt.ArrayLike) -> FloatArray:
        """Map (N, 2) points of the displayed image to the stored one."""
        points = np.array(points_xy, dtype=np.float64).reshape(-1, 2)
        if self.scaled_hw is not None:
            points = (points + 0.5) / self.scale_xy - 0.5
        points = self._mirrored(points)
        return points[:, ::-1].copy() if self.transpose else points

    def from_native(self, points_xy: npt.ArrayLike) -> FloatArray:
        """Map (N, 2) points of the stored image to the displayed one."""
        points = np.array(points_xy, dtype=np.float64).reshape(-1, 2)
        points = self._mirrored(points[:, ::-1].copy() if self.transpose else points)
        return points if self.scaled_hw is None else (points + 0.5) * self.scale_xy - 0.5

    def boxes_to_native(self, boxes_xyxy: npt.ArrayLike) -> FloatArray:
        """Map (N, 4) ``xyxy`` boxes of the displayed image to the stored one."""
        corners = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 2)
        native = self.to_native(corners).reshape(-1, 2, 2)
        return np.concatenate([native.min(axis=1), native.max(axis=1)], axis=1)

    def _mirrored(self, points: FloatArray) -> FloatArray:
        height, width = self.size_hw
        if self.flip_x:
            points[:, 0] = width - 1 - points[:, 0]
        if self.flip_y:
            points[:, 1] = height - 1 - points[:, 1]
        return points


def standard_orientation(header: SliceHeader) -> Reorientation:
    """Return how to orient a sagittal slice: face to the left, head up, square pixels.

    Columns then run from front to back and rows from head to foot, as closely as right-angle turns
    and mirroring allow. A slice that has no orientation or is not sagittal is not turned. Pixels
    become square by the header's spacing, or without one by its PixelAspectRatio, unless the aspect
    is implausible (`MOST_ASPECT`).
    """
    turn = _standard_turn(header)
    return replace(turn, scaled_hw=_square_size(turn, header.spacing_rc_mm or header.aspect_rc))


def _square_size(
    turn: Reorientation, pixel_rc: tuple[float, float] | None
) -> tuple[int, int] | None:
    """Rows and columns that make pixels square, or None if they are square or cannot become so."""
    if pixel_rc is None:
        return None
    high, wide = pixel_rc[::-1] if turn.transpose else pixel_rc
    fine = min(high, wide)
    if not 1 + _SQUARE < max(high, wide) / fine <= MOST_ASPECT:
        return None
    rows, columns = turn.size_hw
    size = round(rows * high / fine), round(columns * wide / fine)
    return None if size[0] * size[1] > MAX_PIXELS else size


def _standard_turn(header: SliceHeader) -> Reorientation:
    unchanged = Reorientation(False, False, False, (header.rows, header.columns))
    if header.orientation is None or not header.is_sagittal:
        return unchanged
    along_row, along_column = (np.array(header.orientation[i : i + 3]) for i in (0, 3))
    transpose = abs(along_row[2]) > abs(along_row[1])
    x_axis, y_axis = (along_column, along_row) if transpose else (along_row, along_column)
    size = (header.columns, header.rows) if transpose else (header.rows, header.columns)
    return Reorientation(bool(transpose), bool(x_axis[1] < 0), bool(y_axis[2] > 0), size)


def to_standard_orientation(
    pixels: npt.NDArray[Scalar], header: SliceHeader
) -> tuple[npt.NDArray[Scalar], Reorientation]:
    """Return the image in standard orientation, and the mapping of its coordinates."""
    turn = standard_orientation(header)
    return turn.apply(pixels), turn
