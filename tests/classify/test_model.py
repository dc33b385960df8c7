"""Networks, their weights files and grading."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

from spineline.classify import Classifier, Grades, load_classifier
from spineline.classify.model import (
    NetworkConfig,
    build_network,
    load_network,
    network_state,
    read_weights,
    save_weights,
)
from spineline.datasets.common.errors import ConfigError, SpinelineError, WeightsError
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import BINARY_NAMES, SEVEN_NAMES

CONFIG = NetworkConfig(
    "test_resnet", "both", 16, 0.4, 1, CropSpec(32, 1.3, "spine"), mean=0.4, std=0.25
)


def images(count: int = 3, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand((count, 1, size, size), generator=torch.Generator().manual_seed(seed))


def grey_crops(count: int, size: int = 32) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, network_state(build_network(CONFIG, seed=7)), CONFIG)
    return path


@pytest.mark.parametrize("head", ["seven", "binary", "both"])
@pytest.mark.parametrize(("hidden", "channels"), [(16, 1), (0, 1), (16, 3)])
def test_head_shapes(head: Any, hidden: int, channels: int) -> None:
    config = replace(CONFIG, head=head, hidden=hidden, channels=channels)
    seven, binary = build_network(config).eval()(images())
    assert (None if seven is None else seven.shape) == (None if head == "binary" else (3, 7))
    assert (None if binary is None else binary.shape) == (None if head == "seven" else (3, 2))


def test_the_hidden_layer_is_the_reports() -> None:
    network = build_network(replace(CONFIG, hidden=256))
    linear, active, dropout = network.hidden
    assert (linear.out_features, type(active).__name__, dropout.p) == (256, "ReLU", 0.4)
    assert network.heads["seven"].in_features == 256


def test_vgg_and_a_vision_transformer_fit_too() -> None:
    for name, size in (("test_vit", 48), ("test_efficientnet", 40)):
        config = replace(CONFIG, model=name, crop=CropSpec(size))
        seven, _ = build_network(config).eval()(images(2, size))
        assert seven is not None
        assert seven.shape == (2, 7)


def test_normalisation_is_part_of_the_network() -> None:
    network = build_network(CONFIG, seed=3).eval()
    plain = build_network(replace(CONFIG, mean=0.0, std=1.0), seed=3).eval()
    batch = images()
    wanted = plain((batch - 0.4) / 0.25)
    for mine, other in zip(network(batch), wanted, strict=True):
        torch.testing.assert_close(mine, other)
    assert not torch.allclose(network(batch)[0], plain(batch)[0])


def test_a_grey_crop_is_repeated_over_the_channels() -> None:
    config = replace(CONFIG, channels=3, mean=0.0, std=1.0)
    network = build_network(config).eval()
    batch = images()
    features = network.trunk(torch.cat([batch] * 3, dim=1))
    torch.testing.assert_close(network(batch)[0], network.heads["seven"](network.hidden(features)))


def test_the_seed_decides_the_weights_and_nothing_else_changes() -> None:
    state = torch.get_rng_state()
    once, again, other = (network_state(build_network(CONFIG, seed=s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert any(not torch.equal(once[name], other[name]) for name in once)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5", "did you mean 'resnet"),
        ("qqqqqq", "resnet50, vgg16_bn"),
        ("hf-hub:someone/model", "no such model"),
        ("local-dir:/etc", "no such model"),
    ],
)
def test_unknown_models_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network(replace(CONFIG, model=name))


def test_a_model_that_cannot_take_the_crops_says_so() -> None:
    with pytest.raises(ConfigError, match="does not take crops of 9 pixels"):
        build_network(replace(CONFIG, model="test_vit", crop=CropSpec(9)))


def test_pretrained_weights_are_fetched_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    asked: list[bool] = []
    create = timm.create_model

    def offline(name: str, *, pretrained: bool, **more: Any) -> torch.nn.Module:
        asked.append(pretrained)
        if pretrained:
            raise OSError("no route to host")
        return create(name, pretrained=False, **more)

    monkeypatch.setattr(timm, "create_model", offline)
    build_network(CONFIG)
    assert asked == [False]
    with pytest.raises(SpinelineError, match=r"no route to host.*leave download=true out"):
        build_network(CONFIG, pretrained=True)


def test_a_round_trip_of_weights_is_exact(weights: Path) -> None:
    state, config = read_weights(weights)
    original = network_state(build_network(CONFIG, seed=7))
    assert config == CONFIG
    assert sorted(state) == sorted(original)
    assert all(torch.equal(state[name], original[name]) for name in original)
    network = load_network(state, config, "here").eval()
    for mine, other in zip(
        network(images()), build_network(CONFIG, seed=7).eval()(images()), strict=True
    ):
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


def test_grades_are_probabilities(weights: Path) -> None:
    classifier = load_classifier(str(weights))
    assert isinstance(classifier, Classifier)
    assert (classifier.head, classifier.crop) == ("both", CropSpec(32, 1.3, "spine"))
    grades = classifier.grade(grey_crops(5))
    assert isinstance(grades, Grades)
    assert grades.seven is not None
    assert grades.binary is not None
    assert (grades.seven.shape, grades.seven.dtype) == ((5, 7), np.float32)
    assert (grades.binary.shape, grades.binary.dtype) == ((5,), np.float32)
    np.testing.assert_allclose(grades.seven.sum(axis=1), 1, rtol=1e-5)


def test_grades_are_the_networks_in_evaluation_mode(weights: Path) -> None:
    crops = grey_crops(3)
    network = build_network(CONFIG, seed=7).eval()
    with torch.no_grad():
        seven, binary = network(torch.from_numpy(crops).unsqueeze(1) / 255)
    grades = load_classifier(weights).grade(crops)
    assert grades.seven is not None
    assert grades.binary is not None
    np.testing.assert_allclose(grades.seven, seven.softmax(1).numpy(), rtol=1e-4)
    np.testing.assert_allclose(grades.binary, binary.softmax(1)[:, 1].numpy(), rtol=1e-4)


def test_kinds_rule_out_the_other_kinds_classes(weights: Path) -> None:
    classifier, crops = load_classifier(weights), grey_crops(3)
    free, known = classifier.grade(crops), classifier.grade(crops, ("disc", "vertebra", None))
    assert free.seven is not None
    assert known.seven is not None
    np.testing.assert_array_equal(known.seven[0, :2], 0)
    np.testing.assert_array_equal(known.seven[1, 2:], 0)
    np.testing.assert_allclose(
        known.seven[0, 2:], free.seven[0, 2:] / free.seven[0, 2:].sum(), 1e-5
    )
    np.testing.assert_allclose(
        known.seven[1, :2], free.seven[1, :2] / free.seven[1, :2].sum(), 1e-5
    )
    np.testing.assert_allclose(known.seven[2], free.seven[2])
    assert free.binary is not None
    assert known.binary is not None
    assert known.binary[1] == 0 < free.binary[1]
    np.testing.assert_array_equal(known.binary[[0, 2]], free.binary[[0, 2]])


def test_the_batch_size_does_not_matter(weights: Path) -> None:
    classifier, crops = load_classifier(weights), grey_crops(7)
    whole, parts = classifier.grade(crops), classifier.grade(crops, batch=2)
    np.testing.assert_allclose(whole.seven, parts.seven, rtol=1e-4, atol=1e-6)


def test_no_crops_give_no_grades(weights: Path) -> None:
    grades = load_classifier(weights).grade(grey_crops(0), ())
    assert grades.seven is not None
    assert grades.binary is not None
    assert (grades.seven.shape, grades.binary.shape) == ((0, 7), (0,))


@pytest.mark.parametrize(
    ("crops", "kinds", "message"),
    [
        (grey_crops(2, 16), None, r"wanted \(N, 32, 32\) uint8"),
        (grey_crops(2).astype(np.float32), None, "float32"),
        (grey_crops(2), ("disc",), "2 crops but 1 kinds"),
    ],
)
def test_wrong_crops_are_refused(weights: Path, crops: Any, kinds: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_classifier(weights).grade(crops, kinds)


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:977", "977", ""])
def test_unknown_devices_are_refused(weights: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="device="):
        load_classifier(weights, device=name)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    from spineline.weights import read_metadata, resolve

    bundled = resolve("lumbar-gradients", task="classify").path
    tensors = load_file(bundled)
    name = sorted(name for name, tensor in tensors.items() if tensor.is_floating_point())[0]
    tensors[name].view(-1)[0] = float("nan")
    save_file(
        tensors,
        tmp_path / "w.safetensors",
        metadata={"spineline": json.dumps(read_metadata(bundled))},
    )
    with pytest.raises(WeightsError, match=f"{name} holds numbers that are not finite"):
        load_classifier(tmp_path / "w.safetensors")
