from __future__ import annotations

import numpy as np
import pytest

from spineline.datasets.boxes import (
    boxes_from_points,
    clip_xyxy,
    cxcywhn_to_xyxy,
    iou_matrix,
    suppressed_boxes,
    xywh_to_xyxy,
    xyxy_to_cxcywhn,
    xyxy_to_xywh,
)


def test_rule_worked_out_by_hand():
    # Gaps 10 and 16: heights 20, 32, 32; widths 28, 44.8, 44.8.
    boxes = boxes_from_points([[50, 20], [52, 30], [51, 46]])
    wanted = [[36, 10, 64, 30], [29.6, 14, 74.4, 46], [28.6, 30, 73.4, 62]]
    assert boxes == pytest.approx(np.array(wanted))


def test_gap_over_a_missing_level_counts_as_two_steps():
    boxes = boxes_from_points([[0, 0], [0, 10], [0, 30]], ranks=[0, 1, 3])
    assert (boxes[:, 3] - boxes[:, 1]).tolist() == [20, 20, 20]


@pytest.mark.parametrize(
    ("points", "message"),
    [([[1, 1]], "at least two"), ([], "at least two"), ([[0, 5], [0, 4]], "sorted by y")],
)
def test_points_that_make_no_boxes(points, message):
    with pytest.raises(ValueError, match=message):
        boxes_from_points(points)


@pytest.mark.parametrize("count", [0, 1, 40])
def test_encodings_round_trip_and_leave_the_input_alone(count):
    rng = np.random.default_rng(count)
    corner = rng.uniform(-20, 200, (count, 2))
    boxes = np.hstack([corner, corner + rng.uniform(0, 90, (count, 2))])
    before = boxes.copy()
    assert cxcywhn_to_xyxy(xyxy_to_cxcywhn(boxes, 320, 200), 320, 200) == pytest.approx(boxes)
    assert xywh_to_xyxy(xyxy_to_xywh(boxes)) == pytest.approx(boxes)
    assert np.array_equal(boxes, before)


def test_encodings_agree_with_torchvision():
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    boxes = np.array([[10.0, 20.0, 50.0, 90.0], [0.0, 0.0, 1.0, 2.0]])
    tensor = torch.from_numpy(boxes)
    assert xyxy_to_xywh(boxes) == pytest.approx(ops.box_convert(tensor, "xyxy", "xywh").numpy())
    scaled = ops.box_convert(tensor, "xyxy", "cxcywh").numpy() / [100, 200, 100, 200]
    assert xyxy_to_cxcywhn(boxes, 100, 200) == pytest.approx(scaled)
    clipped = ops.clip_boxes_to_image(tensor + 60, (80, 90)).numpy()
    assert clip_xyxy(boxes + 60, width=90, height=80) == pytest.approx(clipped)


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


@pytest.mark.parametrize("by_class", [False, True])
def test_boxes_are_suppressed_as_torchvision_does(by_class: bool) -> None:
    import torch
    from torchvision.ops import batched_nms, nms

    rng = np.random.default_rng(1)
    boxes = np.sort(rng.uniform(0, 20, (40, 2, 2)), axis=1).reshape(40, 4)
    classes = rng.integers(0, 3, 40)
    given, scores = torch.from_numpy(boxes), torch.arange(40, 0, -1.0).double()
    stay = nms(given, scores, 0.3)
    if by_class:
        stay = batched_nms(given, scores, torch.from_numpy(classes), 0.3)
    gone = suppressed_boxes(boxes, 0.3, classes if by_class else None)
    assert np.flatnonzero(~gone).tolist() == sorted(stay.tolist())
    assert gone.any()


def test_no_box_suppresses_none() -> None:
    assert suppressed_boxes([], 0.5).tolist() == []
