"""``spineline detect val``: COCO figures and level accuracy on a converted dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from spineline.datasets.annotations import ImageRecord
from spineline.datasets.coco import boxed_structures, coco_from_records
from spineline.datasets.dataset import Dataset, load_dataset
from spineline.datasets.devices import device_name
from spineline.datasets.errors import AnnotationError, WeightsError
from spineline.datasets.files import check_output, staged_folder, write_bytes, write_json
from spineline.datasets.images import read_uint8_image
from spineline.datasets.runs import LOG, progress, write_run_record
from spineline.datasets.splits import Part
from spineline.detect.metrics import (
    NEAR_PX,
    CocoFigures,
    coco_figures,
    coco_results,
    confusion,
    level_hits,
)
from spineline.detect.settings import DetectVal

if TYPE_CHECKING:
    from spineline.detect.backend import Detector
    from spineline.detect.results import Detections


@dataclass(frozen=True, slots=True)
class ValResult:
    """What ``detect val`` found.

    Attributes:
        out: the folder written.
        metrics: the content of ``metrics.json``.
        failures: images that could not be read, with the reason; they count as without detection.
    """

    out: Path
    metrics: dict[str, Any]
    failures: tuple[str, ...] = ()


def val(settings: DetectVal) -> ValResult:
    """Score a detector on one part of a converted dataset.

    Raises:
        AnnotationError: the dataset cannot be read, or the part is empty.
        WeightsError: the weights cannot be used, or their classes are not the dataset's.
        OutputExistsError: ``out`` exists.
    """
    from spineline.detect.ensemble import check_choice, load_chosen

    check_choice(settings)
    check_output(settings.out, overwrite=settings.overwrite)
    device_name(settings.device)
    dataset = load_dataset(settings.data)
    records = dataset.records[cast("Part", settings.split)]
    if not records:
        filled = [part for part, found in dataset.records.items() if found]
        msg = f"data={settings.data}: its {settings.split} part is empty; split={'|'.join(filled)}"
        raise AnnotationError(msg)
    chosen = load_chosen(settings)
    _check_classes(settings, chosen.detector, dataset)
    found, failures = _detect(settings, chosen.detector, dataset, records)
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        metrics = _write(stage, settings, dataset, records, found)
        write_run_record(stage, "detect val", settings, weights=chosen.record)
    _report(metrics)
    return ValResult(settings.out, metrics, tuple(failures))


def _check_classes(settings: DetectVal, detector: Detector, dataset: Dataset) -> None:
    if detector.names != dataset.names:
        given = f"weights={','.join(settings.weights or ())}"
        given = given if settings.model is None else f"model={settings.model}"
        msg = (
            f"{given}: its classes ({', '.join(detector.names)}) are not those of "
            f"data={settings.data} ({', '.join(dataset.names)})"
        )
        raise WeightsError(msg)


def _detect(
    settings: DetectVal, detector: Detector, dataset: Dataset, records: tuple[ImageRecord, ...]
) -> tuple[list[Detections], list[str]]:
    from spineline.datasets.images import ImageReadError
    from spineline.detect.results import no_detections

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
    folder: Path,
    settings: DetectVal,
    dataset: Dataset,
    records: tuple[ImageRecord, ...],
    found: list[Detections],
) -> dict[str, Any]:
    files = [Path(str(record.file)).name for record in records]
    truth = coco_from_records(records, dataset.labels, files)
    ids = [int(image["id"]) for image in truth["images"]]
    categories = sorted(int(c["id"]) for c in truth["categories"])
    results = coco_results(ids, found, categories)
    figures = coco_figures(truth, results)
    metrics = _metrics(settings, dataset, records, found, figures)
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "predictions.json", results)
    if settings.plots:
        from spineline.detect.plots import confusion_png, precision_recall_png

        write_bytes(
            folder / "pr_curve.png", precision_recall_png(figures.precision50, dataset.names)
        )
        boxed = [boxed_structures(record, dataset.labels) for record in records]
        table = confusion([(b.boxes_xyxy, b.class_index) for b in boxed], found, len(dataset.names))
        write_bytes(folder / "confusion_matrix.png", confusion_png(table, dataset.names))
    return metrics


def _metrics(
    settings: DetectVal,
    dataset: Dataset,
    records: tuple[ImageRecord, ...],
    found: list[Detections],
    figures: CocoFigures,
) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "split": settings.split,
        "images": len(records),
        "coco": {
            "map50": figures.map50,
            "map50_95": figures.map50_95,
            "per_class": {
                name: {"ap50": ap50, "ap50_95": ap}
                for name, (ap50, ap) in figures.per_class.items()
            },
        },
    }
    if dataset.labels != "level":
        return metrics
    levels = level_hits(records, found)
    hits, labels = sum(h for h, _ in levels.values()), sum(n for _, n in levels.values())
    metrics["level_accuracy_8px"] = {"value": _share(hits, labels), "n": labels}
    metrics["level_accuracy_8px_by_level"] = {
        level: {"value": _share(h, n), "n": n} for level, (h, n) in levels.items()
    }
    return metrics


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _report(metrics: dict[str, Any]) -> None:
    by_level = metrics.get("level_accuracy_8px_by_level", {})
    rows = [("class", "AP50", "AP50-95", *(("< 8 px",) if by_level else ()))]
    for name, figures in metrics["coco"]["per_class"].items():
        near = (_text(by_level.get(name, {}).get("value")),) if by_level else ()
        rows.append((name, _text(figures["ap50"]), _text(figures["ap50_95"]), *near))
    width = max(len(name) for name, *_ in rows)
    for name, *cells in rows:
        LOG.info("%s", " ".join([f"{name:<{width}}", *(f"{cell:>8}" for cell in cells)]))
    LOG.info(
        "%s: %d images; mAP50 %s, mAP50-95 %s",
        metrics["split"],
        metrics["images"],
        _text(metrics["coco"]["map50"]),
        _text(metrics["coco"]["map50_95"]),
    )
    if by_level:
        accuracy = metrics["level_accuracy_8px"]
        text = _text(accuracy["value"])
        LOG.info("level accuracy (< %g px): %s of %d labels", NEAR_PX, text, accuracy["n"])


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
