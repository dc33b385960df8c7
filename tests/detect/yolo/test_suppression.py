"""Suppression in numpy against torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms, nms

from spineline.detect.yolo import suppression
from spineline.detect.yolo.suppression import keep_sorted, suppress


def raw_output(seed: int, places: int, classes: int = 11, size: float = 300.0) -> np.ndarray:
    """(4 + classes, places): boxes that crowd about a few spots, scores of all heights."""
    rng = np.random.default_rng(seed)
    spots = rng.uniform(20, size - 20, (2, 12))[:, rng.integers(12, size=places)]
    centre = spots + rng.normal(0, 2, (2, places))
    sides = rng.uniform(20, 30, (2, places))
    scores = rng.uniform(0, 1, (classes, places)) ** 4
    return np.concatenate([centre, sides, scores]).astype(np.float32)


def by_torchvision(raw: np.ndarray, confidence: float, iou: float) -> np.ndarray:
    tensor = torch.from_numpy(raw)
    classes, places = torch.where(tensor[4:] > confidence)
    scores = tensor[4 + classes, places]
    centre, half = tensor[:2, places].T, tensor[2:4, places].T / 2
    boxes = torch.cat([centre - half, centre + half], dim=1)
    kept = batched_nms(boxes, scores, classes, iou)
    rows = [boxes[kept], scores[kept, None], classes[kept, None].float()]
    return torch.cat(rows, dim=1).numpy()


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("places", [1, 63, 65, 400], ids=lambda n: f"{n} places")
def test_it_keeps_what_torchvision_keeps(places: int, iou: float) -> None:
    raw = raw_output(places, places)
    wanted = by_torchvision(raw, 0.05, iou)
    found = suppress(raw, confidence=0.05, iou=iou, max_detections=10**6)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("seed", range(3))
def test_one_class_is_torchvisions_nms(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (300, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (300, 2))], axis=1)
    boxes = boxes.astype(np.float32)
    falling = torch.linspace(1, 0, 300)
    wanted = nms(torch.from_numpy(boxes), falling, 0.4).sort().values.numpy()
    np.testing.assert_array_equal(np.flatnonzero(keep_sorted(boxes, 0.4)), wanted)


def test_a_place_keeps_several_classes_and_scores_must_be_greater() -> None:
    raw = np.zeros((4 + 3, 2), np.float32)
    raw[:4] = np.array([[10, 10, 8, 8], [10, 10, 8, 8]]).T
    raw[4:, 0] = [0.5, 0.4, 0.25]
    raw[4:, 1] = [0.3, 0.6, 0.0]
    rows = suppress(raw, confidence=0.25, iou=0.8, max_detections=10)
    assert rows[:, 4:].tolist() == [[np.float32(0.6), 1], [0.5, 0]]
    assert rows[0, :4].tolist() == [6, 6, 14, 14]


def test_an_overlap_of_just_the_limit_stays_and_an_empty_box_removes_nothing() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [3, 3, 3, 3], [3, 3, 3, 3]], np.float32)
    assert keep_sorted(boxes, 0.5).tolist() == [True] * 4
    assert keep_sorted(boxes[:2], 0.49).tolist() == [True, False]


def test_nothing_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = raw_output(0, 200)
    assert suppress(raw, confidence=1.0, iou=0.8, max_detections=9).shape == (0, 6)
    rows = suppress(raw, confidence=0.01, iou=0.8, max_detections=7)
    assert len(rows) == 7
    assert (np.diff(rows[:, 4]) <= 0).all()
    monkeypatch.setattr(suppression, "MAX_CANDIDATES", 3)
    few = suppress(raw, confidence=0.01, iou=1.0, max_detections=300)
    np.testing.assert_array_equal(few, rows[:3])
