"""Bundled weights and their registry.

    from spineline.weights import resolve, resolve_bundle

    bundle = resolve_bundle("default")
    bundle.detector.path, bundle.classifier.path

A name or a path becomes a file with verified content. It needs neither a network nor torch.
"""

from spineline.weights.registry import (
    Bundle,
    Entry,
    GraphFile,
    Registry,
    Task,
    WeightsFile,
    graph_paths,
    load_registry,
    make_bundle,
    names_in_list,
    read_metadata,
    resolve,
    resolve_bundle,
    resolve_classifiers,
    sha256_of,
    task_of,
    weights_record,
)

__all__ = [
    "Bundle",
    "Entry",
    "GraphFile",
    "Registry",
    "Task",
    "WeightsFile",
    "graph_paths",
    "load_registry",
    "make_bundle",
    "names_in_list",
    "read_metadata",
    "resolve",
    "resolve_bundle",
    "resolve_classifiers",
    "sha256_of",
    "task_of",
    "weights_record",
]
