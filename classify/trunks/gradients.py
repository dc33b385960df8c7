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


class GradientTrunk(ComponentTrunk):
    """(N, 1, S, S) in 0 … 1 to (N, components): the principal components of the histograms."""

    sobel: Tensor

    def __init__(self, size: int, components: int) -> None:
        super().__init__(FEATURES, components, name=GRADIENTS)
        self.sides = [min(max(round(size * share / 2) * 2, 2), size) for share in VIEWS]
        self.size = size
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        kernels = torch.stack([across, across.T])[:, None]
        self.register_buffer("sobel", kernels, persistent=False)
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
        along, down = steps[:, :1], steps[:, 1:]
        magnitude = (along.square() + down.square()).sqrt()
        along = torch.where(magnitude > 0, along, 1)  # ONNX has no atan2, and 0 / 0 in its place
        place = torch.atan2(down, along) * (BINS / math.pi)
        place = torch.where(place < 0, place + BINS, place)  # orientation, not direction: 0 … BINS
        shares = [(1 - (place - number).abs()).clamp(min=0) for number in range(BINS + 1)]
        shares[0] = shares[0] + shares.pop()
        return functional.avg_pool2d(magnitude * torch.cat(shares, dim=1), SIDE // CELLS)


def resampling(side: int) -> Tensor:
    """(SIDE, side) matrix that resamples a row of pixels: bilinear, averaged where it shrinks."""
    rows = torch.eye(side)[None, None]
    return functional.interpolate(
        rows, size=(SIDE, side), mode="bilinear", align_corners=False, antialias=side > SIDE
    )[0, 0]
