"""Graphs without weights: ONNX files that lack the tensors of a weights file. No torch, no onnx.

A graph refers to tensors that it does not contain, by their names in a safetensors file; they are
32-bit floats. Together, both make one ONNX model that any runtime accepts. A graph has about ten
thousand bytes, so weights need not be stored twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.common.errors import WeightsError, first_line

# Field numbers of ONNX's protobuf messages (onnx.proto3).
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_FLOAT, _EXTERNAL = 1, 1
_VARINT, _BYTES = 0, 2


def read_tensors(content: bytes, where: str) -> dict[str, Float32Array]:
    """Read the floating-point tensors of a safetensors file by name, as float32.

    Args:
        content: content of the file.
        where: file name for messages.

    Raises:
        WeightsError: the file is damaged, or has a number format that numpy lacks.
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


def with_tensors(
    graph: bytes, tensors: Mapping[str, Float32Array], *, beside: Collection[str] = ()
) -> bytes:
    """Make an ONNX model of a graph and its tensors.

    Two concatenated protobuf messages are read as one, and their lists are merged. So the tensors
    are written after the graph, as a model with nothing else. Runtimes ignore tensors that the
    graph does not name.

    Args:
        graph: the graph.
        tensors: by name.
        beside: names of tensors whose numbers are left out: the model names, as their file, a file
            of the tensor's name.
    """
    parts: list[bytes | memoryview] = []
    for name, array in tensors.items():
        message = _tensor(name, array, beside=name in beside)
        parts += [_start(_GRAPH_INITIALIZER, _size(message)), *message]
    return b"".join([graph, _start(_MODEL_GRAPH, _size(parts)), *parts])  # many MB, copied once


def _tensor(name: str, array: Float32Array, *, beside: bool) -> list[bytes | memoryview]:
    """A tensor's message, in parts."""
    text = name.encode()
    before = [
        *(_varint(_TENSOR_DIMS << 3 | _VARINT) + _varint(side) for side in array.shape),
        _varint(_TENSOR_TYPE << 3 | _VARINT) + _varint(_FLOAT),
        _field(_TENSOR_NAME, text),
    ]
    if beside:
        entry = _field(_ENTRY_KEY, b"location") + _field(_ENTRY_VALUE, text)
        before.append(_field(_TENSOR_EXTERNAL, entry))
        before.append(_varint(_TENSOR_LOCATION << 3 | _VARINT) + _varint(_EXTERNAL))
        return [b"".join(before)]
    raw = as_raw(array)
    return [b"".join([*before, _start(_TENSOR_RAW, raw.nbytes)]), raw]


def as_raw(array: Float32Array) -> memoryview:
    """The numbers of a tensor as ONNX stores them: little-endian, the last axis fastest."""
    return np.ascontiguousarray(array, dtype="<f4").reshape(-1).view(np.uint8).data


def _size(parts: Sequence[bytes | memoryview]) -> int:
    return sum(len(part) if isinstance(part, bytes) else part.nbytes for part in parts)


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes or text."""
    return _start(number, len(content)) + content


def _start(number: int, size: int) -> bytes:
    """Start of a field with this number of bytes."""
    return _varint(number << 3 | _BYTES) + _varint(size)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
