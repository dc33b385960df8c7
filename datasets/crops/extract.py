"""Cutting of crops, the classifier's input for each structure of an image.

A crop is the box of a structure, scaled by ``margin`` about its centre and stretched to a square
of ``size`` pixels. With ``align="spine"``, the window is rotated about its centre so that the spine
runs from top to bottom in it. Coordinates are those of the annotations: native pixels, origin at
the centre of the top left pixel. Outside the frame the nearest edge pixel is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import BoolArray, FloatArray, PixelArray
from spineline.datasets.crops.spec import CropSpec

JITTER_SHARE = 0.1
"""Shift of a jittered crop, as a fraction of the larger side of its box."""

JITTER_XY: dict[str, tuple[float, float]] = {
    "": (0.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0), "left": (-1.0, 0.0), "right": (1.0, 0.0),
}  # fmt: skip
"""Direction of each variant of a box; the first is the box itself."""

_MAX_OVERSAMPLING = 32


def extract_crops(
    image: PixelArray,
    points_xy: npt.ArrayLike,
    boxes_xyxy: npt.ArrayLike,
    spec: CropSpec,
    only: BoolArray | None = None,
) -> PixelArray:
    """Cut the crops of the structures of one image.

    Args:
        image: (H, W) uint8.
        points_xy: (N, 2) points from top to bottom; with ``align="spine"`` they give the local
            direction of the spine.
        boxes_xyxy: (N, 4) boxes in native pixels, which may lie partly or wholly outside the image.
        spec: size, margin and alignment.
        only: (N,) the structures to cut; None for all.

    Returns:
        (N, size, size) uint8, or as many as ``only`` selects. If a box is larger than the crop,
        pixels are averages over the area they cover.

    Raises:
        ValueError: the image is not a grey uint8 array, or boxes and points do not match.
    """
    points = np.asarray(points_xy, dtype=np.float64).reshape(-1, 2)
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    if len(points) != len(boxes):
        raise ValueError(f"{len(points)} points but {len(boxes)} boxes")
    rows = slice(None) if only is None else only
    return cut_windows(image, boxes[rows], window_directions(points, spec)[rows], spec)


def spine_directions(points_xy: npt.ArrayLike) -> FloatArray:
    """Return the local direction of the spine at each point, as downward unit vectors (x, y).

    At an inner point, the direction is from its upper to its lower neighbour. At an end, it is from
    or to its only neighbour. A single point, or neighbours that coincide, give (0, 1).

    Args:
        points_xy: (N, 2) points from top to bottom.

    Returns:
        (N, 2) float64.

    >>> spine_directions([[0, 0], [0, 10], [10, 10]]).round(3).tolist()
    [[0.0, 1.0], [0.707, 0.707], [1.0, 0.0]]
    """
    points = np.asarray(points_xy, dtype=np.float64).reshape(-1, 2)
    upper = np.concatenate([points[:1], points[:-1]])
    lower = np.concatenate([points[1:], points[-1:]])
    step = lower - upper
    length = np.linalg.norm(step, axis=1, keepdims=True)
    straight = np.broadcast_to(np.array([0.0, 1.0]), step.shape)
    return np.where(length > 0, step / np.where(length > 0, length, 1.0), straight)


def window_directions(points: FloatArray, spec: CropSpec) -> FloatArray:
    """Return (N, 2) unit vectors along the windows around (N, 2) points, top to bottom."""
    if spec.align == "spine":
        return spine_directions(points)
    return np.tile(np.array([0.0, 1.0]), (len(points), 1))


def jittered_box(box_xyxy: Sequence[float], variant: str) -> FloatArray:
    """Shift a box ``up``, ``down``, ``left`` or ``right`` by a tenth of its larger side.

    >>> jittered_box((0, 0, 20, 10), "right").tolist()
    [2.0, 0.0, 22.0, 10.0]
    """
    box = np.asarray(box_xyxy, dtype=np.float64)
    shift = JITTER_SHARE * float(np.max(box[2:] - box[:2]))
    return box + np.tile(np.array(JITTER_XY[variant]) * shift, 2)


def cut_windows(
    image: PixelArray, boxes_xyxy: FloatArray, directions: FloatArray, spec: CropSpec
) -> PixelArray:
    """Cut the crops of (N, 4) boxes whose windows are rotated to (N, 2) directions.

    Returns:
        (N, size, size) uint8.

    Raises:
        ValueError: the image is not a grey uint8 array, or a number is not finite.
    """
    if image.ndim != 2 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"wanted a grey (H, W) uint8 image, found {image.shape} {image.dtype}")
    if not np.isfinite(boxes_xyxy).all() or not np.isfinite(directions).all():
        raise ValueError("points and boxes must be finite numbers")
    crops = np.empty((len(boxes_xyxy), spec.size, spec.size), dtype=np.uint8)
    for crop, box, direction in zip(crops, boxes_xyxy, directions, strict=True):
        crop[:] = _cut_one(image, box, direction, spec)
    return crops


def _cut_one(
    image: PixelArray, box: FloatArray, direction: FloatArray, spec: CropSpec
) -> PixelArray:
    """One crop: a warp onto a grid finer by an integer factor, then the mean of each cell."""
    import cv2  # slow to import, and command settings import this module

    centre = (box[:2] + box[2:]) / 2
    width, height = np.maximum(box[2:] - box[:2], 1e-3) * spec.margin
    across = np.array([direction[1], -direction[0]])
    fine_x = int(np.clip(np.ceil(width / spec.size), 1, _MAX_OVERSAMPLING))
    fine_y = int(np.clip(np.ceil(height / spec.size), 1, _MAX_OVERSAMPLING))
    columns, rows = spec.size * fine_x, spec.size * fine_y
    step_x, step_y = across * (width / columns), direction * (height / rows)
    origin = centre - step_x * (columns - 1) / 2 - step_y * (rows - 1) / 2
    matrix = np.column_stack([step_x, step_y, origin])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fine = cv2.warpAffine(
        image, matrix, (columns, rows), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    if fine_x == fine_y == 1:
        return np.asarray(fine, dtype=np.uint8)
    small = cv2.resize(fine, (spec.size, spec.size), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)
