"""A U-Net that predicts a heat map per class, with the detectors' interface: point regression.

The network is that of ``segmentation-models-pytorch`` with a timm encoder. Besides the heat maps
it returns two maps, the logarithms of a box's width and height. They are read at the peak, as in
Zhou et al., "Objects as points", 2019. The box around a point needs no neighbour, so any label set
has boxes, and one wrong point does not affect the boxes beside it.

An image is scaled so that its longer side is ``imgsz``, and divided by 255. It is then normalised
by the mean and standard deviation of the training images, and padded with zeros to multiples of 32.
In training, the network takes the inputs of torchvision's detectors and returns losses by name, as
they do. Coordinates are continuous, with the origin at the top left corner of the image.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from spineline.datasets.common.errors import ConfigError, SpinelineError, WeightsError, first_line
from spineline.datasets.common.settings import close_match
from spineline.detect.architectures import UNET
from spineline.detect.checkpoints import DetectorMeta
from spineline.detect.engine.class_rows import HeadTensor
from spineline.detect.engine.scaling import ScaledDetector
from spineline.detect.unet.heatmaps import GAUSSIAN, HEATMAPS, draw_heat, find_peaks

LOSSES = ("loss_heat", "loss_size")
"""Losses of the network; training minimises their sum."""

UNET_HEADS = {f"backbone.segmentation_head.0.{part}": HeadTensor() for part in ("weight", "bias")}
"""Tensors with a row per class; the last two rows are the sizes, which all classes share."""

_STRIDE = 32
_RARE = -4.6
"""Initial bias of one-hot heat: a probability of 0.01, because most pixels hold no point."""

_LOG_SIZE = -2.3
"""Initial bias of the sizes: a tenth of the longer side."""

_BUILD_ERRORS = (RuntimeError, AssertionError, ValueError, TypeError, KeyError, IndexError,
                 AttributeError, NotImplementedError)  # fmt: skip
"""Errors that the libraries raise if an encoder does not fit."""


@dataclass(frozen=True, slots=True)
class UNetDescription:
    """The values needed to build a network, apart from its classes.

    Attributes:
        encoder: its timm name.
        channels: 1, or 3 (the grey image three times).
        heatmap: one of [HEATMAPS][spineline.detect.unet.heatmaps].
        sigma: sigma of the heat maps, in pixels at the network's scale.
        mean: mean of the grey training images, pixels in 0 … 1.
        std: their standard deviation.
    """

    backend: ClassVar[str] = UNET

    encoder: str
    channels: int
    heatmap: str
    sigma: float
    mean: float
    std: float


class UNet(nn.Module):
    """The U-Net described in the module.

    Attributes:
        confidence, iou, max_detections: limits on the detections returned in evaluation.
    """

    def __init__(
        self, backbone: nn.Module, description: UNetDescription, classes: int, size: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.description = description
        self.classes = classes
        self.size = float(size)
        self.confidence, self.iou, self.max_detections = 0.05, 0.5, 100

    def forward(
        self, images: Sequence[torch.Tensor], targets: Sequence[dict[str, torch.Tensor]] = ()
    ) -> Any:
        """Return losses in training, detections in evaluation.

        Args:
            images: images, each float32 (channels, h, w) in 0 … 1.
            targets: in training, for each image ``boxes`` (N, 4) ``xyxy`` and ``labels`` (N,) from
                1, as in torchvision's detectors, where 0 is the background.

        Returns:
            The losses by name, or for each image ``boxes``, ``scores`` and ``labels`` from 1.
        """
        maps = self.backbone(self._batch(images)).float()
        heat, size = maps[:, : self.classes], maps[:, self.classes :]
        if self.training:
            return {
                "loss_heat": self._heat_loss(heat, targets),
                "loss_size": self._size_loss(size, targets),
            }
        bell = self.description.heatmap == GAUSSIAN
        heat = heat.clamp(min=0) if bell else heat.sigmoid()  # no plateau where it exceeds 1
        return [
            self._detections(heat[n], size[n], (image.shape[-2], image.shape[-1]))
            for n, image in enumerate(images)
        ]

    def _batch(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Stack images after normalising and padding them; the padding equals the mean."""
        height, width = (
            math.ceil(max(image.shape[axis] for image in images) / _STRIDE) * _STRIDE
            for axis in (-2, -1)
        )
        padded = []
        for image in images:
            normal = (image - self.description.mean) / self.description.std
            room = (0, width - image.shape[-1], 0, height - image.shape[-2])
            padded.append(functional.pad(normal, room))
        return torch.stack(padded)

    def _heat_loss(
        self, heat: torch.Tensor, targets: Sequence[dict[str, torch.Tensor]]
    ) -> torch.Tensor:
        """Squared error of bells or cross-entropy of discs, relative to the target heat."""
        size_hw = (heat.shape[-2], heat.shape[-1])
        wanted = torch.stack(
            [
                draw_heat(
                    centres(target["boxes"]),
                    target["labels"] - 1,
                    self.classes,
                    size_hw,
                    heatmap=self.description.heatmap,
                    sigma=self.description.sigma,
                )
                for target in targets
            ]
        )
        if self.description.heatmap == GAUSSIAN:
            return ((heat - wanted) ** 2).sum() / (wanted**2).sum().clamp(min=1)
        lost = functional.binary_cross_entropy_with_logits(heat, wanted, reduction="sum")
        return lost / wanted.sum().clamp(min=1)

    def _size_loss(
        self, size: torch.Tensor, targets: Sequence[dict[str, torch.Tensor]]
    ) -> torch.Tensor:
        """Mean absolute error of the logarithms, at each point's pixel and the eight around it."""
        errors = [size.sum() * 0]
        height, width = size.shape[-2:]
        for n, target in enumerate(targets):
            boxes = target["boxes"].float()
            if not len(boxes):
                continue
            wanted = ((boxes[:, 2:] - boxes[:, :2]) / self.size).log()
            column, row = centres(boxes).long().unbind(1)
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    y, x = (row + dy).clamp(0, height - 1), (column + dx).clamp(0, width - 1)
                    errors.append((size[n, :, y, x].T - wanted).abs().mean())
        return torch.stack(errors).sum() / max(len(errors) - 1, 1)

    def _detections(
        self, heat: torch.Tensor, size: torch.Tensor, size_hw: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        from torchvision.ops import batched_nms

        peaks = find_peaks(
            heat[:, : size_hw[0], : size_hw[1]],
            heatmap=self.description.heatmap,
            sigma=self.description.sigma,
            confidence=self.confidence,
        )
        rows, columns = peaks.cell_yx.unbind(1)
        half = size[:, rows, columns].T.clamp(-8, 1).exp() * self.size / 2
        boxes = torch.cat([peaks.points_xy - half, peaks.points_xy + half], dim=1)
        limits = torch.tensor([size_hw[1], size_hw[0]] * 2, device=boxes.device)
        boxes = torch.minimum(boxes.clamp(min=0), limits)
        kept = batched_nms(boxes, peaks.heat, peaks.class_index, self.iou)[: self.max_detections]
        return {
            "boxes": boxes[kept],
            "scores": peaks.heat[kept].clamp(max=1),
            "labels": peaks.class_index[kept] + 1,
        }


def centres(boxes_xyxy: torch.Tensor) -> torch.Tensor:
    """(N, 2) centres of boxes."""
    return (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]).float() / 2


