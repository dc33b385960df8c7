"""Faster R-CNN with a feature pyramid, through torchvision, with the detectors' interface.

An image is scaled so that its longer side is ``imgsz``, and divided by 255. It is then normalised
by the mean and standard deviation of the training images, and padded with zeros to multiples of 32.
Coordinates are continuous, with the origin at the top left corner of the image. Class 0 of the
network is the background; it exists only inside the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.detect.architectures import FASTERRCNN
from spineline.detect.checkpoints import DetectorMeta
from spineline.detect.engine.class_rows import HeadTensor
from spineline.detect.engine.scaling import ScaledDetector
from spineline.detect.fasterrcnn.backbones import build_backbone, check_backbone, make_anchors

_PREDICTOR = "roi_heads.box_predictor"
FASTERRCNN_HEADS = {
    f"{_PREDICTOR}.{layer}.{part}": HeadTensor(first=each, each=each)
    for layer, each in (("cls_score", 1), ("bbox_pred", 4))
    for part in ("weight", "bias")
}
"""Tensors with a row per class, the background first; a box has four numbers for each class."""


@dataclass(frozen=True, slots=True)
class FasterRCNNDescription:
    """The values needed to build a network, apart from its classes.

    Attributes:
        backbone: see [spineline.detect.fasterrcnn.backbones][].
        channels: 1, or 3 (the grey image three times).
        mean: mean of the grey training images, pixels in 0 … 1.
        std: their standard deviation.
    """

    backend: ClassVar[str] = FASTERRCNN

    backbone: str
    channels: int
    mean: float
    std: float


def build_fasterrcnn(
    description: FasterRCNNDescription,
    classes: int,
    imgsz: int,
    *,
    seed: int = 0,
    proposals: int = 2000,
    rois: int = 512,
    class_weights: Sequence[float] = (),
    focal_gamma: float = 0.0,
) -> nn.Module:
    """Build torchvision's Faster R-CNN with fresh weights; nothing is downloaded.

    The network takes scaled images, float32 (channels, h, w) in 0 … 1.

    Args:
        description: backbone, channels and normalisation.
        classes: number of classes, without the background.
        imgsz: longer side of its images; training images may be smaller, such as crops.
        seed: random seed of the initial weights.
        proposals: training: proposals kept per image; not part of the weights.
        rois: training: regions per image for the losses of the heads.
        class_weights: training: see [spineline.detect.fasterrcnn.losses][]; empty: 1 each.
        focal_gamma: training: see the same module.

    Raises:
        ConfigError: a timm backbone does not fit a pyramid.
    """
    from torchvision.models.detection import FasterRCNN

    from spineline.detect.fasterrcnn.heads import set_class_loss  # torchvision

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        backbone = build_backbone(description.backbone, description.channels)
        network: nn.Module = FasterRCNN(
            backbone,
            num_classes=classes + 1,
            rpn_anchor_generator=make_anchors(backbone),
            image_mean=[description.mean] * description.channels,
            image_std=[description.std] * description.channels,
            min_size=imgsz,  # images have that size already: nothing is scaled twice
            max_size=imgsz,
            rpn_post_nms_top_n_train=proposals,
            box_batch_size_per_image=rois,
            _skip_resize=True,  # for crops in training
        )
    return set_class_loss(network, weights=class_weights, gamma=focal_gamma)


class FasterRCNNDetector(ScaledDetector):
    """A Faster R-CNN with the interface of [spineline.detect.backend.Detector][]."""

    def limit(self, *, confidence: float, iou: float, max_detections: int) -> None:
        """Set the limits on the boxes that the network returns."""
        heads = self.network.roi_heads
        heads.score_thresh, heads.nms_thresh = confidence, iou
        heads.detections_per_img = max_detections


def read_fasterrcnn_description(meta: DetectorMeta, where: str) -> FasterRCNNDescription:
    """Check and return the description in a weights file: known backbones and plain numbers only.

    Raises:
        WeightsError: the description holds anything else.
    """
    found = meta.yaml
    if sorted(found) != ["backbone", "channels", "mean", "std"]:
        raise WeightsError(f"{where}: no description of a Faster R-CNN")
    backbone, mean, std = found["backbone"], found["mean"], found["std"]
    if not isinstance(backbone, str):
        raise WeightsError(f"{where}: its backbone is not a name")
    try:
        check_backbone(backbone)
    except ConfigError as error:
        msg = f"{where}: unknown backbone {backbone[:100]!r}, none of torchvision's or timm's"
        raise WeightsError(msg) from error
    numbers = all(isinstance(n, float) and math.isfinite(n) for n in (mean, std))
    if found["channels"] != meta.channels or not numbers or std <= 0:
        raise WeightsError(f"{where}: its channels, mean or std are out of range")
    return FasterRCNNDescription(backbone, meta.channels, mean, std)
