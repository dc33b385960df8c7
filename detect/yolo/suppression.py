"""Suppression of a YOLO network's raw output in numpy: per class, with several classes per box.

The result is that of [spineline.detect.yolo.backend.suppress_by_torch][] with torchvision. It
serves networks that run without torch.
"""

from __future__ import annotations

import numpy as np

from spineline.datasets.common.arrays import BoolArray, Float32Array

MAX_CANDIDATES = 30_000
"""Most boxes of an image that enter suppression; the most confident ones are kept."""

_ROWS = 64  # number of boxes compared with all later ones at once, which bounds the memory


def suppress(
    raw: Float32Array, *, confidence: float, iou: float, max_detections: int
) -> Float32Array:
    """Per-class, multi-label suppression of one image's raw output.

    Args:
        raw: (4 + classes, places) float32: centre and size in fitted pixels, then a score per
            class.
        confidence: scores must be greater.
        iou: of two boxes of one class that overlap by more, the less confident one is dropped.
        max_detections: most rows returned.

    Returns:
        (N, 6) float32 ``x1 y1 x2 y2 confidence class``, by falling confidence.
    """
    classes, places = np.nonzero(raw[4:] > np.float32(confidence))
    scores = raw[4 + classes, places]
    order = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    classes, places, scores = classes[order], places[order], scores[order]
    centre, half = raw[:2, places].T, raw[2:4, places].T / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    kept = np.zeros(len(boxes), dtype=bool)
    for number in np.unique(classes):
        (members,) = np.nonzero(classes == number)
        kept[members[keep_sorted(boxes[members], iou)]] = True
    rows = np.concatenate([boxes, scores[:, None], classes[:, None].astype(np.float32)], axis=1)
    return np.asarray(rows[kept][:max_detections], dtype=np.float32)


def keep_sorted(boxes: Float32Array, iou: float) -> BoolArray:
    """Return (N,) which boxes are kept; a kept box removes later ones that overlap it by more.

    >>> boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]], dtype=np.float32)
    >>> keep_sorted(boxes, 0.8).tolist(), keep_sorted(boxes, 0.95).tolist()
    ([True, False, True], [True, True, True])

    Args:
        boxes: (N, 4) ``xyxy``, by falling confidence.
        iou: a box with exactly this overlap is kept.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = np.ones(len(boxes), dtype=bool)
    for start in range(0, len(boxes), _ROWS):
        few, later = boxes[start : start + _ROWS, None], boxes[None, start:]
        size = np.minimum(few[..., 2:], later[..., 2:]) - np.maximum(few[..., :2], later[..., :2])
        shared = size.clip(min=0).prod(axis=2)
        union = area[start : start + _ROWS, None] + area[None, start:] - shared
        over = shared > np.float32(iou) * union  # without division, so empty boxes overlap nothing
        for row in range(len(few)):
            if left[start + row]:
                left[start + row + 1 :] &= ~over[row, row + 1 :]
    return left
