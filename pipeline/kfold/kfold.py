"""``spineline kfold detect | classify | pipeline``: cross-validation of variants as one command.

OUT/folds.json                 the studies of each fold, drawn once
OUT/folds/foldN                the dataset of each fold; images are hard links
OUT/VARIANT/foldN              the run folder of a training; its ``val`` holds the fold's scores
OUT/VARIANT/predictions.*      out-of-fold predictions of all studies
OUT/VARIANT/fold_weights.json  for ``pipeline val folds=``
OUT/kfold.md, .csv, .json, .png

The variants of ``kfold pipeline`` are recipes. It writes OUT/RECIPE/recipe.yaml, and the
out-of-fold predictions with their metrics in OUT/RECIPE/val, a folder of ``pipeline val``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import ConfigError, OutputExistsError
from spineline.datasets.common.files import check_output
from spineline.datasets.common.locks import held_folder
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import (
    recorded_command,
    resumed_settings,
    write_run_record,
)
from spineline.datasets.common.settings import refuse_output_around
from spineline.pipeline.evaluation.fold_weights import (
    FOLD_WEIGHTS_FILE,
    FoldWeights,
    write_fold_weights,
)
from spineline.pipeline.kfold.folds import Folds, make_folds
from spineline.pipeline.kfold.jobs import FoldJob, run_jobs
from spineline.pipeline.kfold.out_of_fold import Metrics, read_scores
from spineline.pipeline.kfold.report import KfoldReport
from spineline.pipeline.kfold.settings import (
    KfoldClassify,
    KfoldDetect,
    KfoldPipeline,
    KfoldSettings,
)
from spineline.pipeline.kfold.table import TableRow, flat_metrics
from spineline.pipeline.kfold.tasks import ClassifyTask, DetectTask, KfoldTask, PipelineTask
from spineline.pipeline.kfold.variants import Variant, keys_text
from spineline.pipeline.run.predict import Failure

_MAY_CHANGE = (
    "resume", "overwrite", "data", "out", "device", "workers", "threads", "cache", "plots",
    "verbose", "trust", "variants", "recipe", "metric", "draws", "k", "folds",
)  # fmt: skip
"""Keys that may differ in a resumed run; k and folds must match the existing folds."""


@dataclass(frozen=True, slots=True)
class KfoldResult:
    """The output of a cross-validation.

    Attributes:
        out: the folder written.
        rows: each metric of each variant.
        failures: failed trainings, and studies that a whole pipeline failed on, which count as
            missed.
    """

    out: Path
    rows: tuple[TableRow, ...]
    failures: tuple[Failure, ...]


def kfold_detect(settings: KfoldDetect) -> KfoldResult:
    """Run ``spineline kfold detect``.

    Raises:
        ConfigError: a key, variant or recipe that cannot work; nothing was trained.
        AnnotationError: the data cannot be read, or its folds share a study.
        OutputExistsError: ``out`` exists, and neither ``resume`` nor ``overwrite`` is set.
    """
    return _kfold(settings, DetectTask, "kfold detect")


def kfold_classify(settings: KfoldClassify) -> KfoldResult:
    """Run ``spineline kfold classify``; raises what [kfold_detect][] does."""
    return _kfold(settings, ClassifyTask, "kfold classify")


def kfold_pipeline(settings: KfoldPipeline) -> KfoldResult:
    """Run ``spineline kfold pipeline``; raises what [kfold_detect][] does."""
    return _kfold(settings, PipelineTask, "kfold pipeline")


def _kfold(settings: KfoldSettings, task_class: type[KfoldTask], command: str) -> KfoldResult:
    earlier: dict[str, Any] = {}
    if settings.resume:
        settings, trained = resumed_settings(
            settings, settings.out, resolved="trained", may_change=_MAY_CHANGE
        )
        earlier = trained.get("variants", {})
    task = task_class(settings)
    variants = task.variants()
    chosen = {variant.name for variant in variants}
    others = [Variant(name, keys) for name, keys in earlier.items() if name not in chosen]
    task.check(variants)
    devices = [device_name(word) for word in settings.device.split(",") if word.strip()]
    if not devices:
        raise ConfigError(f"device={settings.device}: names none")
    _check_variants(settings, variants, earlier)
    replaced = None if settings.resume else _make_room(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    with held_folder(settings.out):
        if not settings.resume:
            _write_record(task, command, variants, earlier)
        folds, metric = _folds_and_metric(task, variants, replaced)
        if settings.resume:  # only now, so that a refused run changes nothing
            _write_record(task, command, variants, earlier)
        _log_plan(settings, folds, variants)
        jobs = _jobs(task, folds, variants)
        failures = run_jobs([job for own in jobs.values() for job in own if not job.done], devices)
        before = {
            variant: own
            for variant, own in _jobs(task, folds, others).items()
            if all(job.done for job in own)
        }
        rows, missed = _rows(task, folds, [*before.values(), *jobs.values()])
        failures = (*failures, *missed)
        shown = [*(variant for variant in others if variant.name in before), *variants]
        report = KfoldReport(settings, command, folds, metric, shown, rows, failures)
        report.write()
    report.log()
    return KfoldResult(settings.out, rows, failures)


def _make_room(settings: KfoldSettings) -> Path | None:
    """Move aside what ``overwrite=true`` replaces.

    Returns:
        Its temporary place, used until the data turn out to be usable; None if there is nothing.
    """
    refuse_output_around(settings)
    out = settings.out
    try:
        check_output(out, overwrite=settings.overwrite)
    except OutputExistsError as error:
        if settings.overwrite:
            raise
        msg = f"{out}: exists already; resume=true continues it, overwrite=true starts from scratch"
        raise OutputExistsError(msg) from error
    if out.is_dir() and any(out.iterdir()):
        if not str(recorded_command(out)).startswith("spineline kfold "):
            msg = f"{out}: is not a folder of spineline kfold; remove it yourself or choose another"
            raise OutputExistsError(f"{msg} out=")
        aside = out.parent / f".{out.name}.{os.getpid()}.replaced"
        with held_folder(out):
            out.rename(aside)
        return aside
    return None


def _check_variants(
    settings: KfoldSettings, variants: Sequence[Variant], earlier: dict[str, Any]
) -> None:
    """Refuse a trained variant whose keys have changed."""
    for variant in variants:
        before = earlier.get(variant.name)
        if before is not None and dict(before) != dict(variant.keys):
            msg = (
                f"variant {variant.name}: is {keys_text(variant.keys)} now, and began in "
                f"{settings.out} as {keys_text(before)}; give it another name, or begin anew in "
                "another out="
            )
            raise ConfigError(msg)


def _write_record(
    task: KfoldTask, command: str, variants: Sequence[Variant], earlier: dict[str, Any]
) -> None:
    trained = {**earlier, **{variant.name: dict(variant.keys) for variant in variants}}
    record = replace(task.settings, resume=False, overwrite=False)
    write_run_record(record.out, command, record, trained={"variants": trained})
    task.begin(variants)


def _folds_and_metric(
    task: KfoldTask, variants: Sequence[Variant], replaced: Path | None
) -> tuple[Folds, tuple[str, ...]]:
    """The folds and metrics that the data allow; if the data are unusable, ``out`` is restored.

    Args:
        task: what is cross-validated.
        variants: to train.
        replaced: the earlier content of ``out``; it is removed once the data are known to be
            usable.
    """
    settings = task.settings
    try:
        folds = make_folds(settings)
        metric = task.metric(folds, variants)
    except BaseException:
        if not settings.resume:
            shutil.rmtree(settings.out, ignore_errors=True)
        if replaced is not None:
            replaced.rename(settings.out)
        raise
    if replaced is not None:
        shutil.rmtree(replaced)
    return folds, metric


def _log_plan(settings: KfoldSettings, folds: Folds, variants: Sequence[Variant]) -> None:
    sizes = ", ".join(str(len(folds.studies(n))) for n in range(len(folds.folders)))
    out = f"; {folds.test_studies} test studies are not used" if folds.test_studies else ""
    LOG.info("%d folds of %s studies%s", len(folds.folders), sizes, out)
    for variant in variants:
        LOG.info("variant %s", variant)
    LOG.info("scored with the weights of the %s epoch", settings.checkpoint)


def _jobs(task: KfoldTask, folds: Folds, variants: Sequence[Variant]) -> dict[str, list[FoldJob]]:
    """The jobs of each variant, one for each fold."""
    return {
        variant.name: [task.job(variant, n, folder) for n, folder in enumerate(folds.folders)]
        for variant in variants
    }


def _rows(
    task: KfoldTask, folds: Folds, jobs: Sequence[Sequence[FoldJob]]
) -> tuple[tuple[TableRow, ...], tuple[Failure, ...]]:
    """The rows of all variants; out-of-fold predictions and weights are written as a side effect.

    Args:
        task: what is cross-validated.
        folds: the studies of each.
        jobs: of each variant.

    Returns:
        The rows, and the studies that failed out of fold.
    """
    rows: list[TableRow] = []
    missed: tuple[Failure, ...] = ()
    for own in jobs:
        found = {
            job.fold: flat_metrics(read_scores(job.scores / "metrics.json", dict))
            for job in own
            if job.done
        }
        _write_weights(task, folds, own)
        pooled: Metrics = {}
        if len(found) == len(own):
            pooled, failed = task.pool(folds, own)
            missed += failed
        names = list(dict.fromkeys(name for metrics in found.values() for name in metrics))
        undone = tuple(not job.done for job in own)
        for name in names or ["-"]:
            values = tuple(found.get(job.fold, {}).get(name, {}).get("value") for job in own)
            rows.append(TableRow(own[0].variant, name, values, pooled.get(name), undone))
    return tuple(rows), missed


def _write_weights(task: KfoldTask, folds: Folds, jobs: Sequence[FoldJob]) -> None:
    """Write the weights of the finished folds, for ``pipeline val folds=``."""
    uid_of = folds.uid_of()
    found = []
    for job in (job for job in jobs if job.done):
        studies = folds.studies(job.fold)
        uids = tuple(uid_of[study] for study in studies)
        found.append(FoldWeights(studies, uids, task.models(job)))
    if found:
        write_fold_weights(task.settings.out / jobs[0].variant / FOLD_WEIGHTS_FILE, found)
