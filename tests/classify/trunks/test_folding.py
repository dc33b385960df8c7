"""Folded batch norms and matrix products give what the network gave before."""

from __future__ import annotations

import copy
import io

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d

from spineline.classify.trunks.folding import PixelConv, fold_norms, multiply_pixels


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
