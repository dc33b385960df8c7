"""Faster inference of a fixed trunk.

Batch norms are folded into the convolutions before them, and 1 × 1 convolutions become matrix
products.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def fold_norms(trunk: nn.Module) -> None:
    """Fold timm's batch norms (with their activation) into the preceding convolutions, in place.

    In evaluation mode, y = (conv(x) - mean) g + bias with g = weight / sqrt(variance + eps) is one
    convolution with the kernels times g. Results differ by rounding. Only consecutive pairs within
    one module are folded, as in EfficientNet.
    """
    from timm.layers import BatchNormAct2d

    for parent in trunk.modules():
        pairs: Any = list(pairwise(parent.named_children()))
        for (_, before), (name, norm) in pairs:
            if not isinstance(norm, BatchNormAct2d) or not isinstance(before, nn.Conv2d):
                continue
            if before.out_channels != norm.num_features or norm.training:
                continue
            gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            bias = norm.bias - norm.running_mean * gain
            if before.bias is not None:
                bias = bias + before.bias * gain
            before.weight = nn.Parameter(before.weight * gain[:, None, None, None])
            before.bias = nn.Parameter(bias)
            setattr(parent, name, norm.act)


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
