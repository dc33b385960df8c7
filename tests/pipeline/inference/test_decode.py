"""Ordered-spine decoding, against brute force and worked cases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from spineline.datasets.labels import LEVELS
from spineline.detect.results import Detections
from spineline.pipeline.inference.candidates import Candidates, candidates_of
from spineline.pipeline.inference.decode import (
    DecodeSettings,
    best_chain,
    decode_chain,
    decode_spine,
    pairwise_scores,
    unary_scores,
)

SETTINGS = DecodeSettings()


def boxes(
    rows: list[tuple[int, float, float, float, float]], names=LEVELS, per_level: int = 15
) -> Candidates:
    """Candidates of rank, x, y, height, confidence."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    rank, x, y, height, confidence = table.T
    width = 1.4 * height
    xyxy = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
    found = Detections(
        xyxy.astype(np.float32), confidence.astype(np.float32), rank.astype(np.int64), names
    )
    return candidates_of(found, per_level)


def spine(
    confidence: float = 0.9, gap: float = 12.0
) -> list[tuple[int, float, float, float, float]]:
    return [(rank, 100.0, 30.0 + gap * rank, 2 * gap, confidence) for rank in range(11)]


def noisy(
    rng: np.random.Generator, ranks: list[int], spread: float
) -> list[tuple[int, float, float, float, float]]:
    """Boxes of ranks about their places, with any confidence."""
    return [
        (r, rng.normal(100, 5), rng.normal(30 + 12 * r, spread), 24.0, rng.uniform(0.02, 0.9))
        for r in ranks
    ]


def levels_at(decoded) -> dict[str, float]:
    return {s.level: round(s.point_xy[1], 3) for s in decoded.structures}


def reasons(decoded) -> dict[str, str]:
    return dict(decoded.missing)


# ---- the optimum, by trying everything


def score_by_hand(rows, chain, settings: DecodeSettings) -> float:
    """The documented score of a chain, in plain Python, from (rank, x, y, height, confidence)."""
    if not chain:
        return -settings.end_cost * 11
    total = -settings.end_cost * (rows[chain[0]][0] + 10 - rows[chain[-1]][0])
    reference = settings.reference_confidence
    for i in chain:
        confidence = min(max(float(np.float32(rows[i][4])), 1e-4), 0.995)
        total += math.log(confidence / (1 - confidence)) - math.log(reference / (1 - reference))
    for i, j in itertools.pairwise(chain):
        dx, dy = rows[j][1] - rows[i][1], rows[j][2] - rows[i][2]
        steps = rows[j][0] - rows[i][0]
        if steps <= 0 or dy <= 0:
            return -math.inf
        ratio = math.hypot(dx, dy) / (steps * (rows[i][3] + rows[j][3]) / 4)
        total -= (math.log(ratio) / settings.spacing_sigma) ** 2 / 2
        total -= (math.atan2(dx, dy) / settings.direction_sigma) ** 2 / 2
        total -= settings.skip_cost * (steps - 1)
    return total


@pytest.mark.parametrize("seed", range(25))
def test_chain_is_the_best_of_all_assignments(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranks = sorted(rng.choice(11, size=5, replace=False))
    rows = noisy(rng, [int(rank) for rank in ranks for _ in range(rng.integers(1, 4))], 12)
    settings = DecodeSettings(
        skip_cost=rng.uniform(0, 3), end_cost=rng.uniform(0, 1), spacing_sigma=0.4
    )
    per_level = [[None, *(i for i, row in enumerate(rows) if row[0] == rank)] for rank in ranks]
    tried = [
        [i for i in assignment if i is not None] for assignment in itertools.product(*per_level)
    ]
    best = max(tried, key=lambda chain: score_by_hand(rows, chain, settings))

    decoded = decode_spine(boxes(rows), settings)

    assert decoded.score == pytest.approx(score_by_hand(rows, best, settings), abs=1e-4)
    assert levels_at(decoded) == {
        LEVELS[rows[i][0]]: pytest.approx(rows[i][2], abs=1e-2) for i in best
    }


@pytest.mark.parametrize("seed", range(10))
def test_the_chain_alone_is_that_of_the_whole_decoding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = noisy(rng, rng.integers(0, 11, size=seed * 3).tolist(), 9)
    settings = DecodeSettings(skip_cost=rng.uniform(0, 3))
    candidates = boxes(rows, per_level=2)
    found, score = decode_chain(candidates, settings)
    whole = decode_spine(candidates, settings)
    assert (found, score) == (whole.structures, whole.score)
    assert bool(found) == bool(seed)


def test_order_of_the_candidates_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    rows = noisy(rng, [*range(11)] * 4, 8)
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    assert decode_spine(boxes(rows)) == decode_spine(boxes(shuffled))


# ---- worked cases


def test_a_clean_spine_is_returned_whole() -> None:
    decoded = decode_spine(boxes(spine()))
    assert levels_at(decoded) == {level: 30.0 + 12 * rank for rank, level in enumerate(LEVELS)}
    assert decoded.missing == ()
    assert [s.kind for s in decoded.structures[:2]] == ["disc", "vertebra"]
    assert decoded.structures[0].box_xyxy == pytest.approx((83.2, 18.0, 116.8, 42.0), abs=1e-4)
    assert decoded.structures[0].confidence == pytest.approx(0.9)


def test_swapped_levels_lose_to_the_right_ones() -> None:
    """L3 and L4 are named the wrong way round with more confidence than the right way."""
    rows = spine()
    third, fourth = rows[5], rows[7]
    rows[5], rows[7] = (5, *third[1:4], 0.3), (7, *fourth[1:4], 0.3)
    rows += [(5, *fourth[1:4], 0.5), (7, *third[1:4], 0.5)]
    decoded = decode_spine(boxes(rows))
    assert levels_at(decoded) == {level: 30.0 + 12 * rank for rank, level in enumerate(LEVELS)}


def test_of_duplicates_one_is_kept() -> None:
    rows = [*spine(), *((r, x + 1, y + 1, h, 0.4) for r, x, y, h, _ in spine())]
    decoded = decode_spine(boxes(rows))
    assert len(decoded.structures) == 11
    assert {round(s.confidence, 3) for s in decoded.structures} == {0.9}


def test_an_outlier_is_left_for_the_plausible_box() -> None:
    rows = spine(0.6)
    rows.append((6, 100.0, 300.0, 24.0, 0.95))
    assert levels_at(decode_spine(boxes(rows)))["L3-L4"] == 102.0


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        pytest.param(None, "no_candidate", id="nothing offered"),
        pytest.param((6, 100.0, 20.0, 24.0, 0.9), "out_of_order", id="above T12-L1"),
        pytest.param((6, 100.0, 102.0, 24.0, 0.001), "low_confidence", id="hardly seen"),
        pytest.param((6, 185.0, 102.0, 24.0, 0.5), "spacing_implausible", id="far to the side"),
    ],
)
def test_a_level_left_out_has_its_reason(row, reason: str) -> None:
    rows = [r for r in spine() if r[0] != 6] + ([row] if row else [])
    decoded = decode_spine(boxes(rows))
    assert reasons(decoded) == {"L3-L4": reason}
    assert len(decoded.structures) == 10


