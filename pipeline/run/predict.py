"""``spineline pipeline predict``: studies in, named and graded structures out.

A run writes each study's folder atomically as soon as the study is done, then a line into
``manifest.jsonl``. At the end, it writes the files of the cohort from the stored results. It can be
stopped at any moment and continues when the command is run again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import overload

from spineline.datasets.common.background import Background
from spineline.datasets.common.errors import (
    AnnotationError,
    ConfigError,
    OutputExistsError,
    SpinelineError,
    naming_key,
)
from spineline.datasets.common.files import (
    check_output,
    clear_unfinished,
    discard_folder,
    is_disk_error,
    staged_folder,
)
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import package_version, write_run_record
from spineline.datasets.common.settings import refuse_output_around
from spineline.datasets.volumes.archives import Unpacking, unpacking
from spineline.pipeline.inference.pipeline import Analysis, Pipeline, bundle_of
from spineline.pipeline.inference.results import StudyResult, read_result
from spineline.pipeline.inference.runtimes.choice import Runtime, chosen_runtime
from spineline.pipeline.inference.sources.case import Case
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.outputs.comparison import comparison_of
from spineline.pipeline.outputs.study_files import (
    LOG_NAME,
    log_lines,
    write_log,
    write_results_csv,
    write_study,
)
from spineline.pipeline.outputs.writers import (
    check_extras,
    words_of_run,
    write_cohort_extras,
    write_study_extras,
)
from spineline.pipeline.run import engine_local
from spineline.pipeline.run.engines import Engine, Failure, Outcome, load_engine, reason_of
from spineline.pipeline.run.hidden_log import hidden_in_log, quiet_names
from spineline.pipeline.run.manifest import NAME as MANIFEST
from spineline.pipeline.run.manifest import (
    Manifest,
    ManifestEntry,
    Stamp,
    Status,
    is_manifest,
    open_manifest,
)
from spineline.pipeline.run.progress import RunProgress, summary_lines
from spineline.pipeline.run.pseudonyms import Pseudonyms, pseudonyms_of, recorded
from spineline.pipeline.run.settings import PipelinePredict, results_hash

__all__ = ["Failure", "PredictResult", "StoredResults", "predict"]

_CORRECTIONS = "corrections*.json"
"""Files that `spineline review` writes into a study's folder."""

_AHEAD = 16
"""Maximum number of studies that wait to be drawn and written while the next batch is analysed."""


class StoredResults(Sequence[tuple[str, StudyResult]]):
    """Names and results of studies, each read from its ``result.json`` on access.

    Args:
        out: the run's folder.
        names: of the studies, in order.
    """

    def __init__(self, out: Path, names: Sequence[str]) -> None:
        self._out = out
        self.names = tuple(names)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> tuple[str, StudyResult]: ...

    @overload
    def __getitem__(self, index: slice) -> StoredResults: ...

    def __getitem__(self, index: int | slice) -> tuple[str, StudyResult] | StoredResults:
        if isinstance(index, slice):
            return StoredResults(self._out, self.names[index])
        name = self.names[index]
        return name, read_result(self._out / name / "result.json")


@dataclass(frozen=True, slots=True)
class PredictResult:
    """The output of a run.

    Attributes:
        out: the folder written.
        results: name and result of each processed study of the source, in order of name.
        failures: the studies of the source that failed, now or in an earlier run.
        skipped: number of studies that earlier runs processed.
        refused: names of the refused studies among the results, in order.
    """

    out: Path
    results: Sequence[tuple[str, StudyResult]]
    failures: tuple[Failure, ...]
    skipped: int = 0
    refused: tuple[str, ...] = ()


