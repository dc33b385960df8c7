"""The naming of a spine as a separate step: which vertebra is L1?

Single boxes hardly distinguish one vertebra from the next. So a chain of well found structures may
have names that are all one vertebra too high or too low. Here the decoder's chain is compared with
its rivals. They are the best chains in which the same places are named one or two vertebrae higher
or lower (two ranks for each), with ends lost or gained. A softmax of ``score / TEMPERATURE`` turns
the scores, in natural-log units, into probabilities.

A temperature is needed because the errors of a spine's eleven boxes are correlated. If one is named
too high, its neighbours are too, and sums of scores over structures overstate the certainty.
`TEMPERATURE` was fitted by maximum likelihood of the right shift on detections of unseen spines by
four YOLOv8n. Three were trained on 67 spines and tested on 33 others, one on 100 and 49 others; of
148 namings, 17 were wrong. All four together give 9.3, and the two whose recipes are in use, with 1
of 82 wrong, 8.5. With so few wrong namings of a good detector, the value is uncertain;
``naming.ece`` and ``naming.brier`` of ``pipeline val`` measure how well it holds elsewhere.

With a level reader (`spineline.pipeline.inference.find_spine`), every rival is completed, read and
scored along its own chain, and the best of all is chosen. Its probability is then a logistic
function of `NamingEvidence`, with `COEFFICIENTS` or with those that ``naming calibrate`` stored in
the level reader's file. The rivals share the rest by a softmax.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from spineline.datasets.common.arrays import BoolArray
from spineline.datasets.labels import SEGMENT_RANKS
from spineline.pipeline.inference.candidates import Candidates

SHIFTS = (-2, -1, 1, 2)
"""Shifts of the rivals, in vertebrae: with 1, every name is one lower, so that L3 becomes L4."""

TEMPERATURE = 9.0
"""Temperature of the softmax; the module's docstring describes the fit."""

TEMPERATURE_IN_CONTEXT = 9.0
"""The same for scores that include a level reader's reading.

It was fitted in the same way on the three detectors tested on 33 spines, with 6 of 99 namings
wrong: 6.4 with the weakest of them (29 of 33 right), 9.4 without it.
"""

SURE = 0.9
"""A less probable naming gets a warning: a rival's score is within about 20 of its score."""


_MOST_ODDS = 12.0  # natural log; no finite sample shows more
_LARGEST = 1e6  # of a coefficient; not a number is not below it
_NO_RIVAL = -1e3  # natural-log units

MOST_MARGIN = 40.0
"""Larger margins are treated as equal."""


@dataclass(frozen=True, slots=True)
class NamingCoefficients:
    """Coefficients of the log-odds that a naming is right: a constant and by `NamingEvidence`."""

    constant: float
    margin: float
    score: float

    @classmethod
    def from_json(cls, value: Any) -> NamingCoefficients:
        """The coefficients in a weights file or an exported bundle, an object of three numbers.

        Raises:
            ValueError: something else, or a margin that would speak against the naming.
        """
        names = [spec.name for spec in fields(cls)]
        if not isinstance(value, dict) or sorted(value) != sorted(names):
            raise ValueError(f"naming probability {value!r:.100}, wanted {', '.join(names)}")
        for name in names:
            number = type(value[name]) in (int, float) and abs(value[name]) < _LARGEST
            if not number:
                raise ValueError(f"naming probability: {name} {value[name]!r:.40}, wanted a number")
        if value["margin"] <= 0:
            raise ValueError(f"naming probability: margin {value['margin']}, wanted more than 0")
        return cls(**{name: float(value[name]) for name in names})


COEFFICIENTS = NamingCoefficients(constant=-1.6706, margin=0.0587, score=0.0814)
"""The coefficients for the networks of the default bundle.

They were fitted by ``benchmarks/naming_stress.py fit=true`` on 41 of 75 spines of the Tianchi set
under 27 changes, each with networks of three folds that had not seen it: 1,107 images. On the other
34 spines, the calibration error is 0.022. The extent of the image below L5-S1 adds nothing: a
missing sacrum has its own warning. ``naming calibrate`` fits them to other networks.
"""

