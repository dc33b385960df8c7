"""Backbones by name: torchvision's against torchvision, timm's against timm."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import torch

from spineline.datasets.common.errors import ConfigError
from spineline.detect.architectures import FASTERRCNN_BACKBONES
from spineline.detect.fasterrcnn.backbones import (
    build_backbone,
    check_backbone,
    check_network,
    make_anchors,
    timm_name,
)


@pytest.mark.parametrize(
    ("name", "channels", "strides"),
    [
        ("test_resnet", 1, [4, 8, 16, 32, 64]),
        ("test_convnext", 3, [4, 8, 16, 32, 64]),
        pytest.param("mambaout_femto", 1, [4, 8, 16, 32, 64], marks=pytest.mark.slow),
        pytest.param("timm/resnet18", 3, [4, 8, 16, 32, 64], marks=pytest.mark.slow),
        pytest.param("swin_tiny_patch4_window7_224", 1, [4, 8, 16, 32, 64], marks=pytest.mark.slow),
        pytest.param("hrnet_w18_small", 1, [4, 8, 16, 32, 64], marks=pytest.mark.slow),
        pytest.param("legacy_xception", 3, [4, 8, 16, 32, 64], marks=pytest.mark.slow),
        ("mobilenet_v3_small", 1, [32, 32, 64]),
        pytest.param("mobilenet_v2", 3, [32, 32, 64], marks=pytest.mark.slow),
    ],
)
def test_a_pyramid_of_each(
    name: str, channels: int, strides: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", None)  # nothing is downloaded
    check_network(name, channels)
    backbone: Any = build_backbone(name, channels).eval()
    with torch.no_grad():
        levels = backbone(torch.rand(2, channels, 64, 128))
    assert list(levels) == [*(str(n) for n in range(len(strides) - 1)), "pool"]
    for stride, level in zip(strides, levels.values(), strict=True):
        assert level.shape[:2] == (2, 256)
        assert abs(level.shape[2] - 64 / stride) <= 2
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    anchors: Any = make_anchors(backbone)
    if len(strides) == 5:
        assert anchors is None
    else:
        assert anchors.num_anchors_per_location() == [15] * len(strides)


@pytest.mark.slow
def test_feature_maps_are_timms() -> None:
    import timm

    backbone: Any = build_backbone("mambaout_femto", 1).eval()
    alone: Any = timm.create_model("mambaout_femto", features_only=True, in_chans=1).eval()
    alone.load_state_dict(backbone.body.features.state_dict())
    image = torch.rand(1, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for found, wanted in zip(backbone.body(image).values(), alone(image), strict=True):
            assert torch.equal(found, wanted.permute(0, 3, 1, 2))


def test_names_that_both_have_are_torchvisions() -> None:
    assert timm_name("resnet50") is None
    assert timm_name("timm/resnet50") == "resnet50"
    names = {type(build_backbone(n, 3)).__module__ for n in ("resnet18", "timm/resnet18")}
    assert names == {
        "torchvision.models.detection.backbone_utils",
        "spineline.detect.fasterrcnn.backbones",
    }


@pytest.mark.parametrize("name", FASTERRCNN_BACKBONES)
def test_every_name_of_torchvision_can_be_built(name: str) -> None:
    check_backbone(name)
    with torch.device("meta"):
        assert len(build_backbone(name, 1).fpn.inner_blocks) in (2, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_50", "no such backbone; did you mean 'resnet50'"),
        ("convnext_tinny", "did you mean 'convnext_tiny'"),
        ("resnet18.a1_in1k", "did you mean 'resnet18'"),
        ("hf-hub:timm/resnet18", "no such backbone"),
        ("hf_hub:timm/resnet18", "no such backbone"),
        ("local-dir:/tmp", "no such backbone"),
        ("timm/timm/resnet18", "no such backbone"),
        ("../resnet18", "no such backbone"),
        ("qqqqqq" * 50, "no such backbone; allowed: resnet18, .* such as convnext_tiny"),
        ("", "no such backbone"),
        ("vit_tiny_patch16_224", "stages of stride 16, 16, 16; a pyramid wants two or more"),
        ("coatnet_nano_rw_224", "does not take images of any size"),
    ],
)
def test_names_that_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_network(name, 1)
    assert len(str(caught.value)) < 600


def test_a_model_without_features_is_refused() -> None:
    import timm
    from timm.models import _registry as registry
    from timm.models import register_model

    def plain_for_spineline(pretrained: bool = False, **options: Any) -> torch.nn.Module:
        raise RuntimeError("features_only not implemented for this model.")

    plain_for_spineline.__module__ = "timm.models.resnet"
    register_model(plain_for_spineline)
    try:
        assert timm.is_model("plain_for_spineline")
        with pytest.raises(ConfigError, match=r"no feature extractor of it \(features_only not"):
            check_network("plain_for_spineline", 3)
    finally:
        registry._model_entrypoints.pop("plain_for_spineline")
