"""Which runtime runs a bundle: torch, ONNX Runtime or OpenVINO."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Literal, get_args

from spineline.datasets.common.devices import check_device
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.networks.runtimes import PACKAGES, default_threads
from spineline.pipeline.inference.bundles import is_exported, read_exported
from spineline.weights import Bundle, graph_paths

if TYPE_CHECKING:
    from spineline.pipeline.inference.settings import ModelSettings

Runtime = Literal["torch", "onnx", "openvino"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)


def chosen_runtime(settings: ModelSettings, bundle: Bundle) -> Runtime:
    """The runtime for the networks of a bundle.

    With ``runtime=auto``, it is ONNX Runtime if all weights have graphs in the registry and the
    device is the CPU, else torch. For an exported folder, it is the one it was exported for.

    Raises:
        ConfigError: a runtime that does not fit the device, or an exported folder.
        WeightsError: a graph of the registry is missing or altered.
    """
    wanted = settings.runtime
    if is_exported(settings.weights):
        form = read_exported(settings).form
        if wanted not in ("auto", form):
            msg = f"runtime={wanted}: {settings.weights} is exported for {form}; use runtime=auto"
            raise ConfigError(f"{msg}, or weights that are not an export")
        return form
    on_cpu = check_device(settings.device) == "cpu"
    if wanted != "auto":
        if wanted != "torch" and not on_cpu:
            msg = f"runtime={wanted}: runs on the CPU, and device={settings.device} is asked for"
            raise ConfigError(f"{msg}; use runtime=torch, or device=cpu")
        return next(runtime for runtime in RUNTIMES if runtime == wanted)
    if not on_cpu or importlib.util.find_spec(PACKAGES["onnx"]) is None:
        return "torch"
    files = [bundle.detector, *bundle.classifiers, *([bundle.namer] if bundle.namer else [])]
    return "onnx" if all(graph_paths(file) for file in files) else "torch"


def threads_of(settings: ModelSettings) -> int:
    """Threads of each network: the key ``threads``, else ``OMP_NUM_THREADS``, else one."""
    return getattr(settings, "threads", None) or default_threads() or 1
