"""Faster R-CNN with a feature pyramid, through torchvision, behind the detectors' interface.

An image is scaled so that its longer side is ``imgsz``, divided by 255, normalised by the mean and
standard deviation of the images it was trained on, and padded with zeros to multiples of 32.
Coordinates are continuous, origin at the top left corner of the image. Class 0 of the network is
the background; it exists inside the network alone.
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
"""Tensors with rows of classes, the background's first; a box has four numbers for each class."""


@dataclass(frozen=True, slots=True)
class FasterRCNNDescription:
    """What is needed to build a network, apart from its classes.

    Attributes:
        backbone: see [spineline.detect.fasterrcnn.backbones][].
        channels: 1, or 3 (the grey image three times).
        mean: of the grey images trained on, pixels in 0 … 1.
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
    """Torchvision's Faster R-CNN with fresh weights; nothing is downloaded.

    The network takes images that are scaled already, float32 (channels, h, w) in 0 … 1.

    Args:
        description: backbone, channels and normalisation.
        classes: number of classes, without the background.
        imgsz: longer side of its images; in training they may be smaller, such as crops.
        seed: of the initial weights.
        proposals: of training: kept per image; no part of the weights.
        rois: of training: regions per image that the heads' losses see.
        class_weights: of training: see [spineline.detect.fasterrcnn.losses][]; none for 1 each.
        focal_gamma: of training: likewise.

    Raises:
        ConfigError: a timm backbone that cannot carry a pyramid.
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
            min_size=imgsz,  # of images of that size already: nothing is scaled twice
            max_size=imgsz,
            rpn_post_nms_top_n_train=proposals,
            box_batch_size_per_image=rois,
            _skip_resize=True,  # in training, where there are crops
        )
    return set_class_loss(network, weights=class_weights, gamma=focal_gamma)


class FasterRCNNDetector(ScaledDetector):
    """A Faster R-CNN behind [spineline.detect.backend.Detector][]."""

    def limit(self, *, confidence: float, iou: float, max_detections: int) -> None:
        """Tell the network what to give."""
        heads = self.network.roi_heads
        heads.score_thresh, heads.nms_thresh = confidence, iou
        heads.detections_per_img = max_detections


def read_fasterrcnn_description(meta: DetectorMeta, where: str) -> FasterRCNNDescription:
    """The description in a weights file, held to known backbones and plain numbers.

    Raises:
        WeightsError: anything else in it.
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
