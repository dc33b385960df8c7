"""A trunk without learnt filters: histograms of gradient orientations at several scales.

On a few hundred structures, a network from scratch hardly learns edges; histograms of oriented
gradients (Dalal and Triggs, CVPR 2005) have them from the start. The crop is seen at four scales
around its centre, each resampled to 64 pixels. In 8 × 8 cells, the gradient magnitude is summed by
orientation (6 unsigned bins, shared between neighbours). The histograms are scaled by the energy of
the whole view, and again by that of the neighbouring cells.

The features are the principal components of these histograms on the training crops, scaled to unit
variance. A change in brightness gain scales all gradients alike, so it changes nothing.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from spineline.classify.trunks.components import ComponentTrunk

GRADIENTS = "gradients"
"""The name of this trunk as ``model=``."""

VIEWS = (0.375, 0.5, 0.75, 1.0)
"""Fractions of the crop's side that the views show, around its centre."""

SIDE, CELLS, BINS = 64, 8, 6
FEATURES = len(VIEWS) * 2 * BINS * CELLS * CELLS
_TINY = 1e-6
_NEXT_TO_NONE = 1e-20  # avoids division by 0; changes no other gradient


class GradientTrunk(ComponentTrunk):
    """(N, 1, S, S) in 0 … 1 to (N, components): the principal components of the histograms."""

    pool: Tensor

    def __init__(self, size: int, components: int) -> None:
        super().__init__(FEATURES, components, name=GRADIENTS)
        self.sides = [min(max(round(size * share / 2) * 2, 2), size) for share in VIEWS]
        self.size = size
        pool = torch.eye(CELLS).repeat_interleave(SIDE // CELLS, dim=0) * (CELLS / SIDE)
        self.register_buffer("pool", pool, persistent=False)
        for n, side in enumerate(self.sides):
            rows = resampling(side)
            edged = torch.cat([rows[:1], rows, rows[-1:]])  # edge pixels repeated
            self.register_buffer(f"resample{n}", edged, persistent=False)

    def measure(self, images: Tensor) -> Tensor:
        """(N, FEATURES): the histograms."""
        return self.histograms(images)

    def histograms(self, images: Tensor) -> Tensor:
        """(N, FEATURES): the histograms of each view, by the view's energy, then by the cells'."""
        views: list[Tensor] = []
        for n, side in enumerate(self.sides):
            start = (self.size - side) // 2
            view = images[:, 0, start : start + side, start : start + side]
            resample: Tensor = getattr(self, f"resample{n}")
            views.append(resample @ (view @ resample.T))
        cells = self._cells(torch.cat(views))
        whole = cells.square().mean(dim=(1, 2, 3), keepdim=True)
        energy = cells.square().sum(dim=1, keepdim=True)
        around = functional.avg_pool2d(energy, 3, 1, 1, count_include_pad=False)
        floor = 0.05 * around.mean(dim=(2, 3), keepdim=True) + _TINY
        by_view = (cells / (whole + _TINY).sqrt()).flatten(1)
        by_cells = (cells / (around + floor).sqrt()).flatten(1)
        both = torch.cat([by_view, by_cells], dim=1).unflatten(0, (len(VIEWS), -1))
        return both.transpose(0, 1).flatten(1)

    def _cells(self, views: Tensor) -> Tensor:
        """(N, SIDE + 2, SIDE + 2), one more pixel on each edge, to (N, BINS, CELLS, CELLS).

        Mean magnitude of the Sobel gradient by orientation. A pixel's share of bin n is how far its
        orientation is past n - 1, minus how far it is past n, both clipped to 0 … 1. For speed,
        every step handles one number per pixel, and differences are taken of the cells.
        """
        across, down = views[..., 2:] - views[..., :-2], views[:, 2:] - views[:, :-2]
        along = across[:, :-2] + across[:, 2:] + 2 * across[:, 1:-1]
        down = down[..., :-2] + down[..., 2:] + 2 * down[..., 1:-1]
        magnitude = (along.square() + down.square()).sqrt()
        turn = torch.atan(down / (along + _NEXT_TO_NONE)) * (BINS / math.pi)
        mean = self._means(magnitude)
        half = BINS // 2  # turns are from -half to half; both ends are the same orientation
        past = [
            self._means(turn.clamp(n, n + 1) * magnitude) - n * mean for n in range(-half, half)
        ]
        shares = [before - after for before, after in pairwise(past)]
        join = mean - past[0] + past[-1]
        return torch.stack([*shares[half - 1 :], join, *shares[: half - 1]], dim=1)

    def _means(self, pixels: Tensor) -> Tensor:
        """(N, SIDE, SIDE) to (N, CELLS, CELLS)."""
        return self.pool.T @ (pixels @ self.pool)


def resampling(side: int) -> Tensor:
    """(SIDE, side) matrix that resamples a row of pixels: bilinear, averaging when it shrinks."""
    rows = torch.eye(side)[None, None]
    return functional.interpolate(
        rows, size=(SIDE, side), mode="bilinear", align_corners=False, antialias=side > SIDE
    )[0, 0]
