"""``spineline classify val``: metrics of a classifier on the labelled crops of one part."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spineline.classify.combined import CombinedClassifier
from spineline.classify.data import load_part
from spineline.classify.grades import Grades
from spineline.classify.metrics import score
from spineline.classify.model import Classifier, load_classifier
from spineline.classify.plots import plot_confusion
from spineline.classify.settings import ClassifyVal
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.common.files import check_output, staged_folder, write_json, write_text
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.crops.grades_csv import GRADE_COLUMNS
from spineline.datasets.crops.table import CropTable
from spineline.datasets.labels import SEVEN_NAMES
from spineline.datasets.splits import PARTS, Part
from spineline.weights import resolve_classifiers, weights_record


@dataclass(frozen=True, slots=True)
class ClassifyValResult:
    """The output of ``classify val``.

    Attributes:
        out: the folder written.
        metrics: the content of ``metrics.json``; see ``classify.metrics.score``.
    """

    out: Path
    metrics: dict[str, Any]


def val(settings: ClassifyVal) -> ClassifyValResult:
    """Score a classifier on one part of a converted dataset or crops folder.

    Raises:
        AnnotationError: the data cannot be read, or the part has no labelled structure.
        ConfigError: a crops folder was cut with other settings than the network's.
        WeightsError: the weights cannot be used.
        OutputExistsError: ``out`` exists.
    """
    check_output(settings.out, overwrite=settings.overwrite)
    weights = resolve_classifiers(settings.model, trust=settings.trust)
    classifier = load_classifier(
        [file.path for file in weights], device=settings.device, trust=settings.trust
    )
    part = next(name for name in PARTS if name == settings.split)
    table, grades = _graded(classifier, part, settings)
    metrics = score(
        *(table.seven, table.binary, table.kind, grades.seven, grades.binary),
        seven_given=grades.seven_given,
        threshold=grades.threshold,
    )
    if "binary" in metrics:
        metrics["binary"]["threshold"] = grades.threshold
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        write_json(stage / "metrics.json", {"split": part, **metrics})
        write_text(stage / "predictions.csv", grades_to_csv(table, grades))
        if "seven" in metrics:
            title = f"{part}, {len(table)} crops"
            confusion = metrics["seven"]["confusion"]
            plot_confusion(confusion, SEVEN_NAMES, title, stage / "confusion.png")
        write_run_record(stage, "classify val", settings, weights=weights_record(weights))
    log_metrics(metrics, f"{part}: {len(table)} crops")
    return ClassifyValResult(settings.out, metrics)


def _graded(
    classifier: Classifier | CombinedClassifier, part: Part, settings: ClassifyVal
) -> tuple[CropTable, Grades]:
    """The labelled crops of a part, and their predicted grades."""
    if not isinstance(classifier, CombinedClassifier):
        table = load_part(settings.data, part, classifier.crop)
        kinds = table.kind if settings.mask_kind else None
        windows, levels = table.windows(), table.level
        return table, classifier.grade(windows, kinds, levels=levels, batch=settings.batch)
    specs = dict.fromkeys(classifier.crops)
    tables = {spec: load_part(settings.data, part, spec) for spec in specs}
    first = next(iter(tables.values()))
    if any(each.rows != first.rows for each in tables.values()):
        msg = f"{settings.data}: not every structure has a crop for each of the classifiers"
        raise AnnotationError(msg)
    crops = classifier.cut(lambda spec, _: tables[spec].windows())
    kinds = first.kind if settings.mask_kind else None
    return first, classifier.grade(crops, kinds, levels=first.level, batch=settings.batch)


def grades_to_csv(table: CropTable, grades: Grades) -> str:
    """One CSV line per crop with its labels and predictions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(GRADE_COLUMNS)
    for n, row in enumerate(table.rows):
        seven = [""] * len(SEVEN_NAMES)
        if grades.seven is not None:
            seven = [f"{p:.9g}" for p in grades.seven[n].tolist()]
        v5 = "" if grades.binary is None else f"{float(grades.binary[n]):.9g}"
        writer.writerow([row.image_id, row.study_id, row.level, row.seven, row.binary, *seven, v5])
    return text.getvalue()


def log_metrics(metrics: Mapping[str, Any], title: str) -> None:
    """Log a table of the metrics, without the confusion matrix; ``-`` for undefined values."""
    LOG.info("%s", title)
    for group in ("seven", "abnormal", "binary"):
        for name, value in metrics.get(group, {}).items():
            if name != "confusion":
                text = "-" if value is None else f"{value:.4f}"
                LOG.info("  %-9s %-13s %8s", group, name, text)
