"""Networks as ONNX and TorchScript files: written, and run to compare them with the original."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.networks.graphs import read_tensors, with_tensors
from spineline.datasets.networks.runtimes import Session, open_session
from spineline.datasets.networks.tensors import METADATA_KEY

if TYPE_CHECKING:
    import torch

OPSET = 17
"""Operator set of ONNX files, where none is asked for."""

GRAPH_TOLERANCE = 1e-4
"""How far a graph's numbers may be off the network's, by the largest of them and 1."""


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
    """A network as ONNX.

    Args:
        network: in evaluation mode, on the CPU.
        example: an input to trace it with, or one for each of its inputs.
        inputs: names of its inputs.
        outputs: names of its outputs.
        axes: those whose length is free, by input or output, with a name each.
        description: text in the file's metadata, or None for none.
        opset: operator set.
        fold: compute what depends on no input; else every tensor stays as the network has it.

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
            buffer,  # type: ignore[arg-type]  # its own text allows a file too
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
    """The graph of an ONNX model, without the tensors that a weights file has.

    Args:
        network: what the model was written from.
        content: the ONNX model, its tensors not folded.
        weights: the safetensors file.
        name_of: from a tensor's name in the model to that in the file. A tensor that is not in the
            file, or is another one there, stays in the graph.
        inputs: of other sizes than those that the model was traced with, to compare both.

    Raises:
        ConfigError: the onnx package or ONNX Runtime is not installed.
        SpinelineError: graph and tensors give other numbers than the network.
    """
    import torch

    tensors = read_tensors(weights.read_bytes(), str(weights))
    graph = _without_tensors(content, tensors, name_of)
    run = open_session([with_tensors(graph, tensors)], "onnx", str(weights))
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
    for node in list(model.graph.node):  # the exporter keeps one of tensors that are the same
        if node.op_type == "Identity" and node.input[0] in names:
            names[node.output[0]] = names[node.input[0]]
            model.graph.node.remove(node)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
    graph: bytes = model.SerializeToString(deterministic=True)
    return graph


def random_input(*shape: int, largest: float = 1.0) -> torch.Tensor:
    """Float32 numbers from 0 to the largest, the same each time."""
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
    """A network as TorchScript.

    Args:
        network: in evaluation mode, on the CPU; scripted already where there is no example.
        example: an input to trace it with.
        description: text beside the program, or None for none.
        strict: of tracing; outputs of mutable containers want False.
    """
    import torch

    buffer = io.BytesIO()
    extra: Any = {} if description is None else {METADATA_KEY: description}
    with warnings.catch_warnings(), torch.inference_mode(mode=False), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecated, but what runs without Python
        program: Any = network
        if example is not None:
            inputs = example if isinstance(example, tuple) else (example,)
            program = torch.jit.trace(network, inputs, strict=strict)
        torch.jit.save(program, buffer, _extra_files=extra)
    return buffer.getvalue()


def open_exported(content: bytes, form: str, where: str) -> Session:
    """What runs one exported network on the CPU, to compare it with the original.

    Args:
        content: of the file.
        form: ``onnx`` or ``torchscript``.
        where: the file's name, for error messages.

    Raises:
        ConfigError: the runtime is not installed.
        WeightsError: the runtime does not take the file.
    """
    if form == "onnx":
        return open_session([content], "onnx", where)
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but what runs without Python
        program: Any = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()

    def run(*arrays: Float32Array) -> list[Float32Array]:
        # Its optimiser would begin anew with every size of image.
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            found = program(*map(torch.from_numpy, arrays))
        outputs = found if isinstance(found, tuple | list) else (found,)
        return [np.asarray(output.numpy(), dtype=np.float32) for output in outputs]

    return run
