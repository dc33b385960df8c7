"""Straightening of the spine: a strip of the image along a chain of points.

A chain of points, one per rank (vertebrae and discs alternate), becomes a curve. The strip's rows
follow the curve from top to bottom, with the same number for each rank. Its columns run across the
curve from front to back. The strip is wide enough to identify levels by their surroundings: the
sacrum, the lumbosacral angle, the end of the cord, and the height in the chain.

Coordinates are native pixels, x right, y down, with the origin at the centre of the top left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import Float32Array, FloatArray, PixelArray

STRIP_BOUNDS = {"rank_px": (8, 64), "half_width": (1, 16), "above": (0, 32), "below": (0, 32)}
"""Smallest and largest value that a file may give for each number of a strip."""

_FINER = 1.25  # the image is shrunk to at most this multiple of the strip's resolution
_SMOOTH = 3  # ranks to each side over which the curve's direction is averaged
_END = 4  # number of ranks at an end that give the direction beyond it


@dataclass(frozen=True, slots=True)
class StripSpec:
    """Size of a strip.

    Attributes:
        rank_px: rows per rank, and columns per mean distance of neighbours.
        half_width: width in ranks to the front and to the back of the curve.
        above: ranks above the topmost level, T12-L1.
        below: ranks below the lowest level, L5-S1.
    """

    rank_px: int = 8
    half_width: int = 4
    above: int = 6
    below: int = 6


@dataclass(frozen=True, slots=True)
class Distortion:
    """Random change of a strip, for training.

    Attributes:
        aside: shift of the curve to the back, in ranks.
        turn: rotation of the columns, in radians.
        widen: factor of the width of ranks across the curve.
    """

    aside: float = 0.0
    turn: float = 0.0
    widen: float = 1.0


def prolonged(points_xy: npt.ArrayLike, ranks: npt.ArrayLike, first: int, last: int) -> FloatArray:
    """Return one point for every rank from ``first`` to ``last``.

    Points are interpolated linearly, and extrapolated beyond an end along the last few ranks there.

    Args:
        points_xy: (N, 2) points in pixels, N at least 2, top to bottom.
        ranks: (N,) ranks of the points, rising, within first … last.
        first: topmost rank wanted.
        last: lowest rank wanted.

    Returns:
        (last - first + 1, 2) points in pixels.
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
    """Return the strip along a curve.

    Rows ``rank_px * k … rank_px * (k + 1) - 1`` are centred on the curve's point k. Pixels outside
    the image are 0. The image is shrunk by area to about the strip's resolution, and then
    interpolated linearly once.

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
    """(R, 2) centre of each row, and (R, 2) step of one rank to the back; ``along`` is in ranks."""
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
    """Running mean over `_SMOOTH` neighbours to each side; ends are mirrored at the last value."""
    wide = min(_SMOOTH, len(values) - 1)
    padded = np.pad(values, wide, mode="reflect", reflect_type="odd")
    return np.convolve(padded, np.ones(2 * wide + 1) / (2 * wide + 1), "valid")
