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
    values, images = (100, 100, 150, 255), ("a", "a", "b", "b")
    pixels = np.stack([np.full((8, 8), v, np.uint8) for v in values])
    rows = tuple(
        CropRow("train", image, image, "L1", ("v1",), variant)
        for image, variant in zip(images, ("", "", "", "noise"), strict=True)
    )
    found = grey_range(CropTable(CropSpec(size=8), pixels, rows))
    width = (150 - 100) / 255
    assert found.low[0] == pytest.approx(100 / 255 - width / 4, abs=1e-4)
    assert found.high[0] == pytest.approx(150 / 255 + width / 4, abs=1e-4)
    assert found.beyond(pixels[:1]) == {}
    assert list(found.beyond(pixels[3:])) == ["brightness"]


@pytest.mark.parametrize(("low", "high"), [((0.0,), (1.0,)), ((1.0, 0, 0), (0.0, 1, 1))])
def test_what_is_no_range(low, high) -> None:
    with pytest.raises(ValueError, match="no ranges"):
        GreyRange(low, high)
