"""A level reader as ONNX or TorchScript: (1, 1, rows, columns) in, logits (1, 13, ranks) out."""

from __future__ import annotations

import io
import warnings
from copy import deepcopy

import torch

from spineline.datasets.labels import LEVELS
from spineline.detect.level_reader.model import TorchLevelReader

OPSET = 17


def onnx_bytes(reader: TorchLevelReader) -> bytes:
    """The network as ONNX, for any number of ranks."""
    network, example = deepcopy(reader.network).cpu().eval(), _example(reader)
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, but needs no more
        torch.onnx.export(
            network,
            (example,),
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=["strips"],
            output_names=["logits"],
            dynamic_axes={"strips": {2: "rows"}, "logits": {2: "ranks"}},
        )
    return buffer.getvalue()


def torchscript_bytes(reader: TorchLevelReader) -> bytes:
    """The network as TorchScript, for any number of ranks."""
    network, example = deepcopy(reader.network).cpu().eval(), _example(reader)
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but what runs without Python
        torch.jit.save(torch.jit.trace(network, (example,)), buffer)
    return buffer.getvalue()


def _example(reader: TorchLevelReader) -> torch.Tensor:
    strip = reader.strip
    ranks = strip.above + len(LEVELS) + strip.below
    return torch.zeros(1, 1, ranks * strip.rank_px, 2 * strip.half_width * strip.rank_px)
