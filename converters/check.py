"""``spineline data check``: find mistakes in a source or a dataset, and report the consequences."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from spineline.converters.contradicted_labels import Contradiction, contradictions, write_pictures
from spineline.converters.conversion import finding_counts
from spineline.converters.dataset_findings import dataset_findings, image_findings
from spineline.converters.export_sources import (
    EXPORT_SETTINGS,
    export_kind,
    is_point_table,
    read_export,
)
from spineline.converters.settings import DataCheck
from spineline.converters.sources.cervical.filters import CervicalRules
from spineline.converters.sources.cervical.read import read_cervical
from spineline.converters.sources.frames import with_frame_findings
from spineline.converters.sources.prepared import is_prepared_folder, read_prepared
from spineline.converters.sources.report import read_report
from spineline.converters.sources.result.files import is_result_source
from spineline.converters.sources.result.read import ResultRules, read_results
from spineline.converters.sources.source import (
    AnnotationSource,
    SourceKind,
    detect_kind,
    load_json,
)
from spineline.converters.sources.tianchi import read_tianchi
from spineline.datasets.common.errors import AnnotationError, ConfigError
from spineline.datasets.common.files import check_output, staged_folder, write_json, write_text
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.common.tables import aligned_text
from spineline.datasets.dataset import Dataset, load_dataset
from spineline.datasets.quality_control import Finding, has_errors

_COLUMNS = ("image_id", "study", "level", "finding", "severity", "detail", "action")
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of a check.

    Attributes:
        out: the folder written.
        findings: all findings, in the order of the source.
        studies_with_errors: ids of the studies with errors, sorted and unique.
    """

    out: Path
    findings: tuple[Finding, ...]
    studies_with_errors: tuple[str, ...]


def check(settings: DataCheck) -> CheckResult:
    """Run ``spineline data check``.

    Raises:
        AnnotationError: nothing could be read.
        ConfigError: neither or both of a source and a dataset were given.
        OutputExistsError: the output exists already.
    """
    _check_keys(settings)
    check_output(settings.out, overwrite=settings.overwrite)
    contradicted: list[Contradiction] = []
    dataset: Dataset | None = None
    if settings.data is not None:
        dataset = load_dataset(settings.data, settings.images, own_classes=True)
        contradicted = contradictions(dataset, settings.predictions) if settings.predictions else []
        findings = dataset_findings(dataset)
        total = len(dataset.all_records()) + len(dataset.failures)
        shown = contradicted[: settings.limit]
        findings += [one.finding(n, len(contradicted)) for n, one in enumerate(shown, 1)]
    else:
        source = with_frame_findings(_read_source(settings))
        there = [record for record in source.records if not source.is_missing(record)]
        findings = [*source.findings, *image_findings(there, source.pixels, "record left out")]
        total = len(source.records) + len(source.left_out)
    studies = tuple(has_errors(findings))
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        write_json(stage / "check.json", [_row(finding) for finding in findings])
        write_text(stage / "check.csv", _csv(findings))
        if dataset is not None:
            write_pictures(stage, dataset, contradicted[: settings.limit])
        write_run_record(stage, "data check", settings)
    _print(total, findings, studies, settings.out)
    if settings.predictions:
        listed = min(len(contradicted), settings.limit)
        LOG.info("%d labels contradicted, %d listed", len(contradicted), listed)
    return CheckResult(settings.out, tuple(findings), studies)


