"""Records to a converted dataset on disk: images once, then every format."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spineline.converters.formats.coco import write_coco
from spineline.converters.formats.imagefolder import write_imagefolder
from spineline.converters.formats.prepared import write_prepared
from spineline.converters.formats.voc import write_voc
from spineline.converters.formats.yolo import write_labelstudio, write_pose, write_yolo
from spineline.converters.sources.source import AnnotationSource, LeftOut, Pixels
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.files import link_or_copy, write_text
from spineline.datasets.common.log import progress
from spineline.datasets.images import window_to_uint8
from spineline.datasets.labels import LabelSet
from spineline.datasets.quality_control import Finding
from spineline.datasets.splits import PARTS, Part, patients_of, records_by_part, write_manifest
from spineline.datasets.types import ImageRecord

_PACKERS = 2
"""Threads that window and pack images; a few images wait for each."""

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
        records: what to write.
        parts: part by study.
        labels: label set of the boxes.
        formats: of ``yolo``, ``voc``, ``coco``, ``imagefolder``, ``fasterrcnn``, ``pose``,
            ``labelstudio``.
        images: where the image file of a record lies; it gets a second name in the dataset. None
            where the images are in the dataset already, see [write_images][].

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
        source: whose images they are; those that are missing are passed over.
        layouts: part by study, for each dataset: one under its folder's name (``""`` is ``stage``
            itself).
        window: ``percentile`` or ``none``.

    Returns:
        The source as it was written: records whose image could not be decoded are left out.
    """
    for name in layouts:
        for part in PARTS:
            (stage / name / "images" / part).mkdir(parents=True, exist_ok=True)
    kept, failed, found = [], [], []
    with closing(_Packer(window)) as packer:
        for record in progress(source.records, description="images"):
            if source.is_missing(record):
                kept.append(record)
                continue
            targets = [
                stage / name / "images" / parts[record.study_id] / f"{record.image_id}.png"
                for name, parts in layouts.items()
            ]
            image_id, study = record.image_id, record.study_id
            try:
                pixels = source.pixels(record)
                _check_fits(pixels, record, window)
            except SpinelineError as error:
                detail, reason = f"{image_id}: {error}", "unreadable_image"
                failed.append(LeftOut(image_id, study, reason, detail, failed=True))
                found.append(Finding(image_id, study, None, reason, detail, "record left out"))
                continue
            packer.pack(pixels, targets)
            kept.append(record)
    return replace(
        source,
        records=tuple(kept),
        left_out=(*source.left_out, *failed),
        findings=(*source.findings, *found),
    )


def to_8_bit(pixels: Pixels, window: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pixels as the dataset stores them.

    Raises:
        SpinelineError: ``window=none`` and the image has more than 8 bits.
    """
    if window == "percentile":
        return window_to_uint8(pixels)
    if pixels.dtype != np.uint8:
        raise SpinelineError("more than 8 bits per pixel need window=percentile")
    return pixels.astype(np.uint8)


class _Packer:
    """Windows, packs and writes images in threads, while the next ones are read."""

    def __init__(self, window: str) -> None:
        self._window = window
        self._pool = ThreadPoolExecutor(_PACKERS, thread_name_prefix="spineline-packer")
        self._jobs: deque[Future[None]] = deque()

    def pack(self, pixels: Pixels, targets: Sequence[Path]) -> None:
        """Write an image under all its names, soon; raises what an earlier one raised."""
        while len(self._jobs) > 2 * _PACKERS:
            self._jobs.popleft().result()
        self._jobs.append(self._pool.submit(self._write, pixels, targets))

    def close(self) -> None:
        """Until all are written; raises what one raised."""
        try:
            while self._jobs:
                self._jobs.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _write(self, pixels: Pixels, targets: Sequence[Path]) -> None:
        import cv2

        image = np.ascontiguousarray(to_8_bit(pixels, self._window))
        done, data = cv2.imencode(".png", image)
        if not done:
            raise SpinelineError("the image cannot be written as PNG")
        targets[0].write_bytes(data.tobytes())
        for target in targets[1:]:
            link_or_copy(targets[0], target)


def _check_fits(pixels: Pixels, record: ImageRecord, window: str) -> None:
    """Refuse pixels that are not what the record says, or that need a window.

    Raises:
        SpinelineError: another size, or more than 8 bits with ``window=none``.
    """
    if pixels.shape != (record.height, record.width):
        msg = (
            f"the image is {pixels.shape[1]}x{pixels.shape[0]}, its header or annotation says "
            f"{record.width}x{record.height}"
        )
        raise SpinelineError(msg)
    if window != "percentile":
        to_8_bit(pixels, window)
