"""Exported networks behind one small interface, without torch: by ONNX Runtime or OpenVINO.

Both kinds of files are graphs of known operations, and no programs.

Networks run on the CPU, in 32 bits. Without a number of threads given they have as many as
``OMP_NUM_THREADS`` says, else as the runtime likes.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.common.errors import ConfigError, WeightsError, first_line

Form = Literal["onnx", "openvino"]
FORMS: tuple[Form, ...] = get_args(Form)

SUFFIXES: dict[Form, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "openvino": (".xml", ".bin"),
}
"""The files of one network; OpenVINO has its graph and its weights apart."""

PACKAGES: dict[Form, str] = {"onnx": "onnxruntime", "openvino": "openvino"}
"""What runs each."""

Session = Callable[..., list[Float32Array]]
"""A network: a float32 array for each of its inputs, to its float32 outputs in their order."""

_INSTALL = {
    "onnxruntime": "pip install onnxruntime",
    "openvino": "pip install 'spineline[openvino]', or pip install openvino",
}


def open_session(
    contents: Sequence[bytes], form: Form, where: str, *, threads: int | None = None
) -> Session:
    """A network from the bytes of its files.

    Args:
        contents: of the files, in the order of `SUFFIXES`; OpenVINO takes one of ONNX, too.
        form: what they are.
        where: names the network in messages.
        threads: that it computes with. A network of ONNX Runtime with one thread has no threads of
            its own, and works in a fork of this process.

    Raises:
        ConfigError: the runtime is not installed.
        WeightsError: the runtime does not take the files.
    """
    opening = {"onnx": _onnx, "openvino": _openvino}[form]
    package = PACKAGES[form]
    runtime = import_runtime(package)
    try:
        run = opening(runtime, contents, default_threads() if threads is None else threads)
    except Exception as error:  # the runtimes have errors of many kinds
        msg = f"{where}: {package} cannot load it ({first_line(error)}); export it again"
        raise WeightsError(msg) from error
    return _guarded(run, where)


def import_runtime(package: str) -> Any:
    """``onnxruntime`` or ``openvino``, with reports to their makers switched off.

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
    """Its import reports itself over the network unless the reporting package is not there."""
    hidden = "openvino_telemetry"
    if "openvino" in sys.modules or hidden in sys.modules:
        return importlib.import_module("openvino")
    modules: dict[str, Any] = sys.modules
    modules[hidden] = None  # which import takes for "not installed"
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[hidden]


def default_threads() -> int:
    """Threads of a network: ``OMP_NUM_THREADS``, else 0, which leaves it to the runtime.

    >>> default_threads() >= 0
    True
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isascii() and given.isdigit() else 0


def _onnx(runtime: Any, contents: Sequence[bytes], threads: int) -> Session:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; what it warns of is no matter of the user's
    session = runtime.InferenceSession(contents[0], options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return lambda *arrays: list(session.run(None, dict(zip(names, arrays, strict=True))))


def _openvino(runtime: Any, contents: Sequence[bytes], threads: int) -> Session:
    core = runtime.Core()
    model = core.read_model(*contents)
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
    """The same, with every error a RuntimeError of one line, as torch's networks raise."""

    def guarded(*arrays: Float32Array) -> list[Float32Array]:
        try:
            return run(*(np.ascontiguousarray(array) for array in arrays))
        except Exception as error:  # the runtimes have errors of many kinds
            shapes = ", ".join(str(array.shape) for array in arrays)
            msg = f"{where}: fails on an input of shape {shapes} ({first_line(error)})"
            raise RuntimeError(msg) from error

    return guarded


def check_output_shape(found: Float32Array, shape: tuple[int | None, ...], where: str) -> None:
    """Refuse an output of another shape than a bundle says, None standing for any length.

    Raises:
        WeightsError: another shape, or numbers that are not finite.
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
