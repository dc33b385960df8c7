"""``spineline kfold detect | classify | pipeline``: cross-validation of variants as one command.

OUT/folds.json                 the studies of each fold, drawn once
OUT/folds/foldN                the dataset of each fold; images are hard links
OUT/VARIANT/foldN              the run folder of a training; its ``val`` holds the fold's scores
OUT/VARIANT/predictions.*      out-of-fold predictions of all studies
OUT/VARIANT/fold_weights.json  for ``pipeline val folds=``
OUT/kfold.md, .csv, .json, .png

Of ``kfold pipeline``, whose variants are recipes: OUT/RECIPE/recipe.yaml, and the out-of-fold
predictions with their figures in OUT/RECIPE/val, a folder of ``pipeline val``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import ConfigError, OutputExistsError
from spineline.datasets.common.files import check_output, write_bytes, write_json, write_text
from spineline.datasets.common.locks import held_folder
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import resumed_settings, versions, write_run_record
from spineline.datasets.common.settings import refuse_output_around
from spineline.pipeline.evaluation.fold_weights import (
    FOLD_WEIGHTS_FILE,
    FoldWeights,
    write_fold_weights,
)
from spineline.pipeline.evaluation.tables import command_line, machine
from spineline.pipeline.kfold.folds import Folds, make_folds
from spineline.pipeline.kfold.jobs import Job, run_jobs
from spineline.pipeline.kfold.recipes import (
    out_of_fold,
    recipe_settings,
    scoring,
    write_recipes,
)
from spineline.pipeline.kfold.settings import KfoldClassify, KfoldDetect, KfoldPipeline
from spineline.pipeline.kfold.table import (
    NOTE,
    Row,
    flat_figures,
    overview_markdown,
    rows_csv,
    rows_png,
    table_markdown,
    table_text,
)
from spineline.pipeline.kfold.variants import (
    KfoldSettings,
    Variant,
    check_trainings,
    chosen_variants,
    head_of,
    train_settings,
)
from spineline.pipeline.run.predict import Failure
from spineline.pipeline.training.train import check_labels, weights_in

SCHEMA = "spineline-kfold/1"
_MAY_CHANGE = (
    "resume", "overwrite", "data", "out", "device", "workers", "cache", "plots", "verbose", "trust",
    "variants", "recipe", "metric", "draws", "k", "folds",
)  # fmt: skip
"""Keys that a resumed run may be given otherwise; k and folds must still be those there are."""


@dataclass(frozen=True, slots=True)
class KfoldResult:
    """What a cross-validation found.

    Attributes:
        out: the folder written.
        rows: each figure of each variant.
        failures: trainings that failed, and studies of a whole pipeline, which count as missed.
    """

    out: Path
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]


def kfold_detect(settings: KfoldDetect) -> KfoldResult:
    """Run ``spineline kfold detect``.

    Raises:
        ConfigError: a key, variant or recipe that cannot work; nothing was trained.
        AnnotationError: the data cannot be read, or its folds share a study.
        OutputExistsError: ``out`` exists, and neither ``resume`` nor ``overwrite`` is set.
    """
    return _kfold(settings, "kfold detect")


def kfold_classify(settings: KfoldClassify) -> KfoldResult:
    """Run ``spineline kfold classify``; raises what [kfold_detect][] does."""
    return _kfold(settings, "kfold classify")


def kfold_pipeline(settings: KfoldPipeline) -> KfoldResult:
    """Run ``spineline kfold pipeline``; raises what [kfold_detect][] does."""
    return _kfold(settings, "kfold pipeline")


def _kfold(settings: KfoldSettings, command: str) -> KfoldResult:
    earlier: dict[str, Any] = {}
    if settings.resume:
        settings, trained = resumed_settings(
            settings, settings.out, resolved="trained", may_change=_MAY_CHANGE
        )
        earlier = trained.get("variants", {})
    variants = chosen_variants(settings)
    chosen = {variant.name for variant in variants}
    others = [Variant(name, keys) for name, keys in earlier.items() if name not in chosen]
    check_trainings(settings, variants)
    devices = [device_name(word) for word in settings.device.split(",") if word.strip()]
    if not devices:
        raise ConfigError(f"device={settings.device}: names none")
    _check_variants(settings, variants, earlier)
    replaced = None if settings.resume else _make_room(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    with held_folder(settings.out):
        if not settings.resume:
            _write_record(settings, command, variants, earlier)
        folds, metric = _folds_and_metric(settings, variants, replaced)
        if settings.resume:  # only now: what was refused is not remembered
            _write_record(settings, command, variants, earlier)
        _tell_plan(settings, folds, variants)
        jobs = _jobs(settings, folds, variants)
        failures = run_jobs([job for job in jobs if not job.done], devices)
        told = _whole(_jobs(settings, folds, others))
        shown = [*(variant for variant in others if variant.name in told), *variants]
        rows, missed = _rows(settings, folds, shown, [*jobs, *_jobs(settings, folds, others)])
        failures = (*failures, *missed)
        _write(settings, command, folds, metric, shown, rows, failures)
    _tell(settings, metric, rows, failures)
    return KfoldResult(settings.out, rows, failures)


def _make_room(settings: KfoldSettings) -> Path | None:
    """Take what ``overwrite=true`` replaces out of the way.

    Returns:
        where it lies, until it is known that the data can be used; None where there is nothing.
    """
    refuse_output_around(settings)
    out = settings.out
    try:
        check_output(out, overwrite=settings.overwrite)
    except OutputExistsError as error:
        if settings.overwrite:
            raise
        msg = f"{out}: exists already; resume=true goes on with it, overwrite=true begins anew"
        raise OutputExistsError(msg) from error
    if out.is_dir() and any(out.iterdir()):
        if not _is_kfold(out):
            msg = f"{out}: is no folder of spineline kfold; remove it yourself or choose another"
            raise OutputExistsError(f"{msg} out=")
        aside = out.parent / f".{out.name}.{os.getpid()}.replaced"
        with held_folder(out):
            out.rename(aside)
        return aside
    return None


def _is_kfold(out: Path) -> bool:
    try:
        content = yaml.safe_load((out / "run.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and str(content.get("command")).startswith("spineline kfold ")


def _check_variants(
    settings: KfoldSettings, variants: Sequence[Variant], earlier: dict[str, Any]
) -> None:
    """A variant that was trained before has the keys that it had."""
    for variant in variants:
        before = earlier.get(variant.name)
        if before is not None and dict(before) != dict(variant.keys):
            msg = (
                f"variant {variant.name}: is {_keys_text(variant.keys)} now, and began in "
                f"{settings.out} as {_keys_text(before)}; give it another name, or begin anew in "
                "another out="
            )
            raise ConfigError(msg)


def _write_record(
    settings: KfoldSettings, command: str, variants: Sequence[Variant], earlier: dict[str, Any]
) -> None:
    trained = {**earlier, **{variant.name: dict(variant.keys) for variant in variants}}
    record = replace(settings, resume=False, overwrite=False)
    write_run_record(settings.out, command, record, trained={"variants": trained})
    if isinstance(settings, KfoldPipeline):
        write_recipes(settings, variants)


def _folds_and_metric(
    settings: KfoldSettings, variants: Sequence[Variant], replaced: Path | None
) -> tuple[Folds, tuple[str, ...]]:
    """What the data decides; where it cannot be used, ``out`` is as it was before.

    Args:
        settings: of the run.
        variants: to train.
        replaced: what lay in ``out`` before; it goes once the data is known to do.
    """
    try:
        folds = make_folds(settings)
        metric = _metric(settings, folds, variants)
    except BaseException:
        if not settings.resume:
            shutil.rmtree(settings.out, ignore_errors=True)
        if replaced is not None:
            replaced.rename(settings.out)
        raise
    if replaced is not None:
        shutil.rmtree(replaced)
    return folds, metric


def _metric(settings: KfoldSettings, folds: Folds, variants: Sequence[Variant]) -> tuple[str, ...]:
    if isinstance(settings, KfoldDetect):
        default = "level_accuracy_8px" if folds.labels == "level" else "coco.map50"
        if folds.labels != "level" and "level_accuracy_8px" in (settings.metric or ()):
            msg = f"metric=level_accuracy_8px: the classes of data={settings.data} are no levels"
            raise ConfigError(msg)
        return settings.metric or (default,)
    if isinstance(settings, KfoldPipeline):
        check_labels(settings.data, folds.labels)
        return settings.metric or ("level_accuracy_8px", "seven.accuracy")
    heads = {head_of(settings, variant) for variant in variants}
    return settings.metric or ("binary.accuracy" if heads == {"binary"} else "seven.accuracy",)


def _tell_plan(settings: KfoldSettings, folds: Folds, variants: Sequence[Variant]) -> None:
    sizes = ", ".join(str(len(folds.studies(n))) for n in range(len(folds.folders)))
    out = f"; {folds.test_studies} studies of test stay out" if folds.test_studies else ""
    LOG.info("%d folds of %s studies%s", len(folds.folders), sizes, out)
    for variant in variants:
        LOG.info("variant %s", _variant_text(variant))
    LOG.info("scored with the weights of the %s epoch", settings.checkpoint)


def _variant_text(variant: Variant) -> str:
    return f"{variant.name}: {_keys_text(variant.keys)}"


def _keys_text(keys: Mapping[str, Any]) -> str:
    """Such as ``mixup=0.2``; of a recipe, ``detector(epochs=9, imgsz=320), namer(epochs=3)``."""
    said = [
        f"{name}({_keys_text(value)})" if isinstance(value, dict) else f"{name}={value}"
        for name, value in keys.items()
        if value != {}
    ]
    return ", ".join(said) or "as the common keys say"


def _jobs(settings: KfoldSettings, folds: Folds, variants: Sequence[Variant]) -> list[Job]:
    return [
        _job(settings, variant, n, folder)
        for variant in variants
        for n, folder in enumerate(folds.folders)
    ]


def _job(settings: KfoldSettings, variant: Variant, fold: int, data: Path) -> Job:
    out = settings.out / variant.name / f"fold{fold}"
    if isinstance(settings, KfoldPipeline):
        train = recipe_settings(settings, variant, data=data, out=out)
        return Job(variant.name, fold, train, settings.checkpoint, scoring(settings))
    one_stage = train_settings(settings, variant, data=data, out=out, device="cpu")
    return Job(variant.name, fold, one_stage, settings.checkpoint)


def _whole(jobs: Sequence[Job]) -> set[str]:
    """The variants of which every fold is done."""
    return {job.variant for job in jobs} - {job.variant for job in jobs if not job.done}


def _rows(
    settings: KfoldSettings, folds: Folds, variants: Sequence[Variant], jobs: Sequence[Job]
) -> tuple[tuple[Row, ...], tuple[Failure, ...]]:
    """Every figure of every variant; out-of-fold predictions and weights are written on the way.

    Returns:
        the rows, and the studies that failed out of fold.
    """
    rows: list[Row] = []
    missed: list[Failure] = []
    for variant in variants:
        own = [job for job in jobs if job.variant == variant.name]
        done = [job for job in own if job.done]
        _write_weights(settings, folds, own)
        found = {job.fold: _metrics(job) for job in done}
        pooled = _pooled(settings, folds, own, missed) if len(done) == len(own) else {}
        names = list(dict.fromkeys(name for figures in found.values() for name in figures))
        failed = tuple(not job.done for job in own)
        for name in names or ["-"]:
            values = tuple(found.get(job.fold, {}).get(name) for job in own)
            rows.append(Row(variant.name, name, values, pooled.get(name), failed))
    return tuple(rows), tuple(missed)


def _metrics(job: Job) -> dict[str, float | None]:
    from spineline.pipeline.kfold.out_of_fold import read_scores

    return flat_figures(read_scores(job.scores / "metrics.json", dict))


def _pooled(
    settings: KfoldSettings, folds: Folds, jobs: Sequence[Job], missed: list[Failure]
) -> dict[str, dict[str, Any]]:
    """The figures of all out-of-fold predictions; studies that failed are added to ``missed``."""
    from spineline.pipeline.kfold.out_of_fold import figures_of, pool_detections, pool_grades

    if isinstance(settings, KfoldPipeline):
        name = jobs[0].variant
        scored = out_of_fold(settings, folds, settings.out / name)
        missed += (Failure(f"{name}, study {f.name}", f.reason) for f in scored.failures)
        return figures_of(scored.metrics)
    pool = pool_detections if isinstance(settings, KfoldDetect) else pool_grades
    out = settings.out / jobs[0].variant
    scores = [job.scores for job in jobs]
    return pool(scores, folds, out, draws=settings.draws, seed=settings.seed)


def _write_weights(settings: KfoldSettings, folds: Folds, jobs: Sequence[Job]) -> None:
    """The weights of the folds that are done, for ``pipeline val folds=``."""
    uid_of = folds.uid_of()
    found = [
        FoldWeights(
            folds.studies(job.fold),
            tuple(uid_of[study] for study in folds.studies(job.fold)),
            _models(settings, job),
        )
        for job in jobs
        if job.done
    ]
    if found:
        write_fold_weights(settings.out / jobs[0].variant / FOLD_WEIGHTS_FILE, found)


def _models(settings: KfoldSettings, job: Job) -> dict[str, str]:
    """The files of a fold's networks, from the variant's folder."""
    fold = job.train.out.name
    if isinstance(settings, KfoldPipeline):
        made = weights_in(Path(fold))
        files = {"detector": made.detector, "classifier": made.classifier, "namer": made.namer}
        return {task: file.as_posix() for task, file in files.items()}
    task = "detector" if isinstance(settings, KfoldDetect) else "classifier"
    return {task: f"{fold}/weights/{job.weights.name}"}


def _write(
    settings: KfoldSettings,
    command: str,
    folds: Folds,
    metric: Sequence[str],
    variants: Sequence[Variant],
    rows: Sequence[Row],
    failures: Sequence[Failure],
) -> None:
    out = settings.out
    trained: dict[str, Any] = {}
    for row in rows:
        trained.setdefault(row.variant, {})[row.figure] = row.to_json()
    content = {
        "schema": SCHEMA,
        "k": len(folds.folders),
        "seed": settings.seed,
        "checkpoint": settings.checkpoint,
        "metric": list(metric),
        "studies": [len(folds.studies(n)) for n in range(len(folds.folders))],
        "variants": trained,
        "failures": [{"training": f.name, "reason": f.reason} for f in failures],
    }
    write_json(out / "kfold.json", content)
    write_text(out / "kfold.csv", rows_csv(rows))
    write_text(out / "kfold.md", _page(settings, command, folds, metric, variants, rows, failures))
    write_bytes(out / "kfold.png", rows_png(rows, metric))


def _of(rows: Sequence[Row], figure: str) -> list[Row]:
    """The rows of one figure; a variant that has none is there too, empty."""
    found = {row.variant: row for row in rows if row.figure == figure}
    by_variant = {row.variant: row for row in rows}
    return [
        found.get(name, Row(name, figure, (None,) * len(row.folds), None, row.failed))
        for name, row in by_variant.items()
    ]


def _page(
    settings: KfoldSettings,
    command: str,
    folds: Folds,
    metric: Sequence[str],
    variants: Sequence[Variant],
    rows: Sequence[Row],
    failures: Sequence[Failure],
) -> str:
    sizes = ", ".join(str(len(folds.studies(n))) for n in range(len(folds.folders)))
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = ["# Cross-validation", ""]
    lines += [
        f"- Command: `{command_line(command, replace(settings, resume=False))}`",
        f"- Variants: {'; '.join(map(_variant_text, variants))}",
        f"- Data: {settings.data.name}, {len(folds.folders)} folds of {sizes} studies (fold 1 is "
        f"`fold0`), seed {settings.seed}",
        f"- Scored: the weights of the {settings.checkpoint} epoch"
        + (", so that no fold chooses what it scores" if settings.checkpoint == "last" else ""),
        f"- Bootstrap: {settings.draws} draws, seed {settings.seed}",
        f"- Versions: {packages}",
        f"- Machine: {machine()}",
    ]
    for name in metric:
        lines += ["", f"## {name}", "", table_markdown(_of(rows, name))]
    lines += ["", NOTE, "", "![folds, means and intervals](kfold.png)", ""]
    about = "Mean ± standard deviation of the folds, and the pooled figure; classes: kfold.csv."
    lines += ["## All figures", "", about]
    lines += ["", overview_markdown(rows)]
    if failures:
        lines += ["", "## Failed", "", *(f"- {failure}" for failure in failures)]
    return "\n".join(lines) + "\n"


def _tell(
    settings: KfoldSettings,
    metric: Sequence[str],
    rows: Sequence[Row],
    failures: Sequence[Failure],
) -> None:
    for name in metric:
        LOG.info("\n%s\n%s", name, table_text(_of(rows, name)))
    LOG.info("\n%s", NOTE)
    for failure in failures:
        LOG.error("error: %s", failure)
    LOG.info("%d failed; tables in %s", len(failures), settings.out / "kfold.md")
