from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torchvision.ops import batched_nms

from spineline.detect.evaluation.matching import match
from spineline.detect.evaluation.matching import rates as rates_of
from spineline.detect.evaluation.seed_metrics import seed_boxes, seed_counts, seed_rates
from spineline.detect.results import Detections, no_detections

NAMES = ("healthy", "sick")
HEALTHY, SICK = 0, 1


def detections(rows: Sequence[Sequence[float]]) -> Detections:
    """From rows x1 y1 x2 y2 confidence class."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), NAMES)


def labelled(rows: Sequence[Sequence[float]]) -> tuple[Any, Any]:
    """From rows x1 y1 x2 y2 class."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    return table[:, :4], table[:, 4].astype(np.int64)


def rates(labels: Any, found: Any) -> tuple[float, ...]:
    result = seed_rates(seed_counts(labels, found, positive=SICK))
    names = ("precision", "recall", "f1", "average_precision")
    return tuple(float(getattr(result, name)[0]) for name in names)


# docs/metrics.md works this out: four discs in one image.
EXAMPLE = [labelled([(0, 0, 20, 10, HEALTHY), (0, 30, 20, 40, SICK), (0, 60, 20, 70, SICK),
                     (0, 90, 20, 100, HEALTHY)])]  # fmt: skip
FOUND = [
    (0, 0, 20, 10, 0.9, HEALTHY),  # right
    (0, 30, 20, 40, 0.8, SICK),  # right
    (0, 90, 20, 100, 0.7, SICK),  # of the wrong class
    (60, 0, 80, 10, 0.6, SICK),  # on nothing
    (60, 60, 80, 70, 0.55, HEALTHY),  # on nothing
]


def test_the_example_of_the_page_where_both_rules_differ() -> None:
    found = [detections(FOUND)]
    counts = seed_counts(EXAMPLE, found, positive=SICK)
    assert counts.tp.tolist() == [2]
    assert (counts.labels - counts.tp).tolist() == [2]  # "false positives": two missed labels
    assert counts.wrong.tolist() == [1]
    assert rates(EXAMPLE, found) == pytest.approx((2 / 4, 2 / 3, 4 / 7, 1 / 2))
    matched = rates_of(match(EXAMPLE, found), 0.5)
    assert (matched.tp, matched.fp, matched.fn) == (2, 3, 2)
    values = (matched.precision[0], matched.recall[0], matched.f1[0])
    assert values == pytest.approx((2 / 5, 2 / 4, 4 / 9))


def test_boxes_on_nothing_are_counted_nowhere() -> None:
    many = [*FOUND, *((200 + 30 * n, 0, 220 + 30 * n, 10, 0.95, SICK) for n in range(50))]
    assert rates(EXAMPLE, [detections(many)]) == rates(EXAMPLE, [detections(FOUND)])
    precision = [
        rates_of(match(EXAMPLE, [detections(rows)]), 0.5).precision[0] for rows in (FOUND, many)
    ]
    assert precision == pytest.approx([2 / 5, 2 / 55])


def test_one_box_serves_several_labels_and_a_label_is_right_once() -> None:
    labels = [labelled([(0, 0, 10, 10, SICK), (0, 2, 10, 12, SICK), (0, 1, 10, 11, HEALTHY)])]
    counts = seed_counts(labels, [detections([(0, 1, 10, 11, 0.9, SICK)] * 3)], positive=SICK)
    assert counts.tp.tolist() == [2]
    assert counts.wrong.tolist() == [3]  # three sick boxes lie on the healthy label
    assert len(counts.pair_image) == 9


def test_pixels_count_inclusively() -> None:
    # A column of ten pixels has no area but for the pixel that is added.
    labels = [labelled([(0, 0, 0, 9, SICK)])]
    for top, hits in ((3, 1), (4, 0)):  # 7 of 13 pixels, and 6 of 14
        found = [detections([(0, top, 0, top + 9, 0.9, SICK)])]
        assert seed_counts(labels, found, positive=SICK).tp.tolist() == [hits]
        assert not match(labels, found).hit.any()
    labels = [labelled([(0, 0, 10, 2, SICK)])]
    found = [detections([(0, 1, 10, 3, 0.9, SICK)])]  # 1 of 3 high, with the pixel 2 of 4
    assert seed_counts(labels, found, positive=SICK).tp.tolist() == [1]
    assert not match(labels, found).hit.any()


def naive(labels: Any, found: Any) -> tuple[float, ...]:
    """The rule once more: label by label and box by box, average precision by scikit-learn."""
    tp = fp = fn = 0
    sick, score = [], []
    for (boxes, kinds), detected in zip(labels, found, strict=True):
        right = set()
        for place, (a, kind) in enumerate(zip(boxes, kinds, strict=True)):
            for b, c, guess in zip(
                detected.boxes_xyxy.astype(float),
                detected.confidence,
                detected.class_index,
                strict=True,
            ):
                wide = min(a[2], b[2]) - max(a[0], b[0]) + 1
                high = min(a[3], b[3]) - max(a[1], b[1]) + 1
                common = wide * high if wide > 0 and high > 0 else 0.0
                whole = sum((x[2] - x[0] + 1) * (x[3] - x[1] + 1) for x in (a, b)) - common
                if common / whole < 0.5:
                    continue
                sick.append(kind == SICK)
                score.append(c)
                if guess == kind:
                    right.add(place)
                else:
                    fn += 1
        tp += len(right)
        fp += len(boxes) - len(right)
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    f1 = 2 * precision * recall / (precision + recall)
    return precision, recall, f1, average_precision_score(sick, score)


