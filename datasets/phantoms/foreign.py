"""Images that are not sagittal T2 images of a lumbar spine, to test that they are rejected.

A few outlines each suffice for shapes and contrasts that could mislead a detector. Everything
depends only on the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from spineline.datasets.common.arrays import Float32Array, PixelArray
from spineline.datasets.images import window_to_uint8
from spineline.datasets.phantoms.canvas import View
from spineline.datasets.phantoms.lumbar import render_sagittal, render_transverse
from spineline.datasets.phantoms.phantom import (
    Phantom,
    draw_neck_phantom,
    draw_phantom,
    sagittal_values,
)

_SIZE = 384


def list_foreign() -> tuple[str, ...]:
    """Return the names of the images that can be drawn.

    >>> "wrist" in list_foreign()
    True
    """
    return tuple(_DRAWN)


def draw_foreign(what: str, seed: int) -> PixelArray:
    """Draw an image that is not a sagittal T2 image of a lumbar spine.

    Args:
        what: one of [list_foreign][].
        seed: decides its details.

    Returns:
        uint8 (H, W).

    Raises:
        KeyError: there is no such image.

    >>> draw_foreign("cat", 0).shape
    (384, 384)
    """
    return window_to_uint8(_DRAWN[what](np.random.default_rng([seed, *what.encode()])))


def _t1(rng: np.random.Generator) -> Float32Array:
    return sagittal_values(draw_phantom(rng), contrast="t1")


def _neck(rng: np.random.Generator) -> Float32Array:
    return sagittal_values(draw_neck_phantom(rng))


def _chest(rng: np.random.Generator) -> Float32Array:
    """Only the upper end of the spine, from the first lumbar vertebra upwards, and enlarged."""
    drawn: Phantom = draw_phantom(rng)
    view = View((_SIZE, _SIZE), 0.42, (_SIZE * 0.55, _SIZE * 1.16))
    return render_sagittal(drawn.anatomy, replace(drawn.look, coil_centre_mm=-90.0), view)


def _axial(rng: np.random.Generator) -> Float32Array:
    drawn = draw_phantom(rng)
    below = float(rng.uniform(-60, 60))
    return render_transverse(drawn.anatomy, drawn.look, _SIZE, 0.75, below)


def _coronal(rng: np.random.Generator) -> Float32Array:
    """A column of vertebrae and discs from the front, between two muscles and two kidneys."""
    image = np.full((_SIZE, _SIZE), 60.0, np.float32)
    middle, y, sway = _SIZE / 2, 12.0, rng.uniform(-14, 14)
    for side in (-1, 1):
        _ellipse(image, (middle + side * 52, 230), (34, 150), 35)
        _ellipse(image, (middle + side * 95, 120), (26, 48), 150)
    while y < _SIZE:
        x, height = middle + sway * np.sin(y / 90), rng.uniform(24, 30)
        _ellipse(image, (x, y + height / 2), (34, height / 2), 110)
        _ellipse(image, (x, y + height + 4), (32, 4), rng.choice((30.0, 170.0)))
        y += height + 9
    return _blurred(image, rng, 6)


def _brain(rng: np.random.Generator) -> Float32Array:
    image = np.zeros((_SIZE, _SIZE), np.float32)
    _ellipse(image, (190, 170), (150, 140), 180)
    _ellipse(image, (190, 170), (136, 126), 15)
    _ellipse(image, (190, 170), (128, 118), 220)
    for _ in range(60):
        angle, far = rng.uniform(0, 6.28), rng.uniform(40, 118)
        place = (190 + far * np.cos(angle), 170 + 0.9 * far * np.sin(angle))
        _ellipse(image, place, (rng.uniform(8, 20), rng.uniform(5, 9)), rng.uniform(80, 120))
    _ellipse(image, (200, 160), (46, 16), 240)
    _ellipse(image, (230, 240), (34, 26), 105)
    cv2.line(image, (205, 225), (222, 383), 110.0, 26)
    return _blurred(image, rng, 6)


def _knee(rng: np.random.Generator) -> Float32Array:
    image = np.zeros((_SIZE, _SIZE), np.float32)
    cv2.rectangle(image, (90, 0), (300, 383), 55.0, -1)
    cv2.line(image, (215, 0), (200, 150), 150.0, 80)
    _ellipse(image, (195, 160), (70, 46), 150)
    cv2.line(image, (200, 250), (215, 383), 145.0, 86)
    _ellipse(image, (205, 240), (72, 30), 145)
    _ellipse(image, (112, 140), (18, 36), 140)
    _ellipse(image, (198, 209), (68, 4), 240)
    cv2.line(image, (115, 180), (140, 270), 12.0, 9)
    return _blurred(image, rng, 7)


def _wrist(rng: np.random.Generator) -> Float32Array:
    """Two bones of the forearm, two rows of small ones, five of the hand."""
    image = np.zeros((_SIZE, _SIZE), np.float32)
    cv2.rectangle(image, (80, 0), (310, 383), 45.0, -1)
    cv2.line(image, (150, 383), (155, 250), 160.0, 62)
    cv2.line(image, (240, 383), (245, 262), 150.0, 40)
    for row, y in ((4, 215), (4, 178)):
        for n in range(row):
            place = (132 + 44 * n + rng.uniform(-4, 4), y + rng.uniform(-5, 5))
            _ellipse(image, place, (rng.uniform(15, 20), rng.uniform(13, 17)), 150)
    for n in range(5):
        cv2.line(image, (115 + 42 * n, 150), (95 + 48 * n, 10), 150.0, 22)
    return _blurred(image, rng, 6)


def _cat(rng: np.random.Generator) -> Float32Array:
    image = np.full((_SIZE, _SIZE), rng.uniform(120, 200), np.float32)
    fur = float(rng.uniform(40, 100))
    _ellipse(image, (190, 300), (110, 110), fur)
    for side in (-1, 1):
        ear = np.array([[190 + side * 90, 40], [190 + side * 95, 150], [190 + side * 20, 95]])
        cv2.fillPoly(image, [ear.astype(np.int32)], fur)
    _ellipse(image, (190, 160), (95, 80), fur)
    for side in (-1, 1):
        _ellipse(image, (190 + side * 38, 145), (19, 13), 235)
        _ellipse(image, (190 + side * 38, 145), (5, 13), 5)
        for n in range(3):
            cv2.line(image, (190 + side * 25, 190), (190 + side * 120, 170 + 18 * n), 230.0, 1)
    _ellipse(image, (190, 182), (9, 6), 20)
    cv2.line(image, (290, 370), (360, 250), fur, 22)
    return _blurred(image, rng, 10)


def _noise(rng: np.random.Generator) -> Float32Array:
    values = rng.normal(0, 1, (_SIZE, _SIZE)).astype(np.float32)
    width = float(rng.uniform(0, 8))
    return cv2.GaussianBlur(values, (0, 0), width) if width > 1 else values


def _ramp(rng: np.random.Generator) -> Float32Array:
    y, x = np.mgrid[:_SIZE, :_SIZE]
    angle = rng.uniform(0, 6.28)
    ramp = x * np.cos(angle) + y * np.sin(angle) + rng.normal(0, 3, x.shape)
    return ramp.astype(np.float32)


def _ellipse(
    image: Float32Array, centre: tuple[float, float], half: tuple[float, float], value: float
) -> None:
    middle, axes = (round(v) for v in centre), (max(round(v), 1) for v in half)
    cv2.ellipse(image, tuple(middle), tuple(axes), 0, 0, 360, float(value), -1, cv2.LINE_AA)


def _blurred(image: Float32Array, rng: np.random.Generator, noise: float) -> Float32Array:
    soft = cv2.GaussianBlur(image, (0, 0), 1.2)
    return (soft + rng.normal(0, noise, image.shape)).astype(np.float32)


_DRAWN: dict[str, Callable[[np.random.Generator], Float32Array]] = {
    "t1": _t1, "axial": _axial, "coronal": _coronal, "neck": _neck, "chest": _chest,
    "brain": _brain, "knee": _knee, "wrist": _wrist, "cat": _cat, "noise": _noise, "ramp": _ramp,
}  # fmt: skip
