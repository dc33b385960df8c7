"""Fit an image to a YOLO network, and map its boxes back to the image. No torch.

An image is scaled so that its longer side is ``imgsz`` and padded with grey 114 to the next
multiple of the stride (Ultralytics' letterbox, ``auto=True``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from spineline.detect.results import Detections

PADDING_VALUE = 114
STRIDE = 32


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How an image was fitted: ``fitted = native * scale + pad`` in x and in y.

    Attributes:
        scale_xy: ratio of fitted to native size.
        pad_xy: pixels of padding on the left and on top.
        size_hw: height and width of the padded image.
    """

    scale_xy: tuple[float, float]
    pad_xy: tuple[int, int]
    size_hw: tuple[int, int]


def letterbox(
    image: npt.NDArray[np.uint8], imgsz: int, stride: int = STRIDE
) -> tuple[npt.NDArray[np.uint8], Letterbox]:
    """Scale and pad an image as Ultralytics' predictor does.

    Args:
        image: uint8 (H, W).
        imgsz: longer side afterwards, in pixels.
        stride: the padded sides are multiples of it.

    Returns:
        uint8 (h, w), and how the image was fitted.
    """
    height, width = image.shape
    ratio = min(imgsz / height, imgsz / width)
    new_w, new_h = max(round(width * ratio), 1), max(round(height * ratio), 1)
    if (new_w, new_h) != (width, height):
        image = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    pad_w, pad_h = (imgsz - new_w) % stride / 2, (imgsz - new_h) % stride / 2
    left, top = round(pad_w - 0.1), round(pad_h - 0.1)
    right, bottom = round(pad_w + 0.1), round(pad_h + 0.1)
    if left or right or top or bottom:
        image = cv2.copyMakeBorder(
            image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=PADDING_VALUE
        )
    fitted = Letterbox((new_w / width, new_h / height), (left, top), image.shape[:2])
    return image, fitted


def native_detections(
    rows: npt.NDArray[np.float32], fit: Letterbox, shape: tuple[int, ...], names: tuple[str, ...]
) -> Detections:
    """Convert boxes of a fitted image to pixels of the original image, clipped to it.

    Args:
        rows: (N, 6) float32 ``x1 y1 x2 y2 confidence class``.
        fit: how the image was fitted.
        shape: (H, W) of the image.
        names: class names.
    """
    boxes = rows[:, :4].copy()
    boxes[:, 0::2] = ((boxes[:, 0::2] - fit.pad_xy[0]) / fit.scale_xy[0]).clip(0, shape[1])
    boxes[:, 1::2] = ((boxes[:, 1::2] - fit.pad_xy[1]) / fit.scale_xy[1]).clip(0, shape[0])
    return Detections(boxes, rows[:, 4].copy(), rows[:, 5].astype(np.int64), names)


def detect_letterboxed(
    images: Sequence[npt.NDArray[np.uint8]],
    network: Callable[[npt.NDArray[np.uint8]], Iterable[npt.NDArray[np.float32]]],
    names: tuple[str, ...],
    imgsz: int,
    stride: int = STRIDE,
) -> list[Detections]:
    """Detect on images of one size and return boxes in native pixels.

    Args:
        images: uint8 (H, W).
        network: fitted images, uint8 (N, h, w), to N arrays of rows as for [native_detections][].
        names: class names.
        imgsz: longer side of the fitted images, in pixels.
        stride: the sides of the fitted images are multiples of it.
    """
    fitted = [letterbox(image, imgsz, stride) for image in images]
    found = network(np.stack([pixels for pixels, _ in fitted]))
    return [
        native_detections(rows, fit, image.shape, names)
        for rows, (_, fit), image in zip(found, fitted, images, strict=True)
    ]
