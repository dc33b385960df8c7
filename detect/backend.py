"""The interface of every detector, and the loading of one from a weights file.

To add a backend, write a module with a class that has the members of [Detector][] and a function
``load(weights, *, device, trust)``. Then add its name to [BACKENDS][].
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.errors import WeightsError
from spineline.detect.results import Detections

BACKENDS: dict[str, str] = {
    "ultralytics": "spineline.detect.yolo.backend",
    "fasterrcnn": "spineline.detect.engine.networks",
    "unet": "spineline.detect.engine.networks",
}
"""Module of each backend, by the backend name in weights files."""

PICKLE_SUFFIXES = (".pt", ".pth")


class Detector(Protocol):
    """A detector with its weights loaded.

    Attributes:
        names: class names.
        imgsz: length in pixels to which an image's longer side is scaled.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Class names."""
        ...

    @property
    def imgsz(self) -> int:
        """Length in pixels to which an image's longer side is scaled."""
        ...

    def detect(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        *,
        confidence: float = 0.25,
        iou: float = 0.8,
        max_detections: int = 300,
        batch: int = 16,
    ) -> list[Detections]:
        """Find boxes.

        Args:
            images: grey images, each uint8 (H, W), of any size.
            confidence: lowest confidence.
            iou: if two boxes of one class overlap by more than this, the less confident one is
                dropped.
            max_detections: largest number of boxes per image.
            batch: images per forward pass.

        Returns:
            One result per image, in order.

        Raises:
            TypeError: images are no list of arrays.
            ValueError: an image of another dtype or shape, or a limit out of range.
        """
        ...


def load_detector(weights: Path | str, *, device: str = "cpu", trust: bool = False) -> Detector:
    """Load a detector from a weights file.

    Args:
        weights: a ``.safetensors`` file written by ``spineline detect train``, or a ``.pt`` pickle.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``N``.
        trust: allow a ``.pt`` file. Even then, a restricted unpickler reads it, which knows only
            the classes of the ``ultralytics`` package.

    Raises:
        WeightsError: the file is missing, damaged or not a detector, its backend is unknown, or it
            is a pickle without ``trust``.
    """
    weights, backend = Path(weights), "ultralytics"
    if weights.suffix.lower() not in PICKLE_SUFFIXES:
        from spineline.detect.checkpoints import read_meta  # torch

        backend = read_meta(weights).backend
    if backend not in BACKENDS:
        msg = f"{weights}: weights for backend {backend!r}; known: {', '.join(BACKENDS)}"
        raise WeightsError(msg)
    module = importlib.import_module(BACKENDS[backend])
    return cast("Detector", module.load(weights, device=device, trust=trust))
