"""Pretrained backbones: torchvision's own networks are the oracle, with random weights."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.detect.checkpoints import read_safetensors
from spineline.detect.fasterrcnn import pretrained
from spineline.detect.fasterrcnn.backbones import build_backbone
from spineline.detect.settings import DetectTrain
from spineline.detect.train import train

pytestmark = pytest.mark.usefixtures("small_box_heads")

MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in pretrained.IMAGENET_MEAN_STD)


def random_torchvision(name: str = "resnet18") -> Any:
    """A whole network as torchvision's files hold it; batch normalisation has statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, weights=None).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
    return network


@pytest.fixture(scope="module")
def network() -> Any:
    return random_torchvision()


@pytest.fixture(scope="module")
def file(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(network.state_dict(), path)
    return path


def first_stage(network: Any, grey: torch.Tensor) -> torch.Tensor:
    """torchvision's own first stage for a grey image as colour, normalised as ImageNet's are."""
    x = network.conv1((grey.expand(-1, 3, -1, -1) - MEAN) / STD)
    return network.layer1(network.maxpool(network.relu(network.bn1(x))))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mean", "std"), [(0.449, 0.226), (0.15424, 0.169006)], ids=["theirs", "data"]
)
def test_features_are_torchvisions_own(
    network: Any, channels: int, mean: float, std: float
) -> None:
    tensors = pretrained.fitted_backbone(
        network.state_dict(), "resnet18", channels, mean=mean, std=std, where="w"
    )
    body = build_backbone("resnet18", channels).body.eval()
    body.load_state_dict({k.removeprefix("backbone.body."): v for k, v in tensors.items()})
    grey = torch.rand(1, 1, 160, 160, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = first_stage(network, grey)
        found = body(((grey - mean) / std).expand(-1, channels, -1, -1))["0"]
    inner = (..., slice(8, -8), slice(8, -8))  # away from the padded border
    assert wanted[inner].std() > 0.1
    torch.testing.assert_close(found[inner], wanted[inner], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["mobilenet_v3_small", pytest.param("resnet50", marks=pytest.mark.slow)],
)
def test_every_tensor_of_a_backbone_is_taken(name: str, caplog: pytest.LogCaptureFixture) -> None:
    state = random_torchvision(name).state_dict()
    with caplog.at_level(logging.INFO, "spineline"):
        tensors = pretrained.fitted_backbone(state, name, 3, mean=0.449, std=0.226, where="w")
    body = build_backbone(name, 3).body.state_dict()
    assert {f"backbone.body.{key}" for key in body} == set(tensors)


@pytest.mark.parametrize("name", ["timm/resnet18", "convnext_atto"])
def test_a_state_dict_of_timm(name: str) -> None:
    import timm

    state = timm.create_model(name.removeprefix("timm/"), pretrained=False).state_dict()
    tensors = pretrained.fitted_backbone(state, name, 1, mean=0.4, std=0.2, where="w")
    body = build_backbone(name, 1).body
    body.load_state_dict({k.removeprefix("backbone.body."): v for k, v in tensors.items()})


def test_old_files_without_counters_are_taken(network: Any) -> None:
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("tracked")}
    tensors = pretrained.fitted_backbone(state, "resnet18", 3, mean=0.4, std=0.2, where="w")
    assert "backbone.body.layer4.1.bn2.running_var" in tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer4.0.conv1.weight": None}, r"it has no layer4\.0\.conv1\.weight of shape \(512, "),
        (
            {"conv1.weight": torch.zeros(64, 3, 3, 3)},
            r"\(64, 3, 3, 3\), wanted of shape \(64, 3, 7",
        ),
        ({"conv1.weight": torch.full((64, 3, 7, 7), torch.nan)}, "not finite numbers"),
    ],
    ids=["missing", "shape", "nan"],
)
def test_weights_of_another_network(network: Any, change: dict[str, Any], message: str) -> None:
    state = {k: v for k, v in {**network.state_dict(), **change}.items() if v is not None}
    with pytest.raises(WeightsError, match=message):
        pretrained.fitted_backbone(state, "resnet18", 3, mean=0.4, std=0.2, where="w")


