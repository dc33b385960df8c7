"""What every backend does to images before the network: check, group and scale. No torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spineline.detect.results import Detections


@dataclass(frozen=True, slots=True)
class DetectionLimits:
    """Limits on the boxes returned; see [spineline.detect.backend.Detector.detect][]."""

    confidence: float
    iou: float
    max_detections: int


class BatchedDetector(ABC):
    """A detector whose network takes a batch of images of one size."""

    __slots__ = ()

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
        if isinstance(images, np.ndarray | str | Path):
            msg = f"images: wanted a list of uint8 (H, W) arrays, found {type(images).__name__}"
            raise TypeError(f"{msg}; one image is [image]")
        for image in images:
            check_image(image)
        for name, value in (("confidence", confidence), ("iou", iou)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: out of range, allowed 0 … 1")
        limits = DetectionLimits(confidence, iou, max_detections)
        found: dict[int, Detections] = {}
        for indices in batches_by_shape(images, batch):
            answers = self.detect_alike([images[index] for index in indices], limits)
            found.update(zip(indices, answers, strict=True))
        return [found[index] for index in range(len(images))]

    @abstractmethod
    def detect_alike(
        self, images: Sequence[npt.NDArray[np.uint8]], limits: DetectionLimits
    ) -> Iterable[Detections]:
        """Detect on one batch and return one result per image, in order.

        Args:
            images: grey images, uint8 (H, W), all of one size, for one forward pass.
            limits: limits on the boxes returned.
        """


def check_image(image: npt.NDArray[np.uint8]) -> None:
    """Refuse anything but an 8-bit grey image.

    Raises:
        TypeError: it is no array.
        ValueError: the dtype or shape is different, or the image is empty.
    """
    if not isinstance(image, np.ndarray):
        msg = f"wanted a uint8 (H, W) image, found {type(image).__name__}"
        raise TypeError(f"{msg}; read files with spineline.datasets.images.read_uint8_image")
    if image.dtype != np.uint8 or image.ndim != 2 or not image.size:
        msg = (
            f"wanted a uint8 (H, W) image, found {image.dtype} {image.shape}; "
            "window it with spineline.datasets.images.window_to_uint8"
        )
        raise ValueError(msg)


def batches_by_shape(images: Sequence[npt.NDArray[np.uint8]], batch: int) -> list[list[int]]:
    """Return the indices of images, batch by batch.

    A batch holds images of one size, so that an image's result never depends on other images.
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(index)
    return [
        indices[start : start + batch]
        for indices in by_shape.values()
        for start in range(0, len(indices), batch)
    ]


def fit_longer_side(
    image: npt.NDArray[np.uint8], size: int
) -> tuple[npt.NDArray[np.uint8], tuple[float, float]]:
    """Scale an image so that its longer side is ``size``, without padding.

    Args:
        image: uint8 (H, W).
        size: longer side afterwards, in pixels.

    Returns:
        uint8 (h, w), and the ratio of fitted to native size in x and in y.
    """
    import cv2

    height, width = image.shape
    ratio = size / max(height, width)
    new_w, new_h = max(round(width * ratio), 1), max(round(height * ratio), 1)
    if (new_w, new_h) != (width, height):
        image = np.asarray(cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR))
    return image, (new_w / width, new_h / height)