def predict(settings: PipelinePredict, *, pipeline: Pipeline | None = None) -> PredictResult:
    """Run the pipeline over a source and write results, or continue an earlier run into ``out``.

    Args:
        settings: the keys of the command.
        pipeline: with models loaded; by default, the models of the settings are loaded.

    Raises:
        OutputExistsError: ``out`` exists, is not an earlier run, and ``overwrite`` is not set.
        SpinelineError: the source cannot be read, the weights cannot be loaded, another process
            runs into ``out``, or the disk is full.
    """
    with unpacking() as archives:
        return _predict(settings, pipeline, archives)


def _predict(
    settings: PipelinePredict, pipeline: Pipeline | None, archives: Unpacking
) -> PredictResult:
    refuse_output_around(settings)
    _check_out(settings)
    earlier = () if settings.overwrite else words_of_run(settings.out)
    kept = [word for word in earlier if word not in settings.to]
    if kept:
        LOG.info("to=%s: kept from the earlier run into %s", ",".join(kept), settings.out)
    settings = replace(settings, to=(*settings.to, *kept))
    check_extras(settings)
    if pipeline is None:
        bundle = bundle_of(settings)
        engine, weights = load_engine(settings.engine), bundle.sha256
        runtime = chosen_runtime(settings, bundle)
    elif settings.engine == "local":
        engine, weights = partial(engine_local.run, pipeline=pipeline), pipeline.weights_sha256
        runtime = pipeline.runtime
    else:
        raise ConfigError(f"engine={settings.engine}: loads its own models; leave pipeline out")
    stamp = Stamp(weights, results_hash(settings), package_version())
    with naming_key("source", settings.source), quiet_names(settings):
        cases: Sequence[Case] = find_cases(
            settings.source,
            window=settings.window,
            slices=settings.slices,
            force=settings.force,
            leave_out=settings.out,
            stack=settings.stack,
            unpacking=archives,
            workers=engine_local.workers_of(None, settings),
            limits=engine_local.limits_of(settings),
        )
    with _run_folder(settings) as manifest:
        hidden = pseudonyms_of(settings, cases, manifest.entries)
        cases = cases if hidden is None else hidden.cases()
        run = _Run(settings, manifest, stamp, cases, hidden, runtime)
        with hidden_in_log(settings, hidden):
            run.go(engine)
            return run.finish()


def _check_out(settings: PipelinePredict) -> None:
    """Refuse an existing folder that is not a run to continue."""
    out = settings.out
    if settings.overwrite or not is_manifest(out / MANIFEST):
        try:
            check_output(out, overwrite=settings.overwrite)
        except OutputExistsError as error:
            if settings.overwrite or not out.is_dir():
                raise
            msg = f"{error}; it holds no {MANIFEST} of a run to go on with"
            raise OutputExistsError(msg) from None


@contextmanager
def _run_folder(settings: PipelinePredict) -> Iterator[Manifest]:
    """Lock the run's folder; a new one is removed if it stays empty."""
    out = settings.out
    if settings.overwrite and out.is_dir():
        _refuse_corrected(out)
        is_run = is_manifest(out / MANIFEST)
        with open_manifest(out / MANIFEST) if is_run else nullcontext():  # no other process uses it
            discard_folder(out)
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f"{out}: is a file, and out= names a folder; choose another out=")
    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{out}: cannot be made ({error.strerror or error}); choose another out="
        raise SpinelineError(msg) from error
    try:
        with open_manifest(out / MANIFEST) as manifest:
            clear_unfinished(out)
            yield manifest
    finally:
        if new and not any(out.iterdir()):
            out.rmdir()


