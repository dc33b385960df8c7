"""Whether a frame is a sagittal T2 image of a lumbar spine, head up, judged from its pixels.

Headers are not used: a single file or a plain image is judged like a study. There are three
measures.

**Evidence** measures how much the frame looks like a lumbar spine. It is the score of the best
chain of the detector's candidates as a share of `FULL_SCORE`, plus how reliably the level reader
finds the eleven levels along the chain: the mean over levels of each level's greatest probability
anywhere. A whole spine has about 2, and a part of one has less. A neck, whose vertebrae are also
aligned, has many levels with a lower score and reads badly; a picture of anything else has no
chain.

**Contrast** is the log odds that the image is T2-weighted and not T1-weighted: a small network
reads the straightened chain ([spineline.pipeline.inference.t2_weighting][]).

**Continuation** measures how much the area below the lowest disc looks like the segments above it:
the correlation with their mean, at the best of a few places. A lumbar spine ends at L5-S1, and the
sacrum turns away; a neck or a chest continues. It raises the required evidence.

If the evidence is not that of a whole spine, brighter versions of the frame are tried (`GAMMAS`),
since brightness is the main difference between scanners; the one with the most evidence counts. If
that is still not a whole spine, rotated and mirrored versions are tried (`TURNS`): if one has a
much better chain, the frame is not upright. A good frame needs no second detection.

A frame that reaches the limits, but not clearly, is analysed with a warning.

The limits of `SuitabilityLimits` were chosen by ``benchmarks/suitability.py``, which prints both
measures for suitable and unsuitable frames; ``docs/suitability.md`` holds the results. Other
networks have other scores: run it again when they change.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from spineline.datasets.common.arrays import PixelArray
from spineline.datasets.common.remarks import Remark
from spineline.datasets.labels import LEVELS, SEGMENT_RANKS
from spineline.datasets.scanner_looks import gamma
from spineline.datasets.straighten import StripSpec, prolonged, straighten
from spineline.pipeline.inference.candidates import (
    Candidates,
    Context,
    DecodedStructure,
    LevelReader,
    ranks_by_distance,
    read_context,
)
from spineline.pipeline.inference.decode import DecodeSettings, decode_spine
from spineline.pipeline.inference.t2_weighting import t2_log_odds
from spineline.pipeline.inference.warnings import warning

FULL_SCORE = 57.0
"""Score of a chain of all eleven levels, each with a high confidence of the bundled detector."""

RefusalReason = Literal[
    "no_spine", "region", "contrast", "upside_down", "mirrored", "turned", "series"
]
_Turn = Callable[[PixelArray], PixelArray]

TURNS: Mapping[str, tuple[RefusalReason, _Turn]] = {
    "turned by 180 degrees": ("upside_down", lambda image: image[::-1, ::-1]),
    "with top and bottom exchanged": ("upside_down", lambda image: image[::-1]),
    "with left and right exchanged": ("mirrored", lambda image: image[:, ::-1]),
    "turned by 90 degrees to the left": ("turned", np.rot90),
    "turned by 90 degrees to the right": ("turned", functools.partial(np.rot90, k=3)),
}
"""Operations that may set a frame right, in words, with the reason for refusal and the function."""

GAMMAS = (0.7, 0.5)
"""Exponents of the brighter looks."""

_LEAST = 4  # structures above those that continue
_SEGMENTS = StripSpec(rank_px=8, half_width=2)
_SEEN = 0.8  # share of what lies below that is inside the image and not black


@dataclass(frozen=True, slots=True)
class SuitabilityLimits:
    """Limits of a suitable frame; see the module's docstring for the measures.

    Attributes:
        spine: minimum evidence of any spine.
        lumbar: minimum evidence of a lumbar spine,
        lumbar_whole: the same of a chain of all eleven levels, and of a shorter one in proportion,
        lumbar_going_on: and the same if the continuation is above ``going_on``.
        going_on: see there.
        contrast: minimum log odds of T2 over T1,
        contrast_sure: and with less than this, the frame is in doubt.
        whole: with less evidence, brighter, then rotated and mirrored versions are tried; with
            less in proportion to the chain's levels, the frame is in doubt,
        whole_unseen: the same if the continuation is unknown.
        upright: minimum score of a rotated version, as a share of `FULL_SCORE`,
        turned: and its minimum lead over the frame as it is.
    """

    spine: float = 0.5
    lumbar: float = 1.0
    lumbar_whole: float = 1.3
    lumbar_going_on: float = 1.5
    going_on: float = 0.8
    contrast: float = -2.0
    contrast_sure: float = 2.0
    whole: float = 1.5
    whole_unseen: float = 1.7
    upright: float = 0.7
    turned: float = 0.15


@dataclass(frozen=True, slots=True)
class Suitability:
    """The measurements of a frame.

    Attributes:
        score: of the best chain, as a share of `FULL_SCORE`, not below 0.
        reading: how reliably the level reader finds the eleven levels, 0 … 1; None without a
            reader.
        contrast: log odds of T2 over T1; None without a chain to measure it along.
        continuation: below the chain, -1 … 1; None if the image ends there.
        levels: number of structures of the chain.
    """

    score: float
    reading: float | None
    contrast: float | None
    continuation: float | None = None
    levels: int = 0

    @property
    def evidence(self) -> float:
        """Evidence for a lumbar spine: about 2 for a whole one."""
        return self.score + (self.score if self.reading is None else self.reading)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a frame is unsuitable, or may be.

    Attributes:
        reason: in one word.
        text: in plain words.
        measured: the numbers behind it, by name.
        found: the content of the study, which replaces ``{found}`` in the text.
        certain: False if the frame reaches the limits, but not clearly: it is analysed.
    """

    reason: RefusalReason
    text: str
    measured: tuple[tuple[str, float], ...] = ()
    found: tuple[Remark, ...] = ()
    certain: bool = True

    def remark(self, *, forced: bool) -> Remark:
        """The warning ``not_lumbar_t2``; ``forced`` if the frame was analysed all the same.

        If it is not certain, the warning is ``suitability_in_doubt``.
        """
        if not self.certain:
            wording = (
                f"this may not be a sagittal T2 image of a lumbar spine with the head up: "
                f"{self.text}; look at the image before you use its levels and grades"
            )
            return warning(
                "suitability_in_doubt", wording, reason=self.reason, **dict(self.measured)
            )
        end = "levels and grades are given because of force=true: do not rely on them"
        end = end if forced else "nothing is named or graded; force=true does it all the same"
        wording = (
            f"this is not a sagittal T2 image of a lumbar spine with the head up: "
            f"{self.text}; {end}"
        )
        found = {"found": self.found} if self.found else {}
        return warning("not_lumbar_t2", wording, reason=self.reason, **dict(self.measured), **found)


