"""Writing of a converted dataset: every image once, then every format."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spineline.converters.formats.coco import write_coco
from spineline.converters.formats.imagefolder import write_imagefolder
from spineline.converters.formats.prepared import write_prepared
from spineline.converters.formats.voc import write_voc
from spineline.converters.formats.yolo import write_labelstudio, write_pose, write_yolo
from spineline.converters.sources.source import AnnotationSource, LeftOut, Pixels
from spineline.datasets.common.devices import cores_here
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.files import link_or_copy, write_text
from spineline.datasets.common.log import progress
from spineline.datasets.images import IMAGE_SUFFIXES, window_to_uint8
from spineline.datasets.labels import LabelSet
from spineline.datasets.quality_control import Finding
from spineline.datasets.splits import PARTS, Part, patients_of, records_by_part, write_manifest
from spineline.datasets.types import ImageRecord

_MOST_THREADS = 8
"""Threads that read, window and encode images; a few images are queued for each."""

_WRITERS: dict[str, Callable[[Path, Mapping[Part, Sequence[ImageRecord]], LabelSet], None]] = {
    "yolo": write_yolo,
    "voc": write_voc,
    "coco": write_coco,
    "imagefolder": write_imagefolder,
    "fasterrcnn": write_prepared,
    "pose": write_pose,
    "labelstudio": write_labelstudio,
}


def write_dataset(
    root: Path,
    records: Sequence[ImageRecord],
    parts: Mapping[str, Part],
    *,
    labels: LabelSet,
    formats: Sequence[str],
    images: Callable[[ImageRecord], Path] | None = None,
) -> None:
    """Write the annotations of a dataset in some formats, and its ``split.json``.

    Args:
        root: folder of the dataset.
        records: records to write.
        parts: part by study.
        labels: label set of the boxes.
        formats: some of ``yolo``, ``voc``, ``coco``, ``imagefolder``, ``fasterrcnn``, ``pose``,
            ``labelstudio``.
        images: returns the image file of a record, which is linked into the dataset. None if the
            images are in the dataset already; see [write_images][].

    Raises:
        SpinelineError: an image cannot be linked or copied.
    """
    by_part = records_by_part(records, parts)
    for part in PARTS:
        folder = root / "images" / part
        folder.mkdir(parents=True, exist_ok=True)
        if images is None:
            continue
        for record in by_part[part]:
            target = folder / f"{record.image_id}.png"
            try:
                link_or_copy(images(record), target)
            except OSError as error:
                raise SpinelineError(f"{target}: cannot be written ({error})") from error
    for name, write in _WRITERS.items():
        if name in formats:
            write(root, by_part, labels)
    write_text(root / "split.json", write_manifest(parts, patients_of(records)), sync=False)


def write_images(
    stage: Path,
    source: AnnotationSource,
    layouts: Mapping[str, Mapping[str, Part]],
    *,
    window: str,
) -> AnnotationSource:
    """Decode every image once and write it into every dataset.

    Args:
        stage: an empty folder.
        source: the source of the images; missing ones are skipped.
        layouts: part by study, for each dataset, by its folder's name (``""`` is ``stage`` itself).
        window: ``percentile`` or ``none``.

    Returns:
        The source as it was written, without records whose image could not be decoded.
    """
    for name in layouts:
        for part in PARTS:
            (stage / name / "images" / part).mkdir(parents=True, exist_ok=True)
    kept, failed, found = [], [], []
    for record, error in _written(stage, source, layouts, window):
        if error is None:
            kept.append(record)
            continue
        image_id, study = record.image_id, record.study_id
        detail, reason = f"{image_id}: {error}", "unreadable_image"
        failed.append(LeftOut(image_id, study, reason, detail, failed=True))
        found.append(Finding(image_id, study, None, reason, detail, "record left out"))
    return replace(
        source,
        records=tuple(kept),
        left_out=(*source.left_out, *failed),
        findings=(*source.findings, *found),
    )


def to_8_bit(pixels: Pixels, window: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Convert pixels to the dataset's 8 bits.

    Raises:
        SpinelineError: ``window=none`` and the image has more than 8 bits.
    """
    if window == "percentile":
        return window_to_uint8(pixels)
    if pixels.dtype != np.uint8:
        raise SpinelineError("more than 8 bits per pixel need window=percentile")
    return pixels.astype(np.uint8)


def _written(
    stage: Path,
    source: AnnotationSource,
    layouts: Mapping[str, Mapping[str, Part]],
    window: str,
) -> Iterator[tuple[ImageRecord, SpinelineError | None]]:
    """Every record in order, once its image is written, or with the error of reading it."""
    threads = max(2, min(cores_here(), _MOST_THREADS))
    jobs: deque[tuple[ImageRecord, Future[SpinelineError | None]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="spineline-image")
    try:
        for record in progress(source.records, description="images"):
            while len(jobs) > 2 * threads:
                done, job = jobs.popleft()
                yield done, job.result()
            targets = [
                stage / name / "images" / parts[record.study_id] / f"{record.image_id}.png"
                for name, parts in layouts.items()
            ]
            read = partial(source.pixels, record)
            if source.is_missing(record):
                jobs.append((record, pool.submit(lambda: None)))
            elif _is_plain_image(source.path_of(record)):
                jobs.append((record, pool.submit(_write, read, record, window, targets)))
            else:  # slices of one file, which are read in order
                pixels = _tried(read)
                jobs.append((record, pool.submit(_write, pixels, record, window, targets)))
        for done, job in jobs:
            yield done, job.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _is_plain_image(path: Path | None) -> bool:
    return path is not None and path.suffix.lower() in IMAGE_SUFFIXES


def _tried(read: Callable[[], Pixels]) -> Callable[[], Pixels]:
    """Call a function now, and return or raise its result later."""
    job: Future[Pixels] = Future()
    try:
        job.set_result(read())
    except SpinelineError as error:
        job.set_exception(error)
    return job.result


def _write(
    read: Callable[[], Pixels], record: ImageRecord, window: str, targets: Sequence[Path]
) -> SpinelineError | None:
    """Read, window, encode and write an image under all its names; returns the error, if any."""
    import cv2

    try:
        pixels = read()
        _check_fits(pixels, record, window)
    except SpinelineError as error:
        return error
    done, data = cv2.imencode(".png", np.ascontiguousarray(to_8_bit(pixels, window)))
    if not done:
        raise SpinelineError("the image cannot be written as PNG")
    targets[0].write_bytes(data.data)
    for target in targets[1:]:
        link_or_copy(targets[0], target)
    return None


def _check_fits(pixels: Pixels, record: ImageRecord, window: str) -> None:
    """Refuse pixels that do not match the record, or that need a window.

    Raises:
        SpinelineError: the size differs, or there are more than 8 bits with ``window=none``.
    """
    if pixels.shape != (record.height, record.width):
        msg = (
            f"the image is {pixels.shape[1]}x{pixels.shape[0]}, its header or annotation says "
            f"{record.width}x{record.height}"
        )
        raise SpinelineError(msg)
    if window != "percentile":
        to_8_bit(pixels, window)
