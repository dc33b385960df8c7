"""What ``pipeline predict`` can write besides result.json and overlay.png: the words of ``to=``.

A writer is a module of this room, imported when it is asked for. One of a study has
``write_study(folder, analysis, settings)``, one of the whole run ``write_cohort(out, results,
settings)`` with ``results`` the name and result of each study done, in order of name.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spineline.pipeline.core import Analysis
    from spineline.pipeline.results import StudyResult
    from spineline.pipeline.settings import PipelinePredict

OF_STUDY: dict[str, str] = {
    "tianchi": "tianchi_out",
}
"""Modules that write files of one study, by word."""

OF_COHORT: dict[str, str] = {
    "tianchi": "tianchi_out",
    "coco": "coco_out",
}
"""Modules that write files of the whole run, by word."""


def write_study_extras(folder: Path, analysis: Analysis, settings: PipelinePredict) -> None:
    """Write what ``to=`` asks for of one study."""
    for word in settings.to:
        if word in OF_STUDY:
            _module(OF_STUDY[word]).write_study(folder, analysis, settings)


def write_cohort_extras(
    out: Path, results: Iterable[tuple[str, StudyResult]], settings: PipelinePredict
) -> None:
    """Write what ``to=`` asks for of the run.

    Args:
        out: the run's folder.
        results: can be gone through more than once.
        settings: of the run.
    """
    for word in settings.to:
        if word in OF_COHORT:
            _module(OF_COHORT[word]).write_cohort(out, results, settings)


def _module(name: str) -> Any:
    return importlib.import_module(f"spineline.pipeline.{name}")