def import_library() -> Any:
    """Import the package of the U-Net, which is an extra.

    Raises:
        SpinelineError: it is not installed.
    """
    try:
        import segmentation_models_pytorch as library
    except ImportError as error:
        msg = (
            "model=unet: needs the package segmentation-models-pytorch; install it by "
            f"pip install 'spineline[unet]' ({error})"
        )
        raise SpinelineError(msg) from error
    return library


def check_encoder(encoder: str, channels: int) -> None:
    """Refuse an encoder that timm does not have, or that does not fit a U-Net.

    Raises:
        ConfigError: the encoder cannot be used; the message suggests the closest name.
        SpinelineError: the package of the U-Net is not installed.
    """
    import timm

    library = import_library()
    if not re.fullmatch(r"[a-z0-9_]+", encoder) or not timm.is_model(encoder):
        hint = close_match(encoder, timm.list_models())
        hint = "" if "allowed" in hint else hint
        msg = f"encoder={encoder}: no model of timm, such as resnet18 or efficientnet_b0{hint}"
        raise ConfigError(msg)
    try:
        with torch.device("meta"), torch.no_grad():
            body = _body(library, encoder, channels, 3).eval()
            shape = tuple(body(torch.zeros(1, channels, 64, 96)).shape)
    except _BUILD_ERRORS as error:
        first = first_line(error)
        msg = f"encoder={encoder}: no U-Net can be built on it ({first}); try another, resnet18"
        raise ConfigError(msg) from error
    if shape != (1, 3, 64, 96):
        msg = f"encoder={encoder}: no U-Net can be built on it (maps of {shape}); try resnet18"
        raise ConfigError(msg)


