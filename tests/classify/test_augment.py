"""Augmentation: each option does what it says, and only that; torchvision as oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from spineline.classify.augment import (
    Draw,
    augment,
    centre,
    draw,
    draw_mix,
    move,
    recolour,
    to_float,
)
from spineline.classify.recipe import Recipe

SIZE = 32
Make = Callable[..., Recipe]
STILL = {"rotation": 0.0}


def crops(side: int, count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand((count, 1, 8, 8), generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    return smooth.clamp(0, 255)[:, 0].to(torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(count: int = 4, **values: float) -> Draw:
    plain = dict.fromkeys(("angle", "shift_x", "shift_y"), 0.0)
    ones = dict.fromkeys(("zoom", "mirror", "brightness", "contrast"), 1.0)
    names = {**plain, **ones, **values}
    return Draw(**{name: torch.full((count,), value) for name, value in names.items()})


def test_with_nothing_on_the_window_is_cut_out(make_recipe: Make) -> None:
    pixels = crops(48)
    images = augment(pixels, make_recipe(**STILL), generator())
    assert torch.equal(images, pixels[:, None, 8:40, 8:40].float() / 255)


@pytest.mark.parametrize("side", [32, 48], ids=["bare", "with surroundings"])
def test_moving_by_nothing_changes_nothing(side: int) -> None:
    images = to_float(crops(side))
    torch.testing.assert_close(move(images, drawn(), SIZE), centre(images, SIZE))


@pytest.mark.parametrize("angle", [10.0, -7.5, 90.0])
def test_rotation_is_torchvisions(angle: float) -> None:
    images = to_float(crops(96))
    ours = move(images, drawn(angle=angle), SIZE)
    theirs = centre(vision.rotate(images, angle, vision.InterpolationMode.BILINEAR), SIZE)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_shift_moves_the_picture_by_a_share_of_the_window() -> None:
    images = to_float(crops(48))
    moved = move(images, drawn(shift_x=4 / SIZE, shift_y=-2 / SIZE), SIZE)
    # Four to the right, two up: the window sees what lay four to the left and two below.
    torch.testing.assert_close(moved, images[..., 10:42, 4:36])


def test_shift_without_surroundings_repeats_the_edge() -> None:
    images = to_float(crops(32))
    moved = move(images, drawn(shift_x=4 / SIZE), SIZE)
    torch.testing.assert_close(moved[..., 4:], images[..., :28])
    torch.testing.assert_close(moved[..., :4], images[..., :1].expand(-1, -1, -1, 4))


def test_mirror_is_a_flip() -> None:
    images = to_float(crops(48))
    torch.testing.assert_close(
        move(images, drawn(mirror=-1.0), SIZE), centre(images, SIZE).flip(-1)
    )


def test_zoom_makes_the_picture_larger() -> None:
    images = torch.zeros((1, 1, 64, 64))
    images[..., 28:36, 28:36] = 1  # eight pixels wide
    for zoom, wanted in ((1.0, 64), (1.5, 144), (0.5, 16)):
        area = float(move(images, drawn(1, zoom=zoom), SIZE).sum())
        assert area == pytest.approx(wanted, rel=0.02)


def test_brightness_then_contrast_about_the_mean() -> None:
    images = torch.tensor([[[[0.2, 0.4], [0.4, 0.6]]]])
    found = recolour(images, drawn(1, brightness=0.5, contrast=2.0))
    # Half as bright: 0.1 0.2 0.2 0.3, mean 0.2; twice the contrast: 0.0 0.2 0.2 0.4.
    torch.testing.assert_close(found, torch.tensor([[[[0.0, 0.2], [0.2, 0.4]]]]))


def test_recolouring_stays_in_range() -> None:
    found = recolour(to_float(crops(32)), drawn(brightness=1.9, contrast=1.9))
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_noise_has_the_std_asked_for(make_recipe: Make) -> None:
    pixels = torch.full((64, 32, 32), 128, dtype=torch.uint8)
    images = augment(pixels, make_recipe(**STILL, noise=10.0), generator()) * 255
    assert float(images.std()) == pytest.approx(10.0, rel=0.02)
    assert float(images.mean()) == pytest.approx(128, abs=0.2)


@pytest.mark.parametrize(
    ("option", "field", "low", "high"),
    [
        ({"rotation": 10.0}, "angle", -10, 10),
        ({"translate": 0.08}, "shift_x", -0.08, 0.08),
        ({"translate": 0.08}, "shift_y", -0.08, 0.08),
        ({"scale": 0.1}, "zoom", 0.9, 1.1),
        ({"color_jitter": 0.2}, "brightness", 0.8, 1.2),
        ({"color_jitter": 0.2}, "contrast", 0.8, 1.2),
    ],
)
def test_draws_fill_their_range(
    make_recipe: Make, option: dict[str, float], field: str, low: float, high: float
) -> None:
    values = getattr(draw(make_recipe(**{**STILL, **option}), 4000, generator()), field)
    width = high - low
    assert low <= float(values.min()) < low + 0.01 * width
    assert high - 0.01 * width < float(values.max()) <= high
    assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.03 * width)


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_fliplr_is_a_chance(make_recipe: Make, chance: float, share: float) -> None:
    mirror = draw(make_recipe(fliplr=chance), 4000, generator()).mirror
    assert float((mirror == -1).float().mean()) == pytest.approx(share, abs=0.03)


OPTIONS: tuple[dict[str, float], ...] = (
    {"rotation": 10.0}, {"translate": 0.1}, {"scale": 0.2}, {"fliplr": 0.5}, {"color_jitter": 0.3},
    {"noise": 5.0}, {"scanner_looks": 0.7},
)  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: next(iter(option)))
def test_each_option_changes_the_images_reproducibly(
    make_recipe: Make, option: dict[str, float]
) -> None:
    pixels, plain = crops(48), make_recipe(**STILL)
    recipe = make_recipe(**{**STILL, **option})
    once = augment(pixels, recipe, generator(1))
    assert once.shape == (4, 1, SIZE, SIZE)
    assert torch.equal(once, augment(pixels, recipe, generator(1)))
    assert not torch.equal(once, augment(pixels, recipe, generator(2)))
    assert not torch.equal(once, augment(pixels, plain, generator(1)))


def test_an_option_leaves_the_draws_of_the_others_alone(make_recipe: Make) -> None:
    alone = draw(make_recipe(**STILL, translate=0.1), 8, generator(3))
    both = draw(make_recipe(rotation=10.0, color_jitter=0.3, translate=0.1), 8, generator(3))
    assert torch.equal(alone.shift_x, both.shift_x)
    assert torch.equal(alone.shift_y, both.shift_y)


def test_crops_of_a_batch_are_drawn_apart(make_recipe: Make) -> None:
    recipe = replace(make_recipe(), rotation=10.0)
    same = crops(48, 1).expand(6, -1, -1)
    images = augment(same, recipe, generator())
    assert len({image.numpy().tobytes() for image in images}) == 6


def test_the_callers_pixels_and_generators_are_left_alone(make_recipe: Make) -> None:
    pixels, state = crops(48), torch.get_rng_state()
    before = pixels.clone()
    augment(pixels, make_recipe(noise=5.0, color_jitter=0.5), generator())
    assert torch.equal(pixels, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_pairs_are_mixed_by_one_share() -> None:
    images = to_float(crops(32, count=6))
    mix = draw_mix(0.2, 6, generator(3))
    assert mix is not None
    assert sorted(mix.partner.tolist()) == list(range(6))
    mixed = mix.images(images)
    for n, partner in enumerate(mix.partner.tolist()):
        wanted = mix.share * images[n] + (1 - mix.share) * images[partner]
        torch.testing.assert_close(mixed[n], wanted)
    again = draw_mix(0.2, 6, generator(3))
    assert again is not None
    assert (again.share, again.partner.tolist()) == (mix.share, mix.partner.tolist())


def test_shares_of_mixed_pairs_follow_a_beta_distribution() -> None:
    """Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1))."""
    mixes = [draw_mix(0.2, 2, generator(seed)) for seed in range(2000)]
    shares = torch.tensor([mix.share for mix in mixes if mix is not None])
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.var()) == pytest.approx(1 / 5.6, abs=0.01)


def test_without_mixup_nothing_is_drawn() -> None:
    given = generator()
    assert draw_mix(0.0, 4, given) is None
    assert torch.equal(torch.rand(3, generator=given), torch.rand(3, generator=generator()))
