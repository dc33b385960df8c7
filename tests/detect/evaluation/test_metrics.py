from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.datasets.types import ImageRecord, Structure
from spineline.detect.evaluation.metrics import (
    coco_figures,
    coco_results,
    confusion,
    iou_matrix,
    level_hits,
)
from spineline.detect.results import Detections, no_detections

NAMES = ("a", "b")


def detections(rows: list[tuple[float, ...]], names: tuple[str, ...] = NAMES) -> Detections:
    """From rows x1 y1 x2 y2 confidence class."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), names)


def truth(boxes: list[tuple[int, int, list[float]]]) -> dict[str, Any]:
    """A COCO dict of two images from (image, category, xywh)."""
    return {
        "images": [{"id": i, "width": 100, "height": 100, "file_name": f"{i}"} for i in (1, 2)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
            for n, (i, c, b) in enumerate(boxes, 1)
        ],
    }


LABELS = truth([(1, 1, [0, 0, 10, 10]), (1, 1, [50, 50, 10, 10]), (2, 2, [0, 0, 20, 20])])


def test_figures_worked_out_by_hand() -> None:
    # Class a: two labels; hits of IoU 1 at 0.9 and, after a miss at 0.8, at 0.7. Precision after
    # each: 1, 1/2, 2/3; interpolated 1 up to recall 0.5, then 2/3: (51 + 50 * 2/3) / 101.
    # Class b: IoU 0.72 (18 x 16 of 20 x 20): right up to threshold 0.70, five of the ten.
    found = [
        detections([(0, 0, 10, 10, 0.9, 0), (80, 80, 90, 90, 0.8, 0), (50, 50, 60, 60, 0.7, 0)]),
        detections([(0, 0, 18, 16, 0.6, 1)]),
    ]
    figures = coco_figures(LABELS, coco_results([1, 2], found, [1, 2]))
    a = (51 + 50 * 2 / 3) / 101
    assert figures.per_class["a"] == pytest.approx((a, a))
    assert figures.per_class["b"] == pytest.approx((1.0, 0.5))
    assert figures.map50 == pytest.approx((a + 1) / 2)
    assert figures.map50_95 == pytest.approx((a + 0.5) / 2)


def test_figures_are_those_of_pycocotools() -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)

    def box() -> list[float]:
        return [*rng.uniform(0, 60, 2).tolist(), *rng.uniform(10, 40, 2).tolist()]

    labels = truth([(int(rng.integers(1, 3)), int(rng.integers(1, 3)), box()) for _ in range(12)])
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "score": float(rng.random()),
         "bbox": (np.array(a["bbox"]) + rng.normal(0, 2, 4)).tolist()}
        for a in labels["annotations"] + labels["annotations"][:5]
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO()
        oracle.dataset = labels
        oracle.createIndex()
        evaluation = COCOeval(oracle, oracle.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = coco_figures(labels, results)
    assert figures.map50_95 == pytest.approx(evaluation.stats[0], abs=1e-12)
    assert figures.map50 == pytest.approx(evaluation.stats[1], abs=1e-12)
    assert 0 < evaluation.stats[0] < 1


def test_nothing_detected() -> None:
    figures = coco_figures(LABELS, [])
    assert (figures.map50, figures.map50_95) == (0.0, 0.0)
    assert figures.per_class == {"a": (0.0, 0.0), "b": (0.0, 0.0)}


def test_nothing_labelled() -> None:
    found = [detections([(0, 0, 9, 9, 0.9, 0)]), no_detections(NAMES)]
    figures = coco_figures(truth([]), coco_results([1, 2], found, [1, 2]))
    assert figures.map50 is None
    assert figures.per_class == {"a": (None, None), "b": (None, None)}


def test_a_class_without_label_does_not_count() -> None:
    labels = truth([(1, 1, [0, 0, 10, 10])])
    found = [detections([(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 1)]), no_detections(NAMES)]
    figures = coco_figures(labels, coco_results([1, 2], found, [1, 2]))
    assert figures.per_class == {"a": (pytest.approx(1.0), pytest.approx(1.0)), "b": (None, None)}
    assert figures.map50 == pytest.approx(1.0)


def test_results_are_xywh_with_the_given_ids() -> None:
    (row,) = coco_results([7], [detections([(1, 2, 4, 8, 0.5, 1)])], [1, 2])
    assert row == {"image_id": 7, "category_id": 2, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}


def record(points: dict[str, tuple[float, float]]) -> ImageRecord:
    structures = tuple(
        Structure(level, kind_of_level(level), (x, y), (x - 5, y - 5, x + 5, y + 5))
        for level, (x, y) in points.items()
    )
    return ImageRecord("1", "1", 100, 100, structures)


def test_level_accuracy_worked_out_by_hand() -> None:
    labels = record(
        {"L1": (50, 20), "L2": (50, 40), "L3": (50, 60), "L4": (50, 80), "T11-T12": (50, 5)}
    )
    l1, l2, l3 = (LEVELS.index(level) for level in ("L1", "L2", "L3"))
    found = detections(
        [
            (45, 15, 55, 25, 0.9, l1),  # on the point: found
            (53, 35, 63, 45, 0.9, l2),  # exactly 8 px to the right: not found
            (45, 55, 55, 65, 0.3, l3),  # on the point, but a more confident one ...
            (45, 15, 55, 25, 0.8, l3),  # ... lies elsewhere: not found
        ],
        LEVELS,
    )
    hits = level_hits([labels], [found])
    assert list(hits) == list(LEVELS)
    assert {k: v for k, v in hits.items() if v[1]} == {
        "L1": (1, 1),
        "L2": (0, 1),
        "L3": (0, 1),
        "L4": (0, 1),
    }


@pytest.mark.parametrize(("offset", "near"), [((7.99, 0), 1), ((5.6, 5.6), 1), ((5.7, 5.7), 0)])
def test_the_distance_is_euclidean(offset: tuple[float, float], near: int) -> None:
    x, y = 50 + offset[0], 50 + offset[1]
    found = detections([(x - 5, y - 5, x + 5, y + 5, 0.9, 1)], LEVELS)
    assert level_hits([record({"L1": (50, 50)})], [found])["L1"] == (near, 1)


def test_overlap_is_that_of_torchvision() -> None:
    import torch
    from torchvision.ops import box_iou

    rng = np.random.default_rng(0)
    a, b = (np.sort(rng.uniform(0, 50, (6, 2, 2)), axis=1).reshape(6, 4) for _ in range(2))
    wanted = box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(iou_matrix(a, b), wanted)


def test_overlap_of_degenerate_boxes_is_nought() -> None:
    line = np.array([[1.0, 1.0, 1.0, 5.0]])
    assert iou_matrix(line, line).tolist() == [[0.0]]


def test_confusion_worked_out_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90]], dtype=np.float64)
    found = detections(
        [
            (0, 0, 10, 10, 0.9, 0),  # label a, right
            (50, 50, 60, 60, 0.9, 0),  # label b, taken for a
            (20, 20, 30, 30, 0.9, 1),  # nothing there
            (80, 80, 90, 90, 0.2, 0),  # right, but not confident enough: the label is missed
        ]
    )
    table = confusion([(boxes, np.array([0, 1, 0]))], [found], 2)
    assert table.tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]
