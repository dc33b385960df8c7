"""The path from a study to named, graded structures, its evaluation, and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spineline.pipeline.inference.pipeline import Pipeline
    from spineline.pipeline.inference.results import GradedStructure, StudyResult

__all__ = ["GradedStructure", "Pipeline", "StudyResult"]

_PLACES = {
    "Pipeline": "spineline.pipeline.inference.pipeline",
    "GradedStructure": "spineline.pipeline.inference.results",
    "StudyResult": "spineline.pipeline.inference.results",
}


def __getattr__(name: str) -> object:
    """Import attributes on first access, so that the command line starts without them."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PLACES[name]), name)
