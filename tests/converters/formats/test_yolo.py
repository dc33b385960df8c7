from __future__ import annotations

import numpy as np
import pytest

from spineline.converters.formats.yolo import (
    data_yaml_text,
    parse_data_yaml,
    parse_yolo,
    read_data_yaml,
    read_yolo,
    yolo_text,
)
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.types import ImageRecord, Structure


def record(*structures: Structure) -> ImageRecord:
    return ImageRecord("a", "a", 100, 200, structures)


def test_text_worked_out_by_hand():
    disc = Structure("L4-L5", "disc", (50, 100), (40, 80, 60, 120), ("v1",))
    low = Structure("L5-S1", "disc", (50, 195), (30, 180, 70, 210))
    # L5-S1 is cut at y = 200: from 180 to 200, centre 190.
    assert yolo_text(record(disc, low), "level") == (
        "8 0.500000000 0.500000000 0.200000000 0.200000000\n"
        "10 0.500000000 0.950000000 0.400000000 0.100000000\n"
    )


def test_no_structure_is_an_empty_file():
    assert yolo_text(record(), "level") == ""
    boxes = parse_yolo("", classes=11)
    assert boxes.boxes_cxcywhn.shape == (0, 4)
    assert boxes.class_index.shape == (0,)


def test_sliver_below_a_pixel_is_no_box():
    sliver = Structure("L1", "vertebra", (50, 199), (40, 199.5, 60, 240))
    assert yolo_text(record(sliver), "level") == ""


def test_rounding_stays_below_a_hundredth_of_a_pixel():
    rng = np.random.default_rng(3)
    for _ in range(50):
        left, top = rng.uniform(0, 40, 2)
        box = (left, top, left + rng.uniform(2, 50), top + rng.uniform(2, 90))
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        text = yolo_text(record(Structure("L1", "vertebra", centre, box)), "level")
        x, y, w, h = parse_yolo(text, classes=11).boxes_cxcywhn[0] * [100, 200, 100, 200]
        assert np.abs(np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) - box).max() < 1e-6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("0 0.5 0.5 0.1", "labels:1: 4 values, wanted class cx cy w h", id="too few"),
        pytest.param("\n0 a 0.5 0.1 0.1", "labels:2: .* not made of numbers", id="text"),
        pytest.param("11 0.5 0.5 0.1 0.1", r"labels:1: class 11, allowed 0 … 10", id="class"),
        pytest.param("0.5 0.5 0.5 0.1 0.1", "class 0.5", id="class is no whole number"),
        pytest.param("nan 0.5 0.5 0.1 0.1", "class nan", id="class is NaN"),
        pytest.param("0 0.5 1.5 0.1 0.1", "lie within 0 … 1", id="outside"),
        pytest.param("0 nan 0.5 0.1 0.1", "lie within 0 … 1", id="NaN"),
    ],
)
def test_lines_that_are_no_box(text, message):
    with pytest.raises(AnnotationError, match=message):
        parse_yolo(text, classes=11, where="labels")


def test_data_yaml_round_trip(tmp_path):
    (tmp_path / "data.yaml").write_text(data_yaml_text(["no", "a: b", "ü"]), encoding="utf-8")
    data = read_data_yaml(tmp_path / "data.yaml")
    assert data.names == ("no", "a: b", "ü")
    assert data.folders["val"] == tmp_path / "images/val"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "wanted train, val and names"),
        ({"names": 3}, "wanted train, val and names"),
        ({"names": {1: "a", 2: "b"}}, "not numbered"),
    ],
    ids=["empty", "names is a number", "gap"],
)
def test_data_yaml_of_another_kind(tmp_path, content, message):
    with pytest.raises(AnnotationError, match=message):
        parse_data_yaml(content, tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_yolo(tmp_path / "x.txt", classes=2)
    with pytest.raises(AnnotationError, match="cannot be read as YAML"):
        read_data_yaml(tmp_path / "data.yaml")
