"""The spine of one image, from detector, level reader and naming.

A naming is chosen among whole hypotheses. The level reader reads the chain that the detector's own
names suggest. In each rival naming, every name is one or two vertebrae higher or lower. A rival is
completed at its ends with boxes of any level, straightened along its own chain, read and scored.
The total is the chain's score plus the reading of the whole strip, including the places above
T12-L1 and below L5-S1. The best hypothesis wins. If the first reading leaves no doubt, rivals are
scored by it alone, at no cost.

If the result is still doubtful, the detector runs again: on a brighter image, and on the lower part
of the frame alone, where structures are larger. The candidates of all runs are decoded together.

Coordinates are native pixels, x right, y down, origin at the centre of the top left pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from spineline.datasets.common.arrays import BoolArray, FloatArray, PixelArray
from spineline.datasets.labels import LEVELS
from spineline.datasets.scanner_looks import gamma
from spineline.pipeline.inference.candidates import (
    Candidates,
    Context,
    DecodedStructure,
    LevelReader,
    candidates_of,
    joined_candidates,
    read_context,
    reading_of,
    with_other_names,
    worth,
)
from spineline.pipeline.inference.decode import (
    DecodedSpine,
    DecodeSettings,
    best_chain,
    decode_chain,
    decode_spine,
    missing_levels,
    pairwise_scores,
    structures_of,
    unary_scores,
)
from spineline.pipeline.inference.naming import (
    MOST_MARGIN,
    SHIFTS,
    NamingEvidence,
    allowed_when_shifted,
    weighed_naming,
)

if TYPE_CHECKING:
    from spineline.detect.backend import Detector

_REACH = 2  # vertebrae by which a box's own name may be off
_LEAST = 3  # structures that can be read along
_BRIGHTER = 0.5  # the second look's gamma
_LOWER_PART = 0.4  # of the frame's height is left out above the look at the lower part

ReadLevels = Callable[[Sequence[DecodedStructure]], Context | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LookSettings:
    """How the detector is run.

    Attributes:
        confidence: boxes below it are not candidates.
        iou: boxes of one level that overlap more are merged.
        batch: images per forward pass.
        per_level: number of most confident candidates to keep for each level.
        again: run again if the first result is doubtful.
    """

    confidence: float = 0.01
    iou: float = 0.8
    batch: int = 1
    per_level: int = 15
    again: bool = True


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One naming of the places of a chain.

    Attributes:
        chain: indices of its candidates, top to bottom.
        score: of the chain, including the reading at its structures.
        reading: see `reading_of`.
        context: the reading it was scored with.
    """

    chain: tuple[int, ...]
    score: float
    reading: float
    context: Context

    @property
    def total(self) -> float:
        """The number by which hypotheses are compared."""
        return self.score + self.reading


def look_at(
    detector: Detector, images: Sequence[PixelArray], look: LookSettings
) -> list[Candidates]:
    """The detector's candidates in each image, uint8 (H, W) grey and upright."""
    found = detector.detect(images, confidence=look.confidence, iou=look.iou, batch=look.batch)
    return [candidates_of(each, look.per_level) for each in found]


def find_spine(
    detector: Detector,
    namer: LevelReader | None,
    image: PixelArray,
    decoding: DecodeSettings,
    look: LookSettings,
    candidates: Candidates | None = None,
) -> DecodedSpine:
    """The spine of one image, named as a whole.

    Args:
        detector: gives boxes.
        namer: reads levels along a chain; None leaves the naming to the detector.
        image: (H, W) uint8 grey, upright.
        decoding: how candidates are weighted.
        look: how the detector is run.
        candidates: of a first detection on the image, if there was one.
    """
    if candidates is None:
        (candidates,) = look_at(detector, [image], look)
    if namer is None or decoding.method != "spine":
        return replace(decode_spine(candidates, decoding), candidates=candidates)
    read = partial(read_context, namer, image)
    spine = named_spine(candidates, decoding, read)
    if not (look.again and is_doubtful(spine, decoding)):
        return spine
    further = [candidates, *_second_looks(detector, image, look)]
    spine = named_spine(joined_candidates(further), decoding, read)
    return replace(spine, candidates=candidates)


def read_spine(
    namer: LevelReader, image: PixelArray, candidates: Candidates, decoding: DecodeSettings
) -> DecodedSpine:
    """The spine among candidates, named by one reading of an image; costs a tenth of a detection.

    It says nothing of how sure the names are: rivals are compared by [find_spine][] alone.
    """
    context = read_context(namer, image, decode_chain(candidates, decoding)[0])
    structures, score = decode_chain(candidates, decoding, context)
    return DecodedSpine(structures, (), score, candidates=candidates)


def is_doubtful(spine: DecodedSpine, decoding: DecodeSettings) -> bool:
    """Whether another detection may help: a level is missing, a box or the naming uncertain."""
    if spine.naming is None or spine.naming.probability < decoding.sure_naming:
        return True
    weak = any(s.confidence < decoding.confidence for s in spine.structures)
    return weak or len(spine.structures) < len(LEVELS)


