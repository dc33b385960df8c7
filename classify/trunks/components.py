"""Principal components of the measurements of a fixed trunk, which are its features.

Whitened components all have unit variance, which suits hidden layers with dropout. Unwhitened
components keep their proportions, and only the first has unit variance. The L2 penalty of a
logistic regression then falls on those that vary little.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spineline.datasets.common.errors import ConfigError

_SPREAD_FLOOR = 1e-2  # keeps constant measurements small


class ComponentTrunk(nn.Module):
    """(N, C, S, S) images to (N, components): principal components of their measurements.

    Subclasses implement [measure][]. Nothing here is learnt by gradient descent; [fit][] computes
    the components from training crops.

    Attributes:
        mean: (measures,) subtracted from the measurements.
        weight: (components, measures) projection of the centred measurements; zero until fitted.
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
        """(N, measures) float32 measurements of images."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """(N, components) float32."""
        with torch.no_grad():
            return self.project(self.measure(images.float()))

    def project(self, measures: Tensor) -> Tensor:
        """(N, components) float32 of (N, measures)."""
        return (measures - self.mean) @ self.weight.T

    def fit(self, measures: Tensor, *, whiten: bool = True) -> None:
        """Fit the principal components to the training crops, in place.

        Args:
            measures: (N, measures) float32, N greater than ``components``.
            whiten: scale each component to unit variance; else scale all by the factor of the
                first.

        Raises:
            ConfigError: too few crops.
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
