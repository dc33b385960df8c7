"""The order of crops, and their batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spineline.classify.recipe import Recipe
from spineline.classify.training.plan import batches, epoch_order
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.crops.table import make_crops
from spineline.datasets.dataset import load_dataset

Make = Callable[..., Recipe]


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (1, 4, [1]), (4, 8, [4]), (8, 4, [4, 4])],
)
def test_batches_leave_no_lone_crop(count: int, size: int, sizes: list[int]) -> None:
    parts = batches(torch.arange(count), size)
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat(parts), torch.arange(count))


def test_an_epoch_sees_each_crop_once(dataset_folder: Path, make_recipe: Make) -> None:
    table = make_crops(load_dataset(dataset_folder), "train", CropSpec(16))
    order = epoch_order(table, make_recipe(), torch.Generator().manual_seed(1))
    assert sorted(order.tolist()) == list(range(len(table)))
    assert order.tolist() != list(range(len(table)))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_sampler_draws_classes_by_their_count(
    dataset_folder: Path, make_recipe: Make, power: float
) -> None:
    table = make_crops(load_dataset(dataset_folder), "train", CropSpec(16))
    many = replace(table, rows=table.rows * 200)
    recipe = make_recipe(balance="sampler", sampler_power=power)
    order = epoch_order(many, recipe, torch.Generator().manual_seed(1))
    found = Counter(many.seven[order.numpy()].tolist())
    counts = Counter(table.seven.tolist())
    shares = {code: count ** (1 - power) for code, count in counts.items()}
    for code, share in shares.items():
        wanted = share / sum(shares.values())
        assert found[code] / len(many) == pytest.approx(wanted, rel=0.1)
