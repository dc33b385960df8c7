"""Naming: probabilities against the scores of rivals worked out by hand, warnings, abstention."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from spineline.datasets.common.errors import WeightsError
from spineline.datasets.labels import LEVELS
from spineline.datasets.networks.tensors import pack_described, read_described
from spineline.detect.results import Detections
from spineline.pipeline.inference.candidates import Candidates, candidates_of
from spineline.pipeline.inference.decode import DecodeSettings, decode_spine
from spineline.pipeline.inference.naming import (
    SHIFTS,
    Naming,
    NamingCoefficients,
    abstain,
    allowed_when_shifted,
    name_chain,
    softmax,
)
from spineline.pipeline.inference.pipeline import NAMING_PROBABILITY, bundle_of, decoding_of
from spineline.pipeline.inference.settings import ModelSettings
from spineline.weights import resolve


def boxes(rows: list[tuple[int, float, float]], gap: float = 12.0) -> Candidates:
    """Candidates of rank, place (rungs from the top), confidence; boxes as the box rule's."""
    rank, place, confidence = np.array(rows, dtype=np.float64).T
    x, y = np.full(len(rank), 100.0), 30 + gap * place
    half_w, half_h = 1.4 * gap, gap
    xyxy = np.stack([x - half_w, y - half_h, x + half_w, y + half_h], axis=1)
    found = Detections(
        xyxy.astype(np.float32), confidence.astype(np.float32), rank.astype(np.int64), LEVELS
    )
    return candidates_of(found, 15)


def spots(rank: list[int], point_xy: list[tuple[float, float]], height: float) -> Candidates:
    """Candidates of ranks at places."""
    points = np.array(point_xy, dtype=np.float64).reshape(-1, 2)
    half = np.array([height, height]) / 2
    box = np.concatenate([points - half, points + half], axis=1)
    return Candidates(np.array(rank, dtype=np.int64), box, np.ones(len(rank)))


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
    assert name_chain(spots([], [], 24.0), [], -5.5, len) is None


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
    candidates = spots([row[0] for row in rows], [(50.0, row[1]) for row in rows], 24.0)
    assert allowed_when_shifted(candidates, [0], 1).tolist() == [row[2] for row in rows]


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


def test_abstention_is_below_the_minimum() -> None:
    assert not abstain(Naming(0.8), 0.8).abstained
    assert abstain(Naming(0.79), 0.8).abstained
    assert abstain(None, 0.8) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([-4.0, 0.2, 0.02], r"probability \[-4.0, 0.2, 0.02\], wanted constant, margin, score"),
        ({"constant": -4.0, "margin": 0.2}, "wanted constant, margin, score"),
        ({"constant": True, "margin": 0.2, "score": 0.02}, "constant True, wanted a number"),
        ({"constant": -4.0, "margin": 0.2, "score": 1e300}, "score 1e.300, wanted a number"),
        ({"constant": -4.0, "margin": 0.0, "score": 0.02}, "margin 0.0, wanted more than 0"),
    ],
    ids=["list", "two", "no number", "too large", "margin"],
)
def test_coefficients_that_cannot_be(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NamingCoefficients.from_json(value)


@pytest.mark.parametrize("fitted_with", ["this", "another", "nothing"])
def test_coefficients_apply_to_the_detector_they_were_fitted_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fitted_with: str
) -> None:
    own = NamingCoefficients(constant=-4.0, margin=0.2, score=0.02)
    sha256 = resolve("lumbar-yolov8n", task="detect").sha256
    value: dict[str, object] = {"coefficients": asdict(own)}
    if fitted_with != "nothing":
        value["detector"] = sha256 if fitted_with == "this" else "0" * 64
    described, tensors = read_described(resolve("lumbar-namer", task="name").path)
    file = tmp_path / "namer.safetensors"
    text = json.dumps({**described, NAMING_PROBABILITY: value})
    file.write_bytes(pack_described(tensors, text, half=True))
    bundle = bundle_of(ModelSettings(namer=str(file)))
    if fitted_with == "nothing":
        with pytest.raises(WeightsError, match=r"'detector' is missing.*run naming calibrate"):
            decoding_of(bundle)
        return
    wanted = DecodeSettings(coefficients=own) if fitted_with == "this" else DecodeSettings()
    assert decoding_of(bundle) == wanted
    assert ("fitted with another detector" in caplog.text) == (fitted_with == "another")
