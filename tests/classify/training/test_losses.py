"""Losses of crops: class weights, both heads, mixed crops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from spineline.classify.augment import Mix
from spineline.classify.recipe import Recipe
from spineline.classify.training.losses import CropLoss, class_weights, mixed_loss
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.crops.table import make_crops
from spineline.datasets.dataset import load_dataset

Make = Callable[..., Recipe]


def test_balanced_class_weights_are_scikit_learns() -> None:
    codes = np.array([0] * 6 + [1] * 3 + [2])
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=codes)
    np.testing.assert_allclose(class_weights(codes, 3, "balanced"), wanted, rtol=1e-6)


def test_root_class_weights_by_hand() -> None:
    codes = np.array([0] * 9 + [1])
    # 1/3 and 1, whose mean over the crops is (9/3 + 1) / 10 = 0.4; class 2 is absent.
    found = class_weights(codes, 3, "sqrt")
    np.testing.assert_allclose(found, [1 / 3 / 0.4, 1 / 0.4, 1], rtol=1e-6)


def test_the_loss_is_the_sum_of_both_cross_entropies(
    dataset_folder: Path, make_recipe: Make
) -> None:
    table = make_crops(load_dataset(dataset_folder), "train", CropSpec(16))
    generator = torch.Generator().manual_seed(0)
    seven, binary = (torch.randn((6, n), generator=generator) for n in (7, 2))
    codes, v5 = torch.tensor([2, 3, 0, 1, 6, 4]), torch.tensor([0, 1, 0, 0, 1, 0])
    disc = torch.tensor([True, True, False, False, True, True])
    all_of_it = CropLoss(make_recipe(binary_weight=0.5), table)((seven, binary), codes, v5, disc)
    wanted = functional.cross_entropy(seven, codes) + 0.5 * functional.cross_entropy(binary, v5)
    torch.testing.assert_close(all_of_it, wanted)
    smooth = CropLoss(make_recipe(binary_on="disc", label_smoothing=0.1), table)
    wanted = functional.cross_entropy(seven, codes, label_smoothing=0.1)
    wanted += functional.cross_entropy(binary[disc], v5[disc], label_smoothing=0.1)
    torch.testing.assert_close(smooth((seven, binary), codes, v5, disc), wanted)
    none = CropLoss(make_recipe(binary_on="disc"), table)((None, binary), codes, v5, disc & False)
    assert float(none) == 0


def test_mixed_crops_have_targets_that_are_mixed_alike(
    dataset_folder: Path, make_recipe: Make
) -> None:
    """Cross-entropy with probabilities as targets is what torch itself has for it."""
    table = make_crops(load_dataset(dataset_folder), "train", CropSpec(16))
    logits = torch.randn((4, 7), generator=torch.Generator().manual_seed(0))
    codes, v5, disc = torch.tensor([2, 3, 0, 6]), torch.zeros(4).long(), torch.ones(4).bool()
    mix = Mix(torch.tensor([1, 0, 3, 2]), 0.7)
    loss = CropLoss(make_recipe(head="seven"), table)
    one_hot = functional.one_hot(codes, 7).float()
    wanted = functional.cross_entropy(logits, 0.7 * one_hot + 0.3 * one_hot[[1, 0, 3, 2]])
    torch.testing.assert_close(mixed_loss(loss, (logits, None), (codes, v5, disc), mix), wanted)
    plain = mixed_loss(loss, (logits, None), (codes, v5, disc), None)
    torch.testing.assert_close(plain, functional.cross_entropy(logits, codes))
