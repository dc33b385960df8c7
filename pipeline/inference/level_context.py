"""What the straightened spine says of each place: which level it is, by what lies around it.

The chain that the decoder found from the detector's names alone is straightened and read by a
namer, rank by rank. `worth` turns that into a bonus or malus for each candidate, which
`decode_spine` adds when it decodes a second time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.labels import LEVELS
from spineline.datasets.straighten import StripSpec, prolonged
from spineline.pipeline.inference.candidates import SEGMENT_RANKS, Candidates, DecodedStructure

_LEAST = 3  # structures of which a curve is made
_NEAR = 0.4  # of a box's height: how far from the curve's point its centre may lie


class LevelReader(Protocol):
    """What is asked of a namer; see `spineline.detect.level_reader.model.TorchLevelReader`."""

    @property
    def strip(self) -> StripSpec: ...  # noqa: D102

    def read(  # noqa: D102
        self, image: npt.NDArray[np.uint8], curve_xy: FloatArray
    ) -> FloatArray: ...


@dataclass(frozen=True, slots=True)
class Context:
    """Levels as the namer reads them along a curve.

    Attributes:
        curve_xy: (K, 2) places, one per rank, in native pixels.
        log_probability: (K, 13) natural logs: above T12-L1, the eleven levels, below L5-S1.
    """

    curve_xy: FloatArray
    log_probability: FloatArray


def read_context(
    namer: LevelReader, image: npt.NDArray[np.uint8], structures: Sequence[DecodedStructure]
) -> Context | None:
    """Read the levels along structures, top to bottom.

    Args:
        namer: the network.
        image: (H, W) grey, upright.
        structures: as decoded; their names count for no more than their kinds.

    Returns:
        None where there are too few structures.
    """
    if len(structures) < _LEAST:
        return None
    ranks = ranks_by_distance(structures)
    first = min(-namer.strip.above, ranks[0])
    last = max(len(LEVELS) - 1 + namer.strip.below, ranks[-1])
    curve = prolonged([s.point_xy for s in structures], ranks, first, last)
    return Context(curve, namer.read(image, curve))


def ranks_by_distance(structures: Sequence[DecodedStructure]) -> list[int]:
    """Ranks by where structures lie, counted in half heights of their boxes, not by their names.

    A chain whose names skip a level, or count one twice, is straightened as evenly as any other.
    The first keeps its name's rank; where the last would run out of the strip below, whole rungs
    are taken off all.
    """
    ranks = [structures[0].rank]
    for upper, lower in itertools.pairwise(structures):
        rung = (upper.height + lower.height) / 4
        odd = int(upper.kind != lower.kind)
        steps = (
            SEGMENT_RANKS
            * round((math.dist(upper.point_xy, lower.point_xy) / rung - odd) / SEGMENT_RANKS)
            + odd
        )
        ranks.append(ranks[-1] + max(steps, odd or SEGMENT_RANKS))
    over = max(0, ranks[-1] - (len(LEVELS) - 1 + SEGMENT_RANKS))
    taken = SEGMENT_RANKS * math.ceil(over / SEGMENT_RANKS)
    return [rank - taken for rank in ranks]


def worth(context: Context, candidates: Candidates, *, most: float) -> FloatArray:
    """(N,) how much the context speaks against each candidate's level, from -``most`` to 0.

    It is the log probability of its level at its place less that of the likeliest one; -``most``
    where it lies on no place of the curve.
    """
    points, heights = candidates.point_xy, candidates.height
    away = np.hypot(*(points[:, None] - context.curve_xy[None]).transpose(2, 0, 1))
    place = away.argmin(axis=1)
    shares = context.log_probability[place]
    against = shares[np.arange(len(place)), candidates.rank + 1] - shares.max(axis=1)
    near = away.min(axis=1) < _NEAR * heights
    return np.where(near, np.maximum(against, -most), -most)


def reading_of(
    context: Context, ranks: Sequence[int], points_xy: FloatArray, *, most: float
) -> float:
    """How much less likely names are than what is read along the whole strip, 0 or less.

    The strip's places above T12-L1 and below L5-S1 count too. It is the sum over all places of the
    log probability of what the place is by these names less that of the likeliest, at least
    ``-most`` each.

    Args:
        context: what was read.
        ranks: of structures.
        points_xy: (N, 2) of the same.
        most: that one place may speak against the names.
    """
    away = np.hypot(*(points_xy[:, None] - context.curve_xy[None]).transpose(2, 0, 1))
    first = round(float(np.median(np.asarray(ranks) - away.argmin(axis=1))))
    shares = context.log_probability
    places = np.arange(len(shares))
    named = np.clip(places + first, -1, len(LEVELS)) + 1
    against = shares[places, named] - shares.max(axis=1)
    return float(np.maximum(against, -most).sum())