def random_case(seed: int) -> tuple[list[Any], list[Detections]]:
    rng = np.random.default_rng(seed)
    labels, found = [], []
    for _ in range(9):
        count = int(rng.integers(0, 8))
        corner = rng.uniform(0, 40, (count, 2))
        boxes = np.hstack([corner, corner + rng.uniform(6, 20, (count, 2))])
        labels.append((boxes, rng.integers(0, 2, count)))
        moved = np.repeat(boxes, 3, axis=0) + rng.normal(0, 2, (3 * count, 4))
        score = rng.integers(1, 20, 3 * count) / 20  # some equal
        rows = np.column_stack([moved, score, rng.integers(0, 2, 3 * count)])
        found.append(detections(rows.tolist()).by_confidence())
    return labels, found


@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_those_of_the_rule_done_box_by_box(seed: int) -> None:
    labels, found = random_case(seed)
    assert rates(labels, found) == pytest.approx(naive(labels, found))


def test_boxes_before_near_duplicates_go_are_those_of_torchvision() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 150, (400, 2))
    boxes = np.hstack([corner, corner + rng.uniform(8, 30, (400, 2))])
    rows = np.column_stack([boxes, rng.random(400), rng.integers(0, 2, 400)])
    given = detections(rows.tolist())
    kept = seed_boxes(given, near_duplicate_iou=float("inf"))
    sure = given.where(given.confidence > 0.05)
    index = batched_nms(
        torch.from_numpy(sure.boxes_xyxy),
        torch.from_numpy(sure.confidence),
        torch.from_numpy(sure.class_index),
        0.5,
    )[:100].numpy()
    assert len(kept) == 100
    np.testing.assert_array_equal(kept.boxes_xyxy, sure.boxes_xyxy[index])


@pytest.mark.parametrize(
    ("rows", "left"),
    [
        ([(0, 0, 99, 9, 0.9, 0), (0, 1, 99, 10, 0.8, 1)], [0.9]),
        ([(0, 0, 99, 9, 0.9, 0), (0, 4, 99, 13, 0.8, 1)], [0.9, 0.8]),
        # After a near-duplicate everything less confident goes, wherever it lies.
        ([(0, 0, 99, 9, 0.9, 0), (0, 1, 99, 10, 0.8, 1), (0, 500, 99, 509, 0.7, 0)], [0.9]),
        # Overlaps of 6/14 each: neither is a near-duplicate, their sum is.
        ([(0, 0, 99, 9, 0.9, 0), (0, 4, 99, 13, 0.8, 1), (0, -4, 99, 5, 0.7, 1)], [0.9, 0.8]),
        # Of two as confident the earlier one goes.
        ([(0, 0, 99, 9, 0.5, 0), (0, 1, 99, 10, 0.5, 1)], [0.5]),
        # Not more confident than 0.05.
        ([(0, 0, 99, 9, 0.05, 0)], []),
    ],
    ids=["duplicate", "neighbour", "all-that-follow", "sum", "equal", "faint"],
)
def test_near_duplicates_go_by_the_running_sum(
    rows: list[tuple[float, ...]], left: list[float]
) -> None:
    kept = seed_boxes(detections(rows))
    assert kept.confidence.tolist() == pytest.approx(left)
    if left == [0.5]:
        assert kept.class_index.tolist() == [1]


@pytest.mark.parametrize(
    ("labels", "found", "expected"),
    [
        ([], [], (0, 0, 0, 0)),
        ([labelled([])], [detections([(0, 0, 9, 9, 0.9, 0)])], (0, 0, 0, 0)),
        ([labelled([(0, 0, 9, 9, 1)])], [no_detections(NAMES)], (0, 0, 0, 0)),
        ([labelled([(0, 0, 9, 9, 0)])], [detections([(0, 0, 9, 9, 0.9, 1)])], (0, 0, 0, np.nan)),
        ([labelled([(0, 0, 9, 9, 0)])], [detections([(0, 0, 9, 9, 0.9, 0)])], (1, 1, 1, np.nan)),
        ([labelled([(0, 0, 9, 9, 1)])], [detections([(0, 0, 9, 9, 0.9, 1)])], (1, 1, 1, 1)),
    ],
    ids=["no-image", "no-label", "no-box", "wrong-class", "no-sick", "right"],
)
def test_divisors_of_zero(labels: Any, found: Any, expected: tuple[float, ...]) -> None:
    np.testing.assert_equal(rates(labels, found), tuple(map(float, expected)))


def test_classes_without_sick_have_no_average_precision() -> None:
    result = seed_rates(seed_counts(EXAMPLE, [detections(FOUND)], positive=None))
    assert np.isnan(result.average_precision).all()
    assert result.precision.tolist() == [0.5]
