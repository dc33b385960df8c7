"""Records to a converted dataset on disk: images once, then every format, then what was done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spineline.converters.formats.coco import write_coco
from spineline.converters.formats.voc import write_voc
from spineline.converters.formats.yolo import write_yolo
from spineline.converters.sources.cervical import published_table
from spineline.converters.sources.prepared import write_prepared
from spineline.converters.sources.source import LeftOut, Pixels, Source
from spineline.datasets.coco import boxed_structures
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.files import link_or_copy, write_json, write_text
from spineline.datasets.common.log import progress
from spineline.datasets.images import window_to_uint8
from spineline.datasets.labels import (
    EXTRA_LEVELS,
    KINDS,
    LABEL_SETS,
    LEVELS,
    LabelSet,
)
from spineline.datasets.quality_control import SEVERITY, Finding
from spineline.datasets.splits import PARTS, Part, records_by_part, write_manifest
from spineline.datasets.types import ImageRecord, tags_of

SCHEMA = "spineline-conversion/1"

_PACKERS = 2
"""Threads that window and pack images; a few images wait for each."""

_WRITERS: dict[str, Callable[[Path, Mapping[Part, Sequence[ImageRecord]], LabelSet], None]] = {
    "yolo": write_yolo,
    "voc": write_voc,
    "coco": write_coco,
    "fasterrcnn": write_prepared,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How a dataset is written.

    Attributes:
        labels: label set of the boxes.
        formats: of ``yolo``, ``voc``, ``coco``, ``fasterrcnn``.
        window: ``percentile`` or ``none``.
        layouts: part by study, for each dataset: one under its folder's name (``""`` is the output
            folder itself).
    """

    labels: LabelSet
    formats: tuple[str, ...]
    window: str
    layouts: dict[str, dict[str, Part]]


def write_datasets(stage: Path, source: Source, plan: Plan) -> Source:
    """Write every dataset of the plan into a folder.

    Args:
        stage: an empty folder.
        source: what to write.
        plan: how.

    Returns:
        The source as it was written: records whose image could not be decoded are left out.
    """
    source = _write_images(stage, source, plan)
    for name, parts in plan.layouts.items():
        root = stage / name
        records = records_by_part(source.records, parts)
        for form, write in _WRITERS.items():
            if form in plan.formats:
                write(root, records, plan.labels)
        write_text(root / "split.json", write_manifest(parts), sync=False)
        write_json(root / "conversion.json", conversion(source, records, plan), sync=False)
    return source


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


def conversion(
    source: Source, records: Mapping[Part, Sequence[ImageRecord]], plan: Plan
) -> dict[str, Any]:
    """The content of ``conversion.json``."""
    table = {"table": published_table(source)} if source.table else {}
    return {
        "schema": SCHEMA,
        "source": source.kind,
        "labels": plan.labels,
        "formats": list(plan.formats),
        "window": plan.window,
        **table,
        "counts": _counts(source, records, plan.labels),
        "left_out": [entry.to_dict() for entry in source.left_out],
        "findings": [finding.to_dict() for finding in source.findings],
    }


def finding_counts(findings: Sequence[Finding]) -> dict[str, int]:
    """How often each finding occurs, in the order of ``SEVERITY``, those that do."""
    names = [finding.finding for finding in findings]
    return {name: names.count(name) for name in SEVERITY if name in names}


def _counts(
    source: Source, records: Mapping[Part, Sequence[ImageRecord]], labels: LabelSet
) -> dict[str, Any]:
    everything = [record for part in PARTS for record in records[part]]
    structures = [s for record in everything for s in record.structures]
    boxed = [boxed_structures(record, labels) for record in everything]
    classes = [int(index) for b in boxed for index in b.class_index]
    levels = [s.level for s in structures]
    tags = tags_of(structures)
    return {
        "entries": len(source.records) + len(source.left_out),
        "records": len(everything),
        "left_out": len(source.left_out),
        "failed": len(source.failures),
        "images": {part: len(records[part]) for part in PARTS},
        "studies": {part: len({r.study_id for r in records[part]}) for part in PARTS},
        "structures": len(structures),
        "boxes": len(classes),
        "without_box": sum(len(b.without_box) for b in boxed),
        "class": {name: classes.count(n) for n, name in enumerate(LABEL_SETS[labels])},
        "level": {level: levels.count(level) for level in (*EXTRA_LEVELS, *LEVELS)},
        "kind": {kind: sum(s.kind == kind for s in structures) for kind in KINDS},
        "pathology": {
            kind: {
                **{
                    tag: sum(s.kind == kind and tag in s.pathology for s in structures)
                    for tag in tags[kind]
                },
                "unlabelled": sum(s.kind == kind and not s.pathology for s in structures),
            }
            for kind in KINDS
        },
        "findings": finding_counts(source.findings),
    }


def _write_images(stage: Path, source: Source, plan: Plan) -> Source:
    for name in plan.layouts:
        for part in PARTS:
            (stage / name / "images" / part).mkdir(parents=True, exist_ok=True)
    kept, failed = [], []
    with closing(_Packer(plan.window)) as packer:
        for record in progress(source.records, description="images"):
            if source.is_missing(record):
                kept.append(record)
                continue
            targets = [
                stage / name / "images" / parts[record.study_id] / f"{record.image_id}.png"
                for name, parts in plan.layouts.items()
            ]
            try:
                pixels = source.pixels(record)
                _check_fits(pixels, record, plan.window)
            except SpinelineError as error:
                detail = f"{record.image_id}: {error}"
                failed.append(
                    LeftOut(record.image_id, record.study_id, "unreadable_image", detail, True)
                )
                continue
            packer.pack(pixels, targets)
            kept.append(record)
    found = [
        Finding(e.image_id, e.study, None, "unreadable_image", e.detail, "record left out")
        for e in failed
    ]
    return replace(
        source,
        records=tuple(kept),
        left_out=(*source.left_out, *failed),
        findings=(*source.findings, *found),
    )


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
        targets[0].write_bytes(_png(pixels, self._window))
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


def _png(pixels: Pixels, window: str) -> bytes:
    import cv2

    done, data = cv2.imencode(".png", np.ascontiguousarray(to_8_bit(pixels, window)))
    if not done:
        raise SpinelineError("the image cannot be written as PNG")
    return bytes(data.tobytes())
