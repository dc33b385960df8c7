"""Images and boxes for our own training loop: scaled, augmented, with boxes that follow.

Boxes are in absolute, continuous pixels of their image, with the origin at its top left corner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from spineline.datasets.boxes import clip_xyxy, cxcywhn_to_xyxy
from spineline.datasets.images import read_uint8_image
from spineline.detect.batches import fit_longer_side
from spineline.detect.engine.dataset import YoloImage

_BILINEAR = v2.InterpolationMode.BILINEAR
LEAST_SIDE_PX = 1.0
"""Boxes with a shorter side at the network's scale are dropped: they make the loss NaN."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image at the network's scale.

    Attributes:
        name: name of the file.
        pixels: uint8 (h, w).
        boxes_xyxy: (N, 4) float32.
        class_index: (N,) int64, from 0.
        dropped: number of boxes in the label file that were too small.
    """

    name: str
    pixels: npt.NDArray[np.uint8]
    boxes_xyxy: npt.NDArray[np.float32]
    class_index: npt.NDArray[np.int64]
    dropped: int


def read_sample(image: YoloImage, imgsz: int) -> Sample:
    """Read an image with its boxes, scaled so that its longer side is ``imgsz``."""
    pixels, _ = fit_longer_side(read_uint8_image(image.file), imgsz)
    height, width = pixels.shape
    whole = cxcywhn_to_xyxy(image.box_cxcywhn.astype(np.float64), width, height)
    boxes: npt.NDArray[np.float32] = clip_xyxy(whole, width, height).astype(np.float32)
    kept = ((boxes[:, 2:] - boxes[:, :2]) >= LEAST_SIDE_PX).all(axis=1)
    return Sample(
        name=image.file.name,
        pixels=pixels,
        boxes_xyxy=boxes[kept],
        class_index=image.class_index[kept].astype(np.int64),
        dropped=int((~kept).sum()),
    )


class RandomDistortion(v2.Transform):
    """A perspective distortion whose strength is drawn for each image.

    Args:
        low, high: range of torchvision's ``distortion_scale``.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, *inputs: Any) -> Any:
        """Distort the image and its boxes."""
        scale = float(torch.empty(1).uniform_(self.low, self.high))
        return v2.RandomPerspective(distortion_scale=scale, p=1.0)(*inputs)


class RandomQuarterTurn(v2.Transform):
    """Rotation by 0, 90, 180 or 270 degrees, equally likely; pixels and boxes move exactly."""

    def forward(self, *inputs: Any) -> Any:
        """Rotate the image and its boxes."""
        angle = 90.0 * int(torch.randint(4, ()))
        turned = tuple(v2.functional.rotate(one, angle, expand=True) for one in inputs)
        return turned if len(turned) > 1 else turned[0]


def make_transform(values: Mapping[str, Any]) -> v2.Transform:
    """Build the augmentation of images and boxes from a recipe's values.

    The crop comes after rotations and distortions, so that it cuts off their black corners. Random
    numbers come from torch's global generator.
    """
    steps: list[v2.Transform] = []
    if values["distortion_p"] and values["distortion_max"]:
        distortion = RandomDistortion(values["distortion_min"], values["distortion_max"])
        steps.append(v2.RandomApply([distortion], p=values["distortion_p"]))
    if values["degrees_p"] and values["degrees"]:
        rotation = v2.RandomRotation(values["degrees"], interpolation=_BILINEAR)
        steps.append(v2.RandomApply([rotation], p=values["degrees_p"]))
    shift, zoom = values.get("translate", 0.0), values.get("scale", 0.0)
    if shift or zoom:
        scale = (1 - zoom, 1 + zoom)
        steps.append(v2.RandomAffine([0.0, 0.0], (shift, shift), scale, interpolation=_BILINEAR))
    if values["quarter_turns"]:
        steps.append(RandomQuarterTurn())
    if values["fliplr"]:
        steps.append(v2.RandomHorizontalFlip(values["fliplr"]))
    if values["flipud"]:
        steps.append(v2.RandomVerticalFlip(values["flipud"]))
    if values["crop"]:
        steps.append(v2.CenterCrop(values["crop"]))
    if values["brightness_contrast_p"] and (values["brightness"] or values["contrast"]):
        jitter = v2.ColorJitter(brightness=values["brightness"], contrast=values["contrast"])
        steps.append(v2.RandomApply([jitter], p=values["brightness_contrast_p"]))
    return v2.Compose(steps or [v2.Identity()])


def transformed(
    sample: Sample, transform: v2.Transform, *, min_visibility: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Apply a transform to an image and its boxes.

    Args:
        sample: the image; it is not changed.
        transform: from [make_transform][].
        min_visibility: boxes with a smaller fraction of their area inside the image are dropped.

    Returns:
        uint8 (h, w), float32 (M, 4) boxes clipped to the image, int64 (M,) classes from 0.
    """
    height, width = sample.pixels.shape
    image = tv_tensors.Image(torch.from_numpy(sample.pixels.copy())[None])
    boxes = tv_tensors.BoundingBoxes(
        torch.from_numpy(sample.boxes_xyxy.copy()).reshape(-1, 4),
        format="XYXY",
        canvas_size=(height, width),
        clamping_mode=None,  # clipping would lose the area outside before it is measured
    )
    image, boxes = transform(image, boxes)
    pixels, whole = image.as_subclass(torch.Tensor)[0], boxes.as_subclass(torch.Tensor)
    limits = torch.tensor([pixels.shape[1], pixels.shape[0]] * 2, dtype=whole.dtype)
    clipped = torch.minimum(whole.clamp(min=0), limits)
    sides = (clipped[:, 2:] - clipped[:, :2]).clamp(min=0)
    share = sides.prod(1) / (whole[:, 2:] - whole[:, :2]).prod(1).clamp(min=1e-9)
    kept = (sides >= LEAST_SIDE_PX).all(1) & (share >= min_visibility)
    return pixels, clipped[kept], torch.from_numpy(sample.class_index)[kept]


def measure(samples: Iterable[Sample]) -> tuple[float, float, int]:
    """Return mean and standard deviation of all pixels, in 0 … 1, and how many boxes were dropped.

    Only one image is in memory at a time.
    """
    count = total = squares = dropped = 0
    for sample in samples:
        dropped += sample.dropped
        histogram = np.bincount(sample.pixels.reshape(-1), minlength=256).astype(object)
        count += int(histogram.sum())
        total += int((histogram * np.arange(256)).sum())
        squares += int((histogram * np.arange(256) ** 2).sum())
    mean = total / count
    variance = squares / count - mean**2
    return round(mean / 255, 6), round(max(variance, 1.0) ** 0.5 / 255, 6), dropped
