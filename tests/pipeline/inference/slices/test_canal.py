"""Contrast of the canal, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.pipeline.inference.candidates import DecodedStructure
from spineline.pipeline.inference.slices.canal import canal_contrast


def straight_chain(step: float = 20.0, x: float = 100.0) -> list[DecodedStructure]:
    return [
        DecodedStructure(
            level, kind_of_level(level), (x, 30 + step * n),
            (x - 20, 30 + step * (n - 1), x + 20, 30 + step * (n + 1)), 0.9,
        )
        for n, level in enumerate(LEVELS)
    ]  # fmt: skip


def bands(body: int, canal: int, behind: int) -> np.ndarray:
    """Bodies to the left of x = 119, then the canal, 17 pixels wide, then what is behind."""
    image = np.full((280, 220), behind, np.uint8)
    image[:, :119] = body
    image[:, 119:136] = canal
    return image


@pytest.mark.parametrize(
    ("body", "canal", "behind", "wanted"),
    [
        (100, 200, 100, 100 / 300),
        (100, 100, 100, 0.0),
        (100, 50, 100, -50 / 150),
        (100, 200, 200, 100 / 300 / 2),
        (50, 100, 50, 50 / 150),  # darker all over: nearly the same
    ],
)
def test_contrast_of_bands(body: int, canal: int, behind: int, wanted: float) -> None:
    found = canal_contrast(bands(body, canal, behind), straight_chain())
    assert found == pytest.approx(wanted, abs=0.02)


def test_contrast_needs_a_chain() -> None:
    image = bands(100, 200, 100)
    assert canal_contrast(image, straight_chain()[:3]) is None
    assert canal_contrast(image, straight_chain()[:4]) is not None
