"""``spineline detect predict``: boxes on images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spineline.datasets.boxes import xyxy_to_cxcywhn, xyxy_to_xywh
from spineline.datasets.commands.show import prediction_marks
from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.files import (
    check_output,
    staged_folder,
    write_bytes,
    write_json,
    write_text,
)
from spineline.datasets.common.log import LOG, progress
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.dataset import load_dataset
from spineline.datasets.drawing import Mark, draw_overlay, png_bytes
from spineline.datasets.images import (
    IMAGE_SUFFIXES,
    ImageReadError,
    is_constant,
    read_image,
    read_uint8_image,
    window_to_uint8,
)
from spineline.datasets.predictions import PredictedBox
from spineline.detect.backend import Detector
from spineline.detect.ensemble import check_choice, load_chosen
from spineline.detect.results import Detections
from spineline.detect.settings import DetectPredict


@dataclass(frozen=True, slots=True)
class DetectPredictResult:
    """What ``detect predict`` did.

    Attributes:
        out: the folder written.
        images: number of images read.
        failures: images that could not be used, with the reason.
    """

    out: Path
    images: int
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    path: Path
    windowed: bool


def predict(settings: DetectPredict) -> DetectPredictResult:
    """Detect on an image, a folder of images, or all images of a converted dataset.

    Raises:
        SpinelineError: there is no image, the weights cannot be used, or ``out`` exists.
    """
    check_choice(settings)
    check_output(settings.out, overwrite=settings.overwrite)
    device_name(settings.device)
    sources, unusable = find_sources(settings.source)
    chosen = load_chosen(settings)
    failures = list(unusable)
    for failure in failures:
        LOG.warning("%s", failure)
    content: dict[str, list[dict[str, Any]]] = {"images": [], "categories": [], "predictions": []}
    content["categories"] = [{"id": i, "name": n} for i, n in enumerate(chosen.detector.names, 1)]
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        for batch in _batches(sources, settings, failures):
            _one_batch(stage, settings, chosen.detector, batch, content)
        write_json(stage / "predictions.json", content)
        write_run_record(
            stage, "detect predict", settings, weights=chosen.record, failures=failures
        )
    LOG.info(
        "%d boxes on %d images, %d failed: %s",
        len(content["predictions"]),
        len(content["images"]),
        len(failures),
        settings.out,
    )
    return DetectPredictResult(settings.out, len(content["images"]), tuple(failures))


def find_sources(source: Path) -> tuple[tuple[_Source, ...], tuple[str, ...]]:
    """Find the images at a path, in a fixed order, each with a unique name.

    Returns:
        The images, and one message for each image of a plain dataset that cannot be used.

    Raises:
        SpinelineError: there is no such path, or no image in it.
    """
    if not source.exists():
        raise SpinelineError(f"source={source}: no such file or folder")
    if source.name == "data.yaml":
        dataset = load_dataset(source, own_classes=True)
        records = {r.image_id: r for r in dataset.all_records()}  # one may be in several parts
        sources = (
            _Source(name, dataset.image_path(r), windowed=True) for name, r in records.items()
        )
        return tuple(sources), dataset.failures
    files = [source] if source.is_file() else _images_in(source.iterdir())
    if not files:
        msg = f"source={source}: no image in it; looked for {', '.join(IMAGE_SUFFIXES)}"
        raise SpinelineError(msg)
    stems = Counter(file.stem for file in files)
    names = [f.stem if stems[f.stem] == 1 else f.name for f in files]
    found = (_Source(n, f, windowed=False) for n, f in zip(names, files, strict=True))
    return tuple(found), ()


def _images_in(files: Iterable[Path]) -> list[Path]:
    return sorted(f for f in files if f.is_file() and f.suffix.lower() in IMAGE_SUFFIXES)


def _read(source: _Source, settings: DetectPredict) -> npt.NDArray[np.uint8]:
    if source.windowed or settings.window == "none":
        return read_uint8_image(source.path)
    pixels = read_image(source.path)
    if is_constant(pixels):
        msg = f"{source.path}: every pixel has the same value, there is nothing to detect"
        raise ImageReadError(msg)
    return window_to_uint8(pixels)


def _batches(
    sources: Sequence[_Source], settings: DetectPredict, failures: list[str]
) -> Iterator[list[tuple[_Source, npt.NDArray[np.uint8]]]]:
    """Images with their sources, ``batch`` at a time; unreadable ones are added to ``failures``."""
    batch: list[tuple[_Source, npt.NDArray[np.uint8]]] = []
    for source in progress(sources, description="image"):
        try:
            batch.append((source, _read(source, settings)))
        except ImageReadError as error:
            LOG.warning("%s", error)
            failures.append(str(error))
        if len(batch) == settings.batch:
            yield batch
            batch = []
    if batch:
        yield batch


def _one_batch(
    folder: Path,
    settings: DetectPredict,
    detector: Detector,
    batch: Sequence[tuple[_Source, npt.NDArray[np.uint8]]],
    content: dict[str, list[dict[str, Any]]],
) -> None:
    results = detector.detect(
        [image for _, image in batch],
        confidence=settings.confidence,
        iou=settings.iou,
        max_detections=settings.max_detections,
        batch=settings.batch,
    )
    for (source, image), found in zip(batch, results, strict=True):
        if settings.across_classes_iou is not None:
            found = found.without_near_duplicates(settings.across_classes_iou)
        height, width = image.shape
        number, name = len(content["images"]) + 1, source.path.name
        content["images"].append(
            {"id": number, "file_name": name, "width": width, "height": height}
        )
        content["predictions"] += _rows(number, name, found)
        if settings.overlays:
            overlay = draw_overlay(image, marks_of(found))
            write_bytes(folder / "overlays" / f"{source.name}.png", png_bytes(overlay))
        if settings.txt:
            text = _yolo_text(found, width, height)
            write_text(folder / "labels" / f"{source.name}.txt", text)


def _rows(number: int, file_name: str, found: Detections) -> list[dict[str, Any]]:
    return [
        {
            "image_id": number,
            "file_name": file_name,
            "category_id": index + 1,
            "category": found.names[index],
            "bbox": box,
            "score": score,
        }
        for index, box, score in zip(
            found.class_index.tolist(),
            xyxy_to_xywh(found.boxes_xyxy).tolist(),
            found.confidence.tolist(),
            strict=True,
        )
    ]


def _yolo_text(found: Detections, width: int, height: int) -> str:
    """One line per box: class, centre and size (normalised), confidence."""
    boxes = xyxy_to_cxcywhn(found.boxes_xyxy, width, height)
    lines = [
        f"{index} {' '.join(f'{n:.6f}' for n in box)} {score:.6f}\n"
        for index, box, score in zip(
            found.class_index.tolist(), boxes.tolist(), found.confidence.tolist(), strict=True
        )
    ]
    return "".join(lines)


def marks_of(found: Detections) -> Sequence[Mark]:
    """Convert detections to marks, as `spineline data show` draws them."""
    return prediction_marks(
        [
            PredictedBox(found.names[index], score, (left, top, right, bottom))
            for (left, top, right, bottom), score, index in zip(
                found.boxes_xyxy.tolist(),
                found.confidence.tolist(),
                found.class_index.tolist(),
                strict=True,
            )
        ]
    )
