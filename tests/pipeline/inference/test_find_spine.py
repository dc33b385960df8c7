"""Whole hypotheses: what is completed, read along its own chain, looked at again, and how sure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from spineline.datasets.labels import LEVELS
from spineline.datasets.straighten import StripSpec
from spineline.detect.results import Detections
from spineline.pipeline.inference.candidates import (
    Context,
    joined_candidates,
    no_candidates,
    reading_of,
)
from spineline.pipeline.inference.decode import DecodedSpine, DecodeSettings
from spineline.pipeline.inference.find_spine import (
    LookSettings,
    find_spine,
    is_doubtful,
    look_at,
)
from spineline.pipeline.inference.naming import (
    COEFFICIENTS,
    MOST_MARGIN,
    SHIFTS,
    NamingEvidence,
    weighed_naming,
)

IMAGE = np.full((300, 200), 100, np.uint8)
RIGHT = {level: 30.0 + 12 * rank for rank, level in enumerate(LEVELS)}
Rows = list[tuple[int, float, float]]


def detections(rows: Rows) -> Detections:
    """Boxes of rank, y, confidence; rungs of 12 px, boxes twice as high."""
    rank, y, confidence = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    xyxy = np.stack([83.2 + 0 * y, y - 12, 116.8 + 0 * y, y + 12], axis=1).astype(np.float32)
    return Detections(xyxy, confidence.astype(np.float32), rank.astype(np.int64), LEVELS)


@dataclass
class Offers:
    """A detector that has boxes ready: of whole images, of brighter ones, of their lower parts."""

    first: Rows
    brighter: Rows = field(default_factory=list)
    lower: Rows = field(default_factory=list)
    seen: list[tuple[int, int]] = field(default_factory=list)
    names: tuple[str, ...] = LEVELS
    imgsz: int = 320

    def detect(self, images, *, confidence, iou, max_detections=300, batch):
        self.seen += [(len(image), int(image.max())) for image in images]
        rows = (self.first, self.brighter if image_is_brighter(images[0]) else self.first)
        if len(images) == 1:
            return [detections(self.first).at_least(confidence)]
        lower = [(r, y - 120, c) for r, y, c in self.lower]
        return [detections(each).at_least(confidence) for each in (rows[1], lower)]


def image_is_brighter(image: np.ndarray) -> bool:
    return int(image.max()) > 100


@dataclass
class ReadsByPlace:
    """Reads the level of each place by its y: T12-L1 at 30, a rung of 12 px each."""

    strip: StripSpec = field(default_factory=StripSpec)
    curves: list[np.ndarray] = field(default_factory=list)

    def read(self, image: np.ndarray, curve_xy: np.ndarray) -> np.ndarray:
        self.curves.append(curve_xy)
        shares = np.full((len(curve_xy), 13), -8.0)
        rank = np.rint((curve_xy[:, 1] - 30) / 12).astype(int)
        shares[np.arange(len(curve_xy)), np.clip(rank, -1, 11) + 1] = -0.01
        return shares


class ReadsNothing(ReadsByPlace):
    """Finds every level as likely as any other."""

    def read(self, image: np.ndarray, curve_xy: np.ndarray) -> np.ndarray:
        self.curves.append(curve_xy)
        return np.full((len(curve_xy), 13), -np.log(13))


def found_by(detector: Offers, namer: ReadsByPlace | None, **keys: bool) -> DecodedSpine:
    return find_spine(detector, namer, IMAGE, DecodeSettings(), LookSettings(**keys))


def levels_at(spine: DecodedSpine) -> dict[str, float]:
    return {s.level: s.point_xy[1] for s in spine.structures}


@pytest.mark.parametrize("shift", [-4, -2, 0, 2, 4])
def test_names_are_those_that_are_read(shift: int) -> None:
    """The detector's names are up to two rungs off; every place keeps its box."""
    rows = [(r + shift, 30 + 12 * r, 0.8) for r in range(11) if 0 <= r + shift < 11]
    spine = found_by(Offers(rows), ReadsByPlace(), again=False)
    assert levels_at(spine).items() <= RIGHT.items()
    assert len(spine.structures) == 11 - abs(shift)


def test_a_spine_that_leaves_no_doubt_is_read_once_and_seen_once() -> None:
    detector, namer = Offers([(r, 30 + 12 * r, 0.9) for r in range(11)]), ReadsByPlace()
    spine = found_by(detector, namer)
    assert levels_at(spine) == RIGHT
    assert (len(namer.curves), len(detector.seen)) == (1, 1)
    assert spine.naming.evidence.margin == MOST_MARGIN
    assert spine.context is not None
    assert len(spine.candidates.rank) == 11


