"""Detecting with the networks of ``ultralytics``, without its predictor around them.

An image is scaled so that its longer side is ``imgsz``, padded with grey 114 to the next multiple
of the stride (Ultralytics' letterbox, ``auto=True``), and divided by 255. Coordinates are
continuous, origin at the top left corner of the image as Ultralytics counts; labels and results
use them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from spineline.datasets.devices import device_name
from spineline.detect import suppression
from spineline.detect.batches import batches_by_shape, check_image
from spineline.detect.checkpoints import (
    DetectorMeta,
    network_from_pickle,
    network_from_safetensors,
)
from spineline.detect.letterbox import letterbox, native_detections
from spineline.detect.results import Detections, no_detections
from spineline.detect.suppression import MAX_CANDIDATES


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
                rows = self._suppressed(raw[row], confidence, iou, max_detections)
                shape = images[index].shape
                found[index] = native_detections(rows, fitted[row][1], shape, self.names)
        return found

    def _suppressed(
        self, raw: torch.Tensor, confidence: float, iou: float, max_detections: int
    ) -> npt.NDArray[np.float32]:
        """On the CPU without torchvision, whose import takes longer than that of torch itself."""
        if raw.device.type == "cpu":
            return suppression.suppress(
                raw.numpy(), confidence=confidence, iou=iou, max_detections=max_detections
            )
        kept = suppress(raw, confidence=confidence, iou=iou, max_detections=max_detections)
        return kept.cpu().numpy()

    def forward(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """The raw output of a batch: uint8 (N, h, w) to float32 (N, 4 + classes, places)."""
        with torch.inference_mode():
            pixels = torch.from_numpy(images).to(self.device)
            grey = pixels.unsqueeze(1).float().div_(255)
            output = self.network(grey.expand(-1, self.meta.channels, -1, -1))
        raw: torch.Tensor = output[0] if isinstance(output, (tuple, list)) else output
        return raw.float()


def load(weights: Path, *, device: str = "cpu", trust: bool = False) -> UltralyticsDetector:
    """A detector from a weights file; see [spineline.detect.backend.load_detector][]."""
    if weights.suffix.lower() == ".safetensors":
        network, meta = network_from_safetensors(weights)
    else:
        network, meta = network_from_pickle(weights, trust=trust)
    return UltralyticsDetector(network, meta, device=device)
