"""Frames as another scanner might show them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from spineline.datasets import scanner_looks as looks

RNG = np.random.default_rng(0)
FRAME = RNG.integers(0, 256, (96, 80)).astype(np.uint8)


def test_gamma_is_that_of_torchvision() -> None:
    expected = functional.adjust_gamma(torch.from_numpy(FRAME)[None], 1.7)[0].numpy()
    np.testing.assert_allclose(looks.gamma(FRAME, 1.7), expected, atol=1)  # it cuts decimals off


def test_window_is_a_line_between_black_and_white() -> None:
    expected = np.interp(FRAME, [0.2 * 255, 0.7 * 255], [0, 255])
    np.testing.assert_allclose(looks.window(FRAME, 0.2, 0.7), expected, atol=0.51)


@pytest.mark.parametrize("percent", [0.0, 37.5, 99.5, 100.0])
def test_percentiles_are_those_of_numpy(percent: float) -> None:
    rng = np.random.default_rng(1)
    for count in (1, 2, *rng.integers(3, 3000, 300).tolist()):
        image = rng.gamma(2, 30, count).clip(0, 255).astype(np.uint8)
        assert looks._percentile(image, percent) == float(np.percentile(image, percent))


def test_shading_keeps_the_signal_at_the_coil_and_takes_it_far_away() -> None:
    flat = np.full((100, 100), 200, dtype=np.uint8)
    shaded = looks.coil_shading(flat, (1.0, 0.5), 0.3, 0.25)
    assert int(shaded[50, 99]) == pytest.approx(200, abs=1)
    assert int(shaded[50, 0]) == pytest.approx(50, abs=2)


def test_fat_turns_dark_and_a_strip_of_fluid_stays_bright() -> None:
    frame = np.zeros((320, 320), dtype=np.uint8)
    frame[:, 150:156] = 230  # a canal
    frame[:, 220:320] = 230  # fat behind the spine
    shown = looks.fat_suppressed(frame, 1.0)
    assert shown[160, 153] > 150
    assert shown[160, 270] < 20


def test_noise_is_rician() -> None:
    background = looks.noise(np.zeros((200, 200), dtype=np.uint8), 0.1, np.random.default_rng(1))
    # without signal it is Rayleigh's: mean sigma sqrt(pi/2)
    assert background.mean() / 255 == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.02)


def test_coarser_columns_lose_what_alternates_along_a_row() -> None:
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))
    assert looks.anisotropic(stripes, 2, along_rows=True).std() < 15
    assert looks.anisotropic(stripes, 2, along_rows=False).std() > 100


def test_a_look_is_decided_by_its_generator_and_leaves_the_frame_alone() -> None:
    before = FRAME.copy()
    shown = [looks.scanner_look(FRAME, np.random.default_rng(seed)) for seed in (5, 5, 6)]
    assert (before == FRAME).all()
    assert (shown[0] == shown[1]).all()
    assert (shown[0] != shown[2]).any()
    assert {(each.shape, each.dtype.name) for each in shown} == {((96, 80), "uint8")}


@pytest.mark.parametrize("seed", range(40))
def test_a_cut_view_loses_whole_structures_at_the_ends_alone(seed: int) -> None:
    frame = np.tile(np.arange(250, dtype=np.uint8)[:, None], (1, 40))
    y = np.arange(20, 240, 20.0)
    boxes = np.stack([np.full(11, 5.0), y - 10, np.full(11, 35.0), y + 10], axis=1)
    part, first, moved = looks.cut_view(frame, boxes, np.random.default_rng(seed))
    assert (part == frame[first : first + len(part)]).all()
    assert (moved[:, 1] == boxes[:, 1] - first).all()
    centres = moved[:, [1, 3]].mean(axis=1)
    inside = (centres >= 0) & (centres < len(part))
    assert inside.sum() >= 5
    assert (np.diff(np.flatnonzero(inside)) == 1).all()
    assert np.flatnonzero(inside)[0] <= 4
    assert np.flatnonzero(inside)[-1] >= 8


def test_nothing_is_cut_where_no_box_is_known() -> None:
    part, first, boxes = looks.cut_view(FRAME, np.zeros((0, 4)), np.random.default_rng(0))
    assert part.shape == FRAME.shape
    assert (first, len(boxes)) == (0, 0)
