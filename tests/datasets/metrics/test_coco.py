from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from spineline.datasets.metrics.bootstrap import draw_weights
from spineline.datasets.metrics.coco import coco_metrics, coco_rows, coco_truth


def results(*images: list[tuple[float, ...]]) -> list[dict[str, Any]]:
    """Of each image, rows x1 y1 x2 y2 confidence class."""
    tables = [np.array(rows, dtype=np.float32).reshape(-1, 6) for rows in images]
    boxes = [(table[:, :4], table[:, 5].astype(np.int64)) for table in tables]
    return coco_rows(boxes, [table[:, 4] for table in tables])


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


def test_metrics_worked_out_by_hand() -> None:
    # Class a: two labels; hits of IoU 1 at 0.9 and, after a miss at 0.8, at 0.7. Precision after
    # each: 1, 1/2, 2/3; interpolated 1 up to recall 0.5, then 2/3: (51 + 50 * 2/3) / 101.
    # Class b: IoU 0.72 (18 x 16 of 20 x 20): right up to threshold 0.70, five of the ten.
    found = results(
        [(0, 0, 10, 10, 0.9, 0), (80, 80, 90, 90, 0.8, 0), (50, 50, 60, 60, 0.7, 0)],
        [(0, 0, 18, 16, 0.6, 1)],
    )
    metrics = coco_metrics(LABELS, found)
    a = (51 + 50 * 2 / 3) / 101
    assert metrics.per_class["a"] == pytest.approx((a, a))
    assert metrics.per_class["b"] == pytest.approx((1.0, 0.5))
    assert metrics.map50 == pytest.approx((a + 1) / 2)
    assert metrics.map50_95 == pytest.approx((a + 0.5) / 2)


def random_case(images: int = 8, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Labels of two classes, boxes near them and boxes of the other class."""
    rng = np.random.default_rng(seed)
    labels, found, scores = [], [], []
    for _ in range(images):
        corner = rng.uniform(0, 60, (4, 2))
        boxes, classes = np.hstack([corner, corner + rng.uniform(10, 40, (4, 2))]), [0, 1, 0, 1]
        labels.append((boxes, np.array(classes)))
        found.append((np.repeat(boxes, 2, 0) + rng.normal(0, 2, (8, 4)), np.tile([0, 1], 4)))
        scores.append(rng.random(8))
    return coco_truth(labels, ("a", "b")), coco_rows(found, scores)


def pycocotools_stats(labels: dict[str, Any], found: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO()
        rows = [
            {**row, "id": n, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]}
            for n, row in enumerate(labels["annotations"], 1)
        ]
        oracle.dataset = {**labels, "annotations": rows}
        oracle.createIndex()
        evaluation = COCOeval(oracle, oracle.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def test_metrics_are_those_of_pycocotools() -> None:
    labels, found = random_case()
    stats, metrics = pycocotools_stats(labels, found), coco_metrics(labels, found)
    assert metrics.map50_95 == pytest.approx(stats[0], abs=1e-12)
    assert metrics.map50 == pytest.approx(stats[1], abs=1e-12)
    assert 0 < stats[0] < 1
    assert metrics.labels == 32


def test_a_draw_is_pycocotools_of_the_images_that_often() -> None:
    labels, found = random_case(6)
    weights = draw_weights(6, 4, seed=2)
    map50, map50_95 = coco_metrics(labels, found).drawn(weights)
    for row, wanted in zip(weights.astype(int), zip(map50_95, map50, strict=True), strict=True):
        chosen = [image for image, times in enumerate(row, 1) for _ in range(times)]
        copied: list[list[dict[str, Any]]] = [
            [
                {**r, "image_id": n}
                for n, image in enumerate(chosen, 1)
                for r in rows
                if r["image_id"] == image
            ]
            for rows in (labels["annotations"], found)
        ]
        images = [{"id": n} for n in range(1, len(chosen) + 1)]
        stats = pycocotools_stats({**labels, "images": images, "annotations": copied[0]}, copied[1])
        assert wanted == pytest.approx(stats[:2], abs=1e-9)


def test_images_of_one_study_are_drawn_together() -> None:
    labels, found = random_case(4)
    metrics = coco_metrics(labels, found)
    by_study = metrics.drawn(np.array([[1.0, 1.0], [2.0, 0.0]]), [0, 1, 0, 1])
    by_image = metrics.drawn(np.array([[1.0, 1, 1, 1], [2, 0, 2, 0]]))
    np.testing.assert_array_equal(by_study, by_image)


def test_nothing_detected() -> None:
    metrics = coco_metrics(LABELS, [])
    assert (metrics.map50, metrics.map50_95) == (0.0, 0.0)
    assert metrics.per_class == {"a": (0.0, 0.0), "b": (0.0, 0.0)}


def test_nothing_labelled() -> None:
    metrics = coco_metrics(truth([]), results([(0, 0, 9, 9, 0.9, 0)], []))
    assert metrics.map50 is None
    assert metrics.per_class == {"a": (None, None), "b": (None, None)}
    assert np.isnan(metrics.drawn(np.ones((2, 2)))).all()


def test_a_class_without_label_does_not_count() -> None:
    labels = truth([(1, 1, [0, 0, 10, 10])])
    metrics = coco_metrics(labels, results([(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 1)], []))
    assert metrics.per_class == {"a": (pytest.approx(1.0), pytest.approx(1.0)), "b": (None, None)}
    assert metrics.map50 == pytest.approx(1.0)


def test_rows_are_xywh_numbered_from_one() -> None:
    (row,) = results([], [(1, 2, 4, 8, 0.5, 1)])
    assert row == {"image_id": 2, "category_id": 2, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}
