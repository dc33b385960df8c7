"""Batch norms of a trunk that no longer learns, folded into the convolutions before them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn


def fold_norms(trunk: nn.Module) -> None:
    """Fold timm's batch norms (with their activation) into the convolution before, in place.

    In evaluation y = (conv(x) - mean) g + bias with g = weight / sqrt(variance + eps) is one
    convolution: that of the kernels times g. Results differ by rounding. Only pairs that follow
    each other in one module are folded, as those of EfficientNet do.
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
