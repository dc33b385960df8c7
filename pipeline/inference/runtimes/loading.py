"""Networks loaded by their graphs, for ONNX Runtime or OpenVINO to run; no torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spineline.classify.combined import (
    Combination,
    CombinedClassifier,
    combination_from_json,
    equal_shares,
)
from spineline.classify.exported import ExportedClassifier, described_classifier
from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.common.errors import WeightsError
from spineline.datasets.networks.graphs import read_tensors, with_tensors
from spineline.datasets.networks.runtimes import Form, Session, open_session
from spineline.datasets.straighten import STRIP_BOUNDS, StripSpec
from spineline.detect.level_reader.exported import ExportedLevelReader
from spineline.detect.yolo.exported import ExportedDetector
from spineline.pipeline.inference.bundles import ExportedModels
from spineline.pipeline.inference.decode import DecodeSettings
from spineline.pipeline.inference.runtimes.graphs import graphs_of
from spineline.weights import Bundle, WeightsFile, read_metadata


def load_by_graphs(bundle: Bundle, form: Form, threads: int) -> ExportedModels:
    """Load the networks of a bundle by their graphs.

    Raises:
        ConfigError: a package is missing, or a network has no graph.
        WeightsError: the weights or a graph cannot be used.
    """

    def networks(file: WeightsFile, task: Any) -> tuple[dict[str, Any], list[Session]]:
        graphs = graphs_of(file, task)
        metadata = read_metadata(file.path)
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
