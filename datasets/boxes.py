"""Boxes: the rule that makes them from points, and conversions between the formats' encodings.

Arrays are float64. ``xyxy`` is absolute (left, top, right, bottom) in native pixels. ``cxcywhn`` is
centre and size divided by the image's width and height, as in YOLO. ``xywh`` is COCO's (left, top,
width, height).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import FloatArray

WIDTH_TO_HEIGHT = 1.4


def boxes_from_points(points_xy: npt.ArrayLike, ranks: Sequence[int] | None = None) -> FloatArray:
    """Make boxes around the points of one spine, by the report's rule.

    A box is centred on its point. Its height is twice the larger vertical gap to a neighbour (the
    end points have one neighbour), and its width is 1.4 times the height. Source: the report's
    section on regions; its own boxes follow the rule exactly.

    Args:
        points_xy: (N, 2) points sorted by y, native pixels.
        ranks: rank of each point's level from the top. A gap with missing levels is divided by the
            number of steps. Default: no level is missing.

    Returns:
        (N, 4) float64 ``xyxy``, unclipped.

    Raises:
        ValueError: there are fewer than two points, or they are not sorted by y.
    """
    points = np.asarray(points_xy, dtype=np.float64).reshape(-1, 2)
    if len(points) < 2:
        raise ValueError("the box rule needs at least two points")
    steps = np.ones(len(points) - 1) if ranks is None else np.abs(np.diff(np.asarray(ranks)))
    gaps = np.diff(points[:, 1])
    if (gaps < 0).any():
        raise ValueError("points must be sorted by y, top to bottom")
    gaps = gaps / np.maximum(steps, 1)
    height = 2 * np.maximum(np.append(gaps, 0.0), np.insert(gaps, 0, 0.0))
    half = np.stack([WIDTH_TO_HEIGHT * height / 2, height / 2], axis=1)
    return np.concatenate([points - half, points + half], axis=1)


def clip_xyxy(boxes_xyxy: npt.ArrayLike, width: int, height: int) -> FloatArray:
    """Clip (N, 4) boxes to the image, 0 … width and 0 … height."""
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    return np.clip(boxes, 0.0, np.array([width, height, width, height], dtype=np.float64))


def clip_box(
    box_xyxy: Sequence[float], width: int, height: int
) -> tuple[float, float, float, float]:
    """Clip one box to the image, as [clip_xyxy][] does.

    >>> clip_box((-1.5, 2.0, 9.0, 4.0), 8, 8)
    (0.0, 2.0, 8.0, 4.0)
    """
    left, top, right, bottom = box_xyxy
    wide, high = float(width), float(height)
    if 0.0 <= left <= right <= wide and 0.0 <= top <= bottom <= high:
        return left, top, right, bottom
    return (
        min(max(left, 0.0), wide),
        min(max(top, 0.0), high),
        min(max(right, 0.0), wide),
        min(max(bottom, 0.0), high),
    )


def xyxy_to_cxcywhn(boxes_xyxy: npt.ArrayLike, width: int, height: int) -> FloatArray:
    """Convert (N, 4) absolute boxes to YOLO's normalised centre and size."""
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    size = np.array([width, height], dtype=np.float64)
    return np.concatenate(
        [(boxes[:, :2] + boxes[:, 2:]) / 2 / size, (boxes[:, 2:] - boxes[:, :2]) / size], axis=1
    )


def cxcywhn_to_xyxy(boxes_cxcywhn: npt.ArrayLike, width: int, height: int) -> FloatArray:
    """Convert (N, 4) normalised YOLO boxes to absolute ``xyxy``."""
    boxes = np.asarray(boxes_cxcywhn, dtype=np.float64).reshape(-1, 4)
    size = np.array([width, height], dtype=np.float64)
    centre, half = boxes[:, :2] * size, boxes[:, 2:] * size / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def xyxy_to_xywh(boxes_xyxy: npt.ArrayLike) -> FloatArray:
    """Convert (N, 4) ``xyxy`` to COCO's left, top, width, height."""
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def xywh_to_xyxy(boxes_xywh: npt.ArrayLike) -> FloatArray:
    """Convert (N, 4) COCO boxes (left, top, width, height) to ``xyxy``."""
    boxes = np.asarray(boxes_xywh, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def iou_matrix(boxes_xyxy: npt.ArrayLike, others_xyxy: npt.ArrayLike) -> FloatArray:
    """Return (N, M) intersections over union of boxes and others; 0 if neither has an area.

    >>> iou_matrix([(0, 0, 10, 10)], [(0, 0, 10, 5), (20, 0, 30, 10)]).tolist()
    [[0.5, 0.0]]
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    others = np.asarray(others_xyxy, dtype=np.float64).reshape(-1, 4)
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    other_areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    union = areas[:, None] + other_areas[None, :] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def suppressed_boxes(
    boxes_xyxy: npt.ArrayLike, iou: float, class_index: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.bool_]:
    """Return (N,) whether a box overlaps a more confident kept box by more than ``iou``.

    Args:
        boxes_xyxy: (N, 4) by falling confidence.
        iou: greatest overlap of two boxes that are both kept.
        class_index: (N,) boxes of different classes do not suppress each other; None: all do.
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    gone = np.zeros(len(boxes), dtype=np.bool_)
    for place in range(len(boxes)):
        if gone[place]:
            continue
        rival = iou_matrix(boxes[place], boxes[place + 1 :])[0] > iou
        if class_index is not None:
            rival &= class_index[place + 1 :] == class_index[place]
        gone[place + 1 :] |= rival
    return gone


def iou_inclusive(
    boxes_xyxy: npt.ArrayLike, others_xyxy: npt.ArrayLike | None = None
) -> FloatArray:
    """Return (N, M) overlaps that count last pixels inclusively: a side is last - first + 1.

    This is the older cervical project's overlap. Without others, each box is compared with all.

    >>> float(iou_inclusive([(0, 0, 9, 9), (0, 0, 9, 4)])[0, 1])
    0.5
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    others = boxes if others_xyxy is None else np.asarray(others_xyxy, np.float64).reshape(-1, 4)
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.clip(high - low + 1, 0, None).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1)
    other_areas = (others[:, 2:] - others[:, :2] + 1).prod(axis=1)
    return np.asarray(common / (areas[:, None] + other_areas[None, :] - common), dtype=np.float64)
