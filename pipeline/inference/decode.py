"""Ordered-spine decoding: from many boxes to at most one point per level ("point regression").

The detector's classes are levels, and near a threshold it offers several boxes for one level and
several levels for one box. A spine allows far fewer combinations: levels follow each other from top
to bottom at regular distances. `decode_spine` finds the best such chain among *all* candidates by
dynamic programming, so the answer is the global optimum, unlike that of a greedy pass.

The score of a chain, in natural-log units, is

- for each structure: ``logit(confidence) - logit(reference_confidence)``;
- for the distance between each two successive structures: ``-(log(ratio) / spacing_sigma)**2 / 2``.
  Here ``ratio`` is the distance divided by the ranks between them times half their mean box height.
  The box rule makes a box twice as high as the gap to the next level, so the ratio is about 1 at
  any scale;
- for the direction between them: ``-(angle / direction_sigma)**2 / 2`` with the angle from straight
  down;
- ``-skip_cost`` for each level left out between them;
- ``-end_cost`` for each level left out above the first and below the last.

If a level reader has read the straightened spine (`spineline.pipeline.inference.candidates`), each
candidate may also have the name of the next vertebra or disc above or below, at ``rename_cost``
lower log-odds. A structure then gains ``context_weight * max(-context_most, log p - log p_best)``:
its level's probability at its place, compared with that of the most probable level there.

`spineline.pipeline.inference.naming` gives the probability of the chain's names.

On 100 labelled training spines, log(ratio) has mean -0.04 and standard deviation 0.11, the angle
0.24 rad. The defaults are wider because predicted boxes are less exact than labelled ones.

Coordinates are native pixels, x right, y down, origin at the centre of the top left pixel.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from spineline.datasets.common.arrays import BoolArray, FloatArray, IntArray
from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.pipeline.inference.candidates import (
    TINY,
    Candidates,
    Context,
    DecodedStructure,
    no_candidates,
    with_other_names,
    worth,
)
from spineline.pipeline.inference.naming import (
    COEFFICIENTS,
    SURE,
    TEMPERATURE,
    TEMPERATURE_IN_CONTEXT,
    Naming,
    NamingCoefficients,
    name_chain,
)

Reason = Literal["no_candidate", "low_confidence", "spacing_implausible", "out_of_order"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSettings:
    """How candidates are weighted; see the module's docstring for the formula.

    Attributes:
        method: ``spine`` (ordered chain) or ``argmax`` (the most confident box of each level).
        confidence: for ``argmax``, boxes below it do not count; the report used 0.25.
        candidates_per_level: number of most confident candidates to consider for each level.
        reference_confidence: confidence at which a lone candidate scores 0.
        spacing_sigma: standard deviation of the log of the spacing ratio.
        direction_sigma: standard deviation of the angle from straight down, in radians.
        skip_cost: cost of a level left out between two others.
        end_cost: cost of a level left out at either end.
        temperature: of the naming's softmax; see `spineline.pipeline.inference.naming`.
        temperature_in_context: the same if a level reader has read the spine.
        coefficients: of the naming's probability, if a level reader has read the spine.
        context_weight: of the level reader's reading.
        context_most: largest penalty of a structure by the reading.
        rename_cost: decrease in log-odds for a name one vertebra above or below the detector's.
        sure_naming: a naming with a lower probability gets a warning.
    """

    method: Literal["spine", "argmax"] = "spine"
    confidence: float = 0.25
    candidates_per_level: int = 15
    reference_confidence: float = 0.02
    spacing_sigma: float = 0.25
    direction_sigma: float = 0.5
    skip_cost: float = 3.0
    end_cost: float = 0.5
    temperature: float = TEMPERATURE
    temperature_in_context: float = TEMPERATURE_IN_CONTEXT
    coefficients: NamingCoefficients = COEFFICIENTS
    context_weight: float = 1.0
    context_most: float = 5.0
    rename_cost: float = 1.0
    sure_naming: float = SURE


@dataclass(frozen=True, slots=True)
class DecodedSpine:
    """At most one structure per level, top to bottom, and the missing levels with reasons.

    Attributes:
        structures: in the order of `LEVELS`.
        missing: (level, reason) of each level without a structure, in the order of `LEVELS`.
        score: of the chain, natural-log units; 0 for ``argmax``.
        naming: probability of the names; None for ``argmax`` and if nothing was found.
        candidates: of the first detection on the image.
        context: the level reader's reading along it; None without one.
    """

    structures: tuple[DecodedStructure, ...]
    missing: tuple[tuple[str, Reason], ...]
    score: float = 0.0
    naming: Naming | None = None
    candidates: Candidates = field(default_factory=no_candidates, compare=False, repr=False)
    context: Context | None = field(default=None, compare=False, repr=False)


def decode_spine(
    candidates: Candidates,
    settings: DecodeSettings | None = None,
    context: Context | None = None,
) -> DecodedSpine:
    """At most one structure per level, levels top to bottom, spacing plausible.

    Args:
        candidates: of one image.
        settings: default: ordered spine with the module's defaults.
        context: the level reader's reading along the chain that was decoded without it.
    """
    settings = settings or DecodeSettings()
    offered = frozenset(candidates.rank.tolist())
    if settings.method == "argmax":
        return _decode_argmax(candidates, offered, settings.confidence)
    temperature = settings.temperature if context is None else settings.temperature_in_context
    candidates, unary, pairwise = _weighed(candidates, settings, context)
    chain, score = best_chain(candidates.rank, unary, pairwise, settings.end_cost)
    missing = missing_levels(candidates, chain, unary, pairwise, settings, offered)

    def best_score(allowed: BoolArray) -> float:
        worth = np.where(allowed, unary, -np.inf)
        return best_chain(candidates.rank, worth, pairwise, settings.end_cost)[1]

    naming = name_chain(candidates, chain, score, best_score, temperature=temperature)
    return DecodedSpine(structures_of(candidates, chain), missing, score, naming)


def decode_chain(
    candidates: Candidates, settings: DecodeSettings, context: Context | None = None
) -> tuple[tuple[DecodedStructure, ...], float]:
    """The structures of [decode_spine][] and their score, without how sure the names are."""
    candidates, unary, pairwise = _weighed(candidates, settings, context)
    chain, score = best_chain(candidates.rank, unary, pairwise, settings.end_cost)
    return structures_of(candidates, chain), score


def _weighed(
    candidates: Candidates, settings: DecodeSettings, context: Context | None
) -> tuple[Candidates, FloatArray, FloatArray]:
    """Candidates, in a context also under other names, with their unary and pairwise scores."""
    if context is not None:
        candidates = with_other_names(candidates, settings.rename_cost)
    unary = unary_scores(candidates, settings)
    if context is not None:
        unary += settings.context_weight * worth(context, candidates, most=settings.context_most)
    return candidates, unary, pairwise_scores(candidates, settings)


def unary_scores(candidates: Candidates, settings: DecodeSettings) -> FloatArray:
    """(N,) score of each candidate alone: log-odds relative to the reference confidence."""
    confidence = np.clip(candidates.confidence, 1e-4, 0.995)
    reference = settings.reference_confidence
    logit = np.log(confidence) - np.log1p(-confidence)
    return logit - np.log(reference / (1 - reference))


def pairwise_scores(candidates: Candidates, settings: DecodeSettings) -> FloatArray:
    """(N, N) score of candidate j following candidate i, never above 0; -inf if not allowed.

    Candidate j must be of a lower level and lie lower in the image.
    """
    (x, y), height, rank = candidates.point_xy.T, candidates.height, candidates.rank
    i, j = np.nonzero((rank[None, :] > rank[:, None]) & (y[None, :] - y[:, None] > TINY))
    steps, dx, dy = rank[j] - rank[i], x[j] - x[i], y[j] - y[i]
    one_rank = (height[i] + height[j]) / 4
    spacing = np.log(np.sqrt(dx * dx + dy * dy) / (steps * one_rank)) / settings.spacing_sigma
    direction = np.arctan(dx / dy) / settings.direction_sigma
    worth = np.full((len(rank), len(rank)), -np.inf)
    worth[i, j] = -(spacing**2 + direction**2) / 2 - settings.skip_cost * (steps - 1)
    return worth


def best_chain(
    rank: IntArray, unary: FloatArray, pairwise: FloatArray, end_cost: float
) -> tuple[list[int], float]:
    """The chain of candidates with the highest score, by dynamic programming over the ranks.

    Args:
        rank: (N,) rank of each candidate, not falling.
        unary: (N,) score of each; -inf excludes a candidate.
        pairwise: (N, N) score of succession.
        end_cost: cost of each level left out at either end (of all eleven, for an empty chain).

    Returns:
        Indices of the chosen candidates, top to bottom, and the score.
    """
    levels = len(LEVELS)
    best = unary - end_cost * rank
    previous = np.full(len(rank), -1, dtype=np.int64)
    bounds = np.searchsorted(rank, np.arange(levels + 1))
    for start, stop in itertools.pairwise(bounds.tolist()):
        if start == 0 or start == stop:
            continue
        through = best[:start, None] + pairwise[:start, start:stop]
        source = through.argmax(axis=0)
        value = through[source, np.arange(stop - start)] + unary[start:stop]
        better = value > best[start:stop]
        best[start:stop] = np.where(better, value, best[start:stop])
        previous[start:stop] = np.where(better, source, -1)
    total = best - end_cost * (levels - 1 - rank)
    empty = -end_cost * levels
    if not len(total) or total.max() <= empty:
        return [], float(empty)
    chain = [int(total.argmax())]
    while previous[chain[-1]] >= 0:
        chain.append(int(previous[chain[-1]]))
    return chain[::-1], float(total.max())


def structures_of(candidates: Candidates, chain: Sequence[int]) -> tuple[DecodedStructure, ...]:
    """The structures of the candidates with these indices, in their order."""
    points = candidates.point_xy
    return tuple(
        DecodedStructure(
            level=LEVELS[candidates.rank[i]],
            kind=kind_of_level(LEVELS[candidates.rank[i]]),
            point_xy=(float(points[i, 0]), float(points[i, 1])),
            box_xyxy=tuple(float(v) for v in candidates.box_xyxy[i]),  # type: ignore[arg-type]
            confidence=float(candidates.confidence[i]),
        )
        for i in chain
    )


def _decode_argmax(
    candidates: Candidates, offered: frozenset[int], confidence: float
) -> DecodedSpine:
    first = np.flatnonzero(np.diff(candidates.rank, prepend=-1))
    chain = [int(i) for i in first if candidates.confidence[i] >= confidence]
    found = {int(candidates.rank[i]) for i in chain}
    reasons: dict[bool, Reason] = {True: "low_confidence", False: "no_candidate"}
    missing = tuple(
        (level, reasons[rank in offered]) for rank, level in enumerate(LEVELS) if rank not in found
    )
    return DecodedSpine(structures_of(candidates, chain), missing)


def missing_levels(
    candidates: Candidates,
    chain: Sequence[int],
    unary: FloatArray,
    pairwise: FloatArray,
    settings: DecodeSettings,
    offered: frozenset[int],
) -> tuple[tuple[str, Reason], ...]:
    """Why the chain leaves levels out; ``offered`` are the ranks that the detector offered."""
    chosen = {int(candidates.rank[i]): i for i in chain}
    missing: list[tuple[str, Reason]] = []
    for rank, level in enumerate(LEVELS):
        if rank in chosen:
            continue
        if rank not in offered:
            missing.append((level, "no_candidate"))
            continue
        own = np.flatnonzero(candidates.rank == rank)
        above = [i for i in chain if candidates.rank[i] < rank]
        below = [i for i in chain if candidates.rank[i] > rank]
        fit = np.zeros(len(own))
        if above:
            fit = fit + pairwise[above[-1], own]
        if below:
            fit = fit + pairwise[own, below[0]]
        worth = unary[own][np.isfinite(fit)]  # of those in order
        reason: Reason = "out_of_order"
        if len(worth):
            likely = worth.max() + settings.skip_cost > 0
            reason = "spacing_implausible" if likely else "low_confidence"
        missing.append((level, reason))
    return tuple(missing)
