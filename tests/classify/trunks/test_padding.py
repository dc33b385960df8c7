"""Convolutions of a fixed input size: timm's own numbers, and one node each in ONNX."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import nn

from spineline.classify.trunks.padding import FixedPaddingConv, fix_padding


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "size"),
    [
        (3, 2, 1, (16, 16)),
        (5, 2, 1, (8, 11)),
        (3, 1, 2, (9, 9)),
        (2, 3, 1, (7, 8)),
        (1, 2, 1, (6, 6)),
    ],
    ids=str,
)
@pytest.mark.parametrize("bias", [True, False])
def test_the_numbers_are_those_of_timm(
    kernel: int, stride: int, dilation: int, size: tuple[int, int], bias: bool
) -> None:
    own = Conv2dSame(4, 6, kernel, stride=stride, dilation=dilation, bias=bias, groups=2)
    fixed = nn.Sequential(copy.deepcopy(own))
    images = torch.rand((2, 4, *size), generator=torch.manual_seed(0))
    found = fix_padding(fixed, images)
    assert type(fixed[0]) is FixedPaddingConv
    torch.testing.assert_close(found, own(images), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fixed(images), own(images), rtol=1e-5, atol=1e-6)
    fixed(images).square().sum().backward()
    own(images).square().sum().backward()
    torch.testing.assert_close(fixed[0].weight.grad, own.weight.grad, rtol=1e-5, atol=1e-6)


def test_a_network_becomes_convolutions_without_steps_of_padding() -> None:
    import onnx
    import onnxruntime

    trunk = timm.create_model("tf_efficientnet_lite0", num_classes=0, in_chans=1).eval()
    state = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    images = torch.rand((2, 1, 64, 64), generator=torch.manual_seed(0))
    with torch.no_grad():
        wanted = trunk(images)
    torch.testing.assert_close(fix_padding(trunk, images), wanted, rtol=1e-5, atol=1e-6)
    assert list(trunk.state_dict()) == list(state)
    file = io.BytesIO()
    axes = {"images": {0: "count"}}
    torch.onnx.export(
        trunk, (images,), file, input_names=["images"], dynamic_axes=axes, dynamo=False
    )
    kinds = {node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node}
    assert "Conv" in kinds
    assert not kinds & {"Pad", "Shape", "ConstantOfShape"}
    session = onnxruntime.InferenceSession(file.getvalue())
    for count in (1, 2):
        found = session.run(None, {"images": images[:count].numpy()})[0]
        np.testing.assert_allclose(found, wanted[:count].numpy(), rtol=1e-4, atol=1e-5)
