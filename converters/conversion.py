"""Report of a conversion: the content of ``conversion.json``, and log lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from spineline.converters.patients import patient_counts
from spineline.converters.settings import ConvertSettings
from spineline.converters.sources.source import AnnotationSource, cut
from spineline.datasets.coco import boxed_structures
from spineline.datasets.common.log import LOG
from spineline.datasets.common.tables import aligned_text
from spineline.datasets.labels import (
    EXTRA_LEVELS,
    HEALTH_TAGS,
    KINDS,
    LABEL_SETS,
    LEVELS,
    LabelSet,
)
from spineline.datasets.quality_control import SEVERITY, Finding, has_errors
from spineline.datasets.splits import PARTS, Part, records_by_part
from spineline.datasets.types import ImageRecord, tags_of

_SHOWN = 20


def conversion_content(
    source: AnnotationSource, parts: Mapping[str, Part], settings: ConvertSettings
) -> dict[str, Any]:
    """Make the content of ``conversion.json``.

    Args:
        source: the source as it was written.
        parts: part by study.
        settings: settings of the conversion.
    """
    labels = cast(LabelSet, settings.labels)
    table = {"table": published_table(source)} if source.table else {}
    return {
        "schema": "spineline-conversion/1",
        "source": source.kind,
        "labels": labels,
        "formats": list(settings.to),
        "window": settings.window,
        **table,
        **({"marks": dict(source.marks)} if source.marks else {}),
        "patients": patient_counts(source.records),
        "counts": _counts(source, records_by_part(source.records, parts), labels),
        "left_out": [entry.to_dict() for entry in source.left_out],
        "findings": [finding.to_dict() for finding in source.findings],
    }


def published_table(source: AnnotationSource) -> dict[str, Any]:
    """Count the rows of a cervical source step by step, down to the discs of the images in use."""
    per_image = Counter(len(record.structures) for record in source.records)
    tags = [tag for record in source.records for s in record.structures for tag in s.pathology]
    return {
        **source.table,
        "used": len(source.records),
        "discs": len(tags),
        **{tag: tags.count(tag) for tag in HEALTH_TAGS},
        "discs_per_image": {str(count): per_image[count] for count in sorted(per_image)},
        "missing_images": sum(record.file is None for record in source.records),
        "left_out": _reasons(source),
    }


def finding_counts(findings: Sequence[Finding]) -> dict[str, int]:
    """Count each finding that occurs, in the order of ``SEVERITY``."""
    counts = Counter(finding.finding for finding in findings)
    return {name: counts[name] for name in SEVERITY if name in counts}


def log_conversion(source: AnnotationSource, settings: ConvertSettings) -> list[str]:
    """Log what was converted, left out and found; returns the failures, one line each."""
    # Rules leave out most rows of a cervical source: its table counts those.
    shown = source.failures if source.table else source.left_out
    for left_out in shown[:_SHOWN]:
        LOG.warning("%s", left_out)
    if len(shown) > _SHOWN:
        LOG.warning("… and %d more left out, see conversion.json", len(shown) - _SHOWN)
    if source.table:
        LOG.info("%s", _table_text(source))
    if source.marks:
        _log_marks(source.marks)
    if missing := sum(source.is_missing(record) for record in source.records):
        LOG.warning("%d images are missing: their labels are written without them", missing)
    total = len(source.records) + len(source.left_out)
    written = f"converted to {settings.out}" if source.records else "converted: nothing is written"
    LOG.info("%d of %d annotated images %s", len(source.records), total, written)
    if counts := finding_counts(source.findings):
        LOG.info("findings: %s", ", ".join(f"{name} {count}" for name, count in counts.items()))
    if studies := has_errors(source.findings):
        names = ", ".join(studies[:_SHOWN]) + (" …" if len(studies) > _SHOWN else "")
        where = "conversion.json or data check" if source.records else "data check"
        LOG.info("studies with errors: %s (details: %s)", names, where)
    failures = [str(entry) for entry in source.failures]
    if not source.records:
        reasons = ", ".join(f"{name} {count}" for name, count in _reasons(source).items())
        found = f"left out: {reasons}" if reasons else "it holds none"
        failures.append(f"{settings.annotations}: no image in it could be converted ({found})")
        LOG.error("error: %s", failures[-1])
    return failures


def _log_marks(marks: Mapping[str, Any]) -> None:
    """Log the use of an export's marks, and its unknown words."""
    left_out = ", ".join(f"{name} {count}" for name, count in marks["left_out"].items() if count)
    LOG.info(
        "%d of %d marks used%s",
        marks["used"],
        marks["read"],
        f"; left out: {left_out}" * bool(left_out),
    )
    for what in ("levels", "grades"):
        words = sorted(marks[f"unknown_{what}"].items(), key=lambda pair: (-pair[1], pair[0]))
        if words:
            shown = ", ".join(f"{cut(word)!r} ({count})" for word, count in words[:_SHOWN])
            more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
            text = "words that are not %s known here: %s%s; names=MAP.yaml says what they stand for"
            LOG.warning(text, what, shown, more)


def _reasons(source: AnnotationSource) -> dict[str, int]:
    return dict(sorted(Counter(entry.reason for entry in source.left_out).items()))


def _table_text(source: AnnotationSource) -> str:
    """The counts of a cervical source, from its rows to the discs in use, as plain text."""
    table = published_table(source)
    rows: list[tuple[str, object]] = [
        (name.replace("_", " "), value)
        for name, value in table.items()
        if not isinstance(value, Mapping)
    ]
    rows += [(f"left out, {name.replace('_', ' ')}", n) for name, n in table["left_out"].items()]
    rows += [
        (f"object, {name.replace('_', ' ')}", count) for name, count in table["objects"].items()
    ]
    rows += [(f"images of {discs} discs", n) for discs, n in table["discs_per_image"].items()]
    return aligned_text([("what", "count"), *rows], right={1})


def _counts(
    source: AnnotationSource, records: Mapping[Part, Sequence[ImageRecord]], labels: LabelSet
) -> dict[str, Any]:
    everything = [record for part in PARTS for record in records[part]]
    structures = [s for record in everything for s in record.structures]
    boxed = [boxed_structures(record, labels) for record in everything]
    classes = Counter(int(index) for b in boxed for index in b.class_index)
    levels = Counter(s.level for s in structures)
    graded = Counter((s.kind, tag) for s in structures for tag in s.pathology or ("unlabelled",))
    return {
        "entries": len(source.records) + len(source.left_out),
        "records": len(everything),
        "left_out": len(source.left_out),
        "failed": len(source.failures),
        "images": {part: len(records[part]) for part in PARTS},
        "studies": {part: len({r.study_id for r in records[part]}) for part in PARTS},
        "structures": len(structures),
        "boxes": classes.total(),
        "without_box": sum(len(b.without_box) for b in boxed),
        "class": {name: classes[n] for n, name in enumerate(LABEL_SETS[labels])},
        "level": {level: levels[level] for level in (*EXTRA_LEVELS, *LEVELS)},
        "kind": {kind: sum(s.kind == kind for s in structures) for kind in KINDS},
        "pathology": {
            kind: {tag: graded[kind, tag] for tag in (*tags, "unlabelled")}
            for kind, tags in tags_of(structures).items()
        },
        "findings": finding_counts(source.findings),
    }
