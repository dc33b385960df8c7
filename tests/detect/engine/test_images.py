from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from spineline.detect.defaults import FASTERRCNN_DEFAULTS
from spineline.detect.engine.dataset import YoloImage
from spineline.detect.engine.images import (
    RandomQuarterTurn,
    Sample,
    make_transform,
    measure,
    read_sample,
    transformed,
)
from spineline.detect.recipe import load_detect_recipe

BOX = (10, 20, 30, 28)


def sample(boxes: Any = (BOX,), height: int = 96, width: int = 64) -> Sample:
    """Black, every box filled with 200."""
    pixels = np.zeros((height, width), np.uint8)
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = 200
    found = np.array(boxes, np.float32).reshape(-1, 4)
    return Sample("a.png", pixels, found, np.arange(len(found)), 0)


def bright_box(pixels: torch.Tensor) -> list[int]:
    ys, xs = torch.where(pixels > 100)
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


@pytest.mark.parametrize("seed", range(6))
def test_boxes_follow_the_pixels_exactly_through_turns_and_flips(seed: int) -> None:
    values = {**FASTERRCNN_DEFAULTS, "quarter_turns": True, "fliplr": 0.5, "flipud": 0.5}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pixels, boxes, classes = transformed(sample(), make_transform(values), min_visibility=0.3)
    assert boxes.tolist() == [bright_box(pixels)]
    assert classes.tolist() == [0]


def test_quarter_turns_come_in_four() -> None:
    shapes = set()
    with torch.random.fork_rng():
        for seed in range(20):
            torch.manual_seed(seed)
            pixels, boxes, _ = transformed(sample(), RandomQuarterTurn(), min_visibility=0)
            shapes.add((tuple(pixels.shape), tuple(boxes[0].tolist())))
    assert len(shapes) == 4


@pytest.mark.parametrize("seed", range(8))
def test_boxes_enclose_the_pixels_after_the_whole_recipe(seed: int) -> None:
    recipe = {v.key: v.value for v in load_detect_recipe("cervical", model="fasterrcnn").values}
    values = {**FASTERRCNN_DEFAULTS, **recipe, "crop": 90}
    whole = sample(((40, 40, 60, 48),), 96, 96)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pixels, boxes, _ = transformed(whole, make_transform(values), min_visibility=0.3)
    found = bright_box(pixels)
    x1, y1, x2, y2 = boxes[0].tolist()
    assert pixels.shape == (90, 90)
    assert x1 - 1.5 <= found[0] <= x1 + 3
    assert y1 - 1.5 <= found[1] <= y1 + 3
    assert x2 - 3 <= found[2] <= x2 + 1.5
    assert y2 - 3 <= found[3] <= y2 + 1.5


@pytest.mark.parametrize(
    ("least", "kept"), [(0.3, [1, 2]), (0.2, [0, 1, 2]), (0.5, [1, 2]), (0.51, [2])]
)
def test_a_box_mostly_cut_off_goes(least: float, kept: list[int]) -> None:
    # The crop keeps x 12 … 52, y 28 … 68: a quarter, half and all of these are left.
    boxes = ((9, 40, 13, 44), (10, 40, 14, 44), (20, 40, 30, 44))
    _, found, classes = transformed(sample(boxes), v2.CenterCrop(40), min_visibility=least)
    assert classes.tolist() == kept
    assert found[-1].tolist() == [8, 12, 18, 16]
    assert float(found.min()) >= 0


def test_the_crop_cuts_off_the_black_corners_of_a_turn() -> None:
    # Turned by at most 15 degrees, a square of 60 lies within 60 (cos 15 + sin 15) = 73.5 < 96.
    values = {**FASTERRCNN_DEFAULTS, "degrees": 15.0, "degrees_p": 1.0, "crop": 60}
    white = Sample("a.png", np.full((96, 96), 255, np.uint8), np.zeros((0, 4), np.float32),
                   np.zeros(0, np.int64), 0)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(5):
            pixels, _, _ = transformed(white, make_transform(values), min_visibility=0.3)
            assert pixels.shape == (60, 60)
            assert int(pixels.min()) == 255


def test_background_images_pass_and_the_sample_is_not_changed() -> None:
    empty = sample(())
    values = {**FASTERRCNN_DEFAULTS, "fliplr": 1.0, "brightness": 0.9, "brightness_contrast_p": 1.0}
    _, boxes, classes = transformed(empty, make_transform(values), min_visibility=0.3)
    assert (boxes.shape, classes.shape) == ((0, 4), (0,))
    whole = sample()
    before = whole.pixels.copy(), whole.boxes_xyxy.copy()
    transformed(whole, make_transform(values), min_visibility=0.3)
    np.testing.assert_array_equal(whole.pixels, before[0])
    np.testing.assert_array_equal(whole.boxes_xyxy, before[1])


def test_reading_scales_the_longer_side_and_drops_what_is_degenerate(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((200, 100), 51, np.uint8))
    boxes = np.array([[0.5, 0.5, 0.2, 0.1], [0.5, 0.5, 0.01, 0.1]], np.float32)
    image = YoloImage(tmp_path / "a.png", (200, 100), np.array([1, 0], np.float32), boxes)
    found = read_sample(image, 80)
    assert found.pixels.shape == (80, 40)
    np.testing.assert_allclose(found.boxes_xyxy, [[16, 36, 24, 44]], atol=1e-4)
    assert (found.class_index.tolist(), found.dropped) == ([1], 1)


def test_mean_and_std_are_those_of_all_pixels() -> None:
    rng = np.random.default_rng(0)
    samples = [sample(()), sample(())]
    for one in samples:
        one.pixels[:] = rng.integers(0, 256, one.pixels.shape)
    pixels = np.concatenate([one.pixels.reshape(-1) for one in samples]) / 255
    mean, std, dropped = measure(samples)
    assert (mean, std) == pytest.approx((pixels.mean(), pixels.std()), abs=1e-6)
    assert dropped == 0
