"""What the detector offers of one image, by level, and what becomes of it: structures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spineline.datasets.common.arrays import FloatArray, IntArray
from spineline.datasets.labels import LEVELS, Kind

if TYPE_CHECKING:
    from spineline.detect.results import Detections


SEGMENT_RANKS = 2
"""Ranks from one vertebra, or disc, to the next."""

TINY = 1e-9
"""Keeps divisors from 0, and steps downwards from none."""


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
    """None at all."""
    return Candidates(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))


def joined_candidates(parts: Sequence[Candidates]) -> Candidates:
    """Candidates of several looks at one image, in order of rank, then falling confidence."""
    rank = np.concatenate([part.rank for part in parts])
    confidence = np.concatenate([part.confidence for part in parts])
    order = np.lexsort((-confidence, rank))
    boxes = np.concatenate([part.box_xyxy for part in parts])
    return Candidates(rank[order], boxes[order], confidence[order])


def with_other_names(candidates: Candidates, cost: float, *, reach: int = 1) -> Candidates:
    """Candidates, and each again with the names of the next rungs, at less odds.

    Args:
        candidates: N of them.
        cost: natural log of how many times smaller the odds are, for each rung.
        reach: rungs, upwards and downwards.
    """
    odds = candidates.confidence / np.maximum(1 - candidates.confidence, TINY)
    ranks, boxes, sure = [candidates.rank], [candidates.box_xyxy], [candidates.confidence]
    for rungs in (*range(-reach, 0), *range(1, reach + 1)):
        rank = candidates.rank + rungs * SEGMENT_RANKS
        kept = (rank >= 0) & (rank < len(LEVELS))
        less = odds * math.exp(-cost * abs(rungs))
        ranks.append(rank[kept])
        boxes.append(candidates.box_xyxy[kept])
        sure.append((less / (1 + less))[kept])
    rank, confidence = np.concatenate(ranks), np.concatenate(sure)
    order = np.lexsort((-confidence, rank))
    return Candidates(rank[order], np.concatenate(boxes)[order], confidence[order])
