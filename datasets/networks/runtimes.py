"""Exported networks behind one small interface, without torch: by ONNX Runtime or OpenVINO.

Both kinds of files are graphs of known operations, not programs.

Networks run on the CPU, in 32 bits. Unless a number of threads is given, ``OMP_NUM_THREADS`` sets
it, or else the runtime.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.common.errors import ConfigError, WeightsError, first_line
from spineline.datasets.networks.graphs import as_raw, with_tensors

Form = Literal["onnx", "openvino"]
FORMS: tuple[Form, ...] = get_args(Form)

SUFFIXES: dict[Form, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "openvino": (".xml", ".bin"),
}
"""Suffixes of the files of one network; OpenVINO has separate files for graph and weights."""

PACKAGES: dict[Form, str] = {"onnx": "onnxruntime", "openvino": "openvino"}
"""Package that runs each form."""

Session = Callable[..., list[Float32Array]]
"""A network: maps a float32 array for each input to its float32 outputs, in order."""

_FROM_MEMORY = "add_external_initializers_from_files_in_memory"
_LARGE = 1024  # bytes; smaller tensors are part of the model

_INSTALL = {
    "onnxruntime": "pip install onnxruntime",
    "openvino": "pip install 'spineline[openvino]', or pip install openvino",
}


def open_session(
    contents: Sequence[bytes],
    form: Form,
    where: str,
    *,
    threads: int | None = None,
    tensors: Mapping[str, Float32Array] | None = None,
) -> Session:
    """Open a network from the content of its files.

    Args:
        contents: content of the files, in the order of `SUFFIXES`; OpenVINO accepts ONNX too.
        form: form of the files.
        where: name of the network for messages.
        threads: number of threads. With one thread, a network of ONNX Runtime starts no threads of
            its own, and works in a fork of this process.
        tensors: of a graph without them, see [spineline.datasets.networks.graphs][]; the only
            content is then the graph.

    Raises:
        ConfigError: the runtime is not installed.
        WeightsError: the runtime does not accept the files.
    """
    opening = {"onnx": _onnx, "openvino": _openvino}[form]
    package = PACKAGES[form]
    runtime = import_runtime(package)
    try:
        count = default_threads() if threads is None else threads
        run = opening(runtime, contents, count, tensors)
    except Exception as error:  # the runtimes have errors of many kinds
        msg = f"{where}: {package} cannot load it ({first_line(error)}); export it again"
        raise WeightsError(msg) from error
    return _guarded(run, where)


def import_runtime(package: str) -> Any:
    """Import ``onnxruntime`` or ``openvino`` with telemetry switched off.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        if package == "openvino":
            return _import_openvino()
        runtime = importlib.import_module(package)
    except ModuleNotFoundError as error:
        msg = f"{error.name} is not installed, and this format needs it: {_INSTALL[package]}"
        raise ConfigError(msg) from error
    runtime.disable_telemetry_events()
    return runtime


def _import_openvino() -> Any:
    """Import openvino without its telemetry package, through which the import reports itself."""
    hidden = "openvino_telemetry"
    if "openvino" in sys.modules or hidden in sys.modules:
        return importlib.import_module("openvino")
    modules: dict[str, Any] = sys.modules
    modules[hidden] = None  # makes import treat it as not installed
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[hidden]


def default_threads() -> int:
    """Return ``OMP_NUM_THREADS``, else 0, which leaves the number of threads to the runtime.

    >>> default_threads() >= 0
    True
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isascii() and given.isdigit() else 0


def _onnx(
    runtime: Any,
    contents: Sequence[bytes],
    threads: int,
    tensors: Mapping[str, Float32Array] | None,
) -> Session:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only; its warnings do not concern the user
    content, large = contents[0], {}
    if tensors is not None:
        if hasattr(options, _FROM_MEMORY):  # onnxruntime 1.24: a copy less of many MB
            large = {n: as_raw(t) for n, t in tensors.items() if t.nbytes >= _LARGE}
            getattr(options, _FROM_MEMORY)(
                list(large), list(large.values()), [raw.nbytes for raw in large.values()]
            )
        content = with_tensors(content, tensors, beside=large)
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return lambda *arrays: list(session.run(None, dict(zip(names, arrays, strict=True))))


def _openvino(
    runtime: Any,
    contents: Sequence[bytes],
    threads: int,
    tensors: Mapping[str, Float32Array] | None,
) -> Session:
    core = runtime.Core()
    whole = contents if tensors is None else [with_tensors(contents[0], tensors)]
    model = core.read_model(*whole)
    keys: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        keys["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(model, "CPU", keys)
    request, outputs = compiled.create_infer_request(), compiled.outputs

    def run(*arrays: Float32Array) -> list[Float32Array]:
        found = request.infer(list(arrays))
        return [np.array(found[output], dtype=np.float32) for output in outputs]

    return run


def _guarded(run: Session, where: str) -> Session:
    """The same, with every error as a one-line RuntimeError, as torch's networks raise."""

    def guarded(*arrays: Float32Array) -> list[Float32Array]:
        try:
            return run(*(np.ascontiguousarray(array) for array in arrays))
        except Exception as error:  # the runtimes have errors of many kinds
            shapes = ", ".join(str(array.shape) for array in arrays)
            msg = f"{where}: fails on an input of shape {shapes} ({first_line(error)})"
            raise RuntimeError(msg) from error

    return guarded


def check_output_shape(found: Float32Array, shape: tuple[int | None, ...], where: str) -> None:
    """Refuse an output whose shape differs from the expected one, where None is any length.

    Raises:
        WeightsError: the shape differs, or numbers are not finite.
    """
    fits = len(found.shape) == len(shape) and all(
        wanted is None or length == wanted
        for length, wanted in zip(found.shape, shape, strict=True)
    )
    if not fits:
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        msg = f"{where}: gives an output of shape {found.shape}, wanted {wanted}; export it again"
        raise WeightsError(msg)
    if not np.isfinite(found).all():
        raise WeightsError(f"{where}: gives numbers that are not finite; export it again")
