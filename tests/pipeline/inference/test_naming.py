"""Naming: probabilities against the scores of rivals worked out by hand, warnings, abstention."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from spineline.datasets.labels import LEVELS
from spineline.pipeline.inference.decode import DecodeSettings, decode_spine
from spineline.pipeline.inference.naming import (
    SHIFTS,
    Naming,
    Rival,
    abstain,
    abstention_warnings,
    allowed_when_shifted,
    name_chain,
    naming_warnings,
    softmax,
)


@dataclass
class Boxes:
    """Stands for Detections."""

    boxes_xyxy: np.ndarray
    confidence: np.ndarray
    class_index: np.ndarray
    names: tuple[str, ...] = LEVELS


@dataclass
class Spots:
    """Candidates by hand."""

    rank: np.ndarray
    point_xy: np.ndarray
    height: np.ndarray


def boxes(rows: list[tuple[int, float, float]], gap: float = 12.0) -> Boxes:
    """Rows of rank, place (rungs from the top), confidence; boxes as the box rule makes them."""
    rank, place, confidence = np.array(rows, dtype=np.float64).T
    x, y = np.full(len(rank), 100.0), 30 + gap * place
    half_w, half_h = 1.4 * gap, gap
    xyxy = np.stack([x - half_w, y - half_h, x + half_w, y + half_h], axis=1)
    return Boxes(
        xyxy.astype(np.float32), confidence.astype(np.float32), rank.astype(np.int64), LEVELS
    )


def odds(confidence: float) -> float:
    return math.log(confidence / (1 - confidence)) - math.log(0.02 / 0.98)


# ---- probabilities


@pytest.mark.parametrize("temperature", [1.0, 9.0, 40.0])
@pytest.mark.parametrize("shift", SHIFTS)
def test_probabilities_of_two_namings_by_hand(shift: int, temperature: float) -> None:
    """Ranks 4 to 6 at 0.8, and the same places with the other name at 0.5.

    Spacing is what the boxes lead to expect up to the slope of 0, so a chain is worth the sum of
    its log-odds less 0.5 for each of the 8 levels left out at its ends.
    """
    here = [4, 5, 6]
    rows = [(rank, rank, 0.8) for rank in here]
    rows += [(rank + 2 * shift, rank, 0.5) for rank in here]
    naming = decode_spine(boxes(rows), DecodeSettings(temperature=temperature)).naming

    score = 3 * odds(0.8) - 4.0
    # Where the rival's names are of places that exist, it is the other naming; else what is left
    # is nothing at all, or the ends of the other naming that do not lie on the chain's places.
    scores = {0: score} | {s: 3 * odds(0.5) - 4.0 if s == shift else -5.5 for s in SHIFTS}
    total = sum(math.exp((s - score) / temperature) for s in scores.values())
    assert naming.probability == pytest.approx(1 / total, rel=1e-5)
    for rival in naming.rivals:
        share = math.exp((scores[rival.shift] - score) / temperature) / total
        assert rival.probability == pytest.approx(share, rel=1e-4), rival


def test_probabilities_add_up_and_follow_the_evidence() -> None:
    sure = [
        decode_spine(
            boxes(
                [(r, r, 0.8) for r in range(3, 8)] + [(r + 2, r, weak) for r in range(3, 8)],
            )
        ).naming
        for weak in (0.001, 0.1, 0.4, 0.75)
    ]
    probabilities = [naming.probability for naming in sure]
    assert probabilities == sorted(probabilities, reverse=True)
    for naming in sure:
        assert naming.probability + sum(r.probability for r in naming.rivals) == pytest.approx(1)
        assert naming.probability == max(
            naming.probability, *(r.probability for r in naming.rivals)
        )


def test_nothing_found_has_no_naming() -> None:
    assert decode_spine(boxes([(0, 0, 0.0001)])).naming is None
    assert name_chain(Spots(np.zeros(0), np.zeros((0, 2)), np.zeros(0)), [], -5.5, len) is None


def test_argmax_has_no_naming() -> None:
    assert decode_spine(boxes([(4, 4, 0.9)]), DecodeSettings(method="argmax")).naming is None


def test_softmax_of_far_apart_scores() -> None:
    assert softmax([1e6, 0.0, -1e6], 1.0) == [1.0, 0.0, 0.0]
    assert softmax([0.0, 9.0], 9.0) == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)])


# ---- rivals


def test_a_shifted_name_is_allowed_at_its_place_alone() -> None:
    """Chosen: rank 4 at y 100, height 24, so that its place reaches 6 px up and down."""
    rows = [
        (4, 100, False),  # the name given, at its place
        (6, 100, True),  # the shifted name there
        (6, 106, True),  # still there
        (6, 107, False),  # the shifted name elsewhere
        (4, 140, True),  # another name elsewhere
        (8, 103, False),  # a third name there
    ]
    spots = Spots(
        np.array([row[0] for row in rows]),
        np.array([(50.0, row[1]) for row in rows]),
        np.full(len(rows), 24.0),
    )
    assert allowed_when_shifted(spots, [0], 1).tolist() == [row[2] for row in rows]


def test_ends_are_lost_and_gained() -> None:
    """The whole spine bears names one rung too low; L5-S1 and L5 have boxes of their own below."""
    right = [(rank, rank, 0.4) for rank in range(11)]
    slipped = [(rank + 2, rank, 0.5) for rank in range(9)]
    decoded = decode_spine(boxes(right + slipped))
    assert decoded.structures[0].point_xy[1] == 30.0  # eleven right ones beat nine slipped ones
    lower = next(r for r in decoded.naming.rivals if r.shift == 1)
    # By hand: 11 at 0.4, against 9 at 0.5 with 2 levels left out above.
    margin = 11 * odds(0.4) - (9 * odds(0.5) - 2 * 0.5)
    assert math.log(decoded.naming.probability / lower.probability) == pytest.approx(
        margin / 9, rel=1e-4
    )


# ---- what is said


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        pytest.param((0, 0.3, 0, 0), "off by one: every name one rung higher fits", id="higher"),
        pytest.param((0, 0, 0.3, 0), "off by one: every name one rung lower fits", id="lower"),
        pytest.param(
            (0, 0.2, 0.1, 0), "off by one: every name one rung higher or lower fits", id="both"
        ),
        pytest.param((0, 0, 0, 0.3), "off by two: every name two rungs lower fits", id="two"),
        pytest.param(
            (0.1, 0.2, 0, 0),
            "off by one or two: every name one rung higher, or two rungs higher fits",
            id="one and two",
        ),
        pytest.param(
            (0.03, 0.04, 0.02, 0.03),
            "every name one rung higher fits",
            id="none much, the likeliest",
        ),
    ],
)
def test_rivals_are_told(shares, said: str) -> None:
    naming = Naming(1 - sum(shares), tuple(map(Rival, SHIFTS, shares)))
    (text,) = naming_warnings(naming)
    assert text.startswith("naming_in_doubt: levels may be off by ")
    assert said in text
    assert f"{naming.probability:.2f} as named" in text


def test_a_sure_naming_says_nothing() -> None:
    rivals = tuple(map(Rival, SHIFTS, (0.0, 0.05, 0.05, 0.0)))
    assert naming_warnings(Naming(0.9, rivals)) == ()
    assert naming_warnings(Naming(0.9, rivals), sure=0.95) != ()
    assert naming_warnings(None) == ()


def test_abstention_is_below_the_minimum() -> None:
    assert not abstain(Naming(0.8), 0.8).abstained
    assert abstain(Naming(0.79), 0.8).abstained
    assert abstain(None, 0.8) is None
    assert abstention_warnings(abstain(Naming(0.79), 0.8), 0.8) == (
        "naming_abstained: the naming's probability is 0.79, and min_naming_probability=0.8; take "
        "the levels as a guess",
    )
    assert abstention_warnings(Naming(0.79), 0.0) == ()
