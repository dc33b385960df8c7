"""Candidates: the detector's boxes in one image, by level, and the level reader's view of them.

A chain of structures is straightened, and the level reader reads it rank by rank: the surroundings
of each place show which level it is. `worth` turns the reading into a penalty for each candidate,
`reading_of` into one number for all names of a chain.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import FloatArray, IntArray
from spineline.datasets.labels import LEVELS, SEGMENT_RANKS, Kind
from spineline.datasets.straighten import StripSpec, prolonged

if TYPE_CHECKING:
    from spineline.detect.results import Detections


_LEAST = 3  # structures of which a curve is made
_NEAR = 0.4  # of a box's height: how far from the curve's point its centre may lie

TINY = 1e-9
"""A small number that keeps divisors and downward steps above 0."""


@dataclass(frozen=True, slots=True)
class DecodedStructure:
    """One level found: its point (the centre of its box), box and the detector's confidence."""

    level: str
    kind: Kind
    point_xy: tuple[float, float]
    box_xyxy: tuple[float, float, float, float]
    confidence: float

    @property
    def rank(self) -> int:
        """Index of its level in `LEVELS`."""
        return LEVELS.index(self.level)

    @property
    def height(self) -> float:
        """Height of its box in pixels."""
        return self.box_xyxy[3] - self.box_xyxy[1]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidates sorted by rank (index in `LEVELS`), then falling confidence; N rows each."""

    rank: IntArray
    box_xyxy: FloatArray
    confidence: FloatArray

    @property
    def point_xy(self) -> FloatArray:
        """(N, 2) centres of the boxes."""
        return (self.box_xyxy[:, :2] + self.box_xyxy[:, 2:]) / 2

    @property
    def height(self) -> FloatArray:
        """(N,) heights of the boxes in pixels."""
        return self.box_xyxy[:, 3] - self.box_xyxy[:, 1]


def candidates_of(detections: Detections, per_level: int) -> Candidates:
    """The usable candidates: the most confident ``per_level`` of each level, in order of rank.

    Args:
        detections: of one image, all candidates at low confidence; classes that are none of the
            eleven levels, boxes without area and numbers that are not finite are left out.
        per_level: how many of one level are kept.
    """
    rank_of = np.array(
        [LEVELS.index(name) if name in LEVELS else -1 for name in detections.names], dtype=np.int64
    )
    box = np.asarray(detections.boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    confidence = np.asarray(detections.confidence, dtype=np.float64)
    rank = rank_of[np.asarray(detections.class_index, dtype=np.int64)]
    usable = np.isfinite(box).all(axis=1) & np.isfinite(confidence) & (rank >= 0)
    usable &= (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
    order = np.flatnonzero(usable)
    order = order[np.lexsort((-confidence[order], rank[order]))]
    first = np.searchsorted(rank[order], rank[order])  # position of the first of the same level
    order = order[np.arange(len(order)) - first < per_level]
    return Candidates(rank[order], box[order], confidence[order])


def no_candidates() -> Candidates:
    """An empty set of candidates."""
    return Candidates(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))


def joined_candidates(parts: Sequence[Candidates]) -> Candidates:
    """Candidates of several detections on one image, in order of rank, then falling confidence."""
    rank = np.concatenate([part.rank for part in parts])
    confidence = np.concatenate([part.confidence for part in parts])
    order = np.lexsort((-confidence, rank))
    boxes = np.concatenate([part.box_xyxy for part in parts])
    return Candidates(rank[order], boxes[order], confidence[order])


def with_other_names(candidates: Candidates, cost: float, *, reach: int = 1) -> Candidates:
    """Candidates, and each again with the names of neighbouring levels of its kind, at lower odds.

    Args:
        candidates: N of them.
        cost: natural log of the factor by which the odds are lower, for each vertebra of shift.
        reach: largest shift, upwards and downwards.
    """
    odds = candidates.confidence / np.maximum(1 - candidates.confidence, TINY)
    ranks, boxes, sure = [candidates.rank], [candidates.box_xyxy], [candidates.confidence]
    for shift in (*range(-reach, 0), *range(1, reach + 1)):
        rank = candidates.rank + shift * SEGMENT_RANKS
        kept = (rank >= 0) & (rank < len(LEVELS))
        less = odds * math.exp(-cost * abs(shift))
        ranks.append(rank[kept])
        boxes.append(candidates.box_xyxy[kept])
        sure.append((less / (1 + less))[kept])
    rank, confidence = np.concatenate(ranks), np.concatenate(sure)
    order = np.lexsort((-confidence, rank))
    return Candidates(rank[order], np.concatenate(boxes)[order], confidence[order])


class LevelReader(Protocol):
    """A level reader's interface; see `spineline.detect.level_reader.model.TorchLevelReader`."""

    @property
    def strip(self) -> StripSpec: ...  # noqa: D102

    def read(  # noqa: D102
        self, image: npt.NDArray[np.uint8], curve_xy: FloatArray
    ) -> FloatArray: ...