LEAST_PROBABILITY = 0.93
"""Less probable names are marked as a guess.

It is the lowest value that meets two conditions on the images of the fit above: 0.99 of the
accepted namings are right, and at most 1 in 200 images is wrong without a warning. On the 918
images of the other spines, 0.992 of the accepted namings are right and none is wrong without a
warning.
"""


@dataclass(frozen=True, slots=True)
class Rival:
    """Another naming of the same places: every name ``shift`` vertebrae lower, if above 0."""

    shift: int
    probability: float


@dataclass(frozen=True, slots=True)
class NamingEvidence:
    """The evidence for a naming.

    Attributes:
        margin: difference of its chain's score from that of the best rival, or of its reading from
            the best other one, whichever is smaller; at most `MOST_MARGIN`.
        score: of the chain, natural-log units.
    """

    margin: float
    score: float

    def probability(self, coefficients: NamingCoefficients = COEFFICIENTS) -> float:
        """The probability that the naming is right.

        >>> NamingEvidence(40.0, 50.0).probability(NamingCoefficients(0.0, 0.1, 0.0))
        0.9820137900379085
        """
        by = coefficients
        odds = by.constant + by.margin * self.margin + by.score * self.score
        return 1 / (1 + math.exp(-min(max(odds, -_MOST_ODDS), _MOST_ODDS)))


@dataclass(frozen=True, slots=True)
class Naming:
    """The naming of a spine and its probability.

    Attributes:
        probability: of the chosen names, 0 … 1.
        rivals: by `SHIFTS`; their probabilities and the one above add up to 1.
        abstained: whether the names are marked as a guess, by the user's minimum.
        evidence: behind the probability; None if it comes from the softmax alone.
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
    """The probability of a chain's names against those one or two vertebrae away.

    Args:
        candidates: of one image.
        chain: indices of those chosen, top to bottom.
        score: of the chain.
        best_score: the score of the best chain among candidates that a (N,) mask allows.
        temperature: of the softmax, above 0.

    Returns:
        None if the chain is empty.
    """
    if not len(chain):
        return None
    rivals = [best_score(allowed_when_shifted(candidates, chain, shift)) for shift in SHIFTS]
    given, *others = softmax([score, *rivals], temperature)
    return Naming(given, tuple(map(Rival, SHIFTS, others)))


def weighed_naming(
    evidence: NamingEvidence,
    rivals: Mapping[int, float],
    *,
    temperature: float,
    coefficients: NamingCoefficients = COEFFICIENTS,
) -> Naming:
    """A naming with the probability of its evidence; the rivals share the rest by their scores.

    Args:
        evidence: of the chosen naming.
        rivals: scores by shift; of `SHIFTS`, those without a score get almost nothing.
        temperature: of the softmax among rivals.
        coefficients: of the probability.
    """
    probability = evidence.probability(coefficients)
    scores = [rivals.get(shift, _NO_RIVAL) for shift in SHIFTS]
    shares = softmax(scores, temperature)
    others = [Rival(s, (1 - probability) * share) for s, share in zip(SHIFTS, shares, strict=True)]
    return Naming(probability, tuple(others), evidence=evidence)


def allowed_when_shifted(candidates: Candidates, chain: Sequence[int], shift: int) -> BoolArray:
    """(N,) candidates that fit the chain's places if every name is ``shift`` vertebrae lower.

    The place of a structure is within a quarter of its box's height of its centre. There, only the
    shifted name is allowed, and that name nowhere else. A name that no place gains may be anywhere.
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
    """The naming, marked as abstained if its probability is below the minimum."""
    if naming is None:
        return None
    return replace(naming, abstained=naming.probability < minimum)
