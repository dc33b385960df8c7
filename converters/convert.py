"""``spineline convert``: an annotation source to a dataset in YOLO, VOC and COCO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from spineline.converters.report import read_report
from spineline.converters.settings import ConvertReport, ConvertSettings, ConvertTianchi
from spineline.converters.source import EmptyTag, Source
from spineline.converters.write import Plan, conversion, finding_counts, write_datasets
from spineline.datasets.annotations import ImageRecord
from spineline.datasets.files import check_output, staged_folder, write_json
from spineline.datasets.labels import LabelSet
from spineline.datasets.qa import has_errors
from spineline.datasets.runs import LOG, write_run_record
from spineline.datasets.settings import refuse_output_around
from spineline.datasets.splits import Part, fold_studies, records_by_part, split_studies

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """What a conversion did.

    Attributes:
        out: the folder written.
        source: what was written, left out and found.
        failures: one line per broken entry, and one where nothing is left; any makes the command
            exit 1.
    """

    out: Path
    source: Source
    failures: tuple[str, ...]


def convert_report(settings: ConvertReport) -> ConvertResult:
    """Run ``spineline convert report``.

    Raises:
        AnnotationError: the source cannot be read at all.
        ConfigError: split or folds do not fit the studies.
        OutputExistsError: the output exists already.
    """
    _check_output(settings)
    empty_tag = cast("EmptyTag | None", settings.empty_tag)
    source = read_report(settings.annotations, settings.images, empty_tag=empty_tag)
    return _convert(source, settings, "convert report")


def convert_tianchi(settings: ConvertTianchi) -> ConvertResult:
    """Run ``spineline convert tianchi``.

    Raises:
        AnnotationError: the annotation cannot be read at all.
        DicomReadError: the images folder holds no DICOM study.
        ConfigError: split or folds do not fit the studies.
        OutputExistsError: the output exists already.
    """
    from spineline.converters.tianchi import read_tianchi

    _check_output(settings)
    empty_tag = cast("EmptyTag | None", settings.empty_tag)
    source = read_tianchi(settings.annotations, settings.images, empty_tag=empty_tag)
    return _convert(source, settings, "convert tianchi")


def _check_output(settings: ConvertSettings) -> None:
    """Refuse an output that exists, or whose replacement would delete the source."""
    refuse_output_around(settings)
    check_output(settings.out, overwrite=settings.overwrite)


def _convert(source: Source, settings: ConvertSettings, command: str) -> ConvertResult:
    folds, layouts = _layouts(source.records, settings)
    plan = Plan(cast(LabelSet, settings.labels), settings.to, settings.window, layouts)
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        source = write_datasets(stage, source, plan)
        if folds:
            _write_folds(stage, source, plan, folds, settings)
        # The record lies in the output folder, so it need not name it: same input, same bytes.
        write_run_record(stage, command, replace(settings, out=Path()))
    _report(source, settings.out)
    failures = [str(entry) for entry in source.failures]
    if not source.records:
        failures.append(f"{settings.annotations}: no image of it could be converted")
        LOG.error("error: %s", failures[-1])
    return ConvertResult(settings.out, source, tuple(failures))


def _layouts(
    records: Sequence[ImageRecord], settings: ConvertSettings
) -> tuple[dict[str, int], dict[str, dict[str, Part]]]:
    """Fold by study (empty without folds), and part by study for each dataset to write."""
    studies = [record.study_id for record in records]
    k = settings.kfold
    if k is None:
        return {}, {"": split_studies(studies, settings.split, seed=settings.seed)}
    split = settings.split if _has_test(settings.split) else "train"
    parts = split_studies(studies, split, seed=settings.seed)
    folded = [study for study in studies if parts[study] != "test"]
    folds = fold_studies(folded, k, seed=settings.seed, strata=fold_strata(records))
    layouts: dict[str, dict[str, Part]] = {
        f"fold{n}": {study: _fold_part(folds.get(study), n) for study in parts} for n in range(k)
    }
    return folds, layouts


def fold_strata(records: Sequence[ImageRecord]) -> dict[str, str]:
    """The stratum of each study: how many of its discs carry v5 (none, one, more).

    The two official halves of the lumbar set were marked with v5 by different habits, so a fold
    without them would tell nothing about v5.
    """
    marked: dict[str, int] = {}
    for record in records:
        found = sum(s.kind == "disc" and "v5" in s.pathology for s in record.structures)
        marked[record.study_id] = marked.get(record.study_id, 0) + found
    return {study: str(min(count, 2)) for study, count in marked.items()}


def _has_test(split: str) -> bool:
    """With folds, a plain ratio or a single part means nothing; what names a test part does."""
    one_ratio = split.replace(".", "", 1).isdigit()
    return not one_ratio and split not in ("train", "val", "test")


def _fold_part(fold: int | None, n: int) -> Part:
    if fold is None:
        return "test"
    return "val" if fold == n else "train"


def _write_folds(
    stage: Path, source: Source, plan: Plan, folds: dict[str, int], settings: ConvertSettings
) -> None:
    """What holds for all folds together: which study is in which, and the counts of the whole."""
    write_json(stage / "folds.json", _folds_manifest(folds, settings))
    parts: dict[str, Part] = {
        study: "train" if study in folds else "test" for study in plan.layouts["fold0"]
    }
    whole = conversion(source, records_by_part(source.records, parts), plan)
    write_json(stage / "conversion.json", whole)


def _folds_manifest(folds: dict[str, int], settings: ConvertSettings) -> dict[str, object]:
    k = settings.kfold or 0
    return {
        "schema": "spineline-folds/1",
        "k": k,
        "seed": settings.seed,
        "folds": [[study for study, fold in folds.items() if fold == n] for n in range(k)],
    }


def _report(source: Source, out: Path) -> None:
    total = len(source.records) + len(source.left_out)
    for entry in source.left_out[:_SHOWN]:
        LOG.warning("%s", entry)
    if len(source.left_out) > _SHOWN:
        LOG.warning("… and %d more left out, see conversion.json", len(source.left_out) - _SHOWN)
    LOG.info("%d of %d annotated images converted to %s", len(source.records), total, out)
    counts = finding_counts(source.findings)
    if counts:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        LOG.info("findings: %s", listed)
    studies = has_errors(source.findings)
    if studies:
        shown = ", ".join(studies[:_SHOWN]) + (" …" if len(studies) > _SHOWN else "")
        LOG.info("studies with errors: %s (details: conversion.json or data check)", shown)
