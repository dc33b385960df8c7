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

from spineline.datasets.labels import LEVELS, Kind
from spineline.datasets.straighten import StripSpec, prolonged
from spineline.pipeline.inference.naming import RUNG, Places

FloatArray = npt.NDArray[np.float64]

_LEAST = 3  # structures of which a curve is made
_NEAR = 0.4  # of a box's height: how far from the curve's point its centre may lie


class LevelReader(Protocol):
    """What is asked of a namer; see `spineline.detect.level_reader.model.TorchLevelReader`."""

    @property
    def strip(self) -> StripSpec: ...  # noqa: D102

    def read(  # noqa: D102
        self, image: npt.NDArray[np.uint8], curve_xy: FloatArray
    ) -> FloatArray: ...


class Found(Protocol):
    """What is asked of a structure."""

    @property
    def level(self) -> str: ...  # noqa: D102

    @property
    def kind(self) -> Kind: ...  # noqa: D102

    @property
    def point_xy(self) -> tuple[float, float]: ...  # noqa: D102

    @property
    def box_xyxy(self) -> tuple[float, float, float, float]: ...  # noqa: D102


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
    namer: LevelReader, image: npt.NDArray[np.uint8], structures: Sequence[Found]
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


def ranks_by_distance(structures: Sequence[Found]) -> list[int]:
    """Ranks by where structures lie, counted in half heights of their boxes, not by their names.

    A chain whose names skip a level, or count one twice, is straightened as evenly as any other.
    The first keeps its name's rank; where the last would run out of the strip below, whole rungs
    are taken off all.
    """
    ranks = [LEVELS.index(structures[0].level)]
    for upper, lower in itertools.pairwise(structures):
        rung = sum(s.box_xyxy[3] - s.box_xyxy[1] for s in (upper, lower)) / 4
        odd = int(upper.kind != lower.kind)
        steps = RUNG * round((math.dist(upper.point_xy, lower.point_xy) / rung - odd) / RUNG) + odd
        ranks.append(ranks[-1] + max(steps, odd or RUNG))
    over = max(0, ranks[-1] - (len(LEVELS) - 1 + RUNG))
    taken = RUNG * math.ceil(over / RUNG)
    return [rank - taken for rank in ranks]


def worth(context: Context, candidates: Places, *, most: float) -> FloatArray:
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
