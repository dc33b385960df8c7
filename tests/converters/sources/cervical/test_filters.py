from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from spineline.converters.sources.cervical.filters import kept_boxes
from spineline.datasets.boxes import iou_inclusive


def test_overlap_counts_the_last_pixels() -> None:
    """Boxes with their last pixels are torchvision's continuous boxes, one wider and higher."""
    torch = pytest.importorskip("torch")
    from torchvision.ops import box_iou

    rng = np.random.default_rng(0)
    low = rng.integers(0, 40, (30, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 30, (30, 2))], axis=1)
    wider = torch.tensor(boxes + np.array([0, 0, 1, 1]), dtype=torch.float64)
    assert_allclose(iou_inclusive(boxes), box_iou(wider, wider).numpy(), atol=1e-12)


def test_overlap_by_hand() -> None:
    # 10 x 10 and 10 x 13 pixels share 10 x 10: 100 / 130. Continuous sides would give 81 / 108.
    overlap = iou_inclusive([(0, 0, 9, 9), (0, 0, 9, 12)])
    assert overlap[0, 1] == pytest.approx(100 / 130)
    assert iou_inclusive([(0, 0, 9, 9), (10, 0, 19, 9)])[0, 1] == 0
    assert iou_inclusive([(0, 0, 9, 9), (9, 0, 18, 9)])[0, 1] == pytest.approx(10 / 190)


A, B, FAR = (0, 0, 20, 20), (1, 0, 21, 20), (0, 50, 20, 70)


@pytest.mark.parametrize(
    ("boxes", "sick", "kept"),
    [
        pytest.param([A, B], "sh", [0], id="the sick one stays, first"),
        pytest.param([A, B], "hs", [1], id="the sick one stays, last"),
        pytest.param([A, B], "ss", [0], id="of two sick the earlier"),
        pytest.param([A, B], "hh", [1], id="of two healthy the later"),
        pytest.param([A, FAR], "hh", [0, 1], id="apart"),
        pytest.param([A, FAR, B], "hsh", [1, 2], id="not neighbours in the list"),
        pytest.param([A, A, A], "hhh", [2], id="three alike"),
        pytest.param([(0, 0, 20, 20), (4, 0, 24, 20), (8, 0, 28, 20)], "sss", [0],
                     id="a dropped sick box drops its partner"),
        pytest.param([], "", [], id="none"),
    ],
)  # fmt: skip
def test_boxes_marked_twice(boxes: list[Any], sick: str, kept: list[int]) -> None:
    assert kept_boxes(boxes, [letter == "s" for letter in sick], 0.65) == kept


def test_the_threshold_itself_is_no_overlap_above_it() -> None:
    boxes = [(0, 0, 9, 9), (0, 0, 9, 4)]  # 50 of 100 pixels
    assert kept_boxes(boxes, [True, False], 0.5) == [0, 1]
    assert kept_boxes(boxes, [True, False], 0.49) == [0]
