"""Text in pixels: found where it is drawn, and not where there is none."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import pytest

from spineline.datasets.dicom import burned_text
from spineline.datasets.dicom.burned_text import letters_in_a_row, looks_like_text
from spineline.datasets.images import read_image, window_to_uint8
from spineline.datasets.phantoms.phantom import draw_spine

TEXTS = ("DOE JOHN 1961-03-12", "SMITH^ANNA", "ID 4711 0815", "Mueller, K. 45Y", "ZHANG WEI 42")
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_DUPLEX)


@functools.cache
def anatomy(seed: int, size: int = 384) -> np.ndarray:
    """Smooth blobs of all sizes and brightnesses with noise on them, dark at the borders."""
    random = np.random.default_rng(seed)
    image = sum(
        cv2.GaussianBlur(random.normal(0, sigma, (size, size)), (0, 0), sigma)
        for sigma in (2.0, 6.0, 20.0)
    )
    image = np.clip(image - image.mean(), 0, None)
    image *= np.outer(*2 * [np.hanning(size)])
    return window_to_uint8(image / image.max() * 200 + random.normal(0, 3, image.shape))


def burn(
    image: np.ndarray, text: str, *, high: int, corner: int = 0, font: int = 0, grey: int = 255,
    smooth: bool = True,
) -> np.ndarray:  # fmt: skip
    """Text with capitals ``high`` pixels high in a corner (0 … 3)."""
    scale = high / cv2.getTextSize("H", font, 1.0, 1)[0][1]
    (width, height), below = cv2.getTextSize(text, font, scale, 1)
    x = 4 if corner % 2 == 0 else image.shape[1] - 4 - width
    y = 4 + height if corner < 2 else image.shape[0] - 4 - below
    kind = cv2.LINE_AA if smooth else cv2.LINE_8
    return cv2.putText(image.copy(), text, (x, y), font, scale, grey, 1, kind)


@pytest.mark.parametrize("grey", [255, 215], ids=["white", "light grey"])
@pytest.mark.parametrize("high", [9, 12, 16, 20])
def test_nearly_all_text_is_found(high: int, grey: int) -> None:
    found = [
        looks_like_text(
            burn(
                anatomy(n % 6), TEXTS[n % 5], high=high, corner=n % 4, font=FONTS[n % 3], grey=grey,
                smooth=n % 2 == 0,
            )
        )
        for n in range(60)
    ]  # fmt: skip
    assert np.mean(found) > 0.9


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_line_by_hand(dtype: type) -> None:
    """Six capitals apart from each other are six letters; five are no text."""
    image = np.zeros((80, 200), dtype)
    six = burn(image.astype(np.uint8), "HNKEFH", high=14, smooth=False).astype(dtype)
    assert letters_in_a_row(six) == 6
    assert looks_like_text(six)
    assert not looks_like_text(burn(image.astype(np.uint8), "HNKEF", high=14).astype(dtype))


@pytest.mark.parametrize("seed", range(12))
def test_none_is_seen_in_what_is_none(seed: int) -> None:
    image = anatomy(seed)
    for shown in (image, image.T, cv2.resize(image, None, fx=2.0, fy=2.0)):
        assert not looks_like_text(shown)


def test_none_is_seen_in_phantoms() -> None:
    for seed in range(8):
        assert not looks_like_text(draw_spine(seed).pixels)


def test_none_is_seen_in_real_frames(shared_lumbar) -> None:
    rows = [
        letters_in_a_row(window_to_uint8(read_image(path)))
        for path in sorted((shared_lumbar / "images").glob("*.jpg"))
    ]
    assert len(rows) > 100
    assert max(rows) < burned_text.LEAST_LETTERS


def test_text_on_real_frames(shared_lumbar) -> None:
    frames = sorted((shared_lumbar / "images").glob("*.jpg"))[:60]
    found = [
        looks_like_text(
            window_to_uint8(
                burn(
                    np.asarray(read_image(path), dtype=np.uint8), TEXTS[n % 5], high=8 + n % 13,
                    corner=n // 5 % 4, font=FONTS[n % 3], smooth=n % 2 == 0,
                )
            )
        )
        for n, path in enumerate(frames)
    ]  # fmt: skip
    assert np.mean(found) > 0.9


def test_a_row_of_marks_is_no_text() -> None:
    """Filled blocks, as of a ruler or a grey scale, and one long line."""
    image = np.zeros((100, 300), np.uint8)
    for n in range(12):
        image[20:30, 10 + 20 * n : 18 + 20 * n] = 255
    image[60, 5:290] = 255
    assert not looks_like_text(image)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 0), np.uint8),
        np.zeros((1, 1), np.uint8),
        np.full((40, 40), 7.0, np.float32),
        np.array([[np.nan, 1], [2, np.inf]], np.float32),
        np.full((30, 30), np.nan, np.float32),
        np.asfortranarray(np.eye(50, dtype=np.uint8)),
    ],
    ids=["empty", "one pixel", "constant", "not finite", "nan", "by columns"],
)
def test_odd_images_have_none(image: np.ndarray) -> None:
    assert letters_in_a_row(image) == 0


@pytest.mark.parametrize("smooth", [0, 1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_none_is_seen_in_noise(seed: int, smooth: int) -> None:
    noise = np.abs(np.random.default_rng(seed).normal(0, 1, (384, 384)))
    image = cv2.GaussianBlur(noise, (0, 0), smooth) if smooth else noise
    assert not looks_like_text(window_to_uint8(image))


def test_huge_images_are_not_searched(monkeypatch) -> None:
    image = burn(np.zeros((80, 200), np.uint8), "HNKEFH", high=14)
    monkeypatch.setattr(burned_text, "MAX_SEARCHED_PIXELS", image.size - 1)
    assert letters_in_a_row(image) == 0
