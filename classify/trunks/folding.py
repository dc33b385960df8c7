"""Batch norms folded into the convolutions before them, and 1 × 1 convolutions as matrix products.

`fold_norms` and `multiply_pixels` are for the inference of a trunk that no longer changes,
`fold_frozen_norms` for the training of one whose batch norms are frozen.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spineline.classify.trunks.depthwise import depthwise
from spineline.classify.trunks.padding import FixedPaddingConv, convolved


def fold_norms(trunk: nn.Module) -> None:
    """Fold timm's batch norms (with their activation) into the preceding convolutions, in place.

    In evaluation mode, y = (conv(x) - mean) g + bias with g = weight / sqrt(variance + eps) is one
    convolution with the kernels times g. Results differ by rounding. Only consecutive pairs within
    one module are folded, as in EfficientNet.
    """
    for parent, conv, name, norm in _pairs(trunk):
        if not norm.training:
            gain, bias = _gain_and_bias(conv, norm)
            conv.weight = nn.Parameter(conv.weight * gain)
            conv.bias = nn.Parameter(bias)
            setattr(parent, name, norm.act)


def _pairs(trunk: nn.Module) -> Iterator[tuple[nn.Module, nn.Conv2d, str, Any]]:
    """Parent, convolution, name and batch norm, where a norm follows a convolution."""
    from timm.layers import BatchNormAct2d

    for parent in trunk.modules():
        for (_, conv), (name, norm) in list(pairwise(parent.named_children())):
            if not isinstance(norm, BatchNormAct2d) or not isinstance(conv, nn.Conv2d):
                continue
            if conv.out_channels == norm.num_features:
                yield parent, conv, name, norm


def _gain_and_bias(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor]:
    """The factors (K, 1, 1, 1) of the kernels, and the biases (K,), of the folded convolution."""
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * gain
    if conv.bias is not None:
        bias = bias + conv.bias * gain
    return gain[:, None, None, None], bias


class NormedConv(FixedPaddingConv):
    """A convolution with the frozen batch norm that follows, in one step.

    Attributes:
        gain: (K, 1, 1, 1) factors of the kernels.
        shift: (K,) biases.
    """

    gain: Tensor
    shift: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, K, ceil(H / stride), ceil(W / stride)), normalised."""
        own = self.groups == self.in_channels == self.out_channels
        return convolved(
            images, self.weight * self.gain, self.shift, self,
            depthwise if own and self.weight.requires_grad else functional.conv2d,
        )  # fmt: skip


class _OnlyActivation(nn.Module):
    """What a batch norm still does after [NormedConv][]; its numbers stay in the state."""

    drop: nn.Module
    act: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        """Apply the activation."""
        activated: Tensor = self.act(self.drop(images))
        return activated


def fold_frozen_norms(trunk: nn.Module) -> None:
    """Fold timm's frozen batch norms in every pass, in place; convolutions before them may learn.

    The state of the trunk keeps its names and numbers. Results differ by rounding.
    """
    for _, conv, _, norm in _pairs(trunk):
        plain = type(conv) in {nn.Conv2d, FixedPaddingConv} and conv.padding_mode == "zeros"
        if norm.weight.requires_grad or not plain or isinstance(conv.padding, str):
            continue
        folded: Any = conv
        folded.gain, folded.shift = (each.detach() for each in _gain_and_bias(conv, norm))
        if not isinstance(conv, FixedPaddingConv):
            down, right = conv.padding
            folded.edges = (right, right, down, down)
        folded.__class__, norm.__class__ = NormedConv, _OnlyActivation


class PixelConv(nn.Conv2d):
    """A 1 × 1 convolution as a matrix product, for images in channels-last order.

    On one thread, torch otherwise copies the pixels of each image when there are few of them.
    """

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, K, H, W)."""
        if torch.onnx.is_in_onnx_export():
            return super().forward(images)
        pixels = images.permute(0, 2, 3, 1)
        return functional.linear(pixels, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def multiply_pixels(trunk: nn.Module) -> None:
    """Replace 1 × 1 convolutions by [PixelConv][], in place; results differ by rounding."""
    for conv in trunk.modules():
        plain = type(conv) is nn.Conv2d and conv.groups == 1
        if plain and conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0):
            conv.__class__ = PixelConv
