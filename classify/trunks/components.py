"""Principal components of what a fixed trunk measures: the features that it gives.

Whitened, every component counts alike, which suits hidden layers with dropout. Unwhitened, they
keep their proportions and only the first has unit variance, so that the L2 penalty of a logistic
regression falls on those that vary little.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spineline.datasets.common.errors import ConfigError

_SPREAD_FLOOR = 1e-2  # constant measures stay small


class ComponentTrunk(nn.Module):
    """(N, C, S, S) images to (N, components): principal components of their measures.

    A subclass says in [measure][] what it measures. Nothing here is learnt by gradient; [fit][]
    takes the components from training crops.

    Attributes:
        mean: (measures,) subtracted from the measures.
        weight: (components, measures) that the rest is multiplied by; zero until it is fitted.
    """

    mean: Tensor
    weight: Tensor

    def __init__(self, measures: int, components: int, *, name: str) -> None:
        super().__init__()
        if not 1 <= components <= measures:
            msg = f"components={components}: model={name} has 1 … {measures} components"
            raise ConfigError(msg)
        self.num_features = components
        self.register_buffer("mean", torch.zeros(measures))
        self.register_buffer("weight", torch.zeros(components, measures))

    def measure(self, images: Tensor) -> Tensor:
        """(N, measures) float32 of images."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """(N, components) float32."""
        with torch.no_grad():
            return self.project(self.measure(images.float()))

    def project(self, measures: Tensor) -> Tensor:
        """(N, components) float32 of (N, measures)."""
        return (measures - self.mean) @ self.weight.T

    def fit(self, measures: Tensor, *, whiten: bool = True) -> None:
        """Take the principal components of the training crops, in place.

        Args:
            measures: (N, measures) float32, N greater than ``components``.
            whiten: scale each component to unit variance; else all as the first.

        Raises:
            ConfigError: fewer crops than that.
        """
        if len(measures) <= self.num_features:
            msg = (
                f"components={self.num_features}: {len(measures)} training crops have fewer "
                f"than that; choose components= below {len(measures)}"
            )
            raise ConfigError(msg)
        mean = measures.mean(dim=0)
        spread = measures.std(dim=0).clamp(min=_SPREAD_FLOOR)
        _, lengths, axes = torch.linalg.svd((measures - mean) / spread, full_matrices=False)
        deviation = lengths[: self.num_features] / math.sqrt(len(measures))
        deviation = deviation if whiten else deviation[0].expand_as(deviation)
        weight = axes[: self.num_features] / deviation.clamp(min=_SPREAD_FLOOR)[:, None] / spread
        with torch.no_grad():
            self.mean.copy_(mean)
            self.weight.copy_(weight)
