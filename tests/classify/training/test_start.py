"""Where a training starts: components, normalisation, given weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from spineline.classify import load_classifier
from spineline.classify.network.weights_file import read_weights
from spineline.datasets.common.errors import (
    ConfigError,
    WeightsError,
)
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.crops.table import make_crops
from spineline.datasets.dataset import load_dataset
from spineline.datasets.networks.training import TrainingResult

Run = Callable[..., TrainingResult]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return read_weights(path)[0]


def test_a_recipe_takes_fewer_components_if_there_are_few_crops(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    result = run(hyp="lumbar_linear", model="gradients", fit="logistic", epochs=1, hidden=0)
    crops = int(next(m for m in caplog.messages if "few crops" in m).split()[1]) + 1
    config = read_weights(result.last)[1]
    assert config.components == crops - 1 < 400
    assert json.loads((result.out / "recipe.json").read_text())["components"] == crops - 1
    with pytest.raises(ConfigError, match=f"components={crops}: {crops} training crops have fewer"):
        run(out="own", hyp="lumbar", model="gradients", components=crops)


def test_weights_carry_the_crops_mean_and_std(trained: Path, dataset_folder: Path) -> None:
    config = load_classifier(trained / "weights" / "last.safetensors").network.config
    pixels = make_crops(load_dataset(dataset_folder), "train", CropSpec(32)).pixels / 255
    assert config.mean == pytest.approx(pixels.mean(), abs=1e-3)
    assert config.std == pytest.approx(pixels.std(), abs=1e-3)
    assert config.crop == CropSpec(32)


def test_given_weights_are_where_training_starts(run: Run, trained: Path) -> None:
    start = trained / "weights" / "last.safetensors"
    result = run(weights=start, lr=0.0, epochs=1)
    before, after = tensors(start), tensors(result.last)
    for name, tensor in after.items():
        moved = "running_" in name or "num_batches" in name
        assert torch.equal(tensor, before[name]) != moved, name


def test_a_trunk_starts_another_head(run: Run, trained: Path) -> None:
    result = run(weights=trained / "weights" / "last.safetensors", head="seven", lr=0.0, epochs=1)
    before, after = tensors(trained / "weights" / "last.safetensors"), tensors(result.last)
    assert "heads.binary.weight" not in after
    assert torch.equal(after["trunk.conv1.0.weight"], before["trunk.conv1.0.weight"])


def test_weights_of_another_model_are_refused(run: Run, trained: Path, tmp_path: Path) -> None:
    start = trained / "weights" / "last.safetensors"
    with pytest.raises(WeightsError, match="test_resnet with 1 channels"):
        run(weights=start, model="test_efficientnet")
    with pytest.raises(WeightsError, match="give weights of the same model"):
        run(weights=start, channels=3)
    assert not (tmp_path / "run").exists()
