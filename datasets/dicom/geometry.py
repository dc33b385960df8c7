"""Between pixels and the patient, and between the stored and the usual way round.

Pixels are (x, y) = (column, row), origin at the centre of the top left pixel. Patient coordinates
are DICOM's LPS in mm. Source of the mapping: DICOM PS3.3, C.7.6.2.1.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.dicom.header import SliceHeader

Scalar = TypeVar("Scalar", bound=np.generic)


def pixel_to_patient(header: SliceHeader, points_xy: npt.ArrayLike) -> FloatArray:
    """(N, 2) pixels of a slice as (N, 3) patient coordinates, LPS mm.

    Raises:
        DicomReadError: the slice has no usable spacing, orientation or position
            (see ``SliceHeader.has_geometry``).
    """
    origin, steps, _ = _frame(header)
    points = np.asarray(points_xy, dtype=np.float64).reshape(-1, 2)
    return origin + points @ steps


def patient_to_pixel(header: SliceHeader, points_mm: npt.ArrayLike) -> FloatArray:
    """(N, 3) patient coordinates, LPS mm, as (N, 3): x, y in pixels, signed distance in mm.

    The distance counts along the slice's normal (row direction x column direction); 0 lies in it.

    Raises:
        DicomReadError: the slice has no usable spacing, orientation or position.
    """
    origin, steps, normal = _frame(header)
    offset = np.asarray(points_mm, dtype=np.float64).reshape(-1, 3) - origin
    # The two steps are orthogonal, so a division by their squared lengths inverts them.
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
    """How a displayed image came from the stored one: first transposed, then mirrored.

    Attributes:
        transpose: rows and columns change places.
        flip_x, flip_y: left and right, top and bottom change places, after the transposition.
        size_hw: rows and columns of the displayed image.
    """

    transpose: bool
    flip_x: bool
    flip_y: bool
    size_hw: tuple[int, int]

    @property
    def is_identity(self) -> bool:
        """Whether the image stays as stored."""
        return not (self.transpose or self.flip_x or self.flip_y)

    def apply(self, pixels: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """The displayed image of a stored one, (rows, columns)."""
        shown: npt.NDArray[Any] = pixels.T if self.transpose else pixels
        shown = shown[:, ::-1] if self.flip_x else shown
        shown = shown[::-1] if self.flip_y else shown
        return np.ascontiguousarray(shown)

    def to_native(self, points_xy: npt.ArrayLike) -> FloatArray:
        """(N, 2) points of the displayed image as points of the stored one."""
        points = self._mirrored(np.array(points_xy, dtype=np.float64).reshape(-1, 2))
        return points[:, ::-1].copy() if self.transpose else points

    def from_native(self, points_xy: npt.ArrayLike) -> FloatArray:
        """(N, 2) points of the stored image as points of the displayed one."""
        points = np.array(points_xy, dtype=np.float64).reshape(-1, 2)
        return self._mirrored(points[:, ::-1].copy() if self.transpose else points)

    def boxes_to_native(self, boxes_xyxy: npt.ArrayLike) -> FloatArray:
        """(N, 4) ``xyxy`` boxes of the displayed image as boxes of the stored one."""
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
    """What turns a sagittal slice the usual way round: face to the left, head up.

    Columns then run from front to back and rows from head to foot, as far as turns by right angles
    and mirroring go. A slice without orientation, or not sagittal, is left as it is.
    """
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
    """The image the usual way round, and the mapping of its coordinates back to stored pixels."""
    turn = standard_orientation(header)
    return turn.apply(pixels), turn
