"""``spineline convert``: make a dataset in YOLO, VOC, COCO and other formats from a source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from spineline.converters.conversion import conversion_content, log_conversion
from spineline.converters.patients import warn_of_parted, with_patients
from spineline.converters.settings import (
    ConvertCervical,
    ConvertExport,
    ConvertPredicted,
    ConvertPrepared,
    ConvertReport,
    ConvertSettings,
    ConvertTianchi,
)
from spineline.converters.sources.cervical.filters import CervicalRules
from spineline.converters.sources.cervical.read import read_cervical
from spineline.converters.sources.exports.kinds import EXPORT_NAMES
from spineline.converters.sources.frames import with_frame_findings
from spineline.converters.sources.prepared import check_image_size, read_prepared
from spineline.converters.sources.report import read_report
from spineline.converters.sources.source import AnnotationSource, LeftOut
from spineline.converters.write import write_converted
from spineline.datasets.common.errors import AnnotationError, ConfigError
from spineline.datasets.common.files import check_output, staged_folder, write_json
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.common.settings import refuse_output_around
from spineline.datasets.labels import KINDS, LEVELS, LabelSet, kind_of_level
from spineline.datasets.quality_control import Finding
from spineline.datasets.splits import (
    FOLDS_FILE,
    PARTS,
    Part,
    fold_strata,
    fold_studies,
    folds_content,
    patients_of,
    split_by_train_ratio,
    split_studies,
)
from spineline.datasets.types import ImageRecord

_OTHER_COMMAND = "annotations=%s: this is %s; use spineline convert %s"


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """Result of a conversion.

    Attributes:
        out: the folder written; it is not created if every image was left out.
        source: what was written, left out and found.
        failures: one line per broken entry, and one if nothing is left; the command then exits
            with 1.
    """

    out: Path
    source: AnnotationSource
    failures: tuple[str, ...]


def convert_report(settings: ConvertReport) -> ConvertResult:
    """Run ``spineline convert report``.

    Raises:
        AnnotationError: the source cannot be read at all.
        ConfigError: split or folds do not fit the studies.
        OutputExistsError: the output exists already.
    """
    _check_begin(settings)
    source = read_report(settings.annotations, settings.images, empty_tag=settings.empty_tag)
    return _convert(of_kinds(source, settings.kinds), settings, "convert report")


def convert_tianchi(settings: ConvertTianchi) -> ConvertResult:
    """Run ``spineline convert tianchi``.

    Raises:
        AnnotationError: the annotation cannot be read at all.
        DicomReadError: the images folder holds no DICOM study.
        ConfigError: split or folds do not fit the studies.
        OutputExistsError: the output exists already.
    """
    from spineline.converters.sources.tianchi import read_tianchi  # imports pydicom

    _check_begin(settings)
    source = read_tianchi(settings.annotations, settings.images, empty_tag=settings.empty_tag)
    return _convert(of_kinds(source, settings.kinds), settings, "convert tianchi")


def convert_cervical(settings: ConvertCervical) -> ConvertResult:
    """Run ``spineline convert cervical``.

    Raises:
        AnnotationError: the source cannot be read at all, or a required image is missing.
        ConfigError: the source cannot provide the label set, or the split does not fit.
        OutputExistsError: the output exists already.
    """
    from spineline.converters.export_sources import is_point_table  # imports pydicom

    _check_health(settings.labels, "cervical")
    _check_ratio(settings)
    _check_begin(settings)
    if settings.annotations.exists() and is_point_table(settings.annotations):
        raise AnnotationError(_OTHER_COMMAND % (settings.annotations, EXPORT_NAMES["csv"], "csv"))
    rules = CervicalRules(
        columns=settings.columns,
        classes=settings.classes,
        usable_value=settings.usable_value,
        min_boxes=settings.min_boxes,
        min_bin_size=settings.min_bin_size,
        iou=settings.iou,
        require_images=settings.require_images,
    )
    source = read_cervical(settings.annotations, settings.images, rules)
    return _convert(source, settings, "convert cervical")


def convert_prepared(settings: ConvertPrepared) -> ConvertResult:
    """Run ``spineline convert prepared``.

    Raises:
        AnnotationError: the source cannot be read at all.
        ConfigError: the source cannot provide the label set, or the split does not fit.
        OutputExistsError: the output exists already.
    """
    _check_health(settings.labels, "prepared")
    check_image_size(settings.image_size)
    _check_begin(settings)
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
        DicomReadError: the results are of DICOM studies, but ``images`` has no DICOM image.
        ConfigError: split or folds do not fit the studies.
        OutputExistsError: the output exists already.
    """
    from spineline.converters.export_sources import export_kind  # imports pydicom
    from spineline.converters.sources.result.read import ResultRules, read_results

    _check_begin(settings)
    found = export_kind(settings.annotations)[0] if settings.annotations.is_file() else None
    if found not in (None, "result"):
        name = EXPORT_NAMES[found]
        raise AnnotationError(_OTHER_COMMAND % (settings.annotations, name, found))
    rules = ResultRules(
        min_confidence=settings.min_confidence,
        keep_abstained=settings.abstained == "keep",
        keep_incomplete=settings.missing == "keep",
        rule_boxes=settings.boxes == "rule",
        empty_tag=settings.empty_tag,
        reviewed_only=settings.studies == "reviewed",
        volumes=True,
    )
    source = read_results(settings.annotations, settings.images, rules)
    return _convert(of_kinds(source, settings.kinds), settings, "convert result")


