from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from spineline.datasets.metrics.coco import BoxesOfImage
from spineline.detect.evaluation.matching import (
    Rates,
    best_f1,
    confusion,
    match,
    precision_recall,
    rates,
)
from spineline.detect.results import Detections, no_detections

NAMES = ("healthy", "sick")


def detections(rows: Sequence[Sequence[float]], names: tuple[str, ...] = NAMES) -> Detections:
    """From rows x1 y1 x2 y2 confidence class."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), names)


def labelled(rows: Sequence[Sequence[float]]) -> tuple[Any, Any]:
    """From rows x1 y1 x2 y2 class."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    return table[:, :4], table[:, 4].astype(np.int64)


def rates_of(labels: Any, found: Any, *, confidence: float = 0.5, **how: Any) -> Rates:
    return rates(match(labels, found, **how), confidence)


def random_case(seed: int, images: int = 8) -> tuple[Sequence[BoxesOfImage], list[Detections]]:
    """Crowded labels; boxes near them, of any class, and boxes elsewhere; no equal confidences."""
    rng = np.random.default_rng(seed)
    confidences = rng.permutation(np.linspace(0.01, 0.99, images * 24)).reshape(images, 24)
    labels: list[tuple[Any, Any]] = []
    found = []
    for image in range(images):
        count = int(rng.integers(0, 9))
        corner = rng.uniform(0, 60, (count, 2))
        boxes = np.hstack([corner, corner + rng.uniform(10, 30, (count, 2))])
        labels.append((boxes, rng.integers(0, 2, count)))
        near = np.repeat(boxes, 2, axis=0) + rng.normal(0, 2, (2 * count, 4))
        corner = rng.uniform(0, 60, (6, 2))
        boxes = np.vstack([near, np.hstack([corner, corner + rng.uniform(10, 30, (6, 2))])])
        rows = np.column_stack(
            [boxes, confidences[image, : len(boxes)], rng.integers(0, 2, len(boxes))]
        )
        found.append(detections(rows.tolist()))
    return labels, found


def test_worked_out_by_hand() -> None:
    # Ten pixels square each. Sick is found twice at one place: one hit, one false positive.
    labels = [labelled([(0, 0, 10, 10, 0), (20, 0, 30, 10, 1), (40, 0, 50, 10, 1)])]
    found = [
        detections(
            [
                (0, 0, 10, 10, 0.9, 0),  # hit
                (20, 0, 30, 10, 0.8, 1),  # hit
                (21, 0, 31, 10, 0.7, 1),  # again
                (40, 0, 50, 10, 0.6, 0),  # wrong class
                (80, 0, 90, 10, 0.2, 1),  # on nothing
                (40, 0, 50, 10, 0.1, 1),  # hit, not confident
            ]
        )
    ]
    matches = match(labels, found)
    both, healthy, sick = (
        rates(each, 0.5) for each in (matches, matches.of_class(0), matches.of_class(1))
    )
    assert (both.tp, both.fp, both.fn) == (2, 2, 1)
    assert both.precision == pytest.approx(2 / 4)
    assert both.recall == pytest.approx(2 / 3)
    assert both.f1 == pytest.approx(4 / 7)
    # Precision after each hit: 1, 1, 3/6, each gaining a third of recall.
    assert both.average_precision == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert healthy.precision == pytest.approx(1 / 2)
    assert sick.recall == pytest.approx(1 / 2)
    # Sick alone: hits are the 1st and the 4th of four boxes.
    assert sick.average_precision == pytest.approx((1 + 1 / 2) / 2)
    # F1 after each box: 1/2, 4/5, 2/3, 4/7, 1/2, 2/3.
    assert best_f1(precision_recall(matches)) == pytest.approx((4 / 5, 0.8))
    # Without classes the box of the wrong class is a hit, and the last one comes too late.
    anywhere = rates_of(labels, found, class_agnostic=True)
    assert (anywhere.tp, anywhere.fp, anywhere.fn) == (3, 1, 0)


