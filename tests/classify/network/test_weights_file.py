"""Weights files: round trips, half precision, and files that are refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

from spineline.classify import load_classifier
from spineline.classify.network.build import build_network
from spineline.classify.network.layers import NetworkConfig
from spineline.classify.network.weights_file import (
    load_network,
    network_state,
    read_weights,
    save_weights,
)
from spineline.datasets.common.errors import WeightsError
from spineline.datasets.labels import BINARY_NAMES, SEVEN_NAMES


def test_a_round_trip_of_weights_is_exact(network_config: NetworkConfig, weights: Path) -> None:
    state, config = read_weights(weights)
    original = network_state(build_network(network_config, seed=7))
    assert config == network_config
    assert sorted(state) == sorted(original)
    assert all(torch.equal(state[name], original[name]) for name in original)
    network = load_network(state, config, "here").eval()
    inputs = torch.rand((3, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    expected = build_network(network_config, seed=7).eval()(inputs)
    for mine, other in zip(network(inputs), expected, strict=True):
        assert torch.equal(mine, other)


def test_the_same_weights_give_the_same_bytes(weights: Path, tmp_path: Path) -> None:
    state, config = read_weights(weights)
    save_weights(tmp_path / "again.safetensors", dict(reversed(state.items())), config)
    assert (tmp_path / "again.safetensors").read_bytes() == weights.read_bytes()


def test_half_weights_are_half_as_large_and_close(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    state, config = read_weights(weights)
    save_weights(path, state, config, half=True)
    assert path.stat().st_size < 0.6 * weights.stat().st_size
    again, _ = read_weights(path)
    for name, tensor in state.items():
        assert again[name].dtype == tensor.dtype
        torch.testing.assert_close(again[name], tensor, atol=1e-6, rtol=1e-3)


def test_numbers_too_large_for_half_are_refused(weights: Path, tmp_path: Path) -> None:
    state, config = read_weights(weights)
    state["heads.seven.bias"] = torch.full((7,), 1e6)
    with pytest.raises(WeightsError, match=r"heads\.seven\.bias does not fit"):
        save_weights(tmp_path / "half.safetensors", state, config, half=True)
    assert not (tmp_path / "half.safetensors").exists()


def test_metadata_say_what_is_needed(weights: Path) -> None:
    with safe_open(weights, "pt") as file:
        metadata = json.loads(file.metadata()["spineline"])
    assert metadata == {
        "task": "classify", "model": "test_resnet", "head": "both", "hidden": 16, "dropout": 0.4,
        "crop": {"size": 32, "margin": 1.3, "align": "spine"}, "mean": 0.4, "std": 0.25,
        "channels": 1, "names": [*SEVEN_NAMES, *BINARY_NAMES],
    }  # fmt: skip


def rewrite(weights: Path, path: Path, **changes: object) -> Path:
    with safe_open(weights, "pt") as file:
        metadata = {**json.loads(file.metadata()["spineline"]), **changes}
    save_file(load_file(weights), path, metadata={"spineline": json.dumps(metadata)})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "detect"}, "weights for task 'detect'"),
        ({"head": "three"}, "description is damaged"),
        ({"head": "seven"}, "description is damaged"),
        ({"crop": {"size": 32, "margin": 1.0, "align": "up"}}, "description is damaged"),
        ({"crop": {"size": 10**9, "margin": 1.0, "align": "none"}}, "description is damaged"),
        ({"std": 0.0}, "description is damaged"),
        ({"hidden": 10**12}, "description is damaged"),
        ({"hidden": float("inf")}, "description is damaged"),
        ({"members": float("-inf")}, "description is damaged"),
        ({"mean": 10**400}, "description is damaged"),
        ({"hidden": 32}, "do not fit"),
        ({"model": "test_vit"}, "do not fit"),
        ({"model": "resnet9999"}, "no such model"),
        ({"model": "hf-hub:someone/model"}, "no such model"),
        ({"names": ["a", "b"]}, "description is damaged"),
    ],
)
def test_altered_descriptions_are_refused(
    weights: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        load_classifier(rewrite(weights, tmp_path / "altered.safetensors", **changes))


def test_a_head_and_weights_that_mismatch_are_refused(weights: Path, tmp_path: Path) -> None:
    path = rewrite(weights, tmp_path / "x.safetensors", head="seven", names=list(SEVEN_NAMES))
    with pytest.raises(WeightsError, match=r"heads\.binary"):
        load_classifier(path)


def test_damaged_files_are_refused(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged"):
        load_classifier(path)
    save_file(load_file(weights), path)
    with pytest.raises(WeightsError, match="no description of a classifier"):
        load_classifier(path)
    with pytest.raises(WeightsError, match="no such weights file"):
        load_classifier(tmp_path / "none.safetensors")


class Hostile:
    """A pickle that makes a file when it is loaded carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("trust", [False, True], ids=["not trusted", "trusted"])
def test_a_hostile_pickle_runs_no_code(tmp_path: Path, trust: bool) -> None:
    mark, path = tmp_path / "mark", tmp_path / "hostile.pt"
    torch.save({"network": Hostile(mark)}, path)
    with pytest.raises(WeightsError, match="not a checkpoint" if trust else "trust=true"):
        load_classifier(path, trust=trust)
    path.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(WeightsError):
        load_classifier(path, trust=trust)
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # the trap works where it is loaded carelessly
    assert mark.exists()