class _Run:
    """One run over the cases of a source, with the results of earlier ones."""

    def __init__(
        self,
        settings: PipelinePredict,
        manifest: Manifest,
        stamp: Stamp,
        cases: Sequence[Case],
        hidden: Pseudonyms | None,
        runtime: Runtime,
    ) -> None:
        self._hidden = hidden
        self._runtime = runtime
        self._settings = settings
        self._manifest = manifest
        self._stamp = stamp
        self._out = settings.out
        self._identity = {case.name: case.identity for case in cases}
        self._todo = [case for case in cases if not self._is_settled(case.name)]
        skipped = self._identity.keys() - {case.name for case in self._todo}
        failures = (manifest.entries[name].failure for name in sorted(skipped))
        self._earlier = [failure for failure in failures if failure is not None]
        self._skipped = len(skipped) - len(self._earlier)
        self._recorded = False

    def _is_settled(self, name: str) -> bool:
        """Whether an earlier run's entry for a case is still valid."""
        entry = self._manifest.entries.get(name)
        if entry is None or entry.stamp != self._stamp or entry.input != self._identity[name]:
            return False
        if entry.status == "failed":
            return not self._settings.retry
        folder = self._out / name
        try:
            read_result(folder / "result.json")
        except AnnotationError:
            return False
        return (folder / LOG_NAME).is_file()

    def go(self, engine: Engine) -> None:
        """Process the remaining cases, and write each study when it is done."""
        if not self._todo:
            return
        if self._skipped or self._earlier:
            text = f"going on with the run in %s: %d {_studies(self._skipped)} done, %d left"
            LOG.info(text, self._out, self._skipped, len(self._todo))
        left = {case.name for case in self._todo}
        with RunProgress(len(self._todo)) as progress:
            try:
                with (
                    closing(Background(ahead=_AHEAD)) as writer,
                    closing(engine(self._todo, self._settings)) as outcomes,  # type: ignore[type-var]
                ):
                    for outcome in outcomes:
                        left.discard(outcome.name)
                        writer.submit(partial(self._keep, outcome, progress))
            except KeyboardInterrupt:
                progress.interrupted(self._out)
                raise
            for name in sorted(left):
                failure = Failure(name, "the engine ended without an outcome of it", "crash")
                self._keep(Outcome(name, failure=failure), progress)

    def _keep(self, outcome: Outcome, progress: RunProgress) -> None:
        """Write the study's folder, then its line."""
        if self._hidden is not None:
            outcome = self._hidden.outcome(outcome)
        failure, refusal = outcome.failure, None
        if outcome.analysis is not None:
            failure = self._written(outcome.name, outcome.analysis)
            refusal = outcome.analysis.result.refusal
        if failure is not None:
            _discard_result(self._out / outcome.name)  # an earlier run's result, from other files
        if not self._recorded:  # a run that is interrupted keeps its formats, too
            self._record(self._earlier)
        self._manifest.add(
            ManifestEntry(
                study=outcome.name,
                status=_status(failure, refusal),
                reason=(refusal or "") if failure is None else failure.reason,
                weights=self._stamp.weights,
                settings=self._stamp.settings,
                version=self._stamp.version,
                seconds=round(outcome.seconds, 3),
                kind=None if failure is None else failure.kind,
                input=self._identity[outcome.name],
            )
        )
        if failure is not None:
            progress.failed(failure)
        elif outcome.analysis is not None:
            lines = log_lines(outcome.name, outcome.analysis)
            progress.done(outcome.name, lines[0], outcome.analysis.result.warnings)

    def _written(self, name: str, analysis: Analysis) -> Failure | None:
        """Write a study's folder atomically; a failure if only this study cannot be written."""
        settings = self._settings
        try:
            with staged_folder(self._out / name, overwrite=True, sync=True) as stage:
                write_study(
                    stage,
                    analysis,
                    overlay=settings.overlay,
                    doubtful=settings.confidence,
                    comparison=comparison_of(analysis, settings),
                )
                write_study_extras(stage, analysis, settings)
                write_log(stage, log_lines(name, analysis))
                _keep_corrections(self._out / name, stage)
        except Exception as error:
            if is_disk_error(error):
                raise
            known = isinstance(error, (SpinelineError, OSError))
            reason = reason_of(error) if known else f"{type(error).__name__}: {reason_of(error)}"
            return Failure(name, f"its files could not be written: {reason}", "writing")
        return None

    def finish(self) -> PredictResult:
        """Write the files of the cohort from the stored results, and log a summary."""
        entries = [self._manifest.entries[name] for name in self._identity]
        done = [entry.study for entry in entries if entry.status != "failed"]
        refused = tuple(entry.study for entry in entries if entry.status == "refused")
        failures = tuple(entry.failure for entry in entries if entry.failure is not None)
        results = StoredResults(self._out, done)
        write_results_csv(self._out / "results.csv", results, [each.name for each in failures])
        reasons = [(failure.name, failure.reason) for failure in failures]
        write_cohort_extras(self._out, results, reasons, self._settings)
        write_log(self._out, self._log(done, failures))
        self._record(failures)
        self._log_summary(len(done), failures, len(refused))
        return PredictResult(self._out, results, failures, self._skipped, refused)

    def _record(self, failures: Sequence[Failure]) -> None:
        """Write ``run.yaml``."""
        failed = [{"study": failure.name, "reason": failure.reason} for failure in failures]
        settings = recorded(replace(self._settings, overwrite=False, retry=False))
        words = {"runtime": self._runtime, "failures": failed}
        write_run_record(self._out, "pipeline predict", settings, **words)
        self._recorded = True

    def _log(self, done: Sequence[str], failures: Sequence[Failure]) -> Iterator[str]:
        for name in done:
            with (self._out / name / LOG_NAME).open(encoding="utf-8") as file:
                yield from (line.rstrip("\n") for line in file)
        yield from map(str, failures)

    def _log_summary(self, done: int, failures: Sequence[Failure], refused: int) -> None:
        for failure in self._earlier:
            LOG.error("error: %s (in an earlier run; retry=true tries again)", failure)
        gone = len(self._manifest.entries.keys() - self._identity.keys())
        if gone:
            text = "%d studies of earlier runs into %s are not in source=%s: their folders stay, "
            text += "and results.csv leaves them out"
            LOG.warning(text, gone, self._out, recorded(self._settings).source)
        if done + len(failures) > 1:
            lines = summary_lines(done - self._skipped, self._skipped, failures)
            LOG.info("%s", "\n".join(lines))
        if refused:
            text = (
                f"%d {_studies(refused)} refused: not sagittal lumbar T2; force=true analyses all"
            )
            LOG.error(text, refused)
        text = f"%d {_studies(done)} done, %d failed; results in %s"
        LOG.info(text, done, len(failures), self._out)
        LOG.info("what was used, what was left out and why: %s", self._out / LOG_NAME)


