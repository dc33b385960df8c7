"""What a training is given: its plan, and the tensors and order of the crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spineline.classify.data import TrainingData, balanced_encoding
from spineline.classify.network.layers import NetworkConfig
from spineline.classify.recipe import Recipe
from spineline.datasets.crops.table import CropTable


@dataclass(frozen=True, slots=True)
class ClassifierPlan:
    """A training that is ready to start."""

    data: TrainingData
    config: NetworkConfig
    seed: int
    device: torch.device
    val_every: int

    @property
    def recipe(self) -> Recipe:
        """The recipe as it applies to the data."""
        return self.data.recipe


def epoch_order(table: CropTable, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """(N,) indices of an epoch's crops: a permutation, or with ``sampler`` a weighted draw."""
    if recipe.balance != "sampler":
        return torch.randperm(len(table), generator=generator)
    codes = table.binary if balanced_encoding(recipe) == "binary" else table.seven
    counts = np.bincount(codes, minlength=1).astype(np.float64)
    weights = torch.tensor(counts[codes] ** -recipe.sampler_power)
    return torch.multinomial(weights, len(table), replacement=True, generator=generator)


def batches(order: Tensor, size: int) -> list[Tensor]:
    """Split an order into batches; a single last crop joins the batch before (batch norm)."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


@dataclass(frozen=True, slots=True)
class CropTensors:
    """The tensors of a table: pixels (N, P, P) uint8, codes and levels (N,), ``disc`` (N,) bool.

    ``features`` (copies, N, F) are those of augmented copies; None if they are computed in every
    epoch.
    """

    pixels: Tensor
    seven: Tensor
    binary: Tensor
    disc: Tensor
    levels: Tensor
    features: Tensor | None = None

    @classmethod
    def of(cls, table: CropTable) -> CropTensors:
        """The tensors of a table."""
        return cls(
            torch.from_numpy(np.ascontiguousarray(table.pixels)),
            torch.from_numpy(table.seven),
            torch.from_numpy(table.binary),
            torch.tensor([kind == "disc" for kind in table.kind], dtype=torch.bool),
            torch.from_numpy(table.level).float(),
        )
