"""Graphs without weights: ONNX files that lack the tensors of a weights file. No torch, no onnx.

A graph names tensors that it does not hold; they have the names that they have in a safetensors
file, and are 32-bit floats. Put together, both are one ONNX model, as any runtime takes it. A graph
is some ten thousand bytes, so that weights are not stored twice.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.common.errors import WeightsError, first_line

# Fields of ONNX's protobuf messages (onnx.proto3) by number.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_FLOAT = 1
_VARINT, _BYTES = 0, 2


def read_tensors(content: bytes, where: str) -> dict[str, Float32Array]:
    """The floating-point tensors of a safetensors file by name, as float32.

    Args:
        content: of the file.
        where: named in messages.

    Raises:
        WeightsError: damaged, or of a number format that numpy does not have.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found = load(content)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        msg = f"{where}: cannot be read as safetensors ({first_line(error)})"
        raise WeightsError(f"{msg}; fetch or train it again") from error
    return {
        name: np.ascontiguousarray(array, dtype=np.float32)
        for name, array in found.items()
        if array.dtype.kind == "f"
    }


def with_tensors(graph: bytes, tensors: Mapping[str, Float32Array]) -> bytes:
    """An ONNX model: a graph and its tensors.

    Two protobuf messages one after the other are read as one, whose lists hold what both have. So
    the tensors are a model that has nothing else, written behind the graph. Those that the graph
    does not name are left aside by the runtimes.
    """
    parts: list[bytes | memoryview] = []
    for name, array in tensors.items():
        before, raw = _tensor(name, array)
        parts += [_start(_GRAPH_INITIALIZER, len(before) + raw.nbytes), before, raw]
    size = sum(len(part) if isinstance(part, bytes) else part.nbytes for part in parts)
    return b"".join([graph, _start(_MODEL_GRAPH, size), *parts])  # many MB, copied once


def _tensor(name: str, array: Float32Array) -> tuple[bytes, memoryview]:
    """A tensor's message: all of it up to its numbers, and those."""
    text, raw = name.encode(), np.ascontiguousarray(array, dtype="<f4")
    before = [
        *(_varint(_TENSOR_DIMS << 3 | _VARINT) + _varint(side) for side in array.shape),
        _varint(_TENSOR_TYPE << 3 | _VARINT) + _varint(_FLOAT),
        _start(_TENSOR_NAME, len(text)) + text,
        _start(_TENSOR_RAW, raw.nbytes),
    ]
    return b"".join(before), raw.reshape(-1).view(np.uint8).data


def _start(number: int, size: int) -> bytes:
    """What stands before so many bytes of a field."""
    return _varint(number << 3 | _BYTES) + _varint(size)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
