from __future__ import annotations

import numpy as np
import pytest

from spineline.detect import Detections
from spineline.detect.results import no_detections

NAMES = ("a", "b", "c")


def made() -> Detections:
    boxes = np.array([[0, 0, 4, 2], [2, 2, 6, 8], [1, 1, 3, 3], [0, 0, 1, 1]], dtype=np.float32)
    confidence = np.array([0.9, 0.8, 0.8, 0.1], dtype=np.float32)
    return Detections(boxes, confidence, np.array([2, 0, 2, 0]), NAMES)


def test_centres() -> None:
    assert made().centres_xy.tolist() == [[2, 1], [4, 5], [2, 2], [0.5, 0.5]]


def test_best_of_each_class_keeps_the_most_confident() -> None:
    best = made().best_of_each_class()
    assert best.class_index.tolist() == [2, 0]
    np.testing.assert_allclose(best.confidence, [0.9, 0.8])


def test_best_of_each_class_does_not_need_sorted_input() -> None:
    found = made()
    turned = Detections(
        found.boxes_xyxy[::-1], found.confidence[::-1], found.class_index[::-1], NAMES
    )
    assert turned.best_of_each_class().class_index.tolist() == [2, 0]
    np.testing.assert_allclose(turned.best_of_each_class().confidence, [0.9, 0.8])


def test_at_least_includes_the_threshold() -> None:
    assert len(made().at_least(0.8)) == 3


def test_nothing() -> None:
    nothing = no_detections(NAMES)
    assert len(nothing) == 0
    assert nothing.centres_xy.shape == (0, 2)
    assert len(nothing.best_of_each_class()) == 0


def test_shapes_must_agree() -> None:
    boxes, confidence = np.zeros((2, 4), np.float32), np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"wanted \(N, 4\)"):
        Detections(boxes, confidence, np.zeros(3, np.int64), NAMES)


def test_near_duplicates_across_classes_as_torchvision_suppresses() -> None:
    import torch
    from torchvision.ops import nms

    rng = np.random.default_rng(0)
    low = rng.uniform(0, 30, (60, 2))
    boxes = np.concatenate([low, low + rng.uniform(10, 20, (60, 2))], axis=1).astype(np.float32)
    confidence = np.sort(rng.random(60).astype(np.float32))[::-1].copy()
    found = Detections(boxes, confidence, rng.integers(0, 3, 60), ("a", "b", "c"))
    for iou in (0.2, 0.65, 1.0):
        kept = nms(torch.from_numpy(boxes), torch.from_numpy(confidence), iou).numpy()
        left = found.without_near_duplicates(iou)
        np.testing.assert_array_equal(left.boxes_xyxy, boxes[kept])
        np.testing.assert_array_equal(left.class_index, found.class_index[kept])
    assert len(found.without_near_duplicates(0.2)) < len(found)
