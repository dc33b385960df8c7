"""What runs the networks: torch, or ONNX Runtime or OpenVINO by the graphs of their weights.

Bundled weights have graphs (`spineline.pipeline.inference.graphs`), so that a prediction on the CPU
imports no torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from spineline.classify.combined import (
    Combination,
    CombinedClassifier,
    combination_from_json,
    equal_shares,
)
from spineline.classify.exported import ExportedClassifier, described_classifier
from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.common.devices import check_device
from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.networks import runtimes
from spineline.datasets.networks.graphs import read_tensors, with_tensors
from spineline.datasets.networks.runtimes import PACKAGES, Form, Session, open_session
from spineline.datasets.straighten import STRIP_BOUNDS, StripSpec
from spineline.detect.level_reader.exported import ExportedLevelReader
from spineline.detect.yolo.exported import ExportedDetector
from spineline.pipeline.inference.bundles import ExportedModels, is_exported, read_exported
from spineline.pipeline.inference.decode import DecodeSettings
from spineline.pipeline.inference.graphs import graphs_of
from spineline.weights import Bundle, WeightsFile, graph_paths, read_metadata

if TYPE_CHECKING:
    from spineline.pipeline.inference.settings import ModelSettings

Runtime = Literal["torch", "onnx", "openvino"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)


def chosen_runtime(settings: ModelSettings, bundle: Bundle) -> Runtime:
    """What runs the networks of a bundle.

    By ``runtime=auto`` that is ONNX Runtime where all weights have graphs in the registry and the
    device is the CPU, else torch; for an exported folder, what it was exported for.

    Raises:
        ConfigError: a runtime that does not go with the device, or with an exported folder.
        WeightsError: a graph of the registry is missing or altered.
    """
    wanted = settings.runtime
    if is_exported(settings.weights):
        form = read_exported(settings).form
        if wanted not in ("auto", form):
            msg = f"runtime={wanted}: {settings.weights} is exported for {form}; use runtime=auto"
            raise ConfigError(f"{msg}, or weights that are no export")
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
    return getattr(settings, "threads", None) or runtimes.default_threads() or 1


def load_by_graphs(bundle: Bundle, form: Form, threads: int) -> ExportedModels:
    """Load the networks of a bundle by their graphs.

    Raises:
        ConfigError: a package is missing, or a network has no graph.
        WeightsError: the weights or a graph cannot be used.
    """

    def networks(file: WeightsFile, task: Any) -> tuple[dict[str, Any], list[Session]]:
        metadata, graphs = read_metadata(file.path), graphs_of(file, task)
        tensors = read_tensors(file.path.read_bytes(), str(file.path))
        several = "combined" in metadata
        return metadata, [
            open_session(
                [with_tensors(graph, _of_member(tensors, n) if several else tensors)],
                form,
                str(file.path),
                threads=threads,
            )
            for n, graph in enumerate(graphs)
        ]

    metadata, (session,) = networks(bundle.detector, "detect")
    detector = ExportedDetector(
        session, tuple(metadata["names"]), metadata["imgsz"], metadata["channels"]
    )
    members: list[ExportedClassifier] = []
    combination: Combination | None = None
    for file in bundle.classifiers:
        metadata, sessions = networks(file, "classify")
        described = metadata.get("combined", [metadata])
        pairs = zip(described, sessions, strict=True)
        members += [described_classifier(said, session) for said, session in pairs]
        if "combined" in metadata:
            if len(bundle.classifiers) > 1:
                msg = f"{file.path}: holds several classifiers that answer as one already; name it "
                raise WeightsError(f"{msg}alone, or name the weights of single classifiers")
            heads = [member.head for member in members]
            combination = combination_from_json(metadata["combination"], heads)
    if combination is None and len(members) > 1:
        combination = Combination(equal_shares([member.head for member in members]))
    namer = None
    if bundle.namer is not None:
        metadata, (session,) = networks(bundle.namer, "name")
        strip = StripSpec(**{name: metadata["strip"][name] for name in STRIP_BOUNDS})
        namer = ExportedLevelReader(session, strip)
    classifier = (
        members[0] if combination is None else CombinedClassifier(tuple(members), combination)
    )
    return ExportedModels(detector, classifier, namer, DecodeSettings())


def _of_member(tensors: Mapping[str, Float32Array], number: int) -> dict[str, Float32Array]:
    before = f"member{number}."
    return {name: array for name, array in tensors.items() if name.startswith(before)}