def _body(library: Any, encoder: str, channels: int, maps: int) -> nn.Module:
    body: nn.Module = library.Unet(
        f"tu-{encoder}", encoder_weights=None, in_channels=channels, classes=maps
    )
    return body


def build_unet(description: UNetDescription, classes: int, imgsz: int, *, seed: int = 0) -> UNet:
    """Build a network with fresh weights; nothing is downloaded.

    Args:
        description: encoder, channels, heat maps and normalisation; checked.
        classes: number of classes.
        imgsz: longer side of its images, the unit of the sizes.
        seed: random seed of the initial weights.
    """
    library = import_library()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        body: Any = _body(library, description.encoder, description.channels, classes + 2)
    head = body.segmentation_head[0]
    with torch.no_grad():
        head.weight.mul_(0.1)  # heat is zero nearly everywhere
        head.bias.zero_()
        if description.heatmap != GAUSSIAN:
            head.bias[:classes] = _RARE
        head.bias[classes:] = _LOG_SIZE
    return UNet(body, description, classes, imgsz)


def read_unet_description(meta: DetectorMeta, where: str) -> UNetDescription:
    """Check and return the description in a weights file: timm's encoders and plain numbers only.

    Raises:
        WeightsError: the description holds anything else.
        SpinelineError: the package of the U-Net is not installed.
    """
    found = meta.yaml
    if sorted(found) != ["channels", "encoder", "heatmap", "mean", "sigma", "std"]:
        raise WeightsError(f"{where}: no description of a U-Net")
    numbers = [found[name] for name in ("sigma", "mean", "std")]
    plain = all(isinstance(n, float) and math.isfinite(n) for n in numbers)
    if found["channels"] != meta.channels or not plain or found["std"] <= 0:
        raise WeightsError(f"{where}: its channels, mean or std are out of range")
    if found["heatmap"] not in HEATMAPS or not 0 < found["sigma"] <= meta.imgsz:
        raise WeightsError(f"{where}: its heatmap or sigma is out of range")
    try:
        check_encoder(str(found["encoder"]), meta.channels)
    except ConfigError as error:
        raise WeightsError(f"{where}: {error}") from error
    return UNetDescription(**found)


class UNetDetector(ScaledDetector):
    """A U-Net with the interface of [spineline.detect.backend.Detector][]."""

    def limit(self, *, confidence: float, iou: float, max_detections: int) -> None:
        """Set the limits on the boxes that the network returns."""
        self.network.confidence, self.network.iou = confidence, iou
        self.network.max_detections = max_detections
