from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from spineline.detect.unet.heatmaps import GAUSSIAN, HEATMAPS, ONEHOT, draw_heat, find_peaks


def drawn(points: list[tuple[float, float]], classes: list[int], kind: str, sigma: float = 2.0):
    return draw_heat(
        torch.tensor(points).reshape(-1, 2),
        torch.tensor(classes, dtype=torch.int64),
        3,
        (24, 32),
        heatmap=kind,
        sigma=sigma,
    )


def test_a_bell_has_the_shape_of_a_gaussian_filter() -> None:
    one = np.zeros((24, 32))
    one[11, 7] = 1
    wanted = gaussian_filter(one, 2.0, truncate=20, mode="constant")
    found = drawn([(7.5, 11.5)], [1], GAUSSIAN)
    np.testing.assert_allclose(found[1].numpy(), wanted / wanted.max(), atol=1e-5)
    assert not found[[0, 2]].any()


def test_a_disc_by_hand() -> None:
    found = drawn([(7.5, 11.5)], [2], ONEHOT, sigma=1.0)
    assert found.sum() == 5
    assert found[2, 11, 6:9].tolist() == found[2, 10:13, 7].tolist() == [1, 1, 1]


def test_a_point_has_its_pixel_in_however_small_a_disc() -> None:
    found = drawn([(7.02, 11.98)], [0], ONEHOT, sigma=0.1)
    assert found.nonzero().tolist() == [[0, 11, 7]]


def test_bells_of_one_class_do_not_add_up() -> None:
    found = drawn([(7.5, 11.5), (9.5, 11.5)], [0, 0], GAUSSIAN)
    assert float(found.max()) == 1.0
    assert float(found[0, 11, 8]) == pytest.approx(math.exp(-1 / 8))


@pytest.mark.parametrize("kind", HEATMAPS)
def test_no_point_is_no_heat(kind: str) -> None:
    heat = drawn([], [], kind)
    assert not heat.any()
    peaks = find_peaks(heat, heatmap=kind, sigma=2.0, confidence=0.0)
    assert len(peaks.heat) == 0
    assert peaks.points_xy.shape == (0, 2)


@pytest.mark.parametrize(("kind", "off"), [(GAUSSIAN, 1e-3), (ONEHOT, 0.35)])
def test_points_are_read_off_between_pixels(kind: str, off: float) -> None:
    points = [(7.3, 11.8), (20.05, 5.6), (25.5, 18.99), (8.1, 4.2)]
    classes = [0, 1, 1, 2]
    peaks = find_peaks(drawn(points, classes, kind, 3.0), heatmap=kind, sigma=3.0, confidence=0.1)
    unique = {}
    for place, index in zip(peaks.points_xy.tolist(), peaks.class_index.tolist(), strict=True):
        nearest = min(range(4), key=lambda n: math.dist(points[n], place))
        assert classes[nearest] == index
        assert math.dist(points[nearest], place) < off
        unique[nearest] = place
    assert len(unique) == 4
    if kind == GAUSSIAN:
        assert len(peaks.heat) == 4
        assert (peaks.heat > 0.9).all()


def test_peaks_come_by_falling_heat_above_the_least() -> None:
    heat = drawn([(7.5, 11.5), (20.5, 11.5)], [0, 0], GAUSSIAN)
    heat[0, :, 16:] *= 0.5
    peaks = find_peaks(heat, heatmap=GAUSSIAN, sigma=2.0, confidence=0.4)
    assert peaks.heat.tolist() == [1.0, 0.5]
    assert peaks.cell_yx.tolist() == [[11, 7], [11, 20]]
    assert len(find_peaks(heat, heatmap=GAUSSIAN, sigma=2.0, confidence=0.6).heat) == 1


@pytest.mark.parametrize("kind", HEATMAPS)
def test_a_peak_at_the_border_stays_inside(kind: str) -> None:
    heat = drawn([(0.2, 0.3), (31.9, 23.9)], [0, 1], kind)
    peaks = find_peaks(heat, heatmap=kind, sigma=2.0, confidence=0.5)
    assert (peaks.points_xy >= 0).all()
    assert (peaks.points_xy <= torch.tensor([32.0, 24.0])).all()
