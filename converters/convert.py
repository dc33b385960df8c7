"""``spineline convert``: an annotation source to a dataset in YOLO, VOC, COCO and other forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from spineline.converters.settings import (
    ConvertCervical,
    ConvertPredicted,
    ConvertPrepared,
    ConvertReport,
    ConvertSettings,
    ConvertTianchi,
)
from spineline.converters.sources.cervical import Rules, published_table, read_cervical
from spineline.converters.sources.prepared import check_image_size, read_prepared
from spineline.converters.sources.report import read_report
from spineline.converters.sources.source import EmptyTag, LeftOut, Source
from spineline.converters.write import Plan, conversion, finding_counts, write_datasets
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.files import check_output, staged_folder, write_json
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.common.settings import refuse_output_around
from spineline.datasets.common.tables import aligned_text
from spineline.datasets.labels import KINDS, LabelSet
from spineline.datasets.quality_control import has_errors
from spineline.datasets.splits import (
    Part,
    fold_studies,
    records_by_part,
    split_by_train_ratio,
    split_studies,
)
from spineline.datasets.types import ImageRecord

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
    return _convert(of_kinds(source, settings.kinds), settings, "convert report")


def convert_tianchi(settings: ConvertTianchi) -> ConvertResult:
    """Run ``spineline convert tianchi``.

    Raises:
        AnnotationError: the annotation cannot be read at all.
        DicomReadError: the images folder holds no DICOM study.
        ConfigError: split or folds do not fit the studies.
        OutputExistsError: the output exists already.
    """
    from spineline.converters.sources.tianchi import read_tianchi

    _check_output(settings)
    empty_tag = cast("EmptyTag | None", settings.empty_tag)
    source = read_tianchi(settings.annotations, settings.images, empty_tag=empty_tag)
    return _convert(of_kinds(source, settings.kinds), settings, "convert tianchi")


def convert_cervical(settings: ConvertCervical) -> ConvertResult:
    """Run ``spineline convert cervical``.

    Raises:
        AnnotationError: the source cannot be read at all, or an image that is required is missing.
        ConfigError: a label set that the source cannot fill, or a split that does not fit.
        OutputExistsError: the output exists already.
    """
    _check_health(settings.labels, "cervical")
    _check_ratio(settings)
    _check_output(settings)
    rules = Rules(
        columns=settings.columns,
        classes=settings.classes,
        usable_value=settings.usable_value,
        min_boxes=settings.min_boxes,
        min_bin_size=settings.min_bin_size,
        iou=settings.iou,
        require_images=settings.require_images,
    )
    source = read_cervical(settings.annotations, settings.images, rules)
    parts: dict[str, Part] = {}
    if settings.train_ratio is not None:
        studies = [record.study_id for record in source.records]
        parts = split_by_train_ratio(studies, settings.train_ratio, seed=settings.seed)
    return _convert(source, settings, "convert cervical", parts)


def convert_prepared(settings: ConvertPrepared) -> ConvertResult:
    """Run ``spineline convert prepared``.

    Raises:
        AnnotationError: the source cannot be read at all.
        ConfigError: a label set that the source cannot fill, or a split that does not fit.
        OutputExistsError: the output exists already.
    """
    _check_health(settings.labels, "prepared")
    check_image_size(settings.image_size)
    _check_output(settings)
    source, parts = read_prepared(
        settings.annotations, settings.images, image_size=settings.image_size
    )
    if settings.split != "source":
        return _convert(source, settings, "convert prepared")
    parts = {record.study_id: parts.get(record.study_id, "train") for record in source.records}
    if len(set(parts.values())) > 1 and settings.kfold is None:
        return _convert(source, settings, "convert prepared", parts)
    return _convert(source, replace(settings, split="0.67"), "convert prepared")


def convert_result(settings: ConvertPredicted) -> ConvertResult:
    """Run ``spineline convert result``.

    Raises:
        AnnotationError: there is no result, or no folder of images.
        DicomReadError: results of DICOM studies, and no DICOM image in ``images``.
        ConfigError: split or folds do not fit the studies.
        OutputExistsError: the output exists already.
    """
    from spineline.converters.sources.result.read import ResultRules, read_results

    _check_output(settings)
    rules = ResultRules(
        min_confidence=settings.min_confidence,
        keep_abstained=settings.abstained == "keep",
        keep_incomplete=settings.missing == "keep",
        rule_boxes=settings.boxes == "rule",
        empty_tag=cast("EmptyTag | None", settings.empty_tag),
    )
    source = read_results(settings.annotations, settings.images, rules)
    return _convert(of_kinds(source, settings.kinds), settings, "convert result")


def of_kinds(source: Source, kinds: Sequence[str]) -> Source:
    """A source with the structures of these kinds alone; an image that has none is left out."""
    if not set(KINDS) - set(kinds):
        return source
    kept, bare = [], []
    for record in source.records:
        structures = tuple(s for s in record.structures if s.kind in kinds)
        if structures:
            kept.append(replace(record, structures=structures))
        else:
            detail = f"{record.image_id}: no {' or '.join(kinds)} in it"
            bare.append(LeftOut(record.image_id, record.study_id, "kinds", detail, failed=False))
    before = sum(len(record.structures) for record in source.records)
    dropped = before - sum(len(record.structures) for record in kept)
    LOG.info("kinds=%s: %d structures of other kinds are dropped", ",".join(kinds), dropped)
    return replace(source, records=tuple(kept), left_out=(*source.left_out, *bare))


def _check_health(labels: str, kind: str) -> None:
    if labels == "health":
        return
    msg = (
        f"labels={labels}: a {kind} source names no levels and grades discs no further than "
        "healthy and sick; use labels=health"
    )
    raise ConfigError(msg)


def _check_ratio(settings: ConvertCervical) -> None:
    ratio = settings.train_ratio
    if ratio is None:
        return
    if not 0 < ratio < 1:
        raise ConfigError(f"train_ratio={ratio}: wanted a ratio between 0 and 1, such as 0.67")
    if settings.split != ConvertSettings.__dataclass_fields__["split"].default:
        msg = f"train_ratio={ratio} and split={settings.split}: one of them decides; leave one away"
        raise ConfigError(msg)
    if settings.kfold is not None:
        raise ConfigError(f"train_ratio={ratio} and kfold={settings.kfold}: leave one away")


def _check_output(settings: ConvertSettings) -> None:
    """Refuse an output that exists, or whose replacement would delete the source."""
    refuse_output_around(settings)
    check_output(settings.out, overwrite=settings.overwrite)


def _convert(
    source: Source,
    settings: ConvertSettings,
    command: str,
    parts: Mapping[str, Part] | None = None,
) -> ConvertResult:
    """Write a source; ``parts`` by study, where given, stand in for ``settings.split``."""
    folds: dict[str, int] = {}
    layouts = {"": dict(parts or {})}
    if not parts:
        folds, layouts = _layouts(source.records, settings)
    plan = Plan(cast(LabelSet, settings.labels), settings.to, settings.window, layouts)
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        source = write_datasets(stage, source, plan)
        if folds:
            _write_folds(stage, source, plan, folds, settings)
        # The record lies in the output folder, so it need not name it: same input, same bytes.
        write_run_record(stage, command, replace(settings, out=Path()))
    _report(source, settings)
    failures = [str(entry) for entry in source.failures]
    if not source.records:
        reasons = Counter(entry.reason for entry in source.left_out)
        shown = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        found = f"left out: {shown}" if shown else "it holds none"
        failures.append(f"{settings.annotations}: no image of it could be converted ({found})")
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
    """The stratum of each study: how many of its discs carry v5, or are sick (none, one, more).

    The two official halves of the lumbar set were marked with v5 by different habits, so a fold
    without them would tell nothing about v5. Discs without level know healthy and sick alone.
    """
    marked: dict[str, int] = {}
    for record in records:
        discs = [s for s in record.structures if s.kind == "disc"]
        found = sum("v5" in s.pathology or "sick" in s.pathology for s in discs)
        marked[record.study_id] = marked.get(record.study_id, 0) + found
    return {study: str(min(count, 2)) for study, count in marked.items()}


def table_text(source: Source) -> str:
    """The counts of a cervical source, from its rows to the discs in use, as plain text."""
    table = published_table(source)
    reasons = Counter(entry.reason for entry in source.left_out)
    rows: list[tuple[str, object]] = [
        (name.replace("_", " "), value)
        for name, value in table.items()
        if not isinstance(value, Mapping)
    ]
    rows += [(f"left out, {name.replace('_', ' ')}", n) for name, n in sorted(reasons.items())]
    rows += [
        (f"object, {name.replace('_', ' ')}", count) for name, count in table["objects"].items()
    ]
    rows += [(f"images of {discs} discs", n) for discs, n in table["discs_per_image"].items()]
    return aligned_text([("what", "count"), *rows], right={1})


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
    write_json(stage / "folds.json", _folds_manifest(folds, settings), sync=False)
    parts: dict[str, Part] = {
        study: "train" if study in folds else "test" for study in plan.layouts["fold0"]
    }
    whole = conversion(source, records_by_part(source.records, parts), plan)
    write_json(stage / "conversion.json", whole, sync=False)


def _folds_manifest(folds: dict[str, int], settings: ConvertSettings) -> dict[str, object]:
    k = settings.kfold or 0
    return {
        "schema": "spineline-folds/1",
        "k": k,
        "seed": settings.seed,
        "folds": [[study for study, fold in folds.items() if fold == n] for n in range(k)],
    }


def _report(source: Source, settings: ConvertSettings) -> None:
    total = len(source.records) + len(source.left_out)
    # Most rows of a cervical source are left out by its rules: the table counts those.
    shown = source.failures if source.table else source.left_out
    for left_out in shown[:_SHOWN]:
        LOG.warning("%s", left_out)
    if len(shown) > _SHOWN:
        LOG.warning("… and %d more left out, see conversion.json", len(shown) - _SHOWN)
    if source.table:
        LOG.info("%s", table_text(source))
    if missing := sum(source.is_missing(record) for record in source.records):
        LOG.warning("%d images are missing: their labels are written without them", missing)
    LOG.info("%d of %d annotated images converted to %s", len(source.records), total, settings.out)
    counts = finding_counts(source.findings)
    if counts:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        LOG.info("findings: %s", listed)
    studies = has_errors(source.findings)
    if studies:
        names = ", ".join(studies[:_SHOWN]) + (" …" if len(studies) > _SHOWN else "")
        LOG.info("studies with errors: %s (details: conversion.json or data check)", names)
