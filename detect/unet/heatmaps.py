"""Heat maps of points: how the training targets are drawn, and how points are read from them.

Coordinates are continuous, in pixels of the map, with the origin at the top left corner. The centre
of the map's pixel (row i, column j) is (x, y) = (j + 0.5, i + 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

GAUSSIAN, ONEHOT = "gaussian", "onehot"
HEATMAPS: tuple[str, ...] = (GAUSSIAN, ONEHOT)
"""Kinds of heat map: a Gaussian bell of height 1 around a point, or 1 in a disc around it."""

_MOST_PEAKS = 1000
_LEAST = 1e-6
"""A peak must be hotter than this."""


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """Points read from the heat maps of one image, by falling heat.

    Attributes:
        points_xy: (N, 2) float32, pixels of the map.
        heat: (N,) float32, 0 … 1.
        class_index: (N,) int64, from 0.
        cell_yx: (N, 2) int64, the pixel of each peak.
    """

    points_xy: torch.Tensor
    heat: torch.Tensor
    class_index: torch.Tensor
    cell_yx: torch.Tensor


def draw_heat(
    points_xy: torch.Tensor,
    class_index: torch.Tensor,
    classes: int,
    size_hw: tuple[int, int],
    *,
    heatmap: str,
    sigma: float,
) -> torch.Tensor:
    """Draw the heat maps of points; where points of one class overlap, the greatest heat counts.

    Args:
        points_xy: (N, 2), in pixels of the map.
        class_index: (N,) int64, from 0.
        classes: number of maps.
        size_hw: size of a map.
        heatmap: one of [HEATMAPS][].
        sigma: standard deviation of the bell, or radius of the disc, in pixels. The pixel that
            contains a point is in its disc, however small the disc is.

    Returns:
        float32 (classes, h, w).
    """
    height, width = size_hw
    maps = torch.zeros(classes, height, width, device=points_xy.device)
    xs = torch.arange(width, device=maps.device) + 0.5
    ys = torch.arange(height, device=maps.device) + 0.5
    for (x, y), index in zip(points_xy.float().tolist(), class_index.tolist(), strict=True):
        squared = (xs[None, :] - x) ** 2 + (ys[:, None] - y) ** 2
        if heatmap == GAUSSIAN:
            one = torch.exp(-squared / (2 * sigma**2))
        else:
            one = (squared <= sigma**2).float()
            if 0 <= y < height and 0 <= x < width:
                one[int(y), int(x)] = 1.0
        maps[index] = torch.maximum(maps[index], one)
    return maps


def find_peaks(heat: torch.Tensor, *, heatmap: str, sigma: float, confidence: float) -> Peaks:
    """Find local maxima with subpixel positions.

    A maximum is the greatest heat within about ``sigma`` around it. For Gaussian bells its position
    is refined by a parabola through the logarithms of the pixel and its neighbours in x and in y,
    which is exact. For discs it is the centre of gravity of the heat around the pixel.

    Args:
        heat: (classes, h, w) float32, 0 … 1.
        heatmap: kind of heat map used in training.
        sigma: its value in training.
        confidence: lowest heat of a peak.
    """
    radius = max(1, round(sigma))
    pooled = functional.max_pool2d(heat[None], 2 * radius + 1, stride=1, padding=radius)[0]
    found = (heat == pooled) & (heat >= confidence) & (heat > _LEAST)
    classes, rows, columns = found.nonzero(as_tuple=True)
    values = heat[classes, rows, columns]
    order = torch.argsort(values, descending=True, stable=True)[:_MOST_PEAKS]
    classes, rows, columns, values = (t[order] for t in (classes, rows, columns, values))
    place = _parabola if heatmap == GAUSSIAN else _gravity
    offset_xy = place(heat, classes, rows, columns, radius)
    centres = torch.stack([columns, rows], dim=1).float() + 0.5
    return Peaks(centres + offset_xy, values, classes, torch.stack([rows, columns], dim=1))


def _parabola(
    heat: torch.Tensor, classes: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, _: int
) -> torch.Tensor:
    """(N, 2) offsets in x and y from the centres of the peaks' pixels; zero at the border."""
    padded = functional.pad(heat.clamp(min=_LEAST).log(), (1, 1, 1, 1), value=float("nan"))
    middle = padded[classes, rows + 1, columns + 1]
    offsets = []
    for dy, dx in ((0, 1), (1, 0)):
        before = padded[classes, rows + 1 - dy, columns + 1 - dx]
        after = padded[classes, rows + 1 + dy, columns + 1 + dx]
        bend = 2 * middle - before - after
        offset = (after - before) / (2 * bend.clamp(min=_LEAST))
        offsets.append(torch.nan_to_num(offset).clamp(-0.5, 0.5))
    return torch.stack(offsets, dim=1)


def _gravity(
    heat: torch.Tensor,
    classes: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    radius: int,
) -> torch.Tensor:
    """(N, 2) offsets of the centres of gravity of the heat around the peaks' pixels.

    The window extends twice the radius, because a peak on a disc of equal heat may lie at its edge.
    """
    reach = torch.arange(-2 * radius, 2 * radius + 1, device=heat.device)
    dy, dx = (grid.reshape(-1) for grid in torch.meshgrid(reach, reach, indexing="ij"))
    y, x = rows[:, None] + dy, columns[:, None] + dx
    inside = (y >= 0) & (y < heat.shape[1]) & (x >= 0) & (x < heat.shape[2])
    weight = heat[classes[:, None], y.clamp(0, heat.shape[1] - 1), x.clamp(0, heat.shape[2] - 1)]
    weight = weight * inside
    total = weight.sum(1).clamp(min=_LEAST)
    return torch.stack([(weight * dx).sum(1) / total, (weight * dy).sum(1) / total], dim=1)
