"""Graphs of weights: those in the registry, and those made once for other weights.

ONNX Runtime and OpenVINO run weights by their graphs, see `spineline.datasets.networks.graphs`.
"""

from __future__ import annotations

from pathlib import Path

from spineline.classify.exported import groups_alike
from spineline.datasets.common.errors import ConfigError, SpinelineError, first_line
from spineline.datasets.common.files import cache_folder, write_bytes
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import package_version
from spineline.weights import Task, WeightsFile, graph_paths, read_metadata
from spineline.weights.registry import is_pickle


def graphs_of(weights: WeightsFile, task: Task) -> list[bytes]:
    """The graph of each network in a weights file.

    For weights outside the registry, torch makes the graphs. They are stored in the user's cache,
    if it is writable, under the SHA-256 of the weights and the version of spineline.

    Raises:
        ConfigError: a pickle, a network that has no graph, or a package to make it is missing.
        WeightsError: a graph is missing or altered, or the weights cannot be used.
        SpinelineError: the network cannot be written as a graph.
    """
    if paths := graph_paths(weights):
        return [path.read_bytes() for path in paths]
    if is_pickle(weights.path):
        msg = f"{weights.path}: a pickle runs only with torch; use runtime=torch, or make a "
        raise ConfigError(f"{msg}.safetensors file of it by spineline weights strip")
    metadata = read_metadata(weights.path)
    count = len(groups_alike(metadata.get("combined", ()))) or 1
    try:
        folder = cache_folder() / "graphs"
    except RuntimeError:  # no home
        return make_graphs(weights.path, task)
    name = f"{weights.sha256}-{package_version()}"
    kept = [folder / f"{name}-{n}.onnx" for n in range(count)]
    try:
        return [path.read_bytes() for path in kept]
    except OSError:
        pass
    LOG.info("%s: making the graph of its network by torch, once", weights.path)
    graphs = make_graphs(weights.path, task)
    try:
        for path, graph in zip(kept, graphs, strict=True):
            write_bytes(path, graph)
    except SpinelineError as error:
        LOG.info("the graph cannot be kept for the next run (%s)", first_line(error))
    return graphs


def make_graphs(weights: Path, task: Task) -> list[bytes]:
    """The graph of each network in a weights file, made by torch and compared with it.

    Raises:
        ConfigError: a network that has no graph, or a package to make it is missing.
        WeightsError: the weights cannot be used.
        SpinelineError: the network cannot be written as a graph.
    """
    if task == "weighting":
        raise ConfigError(f"{weights}: NumPy runs this network in every runtime; it has no graph")
    backend = read_metadata(weights).get("backend", "ultralytics")
    if task == "detect" and backend != "ultralytics":
        msg = (
            f"{weights}: its network ({backend}) is not a YOLO network, and only those have a graph"
        )
        raise ConfigError(f"{msg}; use runtime=torch")
    try:
        return _made(weights, task)
    except (SpinelineError, ImportError):
        raise
    except Exception as error:  # the exporter raises errors of many kinds
        msg = f"{weights}: its network cannot be written as a graph ({first_line(error)})"
        raise SpinelineError(f"{msg}; use runtime=torch") from error


def _made(weights: Path, task: Task) -> list[bytes]:
    if task == "classify":
        from spineline.classify.export import classifier_graphs

        return classifier_graphs(weights)
    if task == "name":
        from spineline.detect.level_reader.export import level_reader_graph

        return [level_reader_graph(weights)]
    from spineline.detect.yolo.export import yolo_graph

    return [yolo_graph(weights)]