def convert_export(settings: ConvertExport) -> ConvertResult:
    """Run ``spineline convert coco``, ``cvat``, ``labelstudio``, ``labelme``, ``slicer``, ``csv``.

    Raises:
        AnnotationError: the export cannot be read, or comes from another tool.
        ConfigError: split or folds do not fit the studies, or a key does not fit the export.
        OutputExistsError: the output exists already.
    """
    from spineline.converters.export_sources import read_export  # imports pydicom

    settings = _with_patient_file(settings)
    _check_begin(settings)
    source = of_kinds(read_export(settings), settings.kinds)
    return _convert(source, settings, f"convert {settings.kind}")


def _with_patient_file(settings: ConvertExport) -> ConvertExport:
    """The settings with ``patient=`` moved to ``patients=`` if it names a file."""
    patient = settings.patient
    if patient is None:
        return settings
    if settings.patients is not None:
        msg = f"patient={patient} and patients={settings.patients}: one says who the patients are"
        raise ConfigError(f"{msg}; leave one out")
    if Path(patient).is_file():
        return replace(settings, patient=None, patients=Path(patient))
    if Path(patient).suffix.lower() in (".csv", ".json", ".yaml", ".yml", ".tsv"):
        raise ConfigError(f"patient={patient}: no such file")
    return settings


def of_kinds(source: AnnotationSource, kinds: Sequence[str]) -> AnnotationSource:
    """Keep only structures of these kinds; images without any are left out."""
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
    findings = tuple(_of_kinds(source.findings, kept, kinds))
    left_out = (*source.left_out, *bare)
    return replace(source, records=tuple(kept), left_out=left_out, findings=findings)


def _of_kinds(
    findings: Iterable[Finding], kept: Iterable[ImageRecord], kinds: Sequence[str]
) -> Iterator[Finding]:
    """The findings without those that lack a level or a grade of a dropped kind only."""
    wanted = {level for level in LEVELS if kind_of_level(level) in kinds}
    complete = {r.image_id for r in kept if wanted <= {s.level for s in r.structures}}
    for one in findings:
        ungraded = one.level is not None and one.finding in (
            "empty_tag",
            "missing_tag",
            "unknown_tag",
        )
        if ungraded and kind_of_level(str(one.level)) not in kinds:
            continue
        if one.finding != "point_count" or one.image_id not in complete:
            yield one


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
        msg = f"train_ratio={ratio} and split={settings.split}: one of them decides; leave one out"
        raise ConfigError(msg)
    if settings.kfold is not None:
        raise ConfigError(f"train_ratio={ratio} and kfold={settings.kfold}: leave one out")