def test_the_highest_free_overlap_is_taken_by_falling_confidence() -> None:
    # Both boxes overlap both labels by half or more. The surer one takes the nearer label, and the
    # other one the label that is left, though it lies nearer to the first.
    labels = [labelled([(0, 0, 10, 10, 0), (0, 2, 10, 12, 0)])]
    found = [detections([(0, 0, 10, 11, 0.8, 0), (0, 0, 10, 10, 0.9, 0)])]
    assert rates_of(labels, found).tp == 2
    assert match(labels, found).confidence.tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize("iou", [0.5, 0.75])
@pytest.mark.parametrize("class_agnostic", [False, True], ids=["classes", "any-class"])
def test_average_precision_is_that_of_pycocotools_at_many_recalls(
    iou: float, class_agnostic: bool
) -> None:
    labels, found = random_case(3)
    matches = match(labels, found, iou=iou, class_agnostic=class_agnostic)
    precision = coco_precision(labels, found, iou, class_agnostic)
    for index in range(matches.labels.shape[1]):
        expected = precision[:, index].mean()
        found_here = rates(matches.of_class(index), 0.5).average_precision
        assert found_here == pytest.approx(expected, abs=2e-4)


def coco_precision(
    labels: Sequence[BoxesOfImage], found: Sequence[Detections], iou: float, class_agnostic: bool
) -> Any:
    """(10001, classes) of pycocotools, which reads the curve at so many recalls."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def rows(boxes: Any, kinds: Any, image: int) -> list[dict[str, Any]]:
        return [
            {"image_id": image, "category_id": int(kind) + 1, "iscrowd": 0,
             "bbox": [*box[:2], *(box[2:] - box[:2])], "area": float(np.prod(box[2:] - box[:2]))}
            for box, kind in zip(np.asarray(boxes, np.float64), kinds, strict=True)
        ]  # fmt: skip

    truth, results = [], []
    for image, ((boxes, kinds), detected) in enumerate(zip(labels, found, strict=True), 1):
        truth += rows(boxes, kinds, image)
        each = rows(detected.boxes_xyxy, detected.class_index, image)
        results += [
            {**r, "score": float(c)} for r, c in zip(each, detected.confidence, strict=True)
        ]
    for number, row in enumerate(truth, 1):
        row["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": n} for n in range(1, len(found) + 1)],
            "categories": [{"id": 1, "name": "healthy"}, {"id": 2, "name": "sick"}],
            "annotations": truth,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.iouThrs = np.array([iou])
        evaluation.params.recThrs = np.linspace(0, 1, 10001)
        evaluation.params.useCats = int(not class_agnostic)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][0, :, :, 0, -1]


@pytest.mark.parametrize("seed", range(3))
def test_curve_is_that_of_scikit_learn(seed: int) -> None:
    labels, found = random_case(seed)
    matches = match(labels, found)
    curve = precision_recall(matches)
    precision, recall, confidence = precision_recall_curve(matches.hit, matches.confidence)
    share = matches.hit.sum() / matches.labels.sum()  # scikit-learn knows of no missed label
    assert 0 < share < 1
    count = len(confidence)  # it ends at the last hit and adds a point of its own
    np.testing.assert_allclose(curve.confidence[-count:], confidence[::-1])
    np.testing.assert_allclose(curve.precision[:count], precision[-2::-1][:count])
    np.testing.assert_allclose(curve.recall[:count], recall[-2::-1][:count] * share)


def test_rates_are_those_of_supervision_where_boxes_lie_apart() -> None:
    import supervision as sv
    from supervision.metrics import F1Score, Precision, Recall
    from supervision.metrics.core import AveragingMethod

    rng = np.random.default_rng(5)
    labels: list[tuple[Any, Any]] = []
    found, targets, predictions = [], [], []
    for _ in range(10):
        corner = np.arange(6)[:, None] * np.array([[40.0, 0.0]])
        boxes = np.hstack([corner, corner + 20])
        kinds = rng.integers(0, 2, 6)
        kept = rng.random(6) < 0.8
        guess = np.where(rng.random(6) < 0.7, kinds, 1 - kinds)
        rows = np.column_stack([boxes + rng.normal(0, 1.5, (6, 4)), rng.random(6), guess])[kept]
        labels.append((boxes, kinds))
        found.append(detections(rows.tolist()).by_confidence())
        targets.append(sv.Detections(boxes, class_id=kinds))
        sure = found[-1].at_least(0.3)
        predictions.append(
            sv.Detections(
                sure.boxes_xyxy.astype(np.float64),
                class_id=sure.class_index,
                confidence=sure.confidence,
            )
        )
    mine = rates_of(labels, found, confidence=0.3)
    for metric, name, value in (
        (Precision, "precision_at_50", mine.precision[0]),
        (Recall, "recall_at_50", mine.recall[0]),
        (F1Score, "f1_50", mine.f1[0]),
    ):
        oracle = metric(averaging_method=AveragingMethod.MICRO)
        assert value == pytest.approx(getattr(oracle.update(predictions, targets).compute(), name))
        assert 0 < value < 1


def test_what_lies_below_the_confidence_changes_no_count() -> None:
    labels, found = random_case(1)
    for confidence in (0.2, 0.5, 0.8):
        kept = [each.at_least(confidence) for each in found]
        all_of_them = rates_of(labels, found, confidence=confidence)
        alone = rates_of(labels, kept, confidence=confidence)
        assert (all_of_them.tp, all_of_them.fp, all_of_them.fn) == (alone.tp, alone.fp, alone.fn)


def test_equal_confidences_count_together_in_any_order() -> None:
    labels = [labelled([(0, 0, 10, 10, 0)])]
    rows = [(0, 0, 10, 10, 0.5, 0), (50, 50, 60, 60, 0.5, 0)]
    for order in (rows, rows[::-1]):
        assert rates_of(labels, [detections(order)]).average_precision == 0.5


NOTHING = labelled([])
ONE = labelled([(0, 0, 10, 10, 0)])


@pytest.mark.parametrize(
    ("labels", "found", "expected"),
    [
        ([NOTHING], [no_detections(NAMES)], (np.nan, np.nan, np.nan, np.nan)),
        ([ONE], [no_detections(NAMES)], (np.nan, 0.0, 0.0, 0.0)),
        ([NOTHING], [detections([(0, 0, 9, 9, 0.9, 0)])], (0.0, np.nan, 0.0, np.nan)),
        ([], [], (np.nan, np.nan, np.nan, np.nan)),
        ([ONE], [detections([(0, 0, 0, 0, 0.9, 0)])], (0.0, 0.0, 0.0, 0.0)),
        ([ONE], [detections([(0, 0, 10, 10, 0.4, 0)])], (np.nan, 0.0, 0.0, 1.0)),
    ],
    ids=["nothing", "no-detection", "no-label", "no-image", "degenerate", "not-confident"],
)
def test_undefined(labels: Any, found: Any, expected: tuple[float, ...]) -> None:
    mine = rates_of(labels, found)
    values = (mine.precision, mine.recall, mine.f1, mine.average_precision)
    np.testing.assert_equal([value[0] for value in values], expected)


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="zip"):
        rates_of([ONE, ONE], [no_detections(NAMES)])
    with pytest.raises(ValueError, match="detections of different classes"):
        rates_of([ONE, ONE], [no_detections(NAMES), no_detections(("a",))])


def test_confusion_worked_out_by_hand() -> None:
    label = labelled([(0, 0, 10, 10, 0), (50, 50, 60, 60, 1), (80, 80, 90, 90, 0)])
    found = detections(
        [
            (0, 0, 10, 10, 0.9, 0),  # healthy, right
            (50, 50, 60, 60, 0.9, 0),  # sick, taken for healthy
            (20, 20, 30, 30, 0.9, 1),  # nothing there
            (80, 80, 90, 90, 0.2, 0),  # right, but not confident enough: the label is missed
        ]
    )
    table = confusion([label], [found], 2)
    assert table.tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_confusion_goes_by_falling_overlap() -> None:
    """The box that lies on both labels is left to the one it covers; the other is missed."""
    label = labelled([(0, 0, 10, 10, 0), (0, 3, 10, 13, 1)])
    found = detections([(0, 0, 10, 10, 0.5, 1), (0, 1, 10, 11, 0.9, 0)])
    assert confusion([label], [found], 2).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
