"""Networks: heads, input, initial weights, and models that do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from spineline.classify.network.build import build_network
from spineline.classify.network.layers import NetworkConfig
from spineline.classify.network.weights_file import (
    network_state,
)
from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.crops.spec import CropSpec

CONFIG = NetworkConfig(
    "test_resnet", "both", 16, 0.4, 1, CropSpec(32, 1.3, "spine"), mean=0.4, std=0.25
)


def images(count: int = 3, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand((count, 1, size, size), generator=torch.Generator().manual_seed(seed))


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