def _check_begin(settings: ConvertSettings) -> None:
    """Refuse, before the source is read, an output that exists or holds it, and a bad split."""
    if settings.split != "source":  # of prepared sources
        split_studies((), settings.split)
    refuse_output_around(settings)
    check_output(settings.out, overwrite=settings.overwrite)


class _NothingToWriteError(Exception):
    """Every image was left out; nothing is written, and an existing output is kept."""


def _convert(
    source: AnnotationSource,
    settings: ConvertSettings,
    command: str,
    parts: Mapping[str, Part] | None = None,
) -> ConvertResult:
    """Write a source; ``parts`` by study, if given, replace ``settings.split``."""
    source = with_frame_findings(with_patients(source, settings.patients))
    folds: list[list[str]] = []
    if not parts:
        parts, folds, layouts = _layouts(source.records, settings)
    else:
        layouts = {"": dict(parts)}
    warn_of_parted(source.records, parts, f"split={settings.split}")
    labels = cast(LabelSet, settings.labels)
    with (
        suppress(_NothingToWriteError),
        staged_folder(settings.out, overwrite=settings.overwrite) as stage,
    ):
        source = write_converted(
            stage, source, layouts, labels=labels, formats=settings.to, window=settings.window
        )
        if not source.records:
            raise _NothingToWriteError
        for name, layout in layouts.items():
            content = conversion_content(source, layout, settings)
            write_json(stage / name / "conversion.json", content, sync=False)
        if folds:
            write_json(stage / FOLDS_FILE, folds_content(folds, settings.seed), sync=False)
            content = conversion_content(source, parts, settings)
            write_json(stage / "conversion.json", content, sync=False)
        # The record is in the output folder, so it need not name it: same input, same bytes.
        write_run_record(stage, command, replace(settings, out=Path()))
    return ConvertResult(settings.out, source, tuple(log_conversion(source, settings)))


def _layouts(
    records: Sequence[ImageRecord], settings: ConvertSettings
) -> tuple[dict[str, Part], list[list[str]], dict[str, dict[str, Part]]]:
    """Part by study, the studies of each fold (empty without folds), and the parts by dataset."""
    studies, patients = [record.study_id for record in records], patients_of(records)
    k, seed = settings.kfold, settings.seed
    if isinstance(settings, ConvertCervical) and settings.train_ratio is not None:
        parts = split_by_train_ratio(studies, settings.train_ratio, seed=seed, patients=patients)
        return parts, [], {"": parts}
    if k is None:
        parts = split_studies(studies, settings.split, seed=seed, patients=patients)
        return parts, [], {"": parts}
    # With folds, a plain ratio or a single part has no meaning, but a test part has.
    one_ratio = settings.split.replace(".", "", 1).isdigit()
    split = "train" if one_ratio or settings.split in PARTS else settings.split
    tested = {
        study
        for study, part in split_studies(studies, split, seed=seed, patients=patients).items()
        if part == "test"
    }
    folded = [study for study in studies if study not in tested]
    fold_of = fold_studies(folded, k, seed=seed, strata=fold_strata(records), patients=patients)
    folds = [[study for study, fold in fold_of.items() if fold == n] for n in range(k)]
    whole: dict[str, Part] = {s: "test" if s in tested else "train" for s in sorted(set(studies))}
    layouts: dict[str, dict[str, Part]] = {
        f"fold{n}": {**whole, **dict.fromkeys(fold, "val")} for n, fold in enumerate(folds)
    }
    return whole, folds, layouts
