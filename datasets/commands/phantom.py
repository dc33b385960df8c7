"""``spineline data phantom``: write synthetic spines with their annotation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spineline.datasets.commands.settings import DataPhantom
from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.common.files import staged_folder, write_bytes, write_json
from spineline.datasets.common.log import LOG, progress
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.images import window_to_uint8
from spineline.datasets.phantoms.cervical_source import (
    labelme_xml,
    marked_objects,
    neck_record,
    source_csv,
    source_rows,
)
from spineline.datasets.phantoms.phantom import (
    Phantom,
    draw_neck_phantom,
    draw_phantom,
    record_of,
    sagittal_values,
)
from spineline.datasets.phantoms.study import write_phantom_study
from spineline.datasets.tianchi import annotation_entry
from spineline.datasets.types import ImageRecord

_BESIDE_MM = 15.0  # distance of the unusable slice of a neck from the midline


@dataclass(frozen=True, slots=True)
class PhantomResult:
    """Result of ``data phantom``.

    Attributes:
        out: the folder written.
        records: one per study, in order.
    """

    out: Path
    records: tuple[ImageRecord, ...]


def phantom(settings: DataPhantom) -> PhantomResult:
    """Write ``settings.n`` phantoms.

    For ``dicom`` these are ``studies/studyN/*.dcm`` and ``annotations.json`` (the official Tianchi
    format). For ``png`` they are ``frames/ID.png`` and ``report_labels.json`` (the report's
    format). Necks give ``studies`` without annotation, and ``frames`` with ``descr/*.csv``, a
    cervical source.

    Raises:
        OutputExistsError: the folder exists and ``overwrite`` is not set.
        SpinelineError: the folder cannot be written.
    """
    write = _write_necks if settings.region == "cervical" else _write_lumbar
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        records = write(stage, settings)
        write_run_record(stage, "data phantom", settings)
    LOG.info("%s: %d phantom%s", settings.out, settings.n, "s" * (settings.n != 1))
    return PhantomResult(settings.out, tuple(records))


def _write_lumbar(stage: Path, settings: DataPhantom) -> list[ImageRecord]:
    records, studies, frames = [], [], []
    for number, drawn in _drawn(settings, draw_phantom, settings.seed):
        record = record_of(drawn, f"{number:03d}-000")
        if "dicom" in settings.format:
            identity = f"{settings.seed}.{number}"
            record = _write_study(stage, drawn, record, identity, settings.slices)
            studies.append(annotation_entry(record, settings.slices // 2))
        if "png" in settings.format:
            _write_png(stage, sagittal_values(drawn), record.image_id)
            frames.append(_report_entry(record))
        records.append(record)
    if studies:
        write_json(stage / "annotations.json", studies)
    if frames:
        write_json(stage / "report_labels.json", frames)
    return records


def _write_necks(stage: Path, settings: DataPhantom) -> list[ImageRecord]:
    """Necks: studies, and frames with a cervical source; patients alternate between two CSVs."""
    records: list[ImageRecord] = []
    tables: list[list[list[str]]] = [[], []]
    for number, drawn in _drawn(settings, draw_neck_phantom, settings.seed, 1):
        record = neck_record(drawn, f"{number:03d}-000")
        if "dicom" in settings.format:
            identity = f"neck.{settings.seed}.{number}"
            record = _write_study(stage, drawn, record, identity, settings.slices)
        if "png" in settings.format:
            beside = sagittal_values(drawn, lateral_mm=_BESIDE_MM)
            _write_png(stage, sagittal_values(drawn), record.image_id)
            _write_png(stage, beside, f"{record.study_id}-001")
            objects = marked_objects(drawn, np.random.default_rng([settings.seed, 2, number]))
            size_hw, wrapped = drawn.view.size_hw, number % 3 == 1
            xml = labelme_xml(f"{record.image_id}.png", size_hw, objects, wrapped=wrapped)
            tables[number % 2] += source_rows(number, record.image_id, xml)
        records.append(record)
    for number, rows in enumerate(tables):
        if rows:
            data = source_csv(rows, mark=number == 0)
            write_bytes(stage / "descr" / f"descr_{number:02d}.csv", data)
    return records


def _drawn(
    settings: DataPhantom, draw: Callable[..., Phantom], *seeds: int
) -> Iterator[tuple[int, Phantom]]:
    """The phantoms with their numbers; each depends only on its number, whatever ``n`` is."""
    size_hw = None if settings.size is None else (settings.size, settings.size)
    for number in progress(range(settings.n), description="phantoms", total=settings.n):
        yield number, draw(np.random.default_rng([*seeds, number]), size_hw)


def _write_study(
    stage: Path, drawn: Phantom, record: ImageRecord, identity: str, slices: int
) -> ImageRecord:
    folder = stage / "studies" / f"study{int(record.study_id)}"
    return write_phantom_study(folder, drawn, record, identity=identity, slices=slices)


def _report_entry(record: ImageRecord) -> dict[str, Any]:
    """One frame in the report's format, where identification numbers run bottom to top."""
    last = len(record.structures) - 1
    points = []
    for rank, structure in enumerate(record.structures):
        seven, binary = structure.class_in("seven"), structure.class_in("binary")
        points.append(
            {
                "identification": last - rank,
                "class": f"({seven},{binary})",
                "coord": [round(v) for v in structure.point_xy],
                "bbox": [round(v, 4) for v in structure.box_xyxy],
            }
        )
    return {"id": record.image_id, "point": points}


def _write_png(stage: Path, values: Float32Array, image_id: str) -> None:
    _, data = cv2.imencode(".png", window_to_uint8(values))
    write_bytes(stage / "frames" / f"{image_id}.png", data.tobytes())