@dataclass(frozen=True, slots=True)
class Context:
    """Levels as the level reader reads them along a curve.

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
        namer: the level reader.
        image: (H, W) grey, upright.
        structures: as decoded; of their names, only the kinds matter.

    Returns:
        None if there are too few structures.
    """
    if len(structures) < _LEAST:
        return None
    ranks = ranks_by_distance(structures)
    first = min(-namer.strip.above, ranks[0])
    last = max(len(LEVELS) - 1 + namer.strip.below, ranks[-1])
    curve = prolonged([s.point_xy for s in structures], ranks, first, last)
    return Context(curve, namer.read(image, curve))


def ranks_by_distance(structures: Sequence[DecodedStructure]) -> list[int]:
    """Ranks by the positions of structures, in half heights of their boxes, not by their names.

    A chain whose names skip a level, or repeat one, is thus straightened as evenly as any other.
    The first keeps the rank of its name. If the last would leave the strip at the lower end, all
    ranks are reduced by whole segments.
    """
    ranks = [structures[0].rank]
    for upper, lower in itertools.pairwise(structures):
        one_rank = (upper.height + lower.height) / 4
        odd = int(upper.kind != lower.kind)
        steps = (
            SEGMENT_RANKS
            * round((math.dist(upper.point_xy, lower.point_xy) / one_rank - odd) / SEGMENT_RANKS)
            + odd
        )
        ranks.append(ranks[-1] + max(steps, odd or SEGMENT_RANKS))
    over = max(0, ranks[-1] - (len(LEVELS) - 1 + SEGMENT_RANKS))
    taken = SEGMENT_RANKS * math.ceil(over / SEGMENT_RANKS)
    return [rank - taken for rank in ranks]


def worth(context: Context, candidates: Candidates, *, most: float) -> FloatArray:
    """(N,) the penalty of each candidate's level by the context, from -``most`` to 0.

    It is the log probability of its level at its place minus that of the most probable level. It is
    -``most`` if the candidate lies on no place of the curve.
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
    """How much less probable names are than the best reading of the whole strip, 0 or less.

    The strip's places above T12-L1 and below L5-S1 count too. Each place contributes the log
    probability of its level by these names minus that of the most probable one, at least ``-most``.

    Args:
        context: the reading.
        ranks: of structures.
        points_xy: (N, 2) of the same.
        most: largest penalty of one place.
    """
    away = np.hypot(*(points_xy[:, None] - context.curve_xy[None]).transpose(2, 0, 1))
    first = round(float(np.median(np.asarray(ranks) - away.argmin(axis=1))))
    shares = context.log_probability
    places = np.arange(len(shares))
    named = np.clip(places + first, -1, len(LEVELS)) + 1
    against = shares[places, named] - shares.max(axis=1)
    return float(np.maximum(against, -most).sum())
