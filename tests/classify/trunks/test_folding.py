"""Folded batch norms give what the network gave before."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d

from spineline.classify.trunks.folding import fold_norms


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
