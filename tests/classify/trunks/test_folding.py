"""Folded batch norms and matrix products give what the network gave before."""

from __future__ import annotations

import copy
import io

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d

from spineline.classify.trunks.blocks import freeze
from spineline.classify.trunks.folding import (
    NormedConv,
    PixelConv,
    fold_frozen_norms,
    fold_norms,
    multiply_pixels,
)
from spineline.classify.trunks.padding import fix_padding


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv2_050"])
def test_the_output_stays(name: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name, in_chans=1, num_classes=0)
    network(torch.rand(4, 1, 64, 64))  # moves the running statistics off 0 and 1
    network.eval()
    folded = copy.deepcopy(network)
    fold_norms(folded)
    assert not any(isinstance(each, BatchNormAct2d) for each in folded.modules())
    images = torch.rand(3, 1, 64, 64)
    with torch.inference_mode():
        wanted = network(images)
        torch.testing.assert_close(
            folded(images), wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max()
        )


def test_a_network_that_learns_is_left_alone() -> None:
    network = timm.create_model("mobilenetv2_050", in_chans=1, num_classes=0)
    fold_norms(network)
    assert any(isinstance(each, BatchNormAct2d) for each in network.modules())


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("tf_efficientnet_lite0", 0),
        pytest.param("tf_efficientnet_lite0", 4, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 0, marks=pytest.mark.slow),
        ("efficientnet_b0", 4),
    ],
)
def test_frozen_norms_are_folded_in_training(name: str, blocks: int) -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 1, 64, 64).contiguous(memory_format=torch.channels_last)
    plain = timm.create_model(name, in_chans=1, num_classes=0, drop_path_rate=0.0).double()
    plain(images.double())
    fix_padding(plain.eval(), images.double())
    folded = copy.deepcopy(plain).float()
    freeze(plain, blocks, norm=True, name=name)
    freeze(folded, blocks, norm=True, name=name)
    fold_frozen_norms(folded)
    assert sum(isinstance(each, NormedConv) for each in folded.modules()) > 40
    assert folded.state_dict().keys() == plain.state_dict().keys()
    wanted, found = plain(images.double()), folded(images)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)
    wanted.square().sum().backward()
    found.square().sum().backward()
    for (key, theirs), mine in zip(plain.named_parameters(), folded.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), key
        if mine.grad is not None:
            scale = theirs.grad.abs().max()
            torch.testing.assert_close(mine.grad.double() / scale, theirs.grad / scale,
                                       rtol=0, atol=2e-4, msg=key)  # fmt: skip


def test_norms_that_learn_are_not_folded() -> None:
    network = timm.create_model("mobilenetv2_050", in_chans=1, num_classes=0)
    freeze(network, 1, norm=False, name="mobilenetv2_050")
    fold_frozen_norms(network)
    folded = [key for key, each in network.named_modules() if isinstance(each, NormedConv)]
    assert folded == ["conv_stem", "blocks.0.0.conv_dw", "blocks.0.0.conv_pw"]


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "efficientnet_b0"])
def test_products_of_pixels_are_their_convolutions(name: str, order: torch.memory_format) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name, in_chans=1, num_classes=0).eval().to(memory_format=order)
    images = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        wanted = network(images)
        multiply_pixels(network)
        found = network(images)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max())
    assert sum(isinstance(each, PixelConv) for each in network.modules()) > 20


def test_in_onnx_they_are_convolutions() -> None:
    import onnx

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 4, 1, groups=2))
    multiply_pixels(network)
    assert [type(each) for each in network] == [PixelConv, torch.nn.Conv2d]
    file = io.BytesIO()
    torch.onnx.export(network, (torch.rand(1, 3, 5, 5),), file, dynamo=False)
    found = onnx.load_from_string(file.getvalue())
    assert [node.op_type for node in found.graph.node] == ["Conv", "Conv"]
