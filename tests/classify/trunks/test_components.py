"""Principal components of a trunk's measures, beside scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from spineline.classify.trunks.components import ComponentTrunk
from spineline.datasets.common.errors import ConfigError


class Pixels(ComponentTrunk):
    """Measures the pixels themselves."""

    def measure(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def pictures() -> torch.Tensor:
    """(60, 1, 3, 3) of unlike spreads."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn((60, 9), generator=generator) @ torch.randn((9, 9), generator=generator)
    return mixed.reshape(60, 1, 3, 3)


@pytest.mark.parametrize("whiten", [True, False])
def test_components_are_scikit_learns(whiten: bool) -> None:
    trunk, images = Pixels(9, 4, name="pixels"), pictures()
    trunk.fit(images.flatten(1), whiten=whiten)
    found = trunk(images).numpy()
    flat = images.flatten(1).numpy()
    wanted = PCA(4, whiten=whiten, svd_solver="full").fit_transform(flat / flat.std(axis=0, ddof=1))
    wanted = wanted if whiten else wanted / wanted[:, 0].std()
    for mine, other in zip(found.T, wanted.T, strict=True):
        assert abs(np.corrcoef(mine, other)[0, 1]) == pytest.approx(1, abs=1e-4)
        assert mine.std() == pytest.approx(other.std(), rel=0.02)
    assert found[:, 0].std() == pytest.approx(1, abs=1e-3)


def test_more_components_than_measures_are_refused() -> None:
    with pytest.raises(ConfigError, match="components=10: model=pixels has 1 … 9"):
        Pixels(9, 10, name="pixels")
