"""Writes the additional outputs that ``to=`` and ``compare=`` of ``pipeline predict`` select."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from spineline.datasets.common.log import LOG
from spineline.datasets.common.yaml_files import YamlError, read_yaml
from spineline.pipeline.outputs.comparison import check_compare
from spineline.pipeline.outputs.registry import list_outputs

if TYPE_CHECKING:
    from spineline.pipeline.inference.pipeline import Analysis
    from spineline.pipeline.inference.results import StudyResult
    from spineline.pipeline.outputs.settings import OutputSettings


_FOLDER = "spineline.pipeline.outputs"


class StudyWriter(Protocol):
    """Writes one file of a study into its folder."""

    def __call__(self, folder: Path, analysis: Analysis, settings: OutputSettings) -> None: ...  # noqa: D102


class CohortWriter(Protocol):
    """Writes the files of a run into its folder.

    ``results`` are the name and result of each processed study, in order of name. ``failures`` are
    the name of each other study and the reason.
    """

    def __call__(  # noqa: D102
        self,
        out: Path,
        results: Iterable[tuple[str, StudyResult]],
        failures: Sequence[tuple[str, str]],
    ) -> None: ...


def study_writer(word: str) -> StudyWriter:
    """The function that writes a study's file for a value of ``to=``, imported on demand."""
    writer: StudyWriter = pkgutil.resolve_name(f"{_FOLDER}.{list_outputs()[word].study_writer}")
    return writer


def cohort_writer(word: str) -> CohortWriter:
    """The function that writes a run's file for a value of ``to=``, imported on demand."""
    writer: CohortWriter = pkgutil.resolve_name(f"{_FOLDER}.{list_outputs()[word].cohort_writer}")
    return writer


def words_of_run(out: Path) -> tuple[str, ...]:
    """The values of ``to=`` of an earlier run into ``out``; none without a record.

    A continued run keeps them, because old and new studies would otherwise have different outputs.
    """
    try:
        words = read_yaml(out / "run.yaml")["settings"]["to"]
        return tuple(word for word in words if word in list_outputs())
    except (OSError, YamlError, KeyError, TypeError):
        return ()


def check_extras(settings: OutputSettings) -> None:
    """Check, before any model runs, what would fail every study.

    Raises:
        SpinelineError: the annotation of ``compare=`` cannot be read.
    """
    kept = [word for word in settings.to if list_outputs()[word].package == "highdicom"]
    if settings.names == "hash" and kept:
        text = (
            "to=%s: these files contain the patient's name and UIDs, as DICOM requires; names=hash "
        )
        LOG.warning(text + "does not change that: do not share them", ",".join(kept))
    check_compare(settings)


def write_study_extras(folder: Path, analysis: Analysis, settings: OutputSettings) -> None:
    """Write the selected outputs of one study; those that need a DICOM source warn without one.

    For a refused study, only outputs that say so are written.
    """
    refused = analysis.result.status == "refused"
    outputs = [list_outputs()[word] for word in settings.to]
    outputs = [output for output in outputs if output.of_refused or not refused]
    left_out = [o.word for o in outputs if o.needs_dicom and not analysis.frame.is_dicom]
    if left_out:
        text = "%s: to=%s needs a DICOM source; not written for this image"
        LOG.warning(text, analysis.frame.name, ",".join(left_out))
    for output in outputs:
        if output.study_writer and output.word not in left_out:
            study_writer(output.word)(folder, analysis, settings)


def write_cohort_extras(
    out: Path,
    results: Iterable[tuple[str, StudyResult]],
    failures: Sequence[tuple[str, str]],
    settings: OutputSettings,
) -> None:
    """Write the selected outputs of the run.

    Args:
        out: the run's folder.
        results: name and result of each processed study; can be iterated more than once.
        failures: name and reason of each failed study.
        settings: of the run.
    """
    for output in map(list_outputs().__getitem__, settings.to):
        if output.cohort_writer:
            shown = results if output.of_refused else _NotRefused(results)
            cohort_writer(output.word)(out, shown, failures)


@dataclass(frozen=True, slots=True)
class _NotRefused:
    """Lazily filters out the named results of refused studies."""

    results: Iterable[tuple[str, StudyResult]]

    def __iter__(self) -> Iterator[tuple[str, StudyResult]]:
        return (pair for pair in self.results if pair[1].status != "refused")
