"""Networks loaded by their graphs, for ONNX Runtime or OpenVINO, without importing torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spineline.classify.combined import (
    Combination,
    CombinedClassifier,
    combination_from_json,
    equal_shares,
)
from spineline.classify.exported import (
    ExportedClassifier,
    ExportedGroup,
    described_classifier,
    groups_alike,
)
from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.common.errors import WeightsError
from spineline.datasets.networks.graphs import read_tensors
from spineline.datasets.networks.runtimes import Form, Session, open_session
from spineline.datasets.straighten import STRIP_BOUNDS, StripSpec
from spineline.detect.level_reader.exported import ExportedLevelReader
from spineline.detect.yolo.exported import ExportedDetector
from spineline.pipeline.inference.bundles import ExportedModels
from spineline.pipeline.inference.decode import DecodeSettings
from spineline.pipeline.inference.runtimes.graphs import graphs_of
from spineline.weights import Bundle, Task, WeightsFile, read_metadata


@dataclass(frozen=True, slots=True)
class _Runner:
    """Opens the networks of weights files."""

    form: Form
    threads: int

    def sessions(self, file: WeightsFile, task: Task) -> tuple[dict[str, Any], list[Session]]:
        """The metadata of a weights file, and its networks."""
        graphs = graphs_of(file, task)
        metadata = read_metadata(file.path)
        tensors = read_tensors(file.path.read_bytes(), str(file.path))
        parts = [tensors]
        if "combined" in metadata:
            parts = [_of_members(tensors, group) for group in groups_alike(metadata["combined"])]
        where = str(file.path)
        return metadata, [
            open_session([graph], self.form, where, threads=self.threads, tensors=part)
            for graph, part in zip(graphs, parts, strict=True)
        ]


def load_by_graphs(bundle: Bundle, form: Form, threads: int) -> ExportedModels:
    """Load the networks of a bundle by their graphs.

    Raises:
        ConfigError: a package is missing, or a network has no graph.
        WeightsError: the weights or a graph cannot be used.
    """
    runner = _Runner(form, threads)
    said, (session,) = runner.sessions(bundle.detector, "detect")
    detector = ExportedDetector(session, tuple(said["names"]), said["imgsz"], said["channels"])
    namer = None
    if bundle.namer is not None:
        said, (session,) = runner.sessions(bundle.namer, "name")
        strip = StripSpec(**{name: said["strip"][name] for name in STRIP_BOUNDS})
        namer = ExportedLevelReader(session, strip)
    loaded = [_classifier(runner, file) for file in bundle.classifiers]
    if len(loaded) == 1:
        return ExportedModels(detector, loaded[0], namer, DecodeSettings())
    members: list[ExportedClassifier] = []
    for each, file in zip(loaded, bundle.classifiers, strict=True):
        if isinstance(each, CombinedClassifier):
            msg = f"{file.path}: already holds several combined classifiers; give only this file, "
            raise WeightsError(f"{msg}or the weights of single classifiers")
        members.append(each)
    combination = Combination(equal_shares([member.head for member in members]))
    combined = CombinedClassifier(tuple(members), combination)
    return ExportedModels(detector, combined, namer, DecodeSettings())


def _classifier(runner: _Runner, file: WeightsFile) -> ExportedClassifier | CombinedClassifier:
    """The classifier of a weights file, or its combined classifiers."""
    said, sessions = runner.sessions(file, "classify")
    if "combined" not in said:
        return described_classifier(said, sessions[0])
    described = said["combined"]
    groups: list[tuple[tuple[int, ...], ExportedGroup]] = []
    members: dict[int, ExportedClassifier] = {}
    for numbers, session in zip(groups_alike(described), sessions, strict=True):
        group = ExportedGroup(
            session, tuple(described_classifier(described[n], session) for n in numbers)
        )
        members |= {number: group[n] for n, number in enumerate(numbers)}
        if len(numbers) > 1:
            groups.append((numbers, group))
    in_order = tuple(members[n] for n in range(len(described)))
    combination = combination_from_json(said["combination"], [member.head for member in in_order])
    return CombinedClassifier(in_order, combination, tuple(groups))


def _of_members(
    tensors: Mapping[str, Float32Array], numbers: Sequence[int]
) -> dict[str, Float32Array]:
    before = tuple(f"member{number}." for number in numbers)
    return {name: array for name, array in tensors.items() if name.startswith(before)}
