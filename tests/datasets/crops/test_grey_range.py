"""Grey values that a classifier knows."""

from __future__ import annotations

import numpy as np
import pytest

from spineline.datasets.crops.grey_range import GreyRange, grey_range, grey_statistics
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.crops.table import CropRow, CropTable


def test_statistics_by_hand() -> None:
    crops = np.zeros((1, 2, 2), np.uint8)
    crops[0, :, 1] = 255
    brightness, spread, sharpness = grey_statistics(crops)
    assert brightness == pytest.approx(crops.mean() / 255)
    assert spread == pytest.approx(0.5)
    assert sharpness == pytest.approx(((1 + 0) / 2) / 0.5)  # across 1, down 0


def test_the_range_of_images_is_widened_and_copies_do_not_count() -> None:
    values = (100, *(100, 110, 120, 130, 140, 150) * 10, 255)
    pixels = np.stack([np.full((8, 8), v, np.uint8) for v in values])
    images = [f"i{n}" for n in range(len(values) - 1)]
    images.append(images[0])
    rows = tuple(
        CropRow("train", image, image, "L1", ("v1",), variant)
        for image, variant in zip(images, [""] * len(images[1:]) + ["noise"], strict=True)
    )
    found = grey_range(CropTable(CropSpec(size=8), pixels, rows))
    width = (150 - 100) / 255
    assert found.low[0] == pytest.approx(100 / 255 - width / 4, abs=1e-4)
    assert found.high[0] == pytest.approx(150 / 255 + width / 4, abs=1e-4)
    assert found.beyond(pixels[:1]) == {}
    assert list(found.beyond(pixels[-1:])) == ["brightness"]


def images_of(count: int, seed: int) -> CropTable:
    """Crops of images whose brightness, spread and sharpness vary normally about the same means."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=(count, 1, 8, 8)) * random.normal(40, 4, (count, 1, 1, 1))
    level = random.normal(120, 12, (count, 1, 1, 1))
    pixels = np.clip(level + noise, 0, 255).astype(np.uint8)[:, 0]
    rows = tuple(CropRow("train", f"i{n}", f"i{n}", "L1", ("v1",), "") for n in range(count))
    return CropTable(CropSpec(size=8), pixels, rows)


@pytest.mark.parametrize("count", [3, 6, 12, 40])
def test_few_images_of_the_same_kind_warn_of_few_others(count: int) -> None:
    others = images_of(200, seed=99).pixels
    warned = []
    for seed in range(10):
        found = grey_range(images_of(count, seed))
        assert found is not None
        warned.append(np.mean([bool(found.beyond(other[None])) for other in others]))
        dark = np.full((1, 8, 8), 3, np.uint8)
        assert count < 10 or found.beyond(dark)
    assert np.mean(warned) < 0.01


def test_a_single_image_tells_nothing_and_known_images_stay_known() -> None:
    known = GreyRange((0.1, 0.1, 0.1), (0.9, 0.3, 0.9))
    assert grey_range(images_of(1, seed=0)) is None
    assert grey_range(images_of(1, seed=0), known) is known
    alone, both = grey_range(images_of(60, seed=0)), grey_range(images_of(60, seed=0), known)
    assert alone is not None
    assert both is not None
    assert both.low == tuple(map(min, alone.low, known.low))
    assert both.high == tuple(map(max, alone.high, known.high))


@pytest.mark.parametrize(("low", "high"), [((0.0,), (1.0,)), ((1.0, 0, 0), (0.0, 1, 1))])
def test_what_is_no_range(low, high) -> None:
    with pytest.raises(ValueError, match="not ranges"):
        GreyRange(low, high)