def refusal_of_series(found: tuple[Remark, ...]) -> Refusal | None:
    """Why a study is unsuitable by its headers, or None.

    Args:
        found: its content, if it has no sagittal T2 series.
    """
    if not found:
        return None
    text = "no series of the study is sagittal and T2-weighted; found {found}"
    return Refusal("series", text, found=found)


def judge(
    image: PixelArray,
    candidates: Candidates,
    offered: Callable[[Sequence[PixelArray]], Sequence[Candidates]],
    *,
    settings: DecodeSettings,
    reader: LevelReader | None,
    limits: SuitabilityLimits,
    context: Context | None = None,
) -> Refusal | None:
    """Why a frame is unsuitable, or may be, or None.

    Args:
        image: (H, W) grey, as the detector saw it.
        candidates: the detector's.
        offered: returns the detector's candidates in other versions of the frame.
        settings: of the decoding; its method is ignored.
        reader: reads levels, or None.
        limits: of a suitable frame.
        context: an earlier reading along the frame's spine, if there is one.
    """
    found = measure_suitability(image, candidates, settings, reader, context=context)
    scores: dict[str, float] = {}
    if found.evidence < limits.whole:
        looks = [gamma(image, exponent) for exponent in GAMMAS]
        for look, each in zip(looks, offered(looks), strict=True):
            found = max(
                found, measure_suitability(image, each, settings, reader, look), key=_evidence_of
            )
    if found.evidence < limits.whole:
        turned = [np.ascontiguousarray(turn(image)) for _, turn in TURNS.values()]
        chains = (_chain(offered([each])[0], settings)[1] for each in turned)  # of several sizes
        scores = dict(zip(TURNS, chains, strict=True))
    return refusal_of(found, scores, limits)