def test_rivals_that_come_near_are_read_along_their_own_chains() -> None:
    rows = [(r, 30 + 12 * r, 0.5) for r in range(11)]
    rows += [(r + 2, 30 + 12 * r, 0.4) for r in range(9)]
    namer = ReadsNothing()
    spine = found_by(Offers(rows), namer, again=False)
    assert len(namer.curves) == 1 + len(SHIFTS)
    assert spine.naming.evidence.margin < MOST_MARGIN
    shares = [spine.naming.probability, *(r.probability for r in spine.naming.rivals)]
    assert sum(shares) == pytest.approx(1)
    assert [rival.shift for rival in spine.naming.rivals] == list(SHIFTS)


def test_a_second_look_offers_what_the_first_one_lacks() -> None:
    """Two levels are seen in the brighter image alone, two in its lower part alone."""
    first = [(r, 30 + 12 * r, 0.9) for r in range(2, 9)]
    brighter = [(r, 30 + 12 * r, 0.9) for r in range(2)]
    lower = [(r, 30 + 12 * r, 0.6) for r in (9, 10)]
    detector = Offers(first, brighter, lower)
    spine = found_by(detector, ReadsByPlace())
    assert levels_at(spine) == RIGHT
    assert [rows for rows, _ in detector.seen] == [300, 300, 180]
    assert detector.seen[1][1] > detector.seen[0][1]
    once = found_by(Offers(first, brighter, lower), ReadsByPlace(), again=False)
    assert len(once.structures) == 7


def test_without_a_reader_the_detector_names() -> None:
    rows = [(r, 30 + 12 * r, 0.8) for r in range(5)]
    detector = Offers(rows)
    spine = found_by(detector, None)
    assert len(spine.structures) == 5
    assert spine.naming.evidence is None
    assert len(detector.seen) == 1


@pytest.mark.parametrize("rows", [[], [(4, 78, 0.9)], [(4, 78, 0.9), (5, 90, 0.9)]])
def test_few_structures_are_named_by_the_detector(rows: Rows) -> None:
    spine = found_by(Offers(rows), ReadsByPlace())
    assert len(spine.structures) == len(rows)
    assert spine.candidates is not None


def test_given_candidates_are_the_first_look() -> None:
    detector = Offers([(r, 30 + 12 * r, 0.9) for r in range(11)])
    (offered,) = look_at(detector, [IMAGE], LookSettings())
    spine = find_spine(
        detector, ReadsByPlace(), IMAGE, DecodeSettings(), LookSettings(), candidates=offered
    )
    assert len(detector.seen) == 1
    assert levels_at(spine) == RIGHT


def test_doubt() -> None:
    decoding = DecodeSettings()
    sure = found_by(Offers([(r, 30 + 12 * r, 0.9) for r in range(11)]), ReadsByPlace())
    assert not is_doubtful(sure, decoding)
    assert is_doubtful(replace(sure, structures=sure.structures[1:]), decoding)
    assert is_doubtful(replace(sure, naming=None), decoding)
    assert is_doubtful(replace(sure, naming=replace(sure.naming, probability=0.8)), decoding)
    weak = (replace(sure.structures[0], confidence=0.1), *sure.structures[1:])
    assert is_doubtful(replace(sure, structures=weak), decoding)


def test_reading_by_hand() -> None:
    """Three places; the structure of rank 10 lies on the second, so they are ranks 9, 10 and 11."""
    shares = np.full((3, 13), -6.0)
    shares[0, 10] = -0.5  # L5: the likeliest there
    shares[1, 11], shares[1, 9] = -1.5, -1.0  # L5-S1: 0.5 less than the likeliest
    shares[2, 11] = -0.1  # "below" is 5.9 less likely, of which 5 count
    context = Context(np.array([[50.0, 10.0], [50.0, 20.0], [50.0, 30.0]]), shares)
    assert reading_of(context, [10], np.array([[50.0, 21.0]]), most=5.0) == pytest.approx(-5.5)


def test_a_weighed_naming_by_hand() -> None:
    evidence = NamingEvidence(margin=20.0, score=40.0)
    naming = weighed_naming(evidence, {1: 20.0, -1: 20.0}, temperature=9.0)
    odds = COEFFICIENTS.constant + COEFFICIENTS.margin * 20.0 + COEFFICIENTS.score * 40.0
    assert naming.probability == pytest.approx(1 / (1 + np.exp(-odds)))
    shares = {rival.shift: rival.probability for rival in naming.rivals}
    assert shares[1] == shares[-1] == pytest.approx((1 - naming.probability) / 2)
    assert shares[2] == shares[-2] == pytest.approx(0)


def test_joined_candidates_are_in_order() -> None:
    one = look_at(Offers([(3, 66, 0.5), (1, 42, 0.4)]), [IMAGE], LookSettings())[0]
    two = look_at(Offers([(3, 67, 0.7), (0, 30, 0.4)]), [IMAGE], LookSettings())[0]
    joined = joined_candidates([one, two, no_candidates()])
    assert joined.rank.tolist() == [0, 1, 3, 3]
    assert joined.confidence.tolist() == pytest.approx([0.4, 0.4, 0.7, 0.5])
