"""Depthwise convolutions with a faster gradient of their kernels on the CPU.

For kernels of five pixels and more on small maps, oneDNN's gradient takes several times as long as
a product of maps and gradients for each place of the kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input

_LEAST_KERNEL = 5
_LARGEST_MAP = 64  # pixels of the output
_AT_ONCE = 8  # images whose products stay in the processor's cache


def depthwise(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """A convolution with one kernel per channel, like ``torch.nn.functional.conv2d``.

    Args:
        images: (N, C, H, W).
        weight: (C, 1, K, L).
        bias: (C,).
        stride: down and to the right.
        padding: zeros above and below, left and right.
        dilation: down and to the right.
        groups: C.
    """
    if not _is_faster(images, weight, stride, padding, dilation):
        return functional.conv2d(images, weight, bias, stride, padding, dilation, groups)
    maps: Tensor = _Depthwise.apply(images, weight, stride, padding)
    return maps + bias[:, None, None]


def _is_faster(
    images: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> bool:
    """Whether the products are worthwhile: large kernels, small maps, float32 on the CPU."""
    sides = [
        (side + 2 * pad - kernel) // step + 1
        for side, pad, kernel, step in zip(
            images.shape[2:], padding, weight.shape[2:], stride, strict=True
        )
    ]
    large = min(weight.shape[2:]) >= _LEAST_KERNEL and max(dilation) == 1
    plain = images.dtype == weight.dtype == torch.float32 and images.device.type == "cpu"
    return large and plain and sides[0] * sides[1] <= _LARGEST_MAP


class _Depthwise(torch.autograd.Function):
    """The convolution without bias; only the gradient of the kernels is computed here."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(images, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            of_images = conv2d_input(
                images.shape, weight, gradient, ctx.stride, ctx.padding, 1, len(weight)
            )
        if ctx.needs_input_grad[1]:
            of_weight = _kernel_gradient(images, weight.shape, gradient, ctx.stride, ctx.padding)
        return of_images, of_weight, None, None


def _kernel_gradient(
    images: Tensor,
    shape: torch.Size,
    gradient: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """(C, 1, K, L): at each place, the sum over pixels of the input times the gradient there."""
    seen = [
        [_overlap(place, side, count, step, pad) for place in range(kernel)]
        for kernel, side, count, step, pad in zip(
            shape[2:], images.shape[2:], gradient.shape[2:], stride, padding, strict=True
        )
    ]
    total = torch.zeros((shape[2] * shape[3], shape[0]))
    pixels, gradients = images.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    for some, theirs in zip(pixels.split(_AT_ONCE), gradients.split(_AT_ONCE), strict=True):
        total += torch.stack(
            [
                (some[:, rows, columns] * theirs[:, rows_out, columns_out]).sum((0, 1, 2))
                for rows, rows_out in seen[0]
                for columns, columns_out in seen[1]
            ]
        )
    return total.T.reshape(shape)


def _overlap(place: int, side: int, count: int, step: int, pad: int) -> tuple[slice, slice]:
    """Along one axis, the input that a place of the kernel meets, and the output it adds to."""
    first = max(0, -(-(pad - place) // step))
    last = max(min(count, (side - 1 - place + pad) // step + 1), first)
    start = max(first * step + place - pad, 0)
    inputs = slice(start, start + step * (last - first), step)
    return inputs, slice(first, last)
