"""Training on a trunk that does not learn.

Its features are computed once, for some augmented copies of each crop, and stored; or heads are
fitted to them in one step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spineline.classify.augment import augment, to_float
from spineline.classify.model import allowed_classes
from spineline.classify.network.layers import CROPS_PER_PASS, Network
from spineline.classify.recipe import Recipe
from spineline.classify.training.losses import CropLoss, class_weights, count_right
from spineline.classify.training.plan import ClassifierPlan, CropTensors
from spineline.classify.trunks.logistic import fit_logistic
from spineline.datasets.common.log import LOG
from spineline.datasets.labels import KINDS, SEVEN_NAMES


def kept_features(plan: ClassifierPlan, network: Network, pixels: Tensor) -> Tensor | None:
    """Features of ``copies`` augmented copies of the training crops, (copies, N, F) on the CPU.

    There are no more copies than epochs, because an epoch shows each crop once; only a fit in one
    step takes all. None if the recipe wants fresh copies, or if the trunk learns. The seed
    determines the copies.
    """
    recipe = plan.recipe
    if not recipe.copies:
        return None
    if recipe.trunk_learns:
        LOG.warning("copies=%d: not applied, the trunk of %s learns", recipe.copies, recipe.model)
        return None
    copies = recipe.copies if recipe.fit == "logistic" else min(recipe.copies, recipe.epochs)
    network.trunk.eval()
    found: list[Tensor] = []
    with torch.no_grad():
        for copy in range(copies):
            generator = torch.Generator().manual_seed(_copy_seed(plan.seed, copy))
            parts = [
                network.features(images).float().cpu()
                for part in pixels.split(256)
                for images in augment(part, recipe, generator, plan.device).split(CROPS_PER_PASS)
            ]
            found.append(torch.cat(parts))
            LOG.info("augmented copies: %d of %d", copy + 1, copies)
    return torch.stack(found)


def fit_heads(plan: ClassifierPlan, network: Network, tensors: CropTensors) -> dict[str, float]:
    """Fit the heads by logistic regression on the trunk's features of the training crops, in place.

    Augmented copies, if the recipe has some, count together as much as the crops alone.

    Returns:
        The loss and accuracy on these features.
    """
    recipe, table = plan.recipe, plan.data.train
    copies = tensors.features
    if copies is None:
        network.eval()
        windows = torch.from_numpy(np.ascontiguousarray(table.windows()))
        with torch.no_grad():
            parts = [
                network.features(to_float(part.to(plan.device)))
                for part in windows.split(CROPS_PER_PASS)
            ]
        copies = torch.cat(parts).float().cpu()[None]
    times = len(copies)
    levels = tensors.levels.repeat(times).to(plan.device)
    features = copies.flatten(0, 1).to(plan.device)
    wide = network.with_levels(features, levels).cpu().numpy()
    disc = tensors.disc.repeat(times)
    targets = tensors.seven.repeat(times), tensors.binary.repeat(times)
    for rows, name, codes, classes in _fits(recipe, targets, disc, list(network.heads)):
        weight = class_weights(codes.numpy(), 7, recipe.class_weights)[codes] / times
        head = fit_logistic(
            wide[rows], codes[rows].numpy(), classes,
            c=recipe.logistic_c, weights=weight[rows].double().numpy(),
        )  # fmt: skip
        layer = cast(nn.Linear, network.heads[name])
        with torch.no_grad():
            layer.weight[classes] = torch.tensor(head.weight).to(layer.weight)
            layer.bias[classes] = torch.tensor(head.bias).to(layer.bias)
    network.eval()
    with torch.no_grad():
        (outputs,) = network.logits_of_features(features, levels)
        seven, binary = (target.to(plan.device) for target in targets)
        loss = CropLoss(recipe, table).to(plan.device)
        value = float(loss(outputs, seven, binary, disc.to(plan.device)))
    return {"loss": value, "accuracy": count_right(outputs, seven, binary) / len(wide)}


def _fits(
    recipe: Recipe, targets: tuple[Tensor, Tensor], disc: Tensor, heads: Sequence[str]
) -> Iterator[tuple[npt.NDArray[np.bool_], str, Tensor, list[int]]]:
    """The separate fits: rows of crops, the head, all codes, and the rows of the head.

    With ``kind_loss``, the classes of discs and of vertebrae are fitted separately.
    """
    seven, binary = targets
    everything = torch.ones_like(disc)
    if "seven" in heads and recipe.kind_loss:
        for kind, allowed in zip(KINDS, allowed_classes(KINDS, len(KINDS)), strict=True):
            rows = disc if kind == "disc" else ~disc
            yield rows.numpy(), "seven", seven, allowed.nonzero()[:, 0].tolist()
    elif "seven" in heads:
        yield everything.numpy(), "seven", seven, list(range(len(SEVEN_NAMES)))
    if "binary" in heads:
        rows = disc if recipe.binary_on == "disc" else everything
        yield rows.numpy(), "binary", binary, [0, 1]


def _copy_seed(seed: int, copy: int) -> int:
    """A seed for each copy, different from those of the epochs."""
    return int(np.random.SeedSequence([seed, copy, 1]).generate_state(1, np.uint64)[0]) >> 1
