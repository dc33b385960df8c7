"""Detection with the networks of ``ultralytics``, without the package's predictor.

An image is scaled so that its longer side is ``imgsz``, padded with grey 114 to the next multiple
of the stride (Ultralytics' letterbox, ``auto=True``), and divided by 255. Coordinates are
continuous, with the origin at the top left corner of the image as in Ultralytics. Labels and
results both use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from spineline.datasets.common.devices import device_name
from spineline.detect.batches import BatchedDetector, DetectionLimits
from spineline.detect.checkpoints import (
    DetectorMeta,
    network_from_pickle,
    network_from_safetensors,
)
from spineline.detect.results import Detections
from spineline.detect.yolo import suppression
from spineline.detect.yolo.letterbox import detect_letterboxed
from spineline.detect.yolo.suppression import MAX_CANDIDATES


def suppress_by_torch(
    raw: torch.Tensor, *, confidence: float, iou: float, max_detections: int
) -> torch.Tensor:
    """Run [spineline.detect.yolo.suppression.suppress][] with torchvision, on any device."""
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


class UltralyticsDetector(BatchedDetector):
    """A YOLOv3u, YOLOv5u or YOLOv8 network as a [spineline.detect.backend.Detector][].

    Attributes:
        network: the network, with batch normalisation folded into its convolutions.
        meta: description in its weights file.
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
        """Length in pixels to which an image's longer side is scaled."""
        return self.meta.imgsz

    def detect_alike(
        self, images: Sequence[npt.NDArray[np.uint8]], limits: DetectionLimits
    ) -> list[Detections]:
        """See [spineline.detect.batches.BatchedDetector.detect_alike][]."""

        def rows(fitted: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
            return [_suppressed(raw, limits) for raw in self.forward(fitted)]

        return detect_letterboxed(images, rows, self.names, self.imgsz, self.stride)

    def forward(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Return the raw output of a batch: uint8 (N, h, w) to float32 (N, 4 + classes, places)."""
        with torch.inference_mode():
            pixels = torch.from_numpy(images).to(self.device)
            grey = pixels.unsqueeze(1).float().div_(255)
            output = self.network(grey.expand(-1, self.meta.channels, -1, -1))
        raw: torch.Tensor = output[0] if isinstance(output, (tuple, list)) else output
        return raw.float()


def _suppressed(raw: torch.Tensor, limits: DetectionLimits) -> npt.NDArray[np.float32]:
    """Suppress without torchvision on the CPU, because it takes longer to import than torch."""
    if raw.device.type == "cpu":
        return suppression.suppress(raw.numpy(), **asdict(limits))
    return suppress_by_torch(raw, **asdict(limits)).cpu().numpy()


def load(weights: Path, *, device: str = "cpu", trust: bool = False) -> UltralyticsDetector:
    """Load a detector from a weights file; see [spineline.detect.backend.load_detector][]."""
    if weights.suffix.lower() == ".safetensors":
        network, meta = network_from_safetensors(weights)
    else:
        network, meta = network_from_pickle(weights, trust=trust)
    return UltralyticsDetector(network, meta, device=device)
