"""Shared code of our own loop's networks: images are scaled without padding, weights are packed.

Such a network takes a list of images, float32 (channels, h, w) in 0 … 1, and returns what
torchvision's detectors return. In training these are losses by name. In evaluation these are
``boxes`` (``xyxy``, pixels of the scaled image), ``scores`` and ``labels`` from 1. Label 0, the
background, exists only inside the network.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.common.files import write_bytes
from spineline.datasets.networks.tensors import largest_magnitude, without_memory
from spineline.detect.batches import BatchedDetector, DetectionLimits, fit_longer_side
from spineline.detect.checkpoints import DetectorMeta, packed_safetensors
from spineline.detect.results import Detections

LARGEST_HALF = 65504.0
"""Largest number that fits into 16 bits."""


def make_meta(description: Any, names: tuple[str, ...], imgsz: int) -> DetectorMeta:
    """Make the description of a network for its weights file.

    Args:
        description: a dataclass of the fields that the network is built from, one of them
            ``channels``, with the class attribute ``backend``.
        names: class names.
        imgsz: longer side of its images.
    """
    return DetectorMeta(
        backend=description.backend,
        model=description.backend,
        names=names,
        imgsz=imgsz,
        channels=description.channels,
        yaml=asdict(description),
    )


class ScaledDetector(BatchedDetector):
    """A network with the interface of [spineline.detect.backend.Detector][].

    Attributes:
        network: the network.
        meta: description in its weights file.
    """

    def __init__(self, network: nn.Module, meta: DetectorMeta, *, device: str = "cpu") -> None:
        self.network: Any = network
        self.meta = meta
        self.device = torch.device(device_name(device))
        self.network.to(self.device)

    @abstractmethod
    def limit(self, *, confidence: float, iou: float, max_detections: int) -> None:
        """Set the limits on the boxes that the network returns."""

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
    ) -> Iterator[Detections]:
        """See [spineline.detect.batches.BatchedDetector.detect_alike][].

        The network stays in evaluation mode.
        """
        self.network.eval()
        self.limit(**asdict(limits))
        fitted = [fit_longer_side(image, self.imgsz) for image in images]
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack([image for image, _ in fitted]))
            rows = self.network(list(as_input(pixels.to(self.device), self.meta.channels)))
        for row, image, (_, scale) in zip(rows, images, fitted, strict=True):
            yield self._native(row, scale, image.shape)

    def _native(
        self, row: dict[str, torch.Tensor], scale_xy: tuple[float, float], shape: tuple[int, ...]
    ) -> Detections:
        boxes = row["boxes"].float().cpu().numpy().copy()
        boxes[:, 0::2] = (boxes[:, 0::2] / scale_xy[0]).clip(0, shape[1])
        boxes[:, 1::2] = (boxes[:, 1::2] / scale_xy[1]).clip(0, shape[0])
        confidence = row["scores"].float().cpu().numpy()
        class_index = row["labels"].cpu().numpy().astype(np.int64) - 1
        return Detections(boxes, confidence, class_index, self.names)


def as_input(pixels: torch.Tensor, channels: int) -> torch.Tensor:
    """Convert uint8 (N, h, w) to the network's input, float32 (N, channels, h, w) in 0 … 1."""
    return pixels.unsqueeze(1).float().div_(255).expand(-1, channels, -1, -1)


def network_with(
    build: Callable[[], nn.Module],
    tensors: Mapping[str, torch.Tensor],
    where: str,
    *,
    complete: bool,
) -> nn.Module:
    """Build a network with these weights; a misfit is refused before memory is allocated.

    Args:
        build: makes the network.
        tensors: its weights by name, of any floating-point type.
        where: file name for messages.
        complete: whether the weights are all the tensors of the network.

    Raises:
        WeightsError: weights do not fit, or are not finite numbers.
    """
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values() if t.is_floating_point()):
        raise WeightsError(f"{where}: holds weights that are not finite numbers; train it again")
    try:
        with without_memory():
            network = build()
        types = {name: t.dtype for name, t in network.state_dict().items()}
        typed = {name: t.to(types.get(name, t.dtype)) for name, t in tensors.items()}
        network.load_state_dict(typed, assign=True)
        if not complete:
            network = build()
            network.load_state_dict(typed)
    except (RuntimeError, ConfigError) as error:
        first = str(error)[:1000]
        raise WeightsError(f"{where}: its weights do not fit its description ({first})") from error
    return network


def save_network(network: nn.Module, meta: DetectorMeta, path: Path) -> None:
    """Write weights atomically, in 16 bits where they fit."""
    write_bytes(path, packed_safetensors(as_stored(network.state_dict()), meta, half=False))


def as_stored(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy weights as they are stored: in 16 bits where the numbers fit."""
    half = largest_magnitude(tensors) < LARGEST_HALF
    return {
        name: t.half() if half and t.is_floating_point() else t.detach().clone()
        for name, t in tensors.items()
    }
