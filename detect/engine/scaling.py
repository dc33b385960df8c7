"""What the networks of our own training loop share: images scaled without padding, weights packed.

Such a network takes a list of images, float32 (channels, h, w) in 0 … 1, and gives what
torchvision's detectors give: in training losses by name, in evaluation ``boxes`` (``xyxy``, pixels
of the scaled image), ``scores`` and ``labels`` from 1. Label 0, the background, exists inside the
network alone.
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
"""The largest number that 16 bits hold."""


def make_meta(description: Any, names: tuple[str, ...], imgsz: int) -> DetectorMeta:
    """What a weights file says of a network.

    Args:
        description: a dataclass with the fields that the network is built from, ``channels`` among
            them, and the class attribute ``backend``.
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
    """A network behind [spineline.detect.backend.Detector][].

    Attributes:
        network: the network.
        meta: what its weights file says of it.
    """

    def __init__(self, network: nn.Module, meta: DetectorMeta, *, device: str = "cpu") -> None:
        self.network: Any = network
        self.meta = meta
        self.device = torch.device(device_name(device))
        self.network.to(self.device)

    @abstractmethod
    def limit(self, *, confidence: float, iou: float, max_detections: int) -> None:
        """Tell the network what to give."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names."""
        return self.meta.names

    @property
    def imgsz(self) -> int:
        """Longer side, in pixels, that images are scaled to."""
        return self.meta.imgsz

    def detect_alike(
        self, images: Sequence[npt.NDArray[np.uint8]], limits: DetectionLimits
    ) -> Iterator[Detections]:
        """See [spineline.detect.batches.BatchedDetector.detect_alike][].

        The network is left in evaluation.
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
    """uint8 (N, h, w) as the network takes it: float32 (N, channels, h, w) in 0 … 1."""
    return pixels.unsqueeze(1).float().div_(255).expand(-1, channels, -1, -1)


def network_with(
    build: Callable[[], nn.Module],
    tensors: Mapping[str, torch.Tensor],
    where: str,
    *,
    complete: bool,
) -> nn.Module:
    """A network with these weights; what does not fit is refused before memory is taken for it.

    Args:
        build: makes the network.
        tensors: its weights by name, of any floating-point type.
        where: named in messages.
        complete: the weights are all the tensors that the network holds.

    Raises:
        WeightsError: weights that do not fit, or are not finite numbers.
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
    """Write weights, in 16 bits where they fit; the file appears whole."""
    write_bytes(path, packed_safetensors(as_stored(network.state_dict()), meta, half=False))


def as_stored(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy of weights as their file has them: in 16 bits where the numbers fit."""
    half = largest_magnitude(tensors) < LARGEST_HALF
    return {
        name: t.half() if half and t.is_floating_point() else t.detach().clone()
        for name, t in tensors.items()
    }
