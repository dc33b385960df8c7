"""A trunk without learnt filters: histograms of gradient orientations at several scales.

On a few hundred structures a network from scratch learns edges with difficulty; histograms of
oriented gradients (Dalal and Triggs, CVPR 2005) have them from the start. The crop is seen at four
scales about its centre, each resampled to 64 pixels; in 8 × 8 cells the gradient's magnitude is
gathered by orientation (6 unsigned bins, shared between neighbours), once scaled by the energy of
the whole view and once by that of the cells around. The principal components of these features on
the training crops, scaled to unit variance, are what the trunk gives.

A gain of the brightness scales every gradient alike, and so changes nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from spineline.classify.trunks.components import ComponentTrunk

GRADIENTS = "gradients"
"""The name of this trunk as ``model=``."""

VIEWS = (0.375, 0.5, 0.75, 1.0)
"""Shares of the crop's side that the views show, about its centre."""

SIDE, CELLS, BINS = 64, 8, 6
FEATURES = len(VIEWS) * 2 * BINS * CELLS * CELLS
_TINY = 1e-6
_NEXT_TO_NONE = 1e-20  # in place of a gradient of 0, which nothing can be divided by


class GradientTrunk(ComponentTrunk):
    """(N, 1, S, S) in 0 … 1 to (N, components): the principal components of the histograms."""

    sobel: Tensor
    numbers: Tensor

    def __init__(self, size: int, components: int) -> None:
        super().__init__(FEATURES, components, name=GRADIENTS)
        self.sides = [min(max(round(size * share / 2) * 2, 2), size) for share in VIEWS]
        self.size = size
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        kernels = torch.stack([across, across.T])[:, None]
        self.register_buffer("sobel", kernels, persistent=False)
        numbers = torch.arange(BINS, dtype=torch.float32)[None, :, None, None]
        self.register_buffer("numbers", numbers, persistent=False)
        for n, side in enumerate(self.sides):
            self.register_buffer(f"resample{n}", resampling(side), persistent=False)

    def measure(self, images: Tensor) -> Tensor:
        """(N, FEATURES): the histograms."""
        return self.histograms(images)

    def histograms(self, images: Tensor) -> Tensor:
        """(N, FEATURES): for each view the histograms by the view's energy, then by the cells'."""
        found: list[Tensor] = []
        for n, side in enumerate(self.sides):
            start = (self.size - side) // 2
            view = images[..., start : start + side, start : start + side]
            resample: Tensor = getattr(self, f"resample{n}")
            cells = self._cells(resample @ view @ resample.T)
            whole = cells.square().mean(dim=(1, 2, 3), keepdim=True)
            energy = cells.square().sum(dim=1, keepdim=True)
            around = functional.avg_pool2d(energy, 3, 1, 1, count_include_pad=False)
            floor = 0.05 * around.mean(dim=(2, 3), keepdim=True) + _TINY
            found.append((cells / (whole + _TINY).sqrt()).flatten(1))
            found.append((cells / (around + floor).sqrt()).flatten(1))
        return torch.cat(found, dim=1)

    def _cells(self, view: Tensor) -> Tensor:
        """(N, 1, SIDE, SIDE) to (N, BINS, CELLS, CELLS): mean magnitude by orientation."""
        steps = functional.conv2d(functional.pad(view, (1, 1, 1, 1), mode="replicate"), self.sobel)
        steps = steps.contiguous()  # on channels_last the two gradients would lie interleaved
        along, down = steps[:, :1], steps[:, 1:]
        magnitude = (along.square() + down.square()).sqrt()
        turn = torch.atan(down / torch.where(along == 0, _NEXT_TO_NONE, along)) * (BINS / math.pi)
        place = torch.where(turn < 0, turn + BINS, turn)  # orientation, not direction: 0 … BINS
        # A pixel's share of bin n is how far its place is past n - 1, less how far it is past n,
        # both within 0 … 1; differences are taken of the few cells instead of the many pixels.
        past = (place - self.numbers).clamp(0, 1) * magnitude
        cells = functional.avg_pool2d(torch.cat([magnitude, past], dim=1), SIDE // CELLS)
        first = cells[:, :1] - cells[:, 1:2] + cells[:, -1:]  # the last turn leads back to it
        return torch.cat([first, cells[:, 1:-1] - cells[:, 2:]], dim=1)


def resampling(side: int) -> Tensor:
    """(SIDE, side) matrix that resamples a row of pixels: bilinear, averaged where it shrinks."""
    rows = torch.eye(side)[None, None]
    return functional.interpolate(
        rows, size=(SIDE, side), mode="bilinear", align_corners=False, antialias=side > SIDE
    )[0, 0]
