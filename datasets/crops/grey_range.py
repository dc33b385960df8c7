"""Grey statistics of an image's crops, and their range in a classifier's training images."""

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
"""The statistics, in order: mean and standard deviation of the pixels in 0 … 1, and the mean
step between neighbouring pixels in units of the standard deviation."""

_WIDER = 0.25  # fraction of the training images' range that is added at both ends
_FEW = 50  # with fewer images, their own range is too narrow for their kind
_BEYOND = 0.0005  # fraction of similar images beyond either end of a range of few


@dataclass(frozen=True, slots=True)
class GreyRange:
    """Smallest and largest ordinary value of each of [GREY_STATISTICS][]."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        ends = list(zip(self.low, self.high, strict=True))
        if len(ends) != len(GREY_STATISTICS) or not all(low <= high for low, high in ends):
            raise ValueError(f"low {self.low} and high {self.high} are not ranges of grey values")

    def beyond(self, crops: PixelArray) -> dict[str, float]:
        """Return the statistics of an image's crops that are out of range, with their values."""
        found = zip(GREY_STATISTICS, grey_statistics(crops), self.low, self.high, strict=True)
        return {name: float(v) for name, v, low, high in found if not low <= v <= high}


def grey_statistics(crops: PixelArray) -> FloatArray:
    """Return (3,) [GREY_STATISTICS][] over all crops of one image.

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


def grey_range(table: CropTable, known: GreyRange | None = None) -> GreyRange | None:
    """Return the range over the images of a table, a quarter wider at both ends, without copies.

    A few images do not span the range of their kind. With fewer than 50, the range is at least the
    prediction interval for one more image of a normal distribution. This is mean ± t s √(1 + 1/n),
    with Student's t of n - 1 degrees of freedom.

    Args:
        table: the crops.
        known: the range of the initial weights, which is included.

    Returns:
        The range; for a single image, ``known``.

    Raises:
        ValueError: the table has no crop.
    """
    windows, members = table.windows(), dict[str, list[int]]()
    for n, row in enumerate(table.rows):
        if not row.variant:
            members.setdefault(row.image_id, []).append(n)
    found = np.array([grey_statistics(windows[n]) for n in members.values()])
    count = len(found)
    low, high = found.min(axis=0), found.max(axis=0)
    if count == 1:
        return known
    more = _WIDER * (high - low)
    low, high = low - more, high + more
    if count < _FEW:
        from scipy.stats import t  # slow to import, and seldom needed

        reach = t.ppf(1 - _BEYOND, count - 1) * found.std(axis=0, ddof=1) * (1 + 1 / count) ** 0.5
        middle = found.mean(axis=0)
        low, high = np.minimum(low, middle - reach), np.maximum(high, middle + reach)
    if known is not None:
        low, high = np.minimum(low, known.low), np.maximum(high, known.high)
    return GreyRange(_plain(low), _plain(high))


def _plain(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
