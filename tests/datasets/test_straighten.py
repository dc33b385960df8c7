"""Straightened strips: against crops of the image, and of the same image turned and grown."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spineline.datasets.straighten import Distortion, StripSpec, prolonged, straighten

SPEC = StripSpec()


def smooth_image(height: int = 240, width: int = 200) -> np.ndarray:
    """Blobs a few ranks wide, so that interpolation hardly shows."""
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 255, (height // 12 + 1, width // 12 + 1)).astype(np.float32)
    return (
        cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        .clip(0, 255)
        .astype(np.uint8)
    )


def upright_curve(count: int = 12, x: float = 99.5, top: float = 60.5, gap: float = 8.0):
    return np.stack([np.full(count, x), top + gap * np.arange(count)], axis=1)


# ---- the curve


def test_points_are_kept_and_ends_go_on_straight() -> None:
    points = [(0, 0), (1, 10), (2, 20), (3, 30), (4, 40), (5, 50)]
    curve = prolonged(points, range(2, 8), 0, 9)
    expected = [(k - 2, 10 * (k - 2)) for k in range(10)]
    np.testing.assert_allclose(curve, expected, atol=1e-9)


def test_ranks_between_points_are_filled_in_a_line() -> None:
    np.testing.assert_allclose(
        prolonged([(0, 0), (4, 40), (4, 60)], [0, 4, 6], 0, 6),
        [(0, 0), (1, 10), (2, 20), (3, 30), (4, 40), (4, 50), (4, 60)],
    )


def test_an_end_goes_on_as_its_last_four_ranks_do() -> None:
    """From (0, 40) on the curve runs to the right by 2 a rank; the last four ranks count alone."""
    points = [(0, 10 * k) for k in range(5)] + [(2 * k, 40 + 10 * k) for k in range(1, 5)]
    curve = prolonged(points, range(9), 0, 11)
    np.testing.assert_allclose(curve[9:], [(10, 90), (12, 100), (14, 110)])


def test_two_points_are_enough() -> None:
    np.testing.assert_allclose(
        prolonged([(5, 0), (5, 10)], [3, 4], 2, 5), [(5, -10), (5, 0), (5, 10), (5, 20)]
    )


# ---- the strip


def test_an_upright_curve_at_the_strips_own_scale_is_a_crop() -> None:
    """8 px a rank: row 0 lies 3.5 px above the first point, column 0 31.5 px to its left."""
    image = smooth_image()
    strip = straighten(image, upright_curve(), SPEC)
    assert strip.shape == (12 * 8, 64)
    assert strip.dtype == np.float32
    np.testing.assert_allclose(strip, image[57 : 57 + 96, 68 : 68 + 64] / 255, atol=1e-5)


@pytest.mark.parametrize("angle", [-40.0, 15.0, 90.0])
def test_turning_image_and_curve_turns_nothing(angle: float) -> None:
    image, curve = smooth_image(), upright_curve()
    turn = cv2.getRotationMatrix2D((100, 110), angle, 1.0)
    turned = cv2.warpAffine(image, turn, (200, 240), flags=cv2.INTER_LINEAR)
    moved = curve @ turn[:, :2].T + turn[:, 2]
    upright, strip = straighten(image, curve, SPEC), straighten(turned, moved, SPEC)
    inside = straighten(np.full((240, 200), 255, np.uint8), curve, SPEC) == 1
    seen = cv2.warpAffine(np.full((240, 200), 255, np.uint8), turn, (200, 240))
    inside &= straighten(seen, moved, SPEC) == 1
    assert inside.mean() > 0.6
    assert np.abs(upright - strip)[inside].max() < 0.05


@pytest.mark.parametrize("scale", [2, 5])
def test_an_image_of_more_pixels_gives_the_same_strip(scale: int) -> None:
    """Pixel (x, y) of the small image is the block of pixels around scale * (x + 1/2) - 1/2."""
    image, curve = smooth_image(), upright_curve()
    large = np.kron(image, np.ones((scale, scale), np.uint8))
    strip = straighten(large, (curve + 0.5) * scale - 0.5, SPEC)
    assert np.abs(strip - straighten(image, curve, SPEC)).max() < 0.06


def test_right_is_the_back_and_down_the_feet() -> None:
    image = np.zeros((240, 200), np.uint8)
    image[:, 130:] = 200  # what lies to the right in the image
    strip = straighten(image, upright_curve(), SPEC)
    assert strip[:, -1].min() > 0.7
    assert strip[:, 0].max() == 0
    image[:] = 0
    image[120:] = 200
    strip = straighten(image, upright_curve(), SPEC)
    assert strip[0].max() == 0
    assert strip[-1].min() > 0.7


def test_outside_the_image_is_nothing() -> None:
    strip = straighten(np.full((60, 40), 255, np.uint8), upright_curve(x=19.5, top=-20.5), SPEC)
    assert strip[0].max() == 0
    assert strip[40, 0] == 0
    assert strip[40, 32] == 1


def test_distortions_move_what_they_say() -> None:
    image, curve = smooth_image(), upright_curve()
    plain = straighten(image, curve, SPEC)
    aside = straighten(image, curve, SPEC, Distortion(aside=0.5))
    np.testing.assert_allclose(aside[:, :-4], plain[:, 4:], atol=1e-5)
    wide = straighten(image, curve, SPEC, Distortion(widen=1.5))
    np.testing.assert_allclose(wide[:, 31], plain[:, 31], atol=0.03)
    assert np.abs(wide - plain).max() > 0.1
    assert np.abs(straighten(image, curve, SPEC, Distortion(turn=0.3)) - plain).max() > 0.1


def test_points_that_coincide_give_a_strip_all_the_same() -> None:
    strip = straighten(smooth_image(), np.full((5, 2), 50.0), SPEC)
    assert strip.shape == (40, 64)
    assert np.isfinite(strip).all()
