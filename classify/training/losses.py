"""The losses of a classifier's training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from spineline.classify.augment import Mix
from spineline.classify.model import allowed_classes
from spineline.classify.network.layers import Outputs
from spineline.classify.recipe import Recipe
from spineline.datasets.crops.table import CropTable
from spineline.datasets.labels import KINDS


class CropLoss(nn.Module):
    """The recipe's cross-entropy over one or both heads."""

    allowed: Tensor
    seven_weight: Tensor
    binary_weight: Tensor

    def __init__(self, recipe: Recipe, train: CropTable) -> None:
        super().__init__()
        self.recipe = recipe
        self.register_buffer("allowed", allowed_classes(KINDS, len(KINDS)), persistent=False)
        self.register_buffer("seven_weight", class_weights(train.seven, 7, recipe.class_weights))
        self.register_buffer("binary_weight", class_weights(train.binary, 2, recipe.class_weights))

    def forward(self, outputs: Outputs, seven: Tensor, binary: Tensor, disc: Tensor) -> Tensor:
        """Mean loss of a batch; targets (B,), ``disc`` (B,) bool."""
        logits_seven, logits_binary = outputs
        smoothing = self.recipe.label_smoothing
        total = torch.zeros((), device=seven.device)
        if logits_seven is not None:
            total = total + self._of_seven(logits_seven, seven, disc)
        if logits_binary is None:
            return total
        counted = disc if self.recipe.binary_on == "disc" else torch.ones_like(disc)
        if not bool(counted.any()):
            return total + 0 * logits_binary.sum()
        share = self.recipe.binary_weight if logits_seven is not None else 1.0
        return total + share * functional.cross_entropy(
            logits_binary[counted], binary[counted], self.binary_weight, label_smoothing=smoothing
        )

    def _of_seven(self, logits: Tensor, target: Tensor, disc: Tensor) -> Tensor:
        smoothing = self.recipe.label_smoothing
        if not self.recipe.kind_loss:
            return functional.cross_entropy(
                logits, target, self.seven_weight, label_smoothing=smoothing
            )
        kinds = torch.where(disc, KINDS.index("disc"), KINDS.index("vertebra"))
        return masked_cross_entropy(
            logits, target, self.allowed[kinds], self.seven_weight, label_smoothing=smoothing
        )


def masked_cross_entropy(
    logits: Tensor, target: Tensor, allowed: Tensor, weight: Tensor, *, label_smoothing: float
) -> Tensor:
    """Cross-entropy over the classes that each crop may have.

    Args:
        logits: (B, C).
        target: (B,), each among the allowed.
        allowed: (B, C) bool.
        weight: (C,) of the classes; the mean is weighted by the targets'.
        label_smoothing: share of the target that is spread over the allowed classes.
    """
    logs = logits.masked_fill(~allowed, -torch.inf).log_softmax(dim=1)
    right = logs.gather(1, target[:, None])[:, 0]
    even = logs.masked_fill(~allowed, 0.0).sum(dim=1) / allowed.sum(dim=1)
    losses = -(1 - label_smoothing) * right - label_smoothing * even
    return (losses * weight[target]).sum() / weight[target].sum()


def class_weights(codes: np.ndarray[Any, Any], classes: int, mode: str) -> Tensor:
    """(classes,) float32 weights of mean one over the crops; absent classes get 1."""
    if mode == "none":
        return torch.ones(classes)
    counts = np.bincount(codes, minlength=classes).astype(np.float64)
    power = 1.0 if mode == "balanced" else 0.5
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -power, 1.0)
    mean = (weights * counts).sum() / counts.sum()
    return torch.tensor(np.where(counts > 0, weights / mean, 1.0), dtype=torch.float32)


def count_right(outputs: Outputs, seven: Tensor, binary: Tensor) -> int:
    """The number of crops that the first available head grades correctly."""
    for logits, target in zip(outputs, (seven, binary), strict=True):
        if logits is not None:
            return int((logits.detach().argmax(dim=1) == target).sum())
    return 0


def mixed_loss(
    loss: CropLoss, outputs: Outputs, targets: tuple[Tensor, Tensor, Tensor], mix: Mix | None
) -> Tensor:
    """The loss of mixed crops: of their own and of their partners' targets, weighted by share."""
    value: Tensor = loss(outputs, *targets)
    if mix is None:
        return value
    partner = mix.partner.to(value.device)
    other: Tensor = loss(outputs, *(target[partner] for target in targets))
    return mix.share * value + (1 - mix.share) * other
