"""Palette PNG of overlays: other programs read back what was drawn."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from spineline.datasets.drawing import COLOURS_RGB, Mark, draw_overlay
from spineline.pipeline.outputs.palette_png import overlay_palette_png


def read_back(data: bytes) -> np.ndarray:
    by_pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    np.testing.assert_array_equal(by_pillow, by_opencv)
    return by_pillow.astype(int)


def test_grey_within_a_step_and_colours_exact() -> None:
    picture = np.repeat(np.tile(np.arange(256, dtype=np.uint8), (8, 1))[:, :, None], 3, axis=2)
    picture[2, 10:20] = COLOURS_RGB["disc"]
    picture[5, 30:40] = COLOURS_RGB["vertebra"]
    back = read_back(overlay_palette_png(picture))
    assert back.shape == picture.shape
    assert np.abs(back - picture).max() <= 2
    assert (back[2, 10:20] == COLOURS_RGB["disc"]).all()
    assert (back[5, 30:40] == COLOURS_RGB["vertebra"]).all()


def test_a_real_overlay() -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (100, 90), dtype=np.uint8), (0, 0), 2)
    marks = [
        Mark((40.0, 30.0), (20.0, 20.0, 60.0, 40.0), "disc", "L1-L2 bulging 0.83"),
        Mark((42.0, 60.0), (20.0, 50.0, 60.0, 70.0), "vertebra", "L2 normal 0.91"),
    ]
    picture = draw_overlay(image, marks, title="spineline")
    back = read_back(overlay_palette_png(picture))
    assert np.abs(back - picture).mean() < 2
    assert np.percentile(np.abs(back - picture), 99.5) < 64


@pytest.mark.parametrize("size_hw", [(1, 2), (3, 1), (17, 33)])
def test_small_sizes(size_hw: tuple[int, int]) -> None:
    picture = np.full((*size_hw, 3), 80, np.uint8)
    assert (np.abs(read_back(overlay_palette_png(picture)) - 80) <= 1).all()


def test_entries_of_the_palette_pixel_by_pixel() -> None:
    """Both colours in every blend with grey and with each other, against the rule in words."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet((1, 1, 1), 4096)
    colours = [COLOURS_RGB["disc"], COLOURS_RGB["vertebra"], (90, 90, 90)]
    pixels = np.rint(shares @ np.array(colours)).astype(np.uint8)
    found = np.asarray(Image.open(io.BytesIO(overlay_palette_png(pixels.reshape(64, 64, 3)))))
    for (red, green, blue), index in zip(pixels.tolist(), found.ravel().tolist(), strict=True):
        full = 233 if blue > red else 255
        step = min((max(red, green, blue) * 63 + full // 2) // full, 63)
        wanted = green // 2 if red == blue else 128 + 64 * (blue > red) + step
        assert index == wanted
