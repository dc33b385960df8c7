"""``spineline pipeline predict``: studies in, named and graded structures out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.errors import SpinelineError
from spineline.datasets.files import check_output, staged_folder
from spineline.datasets.runs import LOG, progress, write_run_record
from spineline.datasets.settings import refuse_output_around
from spineline.pipeline.core import Analysis, Pipeline, bundle_of
from spineline.pipeline.outputs import (
    log_lines,
    study_line,
    write_log,
    write_results_csv,
    write_study,
)
from spineline.pipeline.results import StudyResult
from spineline.pipeline.settings import PipelinePredict
from spineline.pipeline.sources import Case, Frame, find_cases, load_frame
from spineline.pipeline.writers import write_cohort_extras, write_study_extras


@dataclass(frozen=True, slots=True)
class Failure:
    """A study that could not be done, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class PredictResult:
    """What a run made.

    Attributes:
        out: the folder written.
        results: by study name, in order.
        failures: the studies that could not be done.
    """

    out: Path
    results: tuple[tuple[str, StudyResult], ...]
    failures: tuple[Failure, ...]


def predict(settings: PipelinePredict, *, pipeline: Pipeline | None = None) -> PredictResult:
    """Run the pipeline over a source and write results.

    Args:
        settings: the keys of the command.
        pipeline: with models loaded; by default those that the settings name are loaded.

    Raises:
        OutputExistsError: ``out`` exists and ``overwrite`` is not set.
        SpinelineError: the source cannot be read, the weights cannot be loaded, or not one study
            could be done.
    """
    refuse_output_around(settings)
    check_output(settings.out, overwrite=settings.overwrite)
    if pipeline is None:
        bundle_of(settings)
    cases = find_cases(settings.source, window=settings.window)
    pipeline = pipeline or Pipeline.from_settings(settings)
    failures: list[Failure] = []
    results: list[tuple[str, StudyResult]] = []
    told: list[str] = []
    log: list[str] = []
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        for name, analysis in analyse_cases(pipeline, cases, failures.append):
            write_study(
                stage / name, analysis, overlay=settings.overlay, doubtful=settings.confidence
            )
            write_study_extras(stage / name, analysis, settings)
            results.append((name, analysis.result))
            told.append(study_line(name, analysis))
            log += log_lines(name, analysis)
        if not results:
            raise SpinelineError(none_done(failures))
        write_results_csv(stage / "results.csv", results)
        write_cohort_extras(stage, results, settings)
        write_log(stage, [*log, *map(str, failures)])
        failed = [{"study": f.name, "reason": f.reason} for f in failures]
        write_run_record(stage, "pipeline predict", settings, failures=failed)
    for line, (name, result) in zip(told, results, strict=True):
        LOG.info("%s", line)
        for warning in result.warnings:
            LOG.warning("%s: %s", name, warning)
    _tell(settings.out, len(results), failures)
    return PredictResult(settings.out, tuple(results), tuple(failures))


def analyse_cases(
    pipeline: Pipeline, cases: Sequence[Case], failed: Callable[[Failure], object]
) -> Iterator[tuple[str, Analysis]]:
    """Run the pipeline over cases in batches; a case that fails is reported, the others go on.

    Args:
        pipeline: with models loaded.
        cases: in any order.
        failed: called with each failure.

    Yields:
        Name and analysis of each case done, in order.
    """
    size = pipeline.settings.batch
    batches = [cases[start : start + size] for start in range(0, len(cases), size)]
    for batch in progress(batches, description="batches") if len(batches) > 1 else batches:
        yield from _analyse_batch(pipeline, batch, failed)


def _analyse_batch(
    pipeline: Pipeline, batch: Sequence[Case], failed: Callable[[Failure], object]
) -> Iterator[tuple[str, Analysis]]:
    frames = []
    for case in batch:
        try:
            frames.append(load_frame(case))
        except (SpinelineError, OSError, MemoryError) as error:
            failed(Failure(case.name, _reason(error)))
    try:
        analyses = pipeline.analyse(frames) if frames else []
    except (RuntimeError, MemoryError, ValueError):
        analyses = [a for frame in frames for a in _analyse_alone(pipeline, frame, failed)]
    for analysis in analyses:
        yield analysis.frame.name, analysis


def _analyse_alone(
    pipeline: Pipeline, frame: Frame, failed: Callable[[Failure], object]
) -> list[Analysis]:
    """One frame of a batch on which the models failed."""
    try:
        return pipeline.analyse([frame])
    except (RuntimeError, MemoryError, ValueError) as error:
        failed(Failure(frame.name, f"the models failed: {_reason(error)}"))
        return []


def none_done(failures: Sequence[Failure]) -> str:
    """The message where not one study could be done."""
    if len(failures) == 1:
        return failures[0].reason
    shown = "; ".join(str(failure) for failure in failures[:3])
    more = f"; and {len(failures) - 3} more" if len(failures) > 3 else ""
    return f"none of {len(failures)} studies could be done: {shown}{more}"


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


def _tell(out: Path, done: int, failures: Sequence[Failure]) -> None:
    for failure in failures:
        LOG.error("error: %s", failure)
    studies = "study" if done == 1 else "studies"
    LOG.info("%d %s done, %d failed; results in %s", done, studies, len(failures), out)
    LOG.info("what was looked at, what was left out and why: %s", out / "log.txt")
