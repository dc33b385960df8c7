"""The naming of a spine as a step of its own: which of the rungs is L1?

Local boxes hardly tell one vertebra from the next, so that a chain of well found structures may
bear names that are all one rung too high or too low. Here the chain that the decoder chose is
compared with its rivals: the best chains in which the same places are named one or two rungs (one
rung is a vertebra and a disc, two ranks) higher or lower, ends being lost or gained. The scores, in
natural-log units, become probabilities by a softmax of ``score / TEMPERATURE``.

A temperature is needed because the eleven boxes of a spine err together: where one is named a rung
too high, its neighbours are too, and scores that are sums over structures overstate what is known.
`TEMPERATURE` was fitted by maximum likelihood of the right shift on detections of spines that the
detector had not been trained on: four YOLOv8n, three trained on 67 spines and tried on 33 others,
one trained on 100 and tried on 49 others; 148 namings, 17 of them wrong. All four together give
9.3, and the two whose recipes are in use, with 1 of 82 wrong, 8.5. With so few wrong namings of a
good detector the value is uncertain; ``naming.ece`` and ``naming.brier`` of ``pipeline val`` tell
how well it holds elsewhere.

Where a level reader reads the spine (`spineline.pipeline.inference.find_spine`), every rival is
completed, read and scored along a chain of its own, and the best of all is given. Its probability
is then a logistic function of `NamingEvidence`, whose coefficients `COEFFICIENTS` are fitted by
``benchmarks/naming_stress.py fit=true``; the softmax shares the rest among the rivals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from spineline.datasets.common.arrays import BoolArray
from spineline.pipeline.inference.candidates import SEGMENT_RANKS, Candidates

SHIFTS = (-2, -1, 1, 2)
"""The rivals, in rungs: 1 is every name one rung lower, so that what is called L3 is L4."""

TEMPERATURE = 9.0
"""Of the softmax; see the module's text for how it was fitted."""

TEMPERATURE_IN_CONTEXT = 9.0
"""The same for scores in which a namer's reading counts.

Fitted in the same way on the three detectors tried on 33 spines, of whose 99 namings 6 were then
wrong: 6.4 with the weakest of them (29 of 33 right), 9.4 without it.
"""

SURE = 0.9
"""A naming less probable than this is warned of: a rival scores within about 20 of it."""


_MOST_ODDS = 12.0  # natural log; no finite sample shows more
_NO_RIVAL = -1e3  # natural-log units

MOST_MARGIN = 40.0
"""Margins above it say no more."""

COEFFICIENTS: Mapping[str, float] = MappingProxyType(
    {"constant": -1.6706, "margin": 0.0587, "score": 0.0814}
)
"""Of the log-odds that a naming is right, by the fields of `NamingEvidence`.

Fitted by ``benchmarks/naming_stress.py fit=true`` on 41 of 75 spines of the Tianchi set under 27
changes, each by networks of three folds that had not seen it: 1,107 looks. On the other 34 spines
the calibration error is 0.022. How much of the image lies below L5-S1 adds nothing: a sacrum that
is not in the image is told by a warning of its own.
"""

LEAST_PROBABILITY = 0.93
"""Names less probable are a guess: the least value at which, of the looks that the above was fitted
on, 0.99 of the names given are right and 1 in 200 at most is wrong in silence. Of the other spines'
918 looks, 0.992 of the names given are right and none is wrong in silence.
"""


@dataclass(frozen=True, slots=True)
class Rival:
    """Another naming of the same places: every name ``shift`` rungs lower (above: negative)."""

    shift: int
    probability: float