def measure_suitability(
    image: PixelArray,
    candidates: Candidates,
    settings: DecodeSettings,
    reader: LevelReader | None,
    look: PixelArray | None = None,
    context: Context | None = None,
) -> Suitability:
    """Measure a frame.

    Args:
        image: (H, W) grey, whose contrast is measured.
        candidates: the detector's.
        settings: of the decoding; its method is ignored.
        reader: reads levels, or None.
        look: input of detector and reader; by default the image.
        context: an earlier reading; None reads now.
    """
    chain, score = _chain(candidates, settings)
    reading = None
    if reader is not None:
        context = context or read_context(reader, image if look is None else look, chain)
        shares = None if context is None else np.exp(context.log_probability[:, 1:-1])
        reading = 0.0 if shares is None else float(shares.max(axis=0).mean())
    along, below = t2_log_odds(image, chain), continuation_below(image, chain)
    return Suitability(score, reading, along, below, len(chain))


def refusal_of(
    found: Suitability, turned: Mapping[str, float], limits: SuitabilityLimits
) -> Refusal | None:
    """Why a frame is unsuitable, or may be, or None.

    Args:
        found: the measurements.
        turned: scores of rotated versions, by the keys of `TURNS`, if they were tried.
        limits: of a suitable frame.
    """
    evidence = ("evidence", round(found.evidence, 3))
    best = max(turned, key=lambda words: turned[words], default="")
    if best and turned[best] > max(found.score + limits.turned, limits.upright):
        text = f"the spine is found much better {best}; set the image upright, face to the left"
        return Refusal(TURNS[best][0], text, (evidence,))
    if found.evidence < limits.spine:
        text = "no column of lumbar vertebrae and discs is seen from the side in it"
        return Refusal("no_spine", text, (evidence, ("wanted", limits.spine)))
    goes_on = found.continuation is not None and found.continuation > limits.going_on
    share = found.levels / len(LEVELS)
    wanted = max(limits.lumbar, limits.lumbar_whole * share)
    wanted = limits.lumbar_going_on if goes_on else round(wanted, 3)
    if found.evidence < wanted:
        text = "the vertebrae and discs in it do not look like those of a lumbar spine"
        text += ", and continue below as if there were no sacrum" if goes_on else ""
        return Refusal("region", text, (evidence, ("wanted", wanted)))
    for least, certain in ((limits.contrast, True), (limits.contrast_sure, False)):
        if found.contrast is not None and found.contrast < least:
            text = f"it {'looks' if certain else 'may be'} T1-weighted: in T2, the fluid in the "
            measured = (("contrast", round(found.contrast, 3)), ("wanted", least))
            return Refusal("contrast", text + "canal is bright", measured, certain=certain)
    whole = limits.whole_unseen if found.continuation is None else limits.whole
    sure = round(whole * share, 3)
    if found.evidence < sure:
        text = "the vertebrae and discs in it look only a little like those of a lumbar spine"
        return Refusal("region", text, (evidence, ("wanted", sure)), certain=False)
    return None


def continuation_below(image: PixelArray, chain: Sequence[DecodedStructure]) -> float | None:
    """How much the area below the lowest disc looks like the segments above it.

    Args:
        image: (H, W) grey, upright.
        chain: structures, top to bottom.

    Returns:
        -1 … 1, or None if there are too few structures, the lowest is not L5-S1 (then more
        follows), or the image ends below them.
    """
    import cv2

    if len(chain) <= _LEAST or chain[-1].level != LEVELS[-1]:
        return None
    ranks, px = ranks_by_distance(chain), _SEGMENTS.rank_px
    curve = prolonged([s.point_xy for s in chain], ranks, ranks[0], ranks[-1] + SEGMENT_RANKS + 1)
    strip = straighten(image, curve, _SEGMENTS)
    end = ranks[-1] - ranks[0] + 1
    starts = range(end - SEGMENT_RANKS, -1, -SEGMENT_RANKS)[:3]
    segments = [strip[px * s : px * (s + SEGMENT_RANKS), 4:-4] for s in starts]
    below = strip[px * end - 4 : px * (end + SEGMENT_RANKS) + 4]
    if len(segments) < 2 or (below > 0).mean() < _SEEN:
        return None
    template = np.mean(segments, axis=0, dtype=np.float32)
    return float(cv2.matchTemplate(below, template, cv2.TM_CCOEFF_NORMED).max())


def _chain(
    candidates: Candidates, settings: DecodeSettings
) -> tuple[tuple[DecodedStructure, ...], float]:
    """The best chain of the candidates of one image, and its score as a share of `FULL_SCORE`."""
    spine = decode_spine(candidates, replace(settings, method="spine"))
    return spine.structures, max(spine.score / FULL_SCORE, 0.0)


def _evidence_of(found: Suitability) -> float:
    return found.evidence
