"""The gradient of depthwise kernels is that of torch, in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from spineline.classify.trunks import depthwise as module
from spineline.classify.trunks.depthwise import depthwise

Pair = tuple[int, int]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((4, 4), (5, 5), (1, 1), (2, 2)),
        ((7, 8), (5, 6), (2, 1), (2, 3)),
        ((3, 2), (7, 7), (1, 2), (3, 3)),
        ((8, 8), (6, 6), (2, 2), (2, 2)),
        ((1, 1), (5, 5), (1, 1), (2, 2)),
        ((1, 9), (7, 5), (4, 3), (3, 0)),
    ],
)
def test_gradients_are_those_of_torch(
    size: Pair, kernel: Pair, stride: Pair, padding: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    own = module._kernel_gradient
    monkeypatch.setattr(module, "_kernel_gradient", lambda *a: used.append(1) or own(*a))
    torch.manual_seed(0)
    images, weight, bias = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((11, 6, *size), (6, 1, *kernel), (6,))
    )
    wanted = functional.conv2d(images, weight, bias, stride, padding, 1, 6)
    gradient = torch.randn_like(wanted)
    expected = torch.autograd.grad(wanted, (images, weight, bias), gradient)
    single = [each.detach().float().requires_grad_() for each in (images, weight, bias)]
    maps = depthwise(*single, stride, padding, (1, 1), 6)
    torch.testing.assert_close(maps.double(), wanted, rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad(maps, single, gradient.float())
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4)
    assert used


@pytest.mark.parametrize(
    ("side", "kernel", "dilation", "dtype"),
    [
        (9, 5, 1, torch.float32),
        (4, 3, 1, torch.float32),
        (8, 5, 2, torch.float32),
        (4, 5, 1, torch.float64),
    ],
)
def test_others_are_left_to_torch(
    side: int, kernel: int, dilation: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_kernel_gradient", None)
    images = torch.rand(2, 3, side, side, dtype=dtype)
    weight = torch.rand(3, 1, kernel, kernel, dtype=dtype, requires_grad=True)
    pad = dilation * (kernel // 2)
    depthwise(
        images, weight, torch.zeros(3, dtype=dtype), (1, 1), (pad, pad), (dilation, dilation), 3
    ).sum().backward()
    assert weight.grad is not None
