"""Networks as ONNX and TorchScript files: written, and run to compare them with the original."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.networks.runtimes import Session, open_session
from spineline.datasets.networks.tensors import METADATA_KEY

if TYPE_CHECKING:
    import torch

OPSET = 17
"""Operator set of ONNX files, where none is asked for."""


def to_onnx(
    network: torch.nn.Module,
    example: torch.Tensor | tuple[torch.Tensor, ...],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]] | None,
    description: str | None,
    opset: int = OPSET,
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

    Raises:
        ConfigError: the onnx package is not installed.
    """
    import torch

    try:
        import onnx
    except ImportError as error:
        msg = "format=onnx needs the onnx package: pip install 'spineline[export]'"
        raise ConfigError(msg) from error
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode(mode=False), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, but needs no more
        torch.onnx.export(
            network,
            example if isinstance(example, tuple) else (example,),
            buffer,  # type: ignore[arg-type]  # its own text allows a file too
            dynamo=False,
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
