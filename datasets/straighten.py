"""The spine pulled straight: a strip of the image along a chain of points, wide enough for context.

A chain of points, one per rank (vertebrae and discs in turn), becomes a curve; the strip's rows
follow it from top to bottom, the same number for each rank, and its columns run across it from
front to back. The level of a rung can be read in such a strip by what lies above, below and beside
it: the sacrum, the lumbosacral angle, the end of the cord, the height in the chain.

Coordinates are native pixels, x right, y down, origin at the centre of the top left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import Float32Array, FloatArray, PixelArray

STRIP_BOUNDS = {"rank_px": (8, 64), "half_width": (1, 16), "above": (0, 32), "below": (0, 32)}
"""Least and greatest value of each number of a strip that a file may ask for."""

_FINER = 1.25  # the image is shrunk to at most that many times the strip's resolution
_SMOOTH = 3  # ranks to each side over which the curve's direction is averaged
_END = 4  # ranks at an end that give the direction beyond it


@dataclass(frozen=True, slots=True)
class StripSpec:
    """Size of a strip.

    Attributes:
        rank_px: rows per rank, and columns per mean distance of neighbours.
        half_width: ranks to the front and to the back of the curve.
        above: ranks above the topmost level, T12-L1.
        below: ranks below the lowest level, L5-S1.
    """

    rank_px: int = 8
    half_width: int = 4
    above: int = 6
    below: int = 6


@dataclass(frozen=True, slots=True)
class Distortion:
    """What makes one strip differ from another of the same spine.

    Attributes:
        aside: the curve moved to the back, in ranks.
        turn: of the columns, in radians.
        widen: ranks across are that many times as wide.
    """

    aside: float = 0.0
    turn: float = 0.0
    widen: float = 1.0


def prolonged(points_xy: npt.ArrayLike, ranks: npt.ArrayLike, first: int, last: int) -> FloatArray:
    """One point for every rank from ``first`` to ``last``.

    Between points it is linear; beyond the ends it goes on as the last few ranks there do.

    Args:
        points_xy: (N, 2), N at least 2, top to bottom.
        ranks: (N,) of the points, rising, within first … last.
        first: topmost rank wanted.
        last: lowest rank wanted.

    Returns:
        (last - first + 1, 2).
    """
    points, at = np.asarray(points_xy, dtype=np.float64), np.asarray(ranks, dtype=np.int64)
    between = np.arange(at[0], at[-1] + 1)
    line = np.stack([np.interp(between, at, points[:, axis]) for axis in (0, 1)], axis=1)
    few = min(_END, len(line) - 1)
    up, down = (line[0] - line[few]) / few, (line[-1] - line[-1 - few]) / few
    above = line[0] + up * np.arange(at[0] - first, 0, -1)[:, None]
    below = line[-1] + down * np.arange(1, last - at[-1] + 1)[:, None]
    return np.concatenate([above, line, below])


def straighten(
    image: PixelArray,
    curve_xy: FloatArray,
    spec: StripSpec,
    distortion: Distortion | None = None,
) -> Float32Array:
    """The strip along a curve.

    Rows ``rank_px * k … rank_px * (k + 1) - 1`` are centred on the curve's point k. What lies
    outside the image is 0. One interpolation, linear, of the image shrunk by area to about the
    strip's resolution.

    Args:
        image: (H, W) grey.
        curve_xy: (K, 2) one point per rank, K at least 2.
        spec: size of the strip.
        distortion: for training; by default none.

    Returns:
        (K * rank_px, 2 * half_width * rank_px) float32 in 0 … 1.
    """
    import cv2

    distortion = distortion or Distortion()
    steps = np.hypot(*np.diff(curve_xy, axis=0).T)
    scale = spec.rank_px * _FINER / max(float(np.median(steps)), 1e-6)
    if scale < 1 and min(image.shape) * scale >= 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    else:
        scale = 1.0
    along = (np.arange(len(curve_xy) * spec.rank_px) + 0.5) / spec.rank_px - 0.5
    across = (np.arange(2 * spec.half_width * spec.rank_px) + 0.5) / spec.rank_px - spec.half_width
    centre, right = _frame(curve_xy, along, distortion)
    places = centre[:, None] + (across * distortion.widen)[None, :, None] * right[:, None]
    places = (places + 0.5) * scale - 0.5
    x, y = (np.ascontiguousarray(places[..., axis], dtype=np.float32) for axis in (0, 1))
    strip = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(strip, dtype=np.float32) / np.float32(255)


def _frame(
    curve: FloatArray, along: FloatArray, distortion: Distortion
) -> tuple[FloatArray, FloatArray]:
    """(R, 2) centre and (R, 2) one rank to the back of each row, ``along`` in ranks."""
    ranks = np.arange(len(curve))
    centre = np.stack([np.interp(along, ranks, curve[:, axis]) for axis in (0, 1)], axis=1)
    for row in np.flatnonzero((along < 0) | (along > ranks[-1])):
        end, inner = (0, 1) if along[row] < 0 else (-1, -2)
        beyond = abs(along[row] - ranks[end])
        centre[row] = curve[end] + beyond * (curve[end] - curve[inner])
    direction = np.stack([_smoothed(np.gradient(curve[:, axis])) for axis in (0, 1)], axis=1)
    down = np.stack([np.interp(along, ranks, direction[:, axis]) for axis in (0, 1)], axis=1)
    right = np.stack([down[:, 1], -down[:, 0]], axis=1)
    centre = centre + distortion.aside * right
    cos, sin = np.cos(distortion.turn), np.sin(distortion.turn)
    return centre, right @ np.array([[cos, sin], [-sin, cos]])


def _smoothed(values: FloatArray) -> FloatArray:
    """Running mean over `_SMOOTH` neighbours to each side, ends mirrored through the last value."""
    wide = min(_SMOOTH, len(values) - 1)
    padded = np.pad(values, wide, mode="reflect", reflect_type="odd")
    return np.convolve(padded, np.ones(2 * wide + 1) / (2 * wide + 1), "valid")
