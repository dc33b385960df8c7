"""One image in, its spine out: the detector's looks, the level reader, and the naming, joined.

Coordinates are native pixels, x right, y down, origin at the centre of the top left pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spineline.datasets.common.arrays import PixelArray
from spineline.pipeline.inference.candidates import Candidates, candidates_of
from spineline.pipeline.inference.decode import (
    DecodedSpine,
    DecodeSettings,
    decode_chain,
    decode_spine,
)
from spineline.pipeline.inference.level_context import LevelReader, read_context

if TYPE_CHECKING:
    from spineline.detect.backend import Detector


@dataclass(frozen=True, slots=True, kw_only=True)
class LookSettings:
    """How the detector is asked.

    Attributes:
        confidence: boxes less sure are no candidates.
        iou: boxes of one level that overlap more are one box.
        batch: images per forward pass.
        per_level: only that many most confident candidates of a level are kept.
    """

    confidence: float = 0.01
    iou: float = 0.8
    batch: int = 1
    per_level: int = 15


def look_at(
    detector: Detector, images: Sequence[PixelArray], look: LookSettings
) -> list[Candidates]:
    """What the detector offers of each image, uint8 (H, W) grey and upright."""
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
        detector: offers boxes.
        namer: reads levels along a chain; None leaves the naming to the detector.
        image: (H, W) uint8 grey, upright.
        decoding: how candidates are weighed.
        look: how the detector is asked.
        candidates: what a first look at the image gave, where there was one.
    """
    if candidates is None:
        (candidates,) = look_at(detector, [image], look)
    context = None
    if namer is not None and decoding.method == "spine":
        context = read_context(namer, image, decode_chain(candidates, decoding))
    return replace(decode_spine(candidates, decoding, context), candidates=candidates)