def test_files_that_cannot_be_read(tmp_path: Path, network: Any) -> None:
    def read(content: object, trust: bool = True) -> Any:
        torch.save(content, tmp_path / "w.pth")
        return pretrained.read_backbone_weights(tmp_path / "w.pth", trust=trust)

    state = network.state_dict()
    assert set(read({"state_dict": state})) == set(read(state)) == set(state)
    with pytest.raises(WeightsError, match=r"is a pickle.*add trust=true"):
        read(state, trust=False)
    with pytest.raises(WeightsError, match="holds no state dict"):
        read([1, 2])
    with pytest.raises(WeightsError, match="other things than tensors"):
        read({"epoch": 3})
    with pytest.raises(WeightsError, match="damaged, or it holds more than tensors"):
        read(network)
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(b"broken")
        with pytest.raises(WeightsError, match=r"damaged|no whole safetensors"):
            pretrained.read_backbone_weights(tmp_path / name, trust=True)
    with pytest.raises(WeightsError, match="no such file"):
        pretrained.read_backbone_weights(tmp_path / "none.pth", trust=True)


@pytest.mark.slow
def test_training_starts_from_a_backbone(dataset: Path, file: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "model": "fasterrcnn", "backbone": "resnet18", "channels": 1, "imgsz": 64, "batch": 3,
        "epochs": 1, "plots": False, "rois": 16, "proposals": 40, "val": False, "lr0": 0.0,
        "weight_decay": 0.0, "data": dataset, "backbone_weights": file,
    }  # fmt: skip
    result = train(DetectTrain(out=tmp_path / "run", **given))
    meta, tensors = read_safetensors(result.last)
    assert (meta.yaml["mean"], meta.yaml["std"]) == (0.449, 0.226)
    state = pretrained.read_backbone_weights(file, trust=False)
    name = "layer3.0.conv1.weight"
    np.testing.assert_allclose(
        tensors[f"backbone.body.{name}"].float().numpy(), state[name].numpy(), atol=1e-4
    )
    with pytest.raises(WeightsError, match="not the weights of backbone=resnet34: it has no"):
        train(DetectTrain(out=tmp_path / "x", **{**given, "backbone": "resnet34"}))
    assert not (tmp_path / "x").exists()


def test_weights_are_fetched_when_asked_for(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file stands for the server; its name holds the beginning of its hash, as torchvision's."""
    made = tmp_path / "made.pth"
    torch.save(network.state_dict(), made)
    digest = hashlib.sha256(made.read_bytes()).hexdigest()[:8]
    server = made.rename(tmp_path / f"resnet18-{digest}.pth")
    weights = SimpleNamespace(DEFAULT=SimpleNamespace(url=server.as_uri()))
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: weights)
    monkeypatch.setattr(pretrained, "config_folder", lambda: tmp_path / "cache")
    fetched = pretrained.download_backbone("resnet18")
    assert fetched.read_bytes() == server.read_bytes()
    server.unlink()
    assert pretrained.download_backbone("resnet18") == fetched  # not fetched twice
    fetched.unlink()
    with pytest.raises(WeightsError, match=r"could not be fetched.*give backbone_weights=FILE"):
        pretrained.download_backbone("resnet18")
    with pytest.raises(ConfigError, match="torchvision's can be downloaded"):
        pretrained.download_backbone("convnext_tiny")


def test_what_another_file_is_under_the_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "resnet18-00000000.pth"
    server.write_bytes(b"other")
    weights = SimpleNamespace(DEFAULT=SimpleNamespace(url=server.as_uri()))
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: weights)
    monkeypatch.setattr(pretrained, "config_folder", lambda: tmp_path / "cache")
    with pytest.raises(WeightsError, match=r"could not be fetched .*invalid hash"):
        pretrained.download_backbone("resnet18")
    assert not list((tmp_path / "cache" / "downloads").iterdir())
