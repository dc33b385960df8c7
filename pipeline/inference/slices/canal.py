"""How bright the canal of a spine is in an image, to compare images of one study.

Let ``body``, ``canal`` and ``behind`` be the brightness of a rank's row in the middle of the
bodies, in the canal, and behind it. The contrast is ``(canal - body) / (canal + body) - (behind -
body) / (behind + body) / 2``, each the median over the ranks. Ratios hardly depend on windowing.
Fluid is bright in T2, with or without fat suppression, and dark in T1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spineline.datasets.common.arrays import FloatArray, PixelArray
from spineline.datasets.straighten import StripSpec, prolonged, straighten
from spineline.pipeline.inference.candidates import DecodedStructure, ranks_by_distance

_LEAST = 4  # structures along which contrast is measured
_STRIP = StripSpec(rank_px=8, half_width=4)
_BODY = (-0.5, 0.625)  # where along a row, in ranks behind the curve
_CANAL = (1.0, 1.75)
_WIDE = 3  # columns over which the canal is averaged before its brightest place is taken
_BEHIND = (2.25, 3.25)
_DARK = 0.02  # keeps ratios of what is black from saying much


def canal_contrast(image: PixelArray, chain: Sequence[DecodedStructure]) -> float | None:
    """How much brighter the canal is than the bodies before it and the tissue behind it.

    Args:
        image: (H, W) grey, upright.
        chain: structures, top to bottom.

    Returns:
        -1.5 … 1.5, or None if there are fewer than four structures.
    """
    if len(chain) < _LEAST:
        return None
    ranks = ranks_by_distance(chain)
    curve = prolonged([s.point_xy for s in chain], ranks, ranks[0], ranks[-1])
    strip = straighten(image, curve, _STRIP).astype(np.float64)
    rows = strip.reshape(len(curve), _STRIP.rank_px, -1).mean(axis=1)
    body = np.median(_columns(rows, _BODY), axis=1, keepdims=True)
    canal = np.median(_ratio(_columns(rows, _CANAL), body), axis=0)
    behind = np.median(_ratio(_columns(rows, _BEHIND), body), axis=0).mean()
    broad = np.convolve(canal, np.ones(_WIDE) / _WIDE, "valid")
    return float(broad.max() - behind / 2)


def _ratio(first: FloatArray, second: FloatArray) -> FloatArray:
    return (first - second) / (first + second + _DARK)


def _columns(rows: FloatArray, between: tuple[float, float]) -> FloatArray:
    """The columns of a strip's rows between two positions, in ranks behind the curve."""
    first, last = (round((place + _STRIP.half_width) * _STRIP.rank_px) for place in between)
    return rows[:, first:last]
