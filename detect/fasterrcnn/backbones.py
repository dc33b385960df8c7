"""Backbones of a Faster R-CNN: torchvision's by name, and timm's feature extractors.

Each is a body that returns feature maps from fine to coarse, below torchvision's pyramid of 256
channels with one coarser level by pooling. Nothing is downloaded: weights are random, or the caller
reads them from a file. A name comes from a user or a weights file. It is a name that torchvision or
timm knows, never an address or a path.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any, Dict  # noqa: UP035 (TorchScript reads it)

import torch
from torch import nn

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.settings import close_match
from spineline.datasets.networks.tensors import without_memory
from spineline.detect.architectures import FASTERRCNN_BACKBONES, TIMM_PREFIX

STRIDES = (4, 32)
"""Finest and coarsest stage that the pyramid uses."""

_WIDTH = 256
_PROBES_HW = ((64, 96), (224, 160))
"""Image sizes that a timm model must accept; (height, width) in pixels."""

_BUILD_ERRORS = (RuntimeError, AssertionError, ValueError, TypeError, KeyError, IndexError)
"""Errors that timm's models raise if they do not fit."""


class TimmBody(nn.Module):
    """A timm feature extractor with named stages, as torchvision's pyramid expects them.

    Args:
        features: timm's network, which returns one feature map per stage.
        channels_last: whether its feature maps are (N, h, w, channels).
    """

    def __init__(self, features: nn.Module, *, channels_last: bool) -> None:
        super().__init__()
        self.features = features
        self.channels_last = channels_last

    def forward(self, images: torch.Tensor) -> Dict[str, torch.Tensor]:  # noqa: UP006
        """Feature maps (N, channels, h, w) by ``0``, ``1``, …, from fine to coarse."""
        found: Dict[str, torch.Tensor] = {}  # noqa: UP006
        for number, feature in enumerate(self.features(images)):
            found[str(number)] = feature.permute(0, 3, 1, 2) if self.channels_last else feature
        return found


class TimmBackbone(nn.Module):
    """A timm body with torchvision's pyramid; modules are named as in torchvision's backbones."""

    def __init__(self, body: TimmBody, channels: list[int]) -> None:
        from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(channels, _WIDTH, extra_blocks=LastLevelMaxPool())
        self.out_channels = _WIDTH

    def forward(self, images: torch.Tensor) -> Dict[str, torch.Tensor]:  # noqa: UP006
        """Levels of the pyramid by name."""
        return self.fpn(self.body(images))


def timm_name(backbone: str) -> str | None:
    """Return the name of a timm model, or None for torchvision's, whose names take precedence.

    >>> timm_name("resnet50"), timm_name("timm/resnet50"), timm_name("convnext_tiny")
    (None, 'resnet50', 'convnext_tiny')
    """
    if backbone in FASTERRCNN_BACKBONES:
        return None
    return backbone.removeprefix(TIMM_PREFIX)


def check_backbone(backbone: str) -> None:
    """Refuse a name that neither torchvision nor timm knows, without building anything.

    Raises:
        ConfigError: the name is unknown; the message suggests a close match, if there is one.
    """
    name = timm_name(backbone)
    if name is None:
        return
    import timm

    if re.fullmatch(r"[a-z0-9_]{1,100}", name) and timm.is_model(name):
        return
    known = (*FASTERRCNN_BACKBONES, *timm.list_models())
    hint = close_match(name[:100].split(".")[0], known)
    if "did you mean" not in hint:
        own = ", ".join(FASTERRCNN_BACKBONES)
        hint = f"; allowed: {own}, and the feature extractors of timm, such as convnext_tiny"
    raise ConfigError(f"backbone={backbone[:100]}: no such backbone{hint}")


