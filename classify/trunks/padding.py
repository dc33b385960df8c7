"""Padding "same" of convolutions, computed beforehand for a fixed input size.

TensorFlow's "same" padding depends on the input size. If it is odd, the extra zero goes to the
right and bottom. timm computes it in every pass and pads in a separate step. Runtimes then see two
steps and arithmetic on sizes, where ONNX has a convolution with four paddings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class FixedPaddingConv(nn.Conv2d):
    """A convolution for one input size, equivalent to timm's ``Conv2dSame``.

    Attributes:
        edges: zeros to add to the left, right, top and bottom.
    """

    edges: tuple[int, int, int, int]

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, K, ceil(H / stride), ceil(W / stride))."""
        if torch.onnx.is_in_onnx_export():
            exported: Tensor = _OnnxConv.apply(images, self.weight, self.bias, self)
            return exported
        return convolved(images, self.weight, self.bias, self)


def convolved(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: FixedPaddingConv,
    convolve: Callable[..., Tensor] = functional.conv2d,
) -> Tensor:
    """The padded convolution without a copy of the images, by ``convolve``.

    If the right and bottom edges are wider, the left and top edges are made as wide, and the
    kernels get leading zeros to compensate.
    """
    left, right, top, bottom = conv.edges
    if max(conv.dilation) > 1:  # leading zeros would be as far apart as the weights
        images, padding = functional.pad(images, conv.edges), (0, 0)
    else:
        weight, padding = (
            functional.pad(weight, (right - left, 0, bottom - top, 0)),
            (bottom, right),
        )
    return convolve(images, weight, bias, conv.stride, padding, conv.dilation, conv.groups)


class _OnnxConv(torch.autograd.Function):
    """The convolution as a single ONNX node."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ARG004
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        conv: FixedPaddingConv,
    ) -> Tensor:
        return convolved(images, weight, bias, conv)

    @staticmethod
    def symbolic(g: Any, images: Any, weight: Any, bias: Any, conv: FixedPaddingConv) -> Any:
        left, right, top, bottom = conv.edges
        return g.op(
            "Conv",
            images,
            weight,
            *([] if conv.bias is None else [bias]),
            strides_i=conv.stride,
            dilations_i=conv.dilation,
            group_i=conv.groups,
            kernel_shape_i=conv.kernel_size,
            pads_i=(top, left, bottom, right),
        )


def fix_padding(trunk: nn.Module, images: Tensor) -> Tensor:
    """Replace timm's convolutions with "same" padding by ones for a fixed input size, in place.

    Args:
        trunk: a timm model, in evaluation mode.
        images: (N, C, S, S) of the size that the trunk will be used with.

    Returns:
        The trunk's output for them.
    """
    from timm.layers import Conv2dSame

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes[module] = tuple(inputs[0].shape[-2:])

    sizes: dict[nn.Module, tuple[int, ...]] = {}
    found = [module for module in trunk.modules() if isinstance(module, Conv2dSame)]
    hooks = [module.register_forward_pre_hook(note) for module in found]
    try:
        with torch.no_grad():
            features: Tensor = trunk(images)
    finally:
        for hook in hooks:
            hook.remove()
    for conv in found:
        if conv in sizes:
            edges = [_edges(conv, size, axis) for axis, size in enumerate(sizes[conv])]
            conv.__class__ = FixedPaddingConv  # keeps the weights, their names and the mode
            conv.edges = (*edges[1], *edges[0])
    return features


def _edges(conv: nn.Conv2d, size: int, axis: int) -> tuple[int, int]:
    stride, reach = conv.stride[axis], conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1
    zeros = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return zeros // 2, zeros - zeros // 2