@dataclass(frozen=True, slots=True)
class NamingEvidence:
    """What tells how likely a naming is right.

    Attributes:
        margin: by how much its chain's score is above that of the best rival, or what is read along
            it above what is read along any other, whichever is less; at most `MOST_MARGIN`.
        score: of the chain, natural-log units.
    """

    margin: float
    score: float

    def probability(self, coefficients: Mapping[str, float] = COEFFICIENTS) -> float:
        """Of the naming being right.

        >>> flat = dict.fromkeys(COEFFICIENTS, 0.0)
        >>> NamingEvidence(40.0, 50.0).probability(flat | {"margin": 0.1})
        0.9820137900379085
        """
        odds = coefficients["constant"] + sum(
            value * getattr(self, name)
            for name, value in coefficients.items()
            if name != "constant"
        )
        return 1 / (1 + math.exp(-min(max(odds, -_MOST_ODDS), _MOST_ODDS)))


@dataclass(frozen=True, slots=True)
class Naming:
    """How sure the naming of a spine is.

    Attributes:
        probability: of the names given, 0 … 1.
        rivals: by `SHIFTS`; their probabilities and the one above add up to 1.
        abstained: whether the names are a guess that the user asked not to be given as certain.
        evidence: what the probability was made of; None where it is the softmax alone.
    """

    probability: float
    rivals: tuple[Rival, ...] = ()
    abstained: bool = False
    evidence: NamingEvidence | None = None


def name_chain(
    candidates: Candidates,
    chain: Sequence[int],
    score: float,
    best_score: Callable[[BoolArray], float],
    *,
    temperature: float = TEMPERATURE,
) -> Naming | None:
    """How sure the names of a chain are, against those one or two rungs away.

    Args:
        candidates: of one image.
        chain: indices of those chosen, top to bottom.
        score: of the chain.
        best_score: the score of the best chain among candidates that a (N,) mask allows.
        temperature: of the softmax, above 0.

    Returns:
        None where the chain is empty: there is nothing to name.
    """
    if not len(chain):
        return None
    rivals = [best_score(allowed_when_shifted(candidates, chain, shift)) for shift in SHIFTS]
    given, *others = softmax([score, *rivals], temperature)
    return Naming(given, tuple(map(Rival, SHIFTS, others)))


def weighed_naming(
    evidence: NamingEvidence, rivals: Mapping[int, float], *, temperature: float
) -> Naming:
    """A naming as probable as its evidence makes it; the rest is shared by the rivals' scores.

    Args:
        evidence: of the naming given.
        rivals: scores by shift; of `SHIFTS`, those without one share next to nothing.
        temperature: of the softmax among rivals.
    """
    probability = evidence.probability()
    scores = [rivals.get(shift, _NO_RIVAL) for shift in SHIFTS]
    shares = softmax(scores, temperature)
    others = [Rival(s, (1 - probability) * share) for s, share in zip(SHIFTS, shares, strict=True)]
    return Naming(probability, tuple(others), evidence=evidence)


def allowed_when_shifted(candidates: Candidates, chain: Sequence[int], shift: int) -> BoolArray:
    """(N,) candidates that fit the chain's places when every name is ``shift`` rungs lower.

    The place of a structure is within a quarter of its box's height of its centre. There, only the
    shifted name is allowed, and that name nowhere else; a name that no place gains may be anywhere.
    """
    points, heights = candidates.point_xy, candidates.height
    allowed = np.ones(len(points), dtype=bool)
    for i in chain:
        named = candidates.rank == candidates.rank[i] + SEGMENT_RANKS * shift
        there = np.hypot(*(points - points[i]).T) <= heights[i] / 4
        allowed &= named == there  # both: the shifted name at its place; neither: elsewhere
    return allowed


def softmax(scores: Sequence[float], temperature: float) -> list[float]:
    """Probabilities in proportion to exp(score / temperature).

    >>> [round(p, 4) for p in softmax([3.0, 0.0, 0.0], 1.0)]
    [0.9094, 0.0453, 0.0453]
    """
    values = np.asarray(scores, dtype=np.float64) / temperature
    weights = np.exp(values - values.max())
    return [float(p) for p in weights / weights.sum()]


def abstain(naming: Naming | None, minimum: float) -> Naming | None:
    """The naming, marked as abstained where its probability is below the minimum."""
    if naming is None:
        return None
    return replace(naming, abstained=naming.probability < minimum)