def _keep_corrections(folder: Path, stage: Path) -> None:
    """Copy a reader's corrections into the folder that replaces the study's."""
    for path in sorted(folder.glob(_CORRECTIONS)):
        shutil.copyfile(path, stage / path.name)


def _discard_result(folder: Path) -> None:
    """Remove a study's folder, except a reader's corrections in it."""
    if not any(folder.glob(_CORRECTIONS)):
        discard_folder(folder)
        return
    with staged_folder(folder, overwrite=True, sync=True) as stage:
        _keep_corrections(folder, stage)


def _refuse_corrected(out: Path) -> None:
    """Refuse to replace a folder that contains a reader's corrections.

    Raises:
        OutputExistsError: there are some.
    """
    studies = {path.parent for path in out.glob(f"*/{_CORRECTIONS}")}
    if studies:
        verb = "is" if len(studies) == 1 else "are"
        msg = (
            f"{out}: {len(studies)} {_studies(len(studies))} in it {verb} corrected by hand, and "
            "overwrite=true would remove that; choose another out=, leave overwrite=true away, or "
            f"remove {_CORRECTIONS} first"
        )
        raise OutputExistsError(msg)


def _status(failure: Failure | None, refusal: str | None) -> Status:
    if failure is not None:
        return "failed"
    return "done" if refusal is None else "refused"


def _studies(count: int) -> str:
    return "study" if count == 1 else "studies"