def check_network(backbone: str, channels: int) -> None:
    """Refuse a backbone that cannot be built, before any other work.

    Raises:
        ConfigError: there is no such backbone, or a timm model does not fit a pyramid.
    """
    check_backbone(backbone)
    name = timm_name(backbone)
    if name is not None:
        timm_stages(name, channels)


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of a timm model that a pyramid uses.

    Attributes:
        indices: indices of the stages, from fine to coarse.
        channels_last: whether the feature maps are (N, h, w, channels).
        free_size: whether timm needs an option to accept images of any size.
    """

    indices: tuple[int, ...]
    channels_last: bool
    free_size: bool


@cache
def timm_stages(name: str, channels: int) -> Stages:
    """Find the stages of a timm model for the pyramid, by a trial without memory for weights.

    Args:
        name: a model that timm knows.
        channels: channels of the input.

    Raises:
        ConfigError: the model returns no usable feature maps, or takes only images of one size.
    """
    where = f"backbone={name}"
    try:
        with without_memory():
            info = _create(name, channels).feature_info
    except _BUILD_ERRORS as error:
        msg = f"{where}: timm builds no feature extractor of it ({error!s:.200}); choose another"
        raise ConfigError(msg) from error
    by_stride = dict(zip(info.reduction(), info.out_indices, strict=True))
    indices = tuple(i for s, i in sorted(by_stride.items()) if STRIDES[0] <= s <= STRIDES[1])
    if len(indices) < 2:
        msg = f"{where}: has stages of stride {', '.join(map(str, info.reduction()))}; a pyramid "
        raise ConfigError(f"{msg}wants two or more from {STRIDES[0]} to {STRIDES[1]}")
    problems: list[Exception] = []
    for free_size in (False, True):
        try:
            last = _is_channels_last(name, channels, indices, free_size)
        except _BUILD_ERRORS as error:
            problems.append(error)
            continue
        return Stages(indices, last, free_size)
    msg = f"{where}: does not take images of any size ({problems[0]!s:.200}); choose another"
    raise ConfigError(msg) from problems[0]


def _is_channels_last(name: str, channels: int, indices: tuple[int, ...], free_size: bool) -> bool:
    """Whether feature maps are (N, h, w, channels), tried with images of two sizes.

    Raises:
        ValueError: the maps do not fit the model's strides; the model may raise other errors.
    """
    with without_memory(), torch.no_grad():
        network = _create(name, channels, indices, free_size=free_size).eval()
        shapes = [
            [tuple(f.shape) for f in network(torch.zeros(1, channels, *hw))] for hw in _PROBES_HW
        ]
    info = network.feature_info
    wanted = list(zip(info.reduction(), info.channels(), strict=True))
    for last in (False, True):
        if all(_fit(found, wanted, hw, last) for found, hw in zip(shapes, _PROBES_HW, strict=True)):
            return last
    raise ValueError("its feature maps are not those of its strides")


def _fit(
    shapes: list[tuple[int, ...]],
    wanted: list[tuple[int, int]],
    image_hw: tuple[int, int],
    last: bool,
) -> bool:
    """Whether feature maps have the channels, and up to rounding the sizes, of their strides."""
    for shape, (stride, channels) in zip(shapes, wanted, strict=True):
        if len(shape) != 4:
            return False
        *size, depth = shape[1:] if last else (*shape[2:], shape[1])
        off = max(abs(n - total / stride) for n, total in zip(size, image_hw, strict=True))
        if depth != channels or off > 2:
            return False
    return True


def _create(
    name: str, channels: int, indices: tuple[int, ...] | None = None, *, free_size: bool = False
) -> Any:
    import timm

    options: dict[str, Any] = {} if indices is None else {"out_indices": indices}
    if free_size:
        options["strict_img_size"] = False  # option of Swin transformers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about timm's own use of torch
        return timm.create_model(
            name, pretrained=False, features_only=True, in_chans=channels, **options
        )


def build_backbone(backbone: str, channels: int) -> Any:
    """Build a body with its pyramid; fresh weights come from the global generator.

    Every layer is trainable and batch normalisation is active, as in torchvision without weights.

    Args:
        backbone: a name that [check_backbone][] accepts.
        channels: channels of the input.

    Raises:
        ConfigError: a timm model does not fit a pyramid.
    """
    from torchvision.models.detection import backbone_utils

    name = timm_name(backbone)
    if name is not None:
        stages = timm_stages(name, channels)
        features = _create(name, channels, stages.indices, free_size=stages.free_size)
        body = TimmBody(features, channels_last=stages.channels_last)
        return TimmBackbone(body, features.feature_info.channels())
    options = {"backbone_name": backbone, "weights": None, "norm_layer": nn.BatchNorm2d}
    if backbone.startswith("mobilenet"):
        network = backbone_utils.mobilenet_backbone(fpn=True, trainable_layers=6, **options)
    else:
        network = backbone_utils.resnet_fpn_backbone(trainable_layers=5, **options)
    if channels != 3:
        _set_channels(network.body, channels)
    return network


def make_anchors(backbone: Any) -> Any:
    """Make anchors for the levels of a pyramid, or return None if torchvision's own fit.

    Five levels of strides 4 to 64 use torchvision's anchors, one size each (32 to 512 pixels). With
    fewer levels each one has every size, as torchvision does for its MobileNets.
    """
    from torchvision.models.detection.rpn import AnchorGenerator

    levels = len(backbone.fpn.inner_blocks) + 1
    if levels == 5:
        return None
    return AnchorGenerator(((32, 64, 128, 256, 512),) * levels, ((0.5, 1.0, 2.0),) * levels)


def _set_channels(body: nn.Module, channels: int) -> None:
    """Change the number of input channels of the first convolution, with fresh weights."""
    name, old = next((n, m) for n, m in body.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        channels,
        old.out_channels,
        kernel_size=old.kernel_size,  # type: ignore[arg-type]  # a pair, typed as any tuple
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    parent, _, last = name.rpartition(".")
    setattr(body.get_submodule(parent), last, new)
