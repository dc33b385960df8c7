"""Bundled weights and their registry.

    from spineline.weights import resolve, resolve_bundle

    bundle = resolve_bundle("default")
    bundle.detector.path, bundle.classifier.path

No network, no torch: a name or a path becomes a file whose content has been checked.
"""

from spineline.weights.registry import (
    Bundle,
    Entry,
    Registry,
    Task,
    WeightsFile,
    load_registry,
    make_bundle,
    read_metadata,
    resolve,
    resolve_bundle,
    sha256_of,
    task_of,
)

__all__ = [
    "Bundle",
    "Entry",
    "Registry",
    "Task",
    "WeightsFile",
    "load_registry",
    "make_bundle",
    "read_metadata",
    "resolve",
    "resolve_bundle",
    "sha256_of",
    "task_of",
]
