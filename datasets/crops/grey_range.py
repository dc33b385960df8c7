"""Grey values of an image's crops, and the range of them that a classifier was trained on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spineline.datasets.common.arrays import FloatArray, PixelArray

if TYPE_CHECKING:
    from spineline.datasets.crops.table import CropTable

GREY_STATISTICS = ("brightness", "spread", "sharpness")
"""What is measured, in order: mean and standard deviation of the pixels in 0 … 1, and the mean
step from pixel to pixel in units of the standard deviation."""

_WIDER = 0.25  # of the width of the training images' range, added at both ends


@dataclass(frozen=True, slots=True)
class GreyRange:
    """Least and largest value of each of [GREY_STATISTICS][] that is no surprise."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        ends = list(zip(self.low, self.high, strict=True))
        if len(ends) != len(GREY_STATISTICS) or not all(low <= high for low, high in ends):
            raise ValueError(f"low {self.low} and high {self.high} are no ranges of grey values")

    def beyond(self, crops: PixelArray) -> dict[str, float]:
        """The statistics of an image's crops that lie outside, with their values."""
        found = zip(GREY_STATISTICS, grey_statistics(crops), self.low, self.high, strict=True)
        return {name: float(v) for name, v, low, high in found if not low <= v <= high}


def grey_statistics(crops: PixelArray) -> FloatArray:
    """(3,) the values of [GREY_STATISTICS][] of all crops of one image together.

    Args:
        crops: (N, S, S) uint8, N at least 1.

    >>> grey_statistics(np.zeros((2, 8, 8), np.uint8)).tolist()
    [0.0, 0.0, 0.0]
    """
    counts, greys = np.bincount(crops.ravel(), minlength=256), np.arange(256) / 255
    mean = float(counts @ greys / crops.size)
    spread = math.sqrt(float(counts @ (greys - mean) ** 2) / crops.size)
    signed = crops.astype(np.int16)
    steps = [float(np.abs(np.diff(signed, axis=axis)).mean()) / 255 for axis in (1, 2)]
    return np.array([mean, spread, sum(steps) / 2 / max(spread, 1e-6)])


def grey_range(table: CropTable) -> GreyRange:
    """The range over the images of a table, a quarter wider at both ends; copies do not count.

    Raises:
        ValueError: the table has no crop.
    """
    windows, members = table.windows(), dict[str, list[int]]()
    for n, row in enumerate(table.rows):
        if not row.variant:
            members.setdefault(row.image_id, []).append(n)
    found = np.array([grey_statistics(windows[n]) for n in members.values()])
    low, high = found.min(axis=0), found.max(axis=0)
    more = _WIDER * (high - low)
    return GreyRange(_plain(low - more), _plain(high + more))


def _plain(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
