"""Networks as ONNX and TorchScript: writing them, and running them to compare the outputs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.networks.graphs import read_tensors
from spineline.datasets.networks.runtimes import Session, open_session
from spineline.datasets.networks.tensors import METADATA_KEY

if TYPE_CHECKING:
    import torch

OPSET = 17
"""Default operator set of ONNX files."""

GRAPH_TOLERANCE = 1e-4
"""Largest error of a graph's numbers, relative to the largest of the network's and 1."""


def to_onnx(
    network: torch.nn.Module,
    example: torch.Tensor | tuple[torch.Tensor, ...],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]] | None,
    description: str | None,
    opset: int = OPSET,
    fold: bool = True,
) -> bytes:
    """Export a network as ONNX.

    Args:
        network: a network in evaluation mode, on the CPU.
        example: an input for tracing, or one for each of its inputs.
        inputs: names of its inputs.
        outputs: names of its outputs.
        axes: name of each axis with free length, by input or output.
        description: text in the file's metadata, or None.
        opset: operator set version.
        fold: precompute what depends on no input; else every tensor stays as in the network.

    Raises:
        ConfigError: the onnx package is not installed.
    """
    import torch

    onnx = _import_onnx()
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode(mode=False), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, but needs no more
        torch.onnx.export(
            network,
            example if isinstance(example, tuple) else (example,),
            buffer,  # type: ignore[arg-type]  # its documentation allows a file too
            dynamo=False,
            do_constant_folding=fold,
            opset_version=opset,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=None if axes is None else {name: dict(of) for name, of in axes.items()},
        )
    if description is None:
        return buffer.getvalue()
    model = onnx.load_from_string(buffer.getvalue())
    onnx.checker.check_model(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, description
    content: bytes = model.SerializeToString()
    return content


def to_graph(
    network: torch.nn.Module,
    content: bytes,
    weights: Path,
    name_of: Callable[[str], str],
    inputs: Sequence[torch.Tensor],
) -> bytes:
    """Make the graph of an ONNX model, without the tensors of a weights file.

    Args:
        network: the network of the model.
        content: the ONNX model, with tensors that are not folded.
        weights: the safetensors file.
        name_of: maps a tensor's name in the model to that in the file. A tensor that is missing or
            different in the file stays in the graph.
        inputs: inputs for comparing both, of other sizes than those of the tracing.

    Raises:
        ConfigError: the onnx package or ONNX Runtime is not installed.
        SpinelineError: graph and tensors give other numbers than the network.
    """
    import torch

    tensors = read_tensors(weights.read_bytes(), str(weights))
    graph = _without_tensors(content, tensors, name_of)
    run = open_session([graph], "onnx", str(weights), tensors=tensors)
    with torch.inference_mode():
        found = network(*inputs)
    wanted = found if isinstance(found, tuple | list) else (found,)
    for mine, other in zip(wanted, run(*(each.numpy() for each in inputs)), strict=True):
        scale = max(1.0, float(mine.abs().max()))
        if not np.abs(mine.numpy() - other).max() <= GRAPH_TOLERANCE * scale:
            raise SpinelineError(
                f"{weights}: its graph gives different numbers; it was not written"
            )
    return graph


def _without_tensors(
    content: bytes, stored: Mapping[str, Float32Array], name_of: Callable[[str], str]
) -> bytes:
    onnx = _import_onnx()
    model = onnx.load_from_string(content)
    names: dict[str, str] = {}
    for tensor in list(model.graph.initializer):
        name = name_of(tensor.name)
        if name in stored and np.array_equal(onnx.numpy_helper.to_array(tensor), stored[name]):
            names[tensor.name] = name
            model.graph.initializer.remove(tensor)
    for node in list(model.graph.node):  # the exporter keeps only one of equal tensors
        if node.op_type == "Identity" and node.input[0] in names:
            names[node.output[0]] = names[node.input[0]]
            model.graph.node.remove(node)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
    graph: bytes = model.SerializeToString(deterministic=True)
    return graph


def random_input(*shape: int, largest: float = 1.0) -> torch.Tensor:
    """Return float32 numbers from 0 to the largest, the same each time."""
    import torch

    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.random(shape, dtype=np.float32) * np.float32(largest))


def _import_onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        msg = "writing ONNX needs the onnx package: pip install 'spineline[export]'"
        raise ConfigError(msg) from error
    return onnx


def to_torchscript(
    network: torch.nn.Module,
    example: torch.Tensor | tuple[torch.Tensor, ...] | None,
    *,
    description: str | None,
    strict: bool = True,
) -> bytes:
    """Export a network as TorchScript.

    Args:
        network: a network in evaluation mode, on the CPU; already scripted if there is no example.
        example: an input for tracing.
        description: text beside the program, or None.
        strict: strict tracing; mutable containers as outputs need False.
    """
    import torch

    buffer = io.BytesIO()
    extra: Any = {} if description is None else {METADATA_KEY: description}
    with warnings.catch_warnings(), torch.inference_mode(mode=False), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecated, but it runs without Python
        program: Any = network
        if example is not None:
            inputs = example if isinstance(example, tuple) else (example,)
            program = torch.jit.trace(network, inputs, strict=strict)
        torch.jit.save(program, buffer, _extra_files=extra)
    return buffer.getvalue()


def open_exported(content: bytes, form: str, where: str) -> Session:
    """Load an exported network on the CPU, to compare it with the original.

    Args:
        content: content of the file.
        form: ``onnx`` or ``torchscript``.
        where: the file's name, for error messages.

    Raises:
        ConfigError: the runtime is not installed.
        WeightsError: the runtime does not accept the file.
    """
    if form == "onnx":
        return open_session([content], "onnx", where)
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but it runs without Python
        program: Any = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()

    def run(*arrays: Float32Array) -> list[Float32Array]:
        # Its optimiser would start anew with every image size.
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            found = program(*map(torch.from_numpy, arrays))
        outputs = found if isinstance(found, tuple | list) else (found,)
        return [np.asarray(output.numpy(), dtype=np.float32) for output in outputs]

    return run