def test_nothing_at_all() -> None:
    decoded = decode_spine(boxes([]))
    assert decoded.structures == ()
    assert reasons(decoded) == dict.fromkeys(LEVELS, "no_candidate")


def test_noise_at_low_confidence_is_not_a_spine() -> None:
    rng = np.random.default_rng(0)
    rows = [(int(rng.integers(11)), *rng.uniform(0, 256, 2), 24.0, 0.011) for _ in range(12)]
    decoded = decode_spine(boxes(rows))
    assert len(decoded.structures) <= 2


def test_a_spine_slipped_by_a_rung_is_put_right_by_the_rest() -> None:
    """Three boxes bear the name one rung too low with more confidence than the right name."""
    rows = spine(0.7)
    for rank in (4, 5, 6):
        _, x, y, height, _ = rows[rank]
        rows[rank] = (rank, x, y, height, 0.3)
        rows.append((rank + 2, x, y, height, 0.8))
    decoded = decode_spine(boxes(rows))
    assert levels_at(decoded) == {level: 30.0 + 12 * rank for rank, level in enumerate(LEVELS)}


@pytest.mark.parametrize("scale", [0.25, 1.0, 7.0])
def test_size_of_the_image_does_not_matter(scale: float) -> None:
    rng = np.random.default_rng(5)
    rows = noisy(rng, [*range(11)] * 3, 6)
    scaled = [(r, x * scale, y * scale, h * scale, c) for r, x, y, h, c in rows]
    plain, other = decode_spine(boxes(rows)), decode_spine(boxes(scaled))
    assert plain.score == pytest.approx(other.score, abs=1e-3)
    assert [s.confidence for s in plain.structures] == [s.confidence for s in other.structures]


def test_unusable_boxes_are_left_out() -> None:
    rows = [(0, 100.0, 30.0, 24.0, 0.9), (1, 100.0, 42.0, 0.0, 0.9), (2, np.nan, 50.0, 24.0, 0.9)]
    rows.append((11, 100.0, 54.0, 24.0, 0.9))
    candidates = boxes(rows, (*LEVELS, "T11-T12"))
    assert list(candidates.rank) == [0]


def test_only_the_most_confident_of_a_level_are_considered() -> None:
    rows = [(4, 100.0, 10.0 * k, 24.0, 0.01 * (k + 1)) for k in range(20)]
    candidates = boxes([*rows, (2, 100.0, 5.0, 24.0, 0.5)])
    assert list(candidates.rank) == [2] + [4] * 15
    assert candidates.confidence[1] == pytest.approx(0.2)
    assert candidates.confidence[-1] == pytest.approx(0.06)


def test_pairs_out_of_order_are_barred() -> None:
    candidates = boxes([(2, 100.0, 50.0, 24.0, 0.5), (3, 100.0, 50.0, 24.0, 0.5)])
    worth = pairwise_scores(candidates, SETTINGS)
    assert np.isneginf(worth).all()
    chain, _ = best_chain(candidates.rank, unary_scores(candidates, SETTINGS), worth, 0.5)
    assert len(chain) == 1


# ---- argmax


def test_argmax_takes_the_most_confident_box_wherever_it_is() -> None:
    rows = [*spine(0.6), (6, 100.0, 300.0, 24.0, 0.95)]
    rows[8] = (*rows[8][:4], 0.24)
    del rows[9]
    decoded = decode_spine(boxes(rows), DecodeSettings(method="argmax"))
    assert levels_at(decoded)["L3-L4"] == 300.0
    assert reasons(decoded) == {"L4-L5": "low_confidence", "L5": "no_candidate"}