def _read_source(settings: DataCheck) -> AnnotationSource:
    """Read the source that the settings name, of whatever kind."""
    annotations = cast(Path, settings.annotations)
    kind = source_kind(annotations)
    if settings.names is not None and kind not in EXPORT_SETTINGS:
        msg = f"names=…: annotations={annotations} is a {kind} source, whose words are known; "
        raise ConfigError(f"{msg}leave it out")
    if kind == "cervical":
        rules = CervicalRules(settings.columns, settings.classes, settings.usable_value)
        return read_cervical(annotations, settings.images, rules)
    if kind == "prepared":
        return read_prepared(annotations, settings.images)[0]
    images = cast(Path, settings.images)
    if kind in EXPORT_SETTINGS:
        export = EXPORT_SETTINGS[kind](
            annotations=annotations,
            images=images,
            out=settings.out,
            names=settings.names,
            empty_tag=settings.empty_tag,
        )
        return read_export(export)
    if kind == "result":
        return read_results(
            annotations, images, ResultRules(empty_tag=settings.empty_tag, volumes=True)
        )
    if kind == "report":
        return read_report(annotations, images, empty_tag=settings.empty_tag)
    return read_tianchi(annotations, images, empty_tag=settings.empty_tag)


def source_kind(annotations: Path) -> SourceKind:
    """Recognise the kind of source at a path.

    CSV files hold points or a cervical source, and JSON is recognised by its structure. A folder
    with a ``result.json`` below it holds results of ``pipeline predict``.

    Raises:
        AnnotationError: the kind is unknown, or the path is not readable.
    """
    if annotations.suffix.lower() == ".csv":
        return "csv" if is_point_table(annotations) else "cervical"
    if annotations.is_dir():
        return _kind_of_folder(annotations)
    if is_result_source(annotations):
        return "result"
    if annotations.suffix.lower() != ".json" and annotations.is_file():
        found, reason = export_kind(annotations)
        if found in EXPORT_SETTINGS:
            return cast(SourceKind, found)
        if reason:
            raise AnnotationError(f"annotations={annotations}: {reason}")
    return detect_kind(annotations, load_json(annotations))


def _kind_of_folder(annotations: Path) -> SourceKind:
    """[source_kind][] of a folder."""
    if is_prepared_folder(annotations):
        return "prepared"
    if is_result_source(annotations):
        return "result"
    found, reason = export_kind(annotations)
    if found in EXPORT_SETTINGS and (found != "csv" or is_point_table(annotations)):
        return cast(SourceKind, found)
    has_csv = any(path.suffix.lower() == ".csv" for path in annotations.iterdir())
    if not has_csv and not (annotations / "descr").is_dir():
        known = "holds no annotations of a known kind; YOLO and COCO data sets are for data=…"
        raise AnnotationError(f"annotations={annotations}: {reason or known}")
    return "cervical"


def _check_keys(settings: DataCheck) -> None:
    annotations, images = settings.annotations, settings.images
    if settings.predictions and settings.data is None:
        raise ConfigError("predictions=: need a converted dataset to compare with; give data=… too")
    if settings.data is not None:
        fits = annotations is None and settings.names is None
    elif annotations is not None and images is None:
        fits = annotations.exists() and source_kind(annotations) in ("cervical", "prepared")
    else:
        fits = annotations is not None
    if not fits:
        msg = "wanted either annotations=… and images=… (a source), or data=… (a dataset)"
        raise ConfigError(msg)


def _row(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in _COLUMNS}


def _csv(findings: Sequence[Finding]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row(finding) for finding in findings)
    return text.getvalue()


def _print(total: int, findings: Sequence[Finding], studies: Sequence[str], out: Path) -> None:
    worth = [f for f in findings if f.severity != "note"]
    if worth:
        rows = [[str(value or "-") for value in _row(f).values()] for f in worth[:_SHOWN]]
        LOG.info("%s", aligned_text([[name.replace("_", " ") for name in _COLUMNS], *rows]))
    if len(worth) > _SHOWN:
        LOG.info("… and %d more, see check.csv", len(worth) - _SHOWN)
    counts = ", ".join(f"{name} {count}" for name, count in finding_counts(findings).items())
    LOG.info("%d annotated images checked: %s", total, counts or "nothing found")
    if studies:
        what = "study" if len(studies) == 1 else "studies"
        LOG.info("%d %s with errors: %s", len(studies), what, ", ".join(studies))
    LOG.info("written to %s", out)
