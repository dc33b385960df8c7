"""What ``pipeline predict`` can write besides result.json and overlay.png: the words of ``to=``.

A writer is a module of this room, imported when it is asked for. One of a study has
``write_study(folder, analysis, settings)``, one of the whole run ``write_cohort(out, results,
settings)`` with ``results`` the name and result of each study done, in order of name.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.yaml_files import YamlError, read_yaml

if TYPE_CHECKING:
    from spineline.pipeline.inference.pipeline import Analysis
    from spineline.pipeline.inference.results import StudyResult
    from spineline.pipeline.outputs.settings import OutputSettings

OF_STUDY: dict[str, str] = {
    "sr": "dicom.structured_report",
    "pr": "dicom.presentation_state",
    "sc": "dicom.secondary_capture",
    "slicer": "slicer",
    "tianchi": "tianchi",
    "report": "html.study_page",
}
"""Modules that write files of one study, by word."""

OF_COHORT: dict[str, str] = {
    "tianchi": "tianchi",
    "coco": "coco",
    "page": "html.cohort_page",
}
"""Modules that write files of the whole run, by word."""


OF_DICOM = ("sr", "pr", "sc", "slicer")
"""Words that need a DICOM source; a plain image is warned of, and its other results are written."""

NEEDS: dict[str, tuple[str, str]] = dict.fromkeys(("sr", "pr", "sc"), ("highdicom", "dicom"))
"""Package that a word needs, and the extra that brings it."""


def check_words(words: Iterable[str]) -> None:
    """Refuse words whose package is not installed, before any study is read.

    Raises:
        ConfigError: names the package and the extra.
    """
    for word in words:
        package, extra = NEEDS.get(word, ("", ""))
        if package and importlib.util.find_spec(package) is None:
            msg = (
                f"to={word}: needs the package {package}, which is not installed; "
                f"pip install 'spineline[{extra}]' brings it"
            )
            raise ConfigError(msg)


def words_of_run(out: Path) -> tuple[str, ...]:
    """The words of ``to=`` that an earlier run into ``out`` was given; none where it has no record.

    A run that goes on keeps them: what is there would else tell of other results than the rest.
    """
    try:
        words = read_yaml(out / "run.yaml")["settings"]["to"]
        return tuple(word for word in words if word in (*OF_STUDY, *OF_COHORT))
    except (OSError, YamlError, KeyError, TypeError):
        return ()


def check_extras(settings: OutputSettings) -> None:
    """Find out what would fail every study, before any model runs.

    Raises:
        SpinelineError: the annotation of ``compare=`` cannot be read.
    """
    kept = [word for word in settings.to if word in NEEDS]
    if settings.names == "hash" and kept:
        text = "to=%s: these files keep the patient's name and UIDs, as DICOM wants; names=hash "
        LOG.warning(text + "leaves them as they are: do not pass them on", ",".join(kept))
    if settings.compare is not None:
        _module("comparison").check_compare(settings)


def write_study_extras(folder: Path, analysis: Analysis, settings: OutputSettings) -> None:
    """Write what ``to=`` and ``compare=`` ask for of one study."""
    if settings.compare is not None and settings.overlay:
        _module("comparison").write_study(folder, analysis, settings)
    refused = OF_DICOM if analysis.frame.header is None else ()
    left_out = [word for word in settings.to if word in refused]
    if left_out:
        text = "%s: to=%s needs a DICOM source; not written for this image"
        LOG.warning(text, analysis.frame.name, ",".join(left_out))
    for word in settings.to:
        if word in OF_STUDY and word not in refused:
            _module(OF_STUDY[word]).write_study(folder, analysis, settings)


def write_cohort_extras(
    out: Path, results: Iterable[tuple[str, StudyResult]], settings: OutputSettings
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
    return importlib.import_module(f"spineline.pipeline.outputs.{name}")
