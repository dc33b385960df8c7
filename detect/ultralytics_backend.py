"""Detecting with the networks of ``ultralytics``, without its predictor around them.

An image is scaled so that its longer side is ``imgsz``, padded with grey 114 to the next multiple
of the stride (Ultralytics' letterbox, ``auto=True``), and divided by 255. Coordinates are
continuous, origin at the top left corner of the image as Ultralytics counts; labels and results
use them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from spineline.datasets.devices import device_name
from spineline.detect.batches import batches_by_shape, check_image
from spineline.detect.checkpoints import (
    DetectorMeta,
    network_from_pickle,
    network_from_safetensors,
)
from spineline.detect.results import Detections, no_detections

PADDING_VALUE = 114
MAX_CANDIDATES = 30_000
"""Boxes of one image that enter suppression; the most confident ones, where there are more."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How an image was fitted: ``fitted = native * scale + pad`` in x and in y.

    Attributes:
        scale_xy: fitted size by native size.
        pad_xy: pixels of padding on the left and on top.
        size_hw: height and width of the padded image.
    """

    scale_xy: tuple[float, float]
    pad_xy: tuple[int, int]
    size_hw: tuple[int, int]


def letterbox(
    image: npt.NDArray[np.uint8], imgsz: int, stride: int = 32
) -> tuple[npt.NDArray[np.uint8], Letterbox]:
    """Scale and pad an image as Ultralytics' predictor does.

    Args:
        image: uint8 (H, W).
        imgsz: longer side afterwards, in pixels.
        stride: the padded sides are multiples of it.

    Returns:
        uint8 (h, w) and how it was fitted.
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


def suppress(
    raw: torch.Tensor, *, confidence: float, iou: float, max_detections: int
) -> torch.Tensor:
    """Per-class, multi-label suppression of one image's raw output.

    Args:
        raw: (4 + classes, places) float32: centre and size in fitted pixels, then a score per
            class.
        confidence: scores must be greater.
        iou: of two boxes of one class that overlap by more than this, the less confident goes.
        max_detections: most rows returned.

    Returns:
        (N, 6) float32 ``x1 y1 x2 y2 confidence class``, by falling confidence.
    """
    from torchvision.ops import batched_nms

    classes, places = torch.where(raw[4:] > confidence)
    scores = raw[4 + classes, places]
    if len(scores) > MAX_CANDIDATES:
        scores, kept = scores.topk(MAX_CANDIDATES)
        classes, places = classes[kept], places[kept]
    centre, half = raw[:2, places].T, raw[2:4, places].T / 2
    boxes = torch.cat([centre - half, centre + half], dim=1)
    kept = batched_nms(boxes, scores, classes, iou)[:max_detections]
    rows = [boxes[kept], scores[kept, None], classes[kept, None].to(boxes.dtype)]
    return torch.cat(rows, dim=1)


class UltralyticsDetector:
    """A YOLOv3u, YOLOv5u or YOLOv8 network behind [spineline.detect.backend.Detector][].

    Attributes:
        network: the network, batch normalisation folded into its convolutions.
        meta: what its weights file says of it.
    """

    def __init__(self, network: nn.Module, meta: DetectorMeta, *, device: str = "cpu") -> None:
        fused: Any = network
        self.network = fused.float().fuse(verbose=False).eval()
        self.meta = meta
        self.device = torch.device(device_name(device))
        self.network.to(self.device)
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self.stride = max(int(self.network.stride.max()), 32)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names."""
        return self.meta.names

    @property
    def imgsz(self) -> int:
        """Longer side, in pixels, that images are scaled to."""
        return self.meta.imgsz

    def detect(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        *,
        confidence: float = 0.25,
        iou: float = 0.8,
        max_detections: int = 300,
        batch: int = 16,
    ) -> list[Detections]:
        """See [spineline.detect.backend.Detector.detect][]."""
        for image in images:
            check_image(image)
        found: list[Detections] = [no_detections(self.names)] * len(images)
        for indices in batches_by_shape(images, batch):
            fitted = [letterbox(images[i], self.imgsz, self.stride) for i in indices]
            raw = self.forward(np.stack([image for image, _ in fitted]))
            for row, index in enumerate(indices):
                kept = suppress(
                    raw[row], confidence=confidence, iou=iou, max_detections=max_detections
                )
                found[index] = self._native(kept, fitted[row][1], images[index].shape)
        return found

    def forward(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """The raw output of a batch: uint8 (N, h, w) to float32 (N, 4 + classes, places)."""
        with torch.inference_mode():
            pixels = torch.from_numpy(images).to(self.device)
            grey = pixels.unsqueeze(1).float().div_(255)
            output = self.network(grey.expand(-1, self.meta.channels, -1, -1))
        raw: torch.Tensor = output[0] if isinstance(output, (tuple, list)) else output
        return raw.float()

    def _native(self, kept: torch.Tensor, fit: Letterbox, shape: tuple[int, ...]) -> Detections:
        rows = kept.cpu().numpy()
        boxes = rows[:, :4].copy()
        boxes[:, 0::2] = ((boxes[:, 0::2] - fit.pad_xy[0]) / fit.scale_xy[0]).clip(0, shape[1])
        boxes[:, 1::2] = ((boxes[:, 1::2] - fit.pad_xy[1]) / fit.scale_xy[1]).clip(0, shape[0])
        return Detections(boxes, rows[:, 4].copy(), rows[:, 5].astype(np.int64), self.names)


def load(weights: Path, *, device: str = "cpu", trust: bool = False) -> UltralyticsDetector:
    """A detector from a weights file; see [spineline.detect.backend.load_detector][]."""
    if weights.suffix.lower() == ".safetensors":
        network, meta = network_from_safetensors(weights)
    else:
        network, meta = network_from_pickle(weights, trust=trust)
    return UltralyticsDetector(network, meta, device=device)