def named_spine(candidates: Candidates, decoding: DecodeSettings, read: ReadLevels) -> DecodedSpine:
    """The best of all hypotheses, and its probability.

    Args:
        candidates: of one image.
        decoding: how they are weighted.
        read: reads levels along structures; None if there are too few.
    """
    plain, _ = decode_chain(candidates, decoding)
    context = read(plain) if len(plain) >= _LEAST else None
    if context is None:
        return replace(decode_spine(candidates, decoding), candidates=candidates)
    rivalry = _Rivalry(candidates, decoding, read)
    given = rivalry.hypothesis(rivalry.every, context)
    if given is None:
        return replace(decode_spine(candidates, decoding, context), candidates=candidates)
    named = {0: given, **rivalry.rivals_of(given)}
    best = max(named, key=lambda shift: named[shift].total)
    rivals = {shift - best: each for shift, each in named.items() if shift != best}
    return rivalry.spine(named[best], rivals)


class _Rivalry:
    """The hypotheses of one image's candidates."""

    def __init__(self, offered: Candidates, decoding: DecodeSettings, read: ReadLevels) -> None:
        self.offered, self.decoding, self.read = offered, decoding, read
        self.named = with_other_names(offered, decoding.rename_cost, reach=_REACH)
        self.unary = unary_scores(self.named, decoding)
        self.pairwise = pairwise_scores(self.named, decoding)
        self.every: BoolArray = np.ones(len(self.unary), dtype=bool)

    def hypothesis(self, allowed: BoolArray, context: Context) -> Hypothesis | None:
        """The best hypothesis among the allowed candidates, as the context reads them."""
        most, weight = self.decoding.context_most, self.decoding.context_weight
        chain, score = self._chain(
            allowed, self.unary + weight * worth(context, self.named, most=most)
        )
        if not chain:
            return None
        points, ranks = self.named.point_xy[chain], self.named.rank[chain].tolist()
        reading = weight * reading_of(context, ranks, points, most=most)
        return Hypothesis(tuple(chain), score, reading, context)

    def rivals_of(self, given: Hypothesis) -> dict[int, Hypothesis]:
        """Rivals by shift; close ones are read along their own chains."""
        rivals: dict[int, Hypothesis] = {}
        masks = {s: allowed_when_shifted(self.named, given.chain, s) for s in SHIFTS}
        for shift, allowed in masks.items():
            if (rival := self.hypothesis(allowed, given.context)) is not None:
                rivals[shift] = rival
        for shift, allowed in masks.items():
            near = shift in rivals and self._margin(given, {shift: rivals[shift]}) < MOST_MARGIN
            if not near:
                continue
            chain, _ = self._chain(allowed, self.unary)
            own = self.read(structures_of(self.named, chain)) if len(chain) >= _LEAST else None
            if own is not None and (rival := self.hypothesis(allowed, own)) is not None:
                rivals[shift] = rival
        return rivals

    def spine(self, given: Hypothesis, rivals: Mapping[int, Hypothesis]) -> DecodedSpine:
        """The spine of a hypothesis."""
        decoding = self.decoding
        structures = structures_of(self.named, given.chain)
        margin = min(self._margin(given, rivals), MOST_MARGIN)
        evidence = NamingEvidence(margin, given.score)
        naming = weighed_naming(
            evidence,
            {shift: rival.total for shift, rival in rivals.items()},
            temperature=decoding.temperature_in_context,
            coefficients=decoding.coefficients,
        )
        offered = frozenset(self.offered.rank.tolist())
        unary = self.unary + decoding.context_weight * worth(
            given.context, self.named, most=decoding.context_most
        )
        missing = missing_levels(self.named, given.chain, unary, self.pairwise, decoding, offered)
        return DecodedSpine(
            structures, missing, given.score, naming, self.offered, context=given.context
        )

    def _chain(self, allowed: BoolArray, worth_of: FloatArray) -> tuple[list[int], float]:
        barred = np.where(allowed, worth_of, -np.inf)
        return best_chain(self.named.rank, barred, self.pairwise, self.decoding.end_cost)

    @staticmethod
    def _margin(given: Hypothesis, rivals: Mapping[int, Hypothesis]) -> float:
        """The margin over all rivals, in score or in reading, whichever is smaller."""
        if not rivals:
            return MOST_MARGIN
        score = max(rival.score for rival in rivals.values())
        reading = max(rival.reading for rival in rivals.values())
        return min(given.score - score, given.reading - reading)


def _second_looks(detector: Detector, image: PixelArray, look: LookSettings) -> list[Candidates]:
    """The detector's candidates in a brighter image, and in its lower part alone."""
    top = round(len(image) * _LOWER_PART)
    brighter, lower = look_at(detector, [gamma(image, _BRIGHTER), image[top:]], look)
    boxes = lower.box_xyxy + np.array([0, top, 0, top])
    return [brighter, replace(lower, box_xyxy=boxes)]
