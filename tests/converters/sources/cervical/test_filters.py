from __future__ import annotations

from typing import Any

import pytest

from spineline.converters.sources.cervical.filters import kept_boxes

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
