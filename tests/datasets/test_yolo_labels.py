from __future__ import annotations

from pathlib import Path

import pytest

from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.yolo_labels import parse_yolo_labels, read_yolo_labels


def test_an_empty_text_has_no_boxes() -> None:
    boxes = parse_yolo_labels("", classes=11)
    assert boxes.boxes_cxcywhn.shape == (0, 4)
    assert boxes.class_index.shape == (0,)


def test_lines_are_boxes_in_their_order_and_blank_ones_say_nothing() -> None:
    boxes = parse_yolo_labels("\n3 0.5 0.25 0.5 0.125\r\n \n0 0.5 0.5 0.1 0.1\n", classes=11)
    assert boxes.class_index.tolist() == [3, 0]
    assert boxes.boxes_cxcywhn[0].tolist() == [0.5, 0.25, 0.5, 0.125]


def test_a_line_that_repeats_another_can_count_once() -> None:
    text = "1 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n1 0.50 0.5 0.2 0.2\n"
    boxes = parse_yolo_labels(text, classes=2)
    assert boxes.class_index.tolist() == [1, 0, 1]
    assert boxes.without_repeats().class_index.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("0 0.5 0.5 0.1", "labels:1: 4 values, wanted class cx cy w h", id="too few"),
        pytest.param("\n0 a 0.5 0.1 0.1", "labels:2: .* not made of numbers", id="text"),
        pytest.param("11 0.5 0.5 0.1 0.1", r"labels:1: class 11, allowed 0 … 10", id="class"),
        pytest.param("0 0.5 1.5 0.1 0.1", "lie within 0 … 1", id="outside"),
        pytest.param("0 0.5 0.5 0 0.1", "no width or no height", id="flat"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(text: str, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        parse_yolo_labels(text, classes=11, where="labels")


@pytest.mark.parametrize("data", [None, b"0 0.5 0.5 0.1 0.1 \xff"], ids=["missing", "not UTF-8"])
def test_files_that_cannot_be_read(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "x.txt").write_bytes(data)
    with pytest.raises(AnnotationError, match=r"x\.txt: cannot be read"):
        read_yolo_labels(tmp_path / "x.txt", classes=2)
