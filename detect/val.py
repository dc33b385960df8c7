"""``spineline detect val``: the metrics of a detector on a converted dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import AnnotationError, ConfigError, WeightsError
from spineline.datasets.common.files import check_output, staged_folder, write_bytes, write_json
from spineline.datasets.common.log import LOG, progress
from spineline.datasets.common.plots import confusion_png
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.dataset import Dataset, load_dataset
from spineline.datasets.images import ImageReadError, read_uint8_image
from spineline.datasets.metrics.levels import NEAR_PX
from spineline.datasets.splits import Part
from spineline.datasets.types import ImageRecord
from spineline.detect.ensemble import check_choice, load_chosen
from spineline.detect.evaluation.evaluate import Evaluation, MatchingRules, evaluate_detections
from spineline.detect.evaluation.plots import precision_recall_png
from spineline.detect.results import Detections, no_detections
from spineline.detect.settings import DetectVal

if TYPE_CHECKING:
    from spineline.detect.backend import Detector


@dataclass(frozen=True, slots=True)
class DetectValResult:
    """Result of ``detect val``.

    Attributes:
        out: the folder written.
        metrics: the content of ``metrics.json``.
        failures: images that could not be read, with the reason; they count as without detections.
    """

    out: Path
    metrics: dict[str, Any]
    failures: tuple[str, ...] = ()


def val(settings: DetectVal) -> DetectValResult:
    """Score a detector on one part of a converted dataset.

    Raises:
        AnnotationError: the dataset cannot be read, or the part is empty.
        ConfigError: keys do not go together.
        WeightsError: the weights cannot be used, or their classes are not the dataset's.
        OutputExistsError: ``out`` exists.
    """
    check_choice(settings)
    _check_confidence(settings)
    check_output(settings.out, overwrite=settings.overwrite)
    device_name(settings.device)
    dataset = load_dataset(settings.data, settings.images, own_classes=True)
    records = dataset.records[cast("Part", settings.split)]
    if not records:
        filled = [part for part, found in dataset.records.items() if found]
        msg = f"data={settings.data}: its {settings.split} part is empty; split={'|'.join(filled)}"
        raise AnnotationError(msg)
    chosen = load_chosen(settings)
    if chosen.detector.names == dataset.own_names:  # trained on this dataset's own classes
        dataset = replace(dataset, classes=dataset.own_names)
    _check_classes(settings, chosen.detector, dataset)
    for failure in dataset.failures:
        LOG.warning("%s", failure)
    found, failures = _detect(settings, chosen.detector, dataset, records)
    rules = MatchingRules(
        match_iou=settings.match_iou,
        match_confidence=settings.match_confidence,
        least_confidence=settings.confidence,
        draws=settings.draws,
        seed=settings.seed,
    )
    evaluation = evaluate_detections(records, found, dataset.classes, rules)
    metrics = {"split": settings.split, **evaluation.metrics}
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        _write(stage, settings, metrics, evaluation)
        write_run_record(stage, "detect val", settings, weights=chosen.record)
    _report(metrics)
    return DetectValResult(settings.out, metrics, (*dataset.failures, *failures))


def _check_confidence(settings: DetectVal) -> None:
    if settings.match_confidence < settings.confidence:
        msg = (
            f"match_confidence={settings.match_confidence}: less than "
            f"confidence={settings.confidence}, below which nothing is detected; lower that"
        )
        raise ConfigError(msg)


def _check_classes(settings: DetectVal, detector: Detector, dataset: Dataset) -> None:
    if detector.names != dataset.names:
        given = f"weights={','.join(settings.weights or ())}"
        given = given if settings.model is None else f"model={settings.model}"
        msg = (
            f"{given}: its classes ({', '.join(detector.names)}) are not those of "
            f"data={settings.data} ({', '.join(dataset.own_names or dataset.names)})"
        )
        raise WeightsError(msg)


def _detect(
    settings: DetectVal, detector: Detector, dataset: Dataset, records: tuple[ImageRecord, ...]
) -> tuple[list[Detections], list[str]]:
    found: list[Detections] = []
    failures: list[str] = []
    chunks = [
        records[start : start + settings.batch] for start in range(0, len(records), settings.batch)
    ]
    for chunk in progress(chunks, description="batch"):
        images = {}
        for place, record in enumerate(chunk):
            try:
                images[place] = read_uint8_image(dataset.image_path(record))
            except ImageReadError as error:
                LOG.warning("%s", error)
                failures.append(str(error))
        results = detector.detect(
            list(images.values()),
            confidence=settings.confidence,
            iou=settings.iou,
            max_detections=settings.max_detections,
            batch=settings.batch,
        )
        if settings.across_classes_iou is not None:
            results = [r.without_near_duplicates(settings.across_classes_iou) for r in results]
        by_place = dict(zip(images, results, strict=True))
        nothing = no_detections(detector.names)
        found += [by_place.get(place, nothing) for place in range(len(chunk))]
    return found, failures


def _write(
    folder: Path, settings: DetectVal, metrics: dict[str, Any], evaluation: Evaluation
) -> None:
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "predictions.json", evaluation.results)
    if settings.plots:
        iou, confidence = settings.match_iou, settings.match_confidence
        names = metrics["confusion"]["names"]
        picture = precision_recall_png(
            evaluation.matches, names[:-1], iou=iou, confidence=confidence
        )
        write_bytes(folder / "pr_curve.png", picture)
        title = f"IoU ≥ {iou:g}, confidence ≥ {confidence:g}"
        picture = confusion_png(
            evaluation.confusion, names, row="label", column="detected", title=title
        )
        write_bytes(folder / "confusion_matrix.png", picture)


def _report(metrics: dict[str, Any]) -> None:
    _report_classes(metrics)
    LOG.info(
        "%s: %d images; mAP50 %s, mAP50-95 %s",
        metrics["split"],
        metrics["images"],
        _text(metrics["coco"]["map50"]),
        _text(metrics["coco"]["map50_95"]),
    )
    if "level_accuracy_8px" in metrics:
        accuracy = metrics["level_accuracy_8px"]
        text = _text(accuracy["value"])
        LOG.info("level accuracy (< %g px): %s of %d labels", NEAR_PX, text, accuracy["n"])
    _report_rules(metrics["one_to_one"], metrics["seed"])


def _report_classes(metrics: dict[str, Any]) -> None:
    by_level = metrics.get("level_accuracy_8px_by_level", {})
    near = ("< 8 px",) if by_level else ()
    rows = [("class", "AP50", "AP50-95", "precision", "recall", "F1", *near)]
    for name, precision in metrics["coco"]["per_class"].items():
        matched = metrics["one_to_one"]["per_class"][name]
        cells = [precision["ap50"], precision["ap50_95"]]
        cells += [matched[key]["value"] for key in ("precision", "recall", "f1")]
        cells += [by_level.get(name, {}).get("value")] if by_level else []
        rows.append((name, *map(_text, cells)))
    _table(rows)


def _report_rules(matched: dict[str, Any], seed: dict[str, Any]) -> None:
    """Log the rules side by side, and the confidence of the best F1."""
    keys = ("precision", "recall", "f1", "average_precision")
    lines = {"one_to_one": matched, "any class": matched["class_agnostic"], "seed": seed}
    rows = [(name, *(_text(f[key]["value"]) for key in keys)) for name, f in lines.items()]
    _table([("rule", "precision", "recall", "F1", "AP"), *rows])
    LOG.info(
        "one_to_one: IoU %g, confidence %g; best F1 %s at %s, chosen on these very images",
        matched["iou"],
        matched["confidence"],
        _text(matched["best_f1"]["value"]),
        _text(matched["best_f1"]["confidence"]),
    )
    LOG.info("seed: the older cervical project's rule; its precision counts missed labels")


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    width = max(len(name) for name, *_ in rows)
    for name, *cells in rows:
        LOG.info("%s", " ".join([f"{name:<{width}}", *(f"{cell:>9}" for cell in cells)]))


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
