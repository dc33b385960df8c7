"""Writing of a converted dataset: every image once, and beside them every format."""

from __future__ import annotations

import itertools
import shutil
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
from spineline.converters.formats.yolo import (
    LABELSTUDIO_FOLDER,
    POSE_FOLDER,
    write_labelstudio,
    write_pose,
    write_yolo,
)
from spineline.converters.sources.source import AnnotationSource, LeftOut, Pixels
from spineline.datasets.common.devices import cores_here
from spineline.datasets.common.errors import SpinelineError, first_line
from spineline.datasets.common.files import link_or_copy, write_text
from spineline.datasets.common.log import progress
from spineline.datasets.images import IMAGE_SUFFIXES, window_to_uint8
from spineline.datasets.labels import LabelSet
from spineline.datasets.quality_control import Finding
from spineline.datasets.splits import PARTS, Part, patients_of, records_by_part, write_manifest
from spineline.datasets.types import ImageRecord

_MOST_THREADS = 8
"""Threads that read, window and encode images; a few images are queued for each."""

WRITERS: dict[str, Callable[[Path, Mapping[Part, Sequence[ImageRecord]], LabelSet], None]] = {
    "yolo": write_yolo,
    "voc": write_voc,
    "coco": write_coco,
    "imagefolder": write_imagefolder,
    "fasterrcnn": write_prepared,
    "pose": write_pose,
    "labelstudio": write_labelstudio,
}
"""Writers of annotations; none of them reads images."""

_LINKED = {
    "voc": "voc/JPEGImages",
    "pose": f"{POSE_FOLDER}/images/{{part}}",
    "labelstudio": f"{LABELSTUDIO_FOLDER}/images",
}
"""Folders where a format wants the images again: hard links if the file system has them."""


def write_dataset(
    root: Path,
    records: Sequence[ImageRecord],
    parts: Mapping[str, Part],
    *,
    labels: LabelSet,
    formats: Sequence[str],
    images: Callable[[ImageRecord], Path],
) -> None:
    """Write a dataset of existing images: links to them, their annotations, and ``split.json``.

    Args:
        root: folder of the dataset.
        records: records to write.
        parts: part by study.
        labels: label set of the boxes.
        formats: some of ``yolo``, ``voc``, ``coco``, ``imagefolder``, ``fasterrcnn``, ``pose``,
            ``labelstudio``.
        images: returns the image file of a record, which is linked into the dataset.

    Raises:
        SpinelineError: an image cannot be linked or copied.
    """
    by_part = records_by_part(records, parts)
    for part in PARTS:
        folder = root / "images" / part
        folder.mkdir(parents=True, exist_ok=True)
        for record in by_part[part]:
            target = folder / f"{record.image_id}.png"
            try:
                link_or_copy(images(record), target)
            except OSError as error:
                raise SpinelineError(
                    f"{target}: cannot be written ({first_line(error)})"
                ) from error
    _write_annotations(root, records, parts, labels, formats)
    _link_images(root, by_part, formats)


def write_converted(
    stage: Path,
    source: AnnotationSource,
    layouts: Mapping[str, Mapping[str, Part]],
    *,
    labels: LabelSet,
    formats: Sequence[str],
    window: str,
) -> AnnotationSource:
    """Write a source's images and annotations into every dataset, both at the same time.

    Args:
        stage: an empty folder.
        source: the source of the images; missing ones are skipped.
        layouts: part by study, for each dataset, by its folder's name (``""`` is ``stage`` itself).
        labels: label set of the boxes.
        formats: as for [write_dataset][].
        window: ``percentile`` or ``none``.

    Returns:
        The source as it was written, without records whose image could not be decoded. Without any
        record, ``stage`` is left unfinished.

    Raises:
        SpinelineError: an image cannot be written.
    """
    for name in layouts:
        for part in PARTS:
            (stage / name / "images" / part).mkdir(parents=True, exist_ok=True)

    def annotate(records: Sequence[ImageRecord]) -> None:
        for name, parts in layouts.items():
            _write_annotations(stage / name, records, parts, labels, formats)

    with ThreadPoolExecutor(1, thread_name_prefix="spineline-annotations") as beside:
        annotated = beside.submit(annotate, source.records)
        written = _write_images(stage, source, layouts, window)
        annotated.result()
    if 0 < len(written.records) < len(source.records):
        for name in layouts:
            _remove_annotations(stage / name)
        annotate(written.records)
    for name, parts in layouts.items():
        _link_images(stage / name, records_by_part(written.records, parts), formats)
    return written


def _write_annotations(
    root: Path,
    records: Sequence[ImageRecord],
    parts: Mapping[str, Part],
    labels: LabelSet,
    formats: Sequence[str],
) -> None:
    by_part = records_by_part(records, parts)
    for name, write in WRITERS.items():
        if name in formats:
            write(root, by_part, labels)
    write_text(root / "split.json", write_manifest(parts, patients_of(records)), sync=False)


def _link_images(
    root: Path, records: Mapping[Part, Sequence[ImageRecord]], formats: Sequence[str]
) -> None:
    """Link the images, as far as there are any, to where the formats want them again."""
    for name, part in itertools.product(formats, PARTS):
        if name not in _LINKED:
            continue
        folder = root / _LINKED[name].format(part=part)
        folder.mkdir(parents=True, exist_ok=True)
        for record in records[part]:
            image = root / "images" / part / f"{record.image_id}.png"
            if image.is_file():
                link_or_copy(image, folder / image.name)


def _remove_annotations(root: Path) -> None:
    """Remove everything but the images from a dataset."""
    for path in (*root.iterdir(), *root.glob("images/*/metadata.jsonl")):
        if path.is_file():
            path.unlink()
        elif path.name != "images":
            shutil.rmtree(path)


def _write_images(
    stage: Path,
    source: AnnotationSource,
    layouts: Mapping[str, Mapping[str, Part]],
    window: str,
) -> AnnotationSource:
    """Decode every image once and write it into every dataset; see [write_converted][]."""
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
