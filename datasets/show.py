"""``spineline data show``: boxes, points, levels and tags of a converted dataset on its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spineline.datasets.annotations import ImageRecord
from spineline.datasets.dataset import Dataset, load_dataset
from spineline.datasets.errors import ConfigError, SpinelineError
from spineline.datasets.files import staged_folder, write_bytes
from spineline.datasets.images import read_uint8_image
from spineline.datasets.runs import LOG, progress, write_run_record
from spineline.datasets.settings import Settings, close_match, key
from spineline.datasets.splits import PARTS

if TYPE_CHECKING:
    from spineline.datasets.drawing import Mark

SHEET = "contact_sheet.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataShow(Settings):
    """Keys of ``data show``."""

    data: Path = key("converted dataset: its folder or data.yaml")
    out: Path = key("folder to write one PNG per image and a contact sheet to")
    part: str = key("which part to draw", default="all", choices=("all", *PARTS))
    ids: tuple[str, ...] = key("image ids to draw; none picks evenly", default=())
    limit: int = key("how many images to draw when ids names none", default=16, minimum=1)
    labels: str = key(
        "what is written beside each structure",
        default="pathology",
        choices=("none", "level", "pathology"),
    )
    boxes: bool = key("draw the boxes", default=True)
    scale: int | None = key(
        "how often images are enlarged; none fits the image", default=None, minimum=1, maximum=8
    )
    columns: int = key("columns of the contact sheet", default=4, minimum=1, maximum=16)
    overwrite: bool = key("replace out if it exists", default=False)


@dataclass(frozen=True, slots=True)
class ShowResult:
    """What ``data show`` wrote.

    Attributes:
        out: the folder.
        images: ids of the images that were drawn, in order.
        failures: one message per image that could not be read.
    """

    out: Path
    images: tuple[str, ...]
    failures: tuple[str, ...] = ()


def show(settings: DataShow) -> ShowResult:
    """Draw images of a converted dataset with their structures, and a contact sheet of them.

    Raises:
        ConfigError: ``ids`` names an image that is not in the part.
        SpinelineError: the dataset cannot be loaded or has no image there, or ``out`` exists or
            cannot be written.
    """
    from spineline.datasets.drawing import contact_sheet, png_bytes

    dataset = load_dataset(settings.data)
    records = select_records(dataset, settings)
    pictures: dict[str, NDArray[np.uint8]] = {}
    failures = []
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        for part, record in progress(records, description="drawing"):
            try:
                title = f"{record.image_id} ({part})"
                picture = draw_record(dataset, record, settings, title=title)
            except SpinelineError as error:
                failures.append(f"{record.image_id}: {error}")
                continue
            pictures[record.image_id] = picture
            write_bytes(stage / f"{record.image_id}.png", png_bytes(picture))
        if pictures:
            sheet = contact_sheet(list(pictures.values()), columns=settings.columns)
            write_bytes(stage / SHEET, png_bytes(sheet))
        write_run_record(stage, "data show", settings)
    LOG.info("%d images drawn: %s", len(pictures), settings.out / SHEET)
    for failure in failures:
        LOG.error("error: %s", failure)
    return ShowResult(settings.out, tuple(pictures), tuple(failures))


def select_records(dataset: Dataset, settings: DataShow) -> list[tuple[str, ImageRecord]]:
    """The images to draw with their part: those named, or ``limit`` picked evenly.

    Raises:
        ConfigError: an id is not there.
        SpinelineError: there is no image in the part.
    """
    found = [
        (part, record)
        for part, records in dataset.records.items()
        if settings.part in ("all", part)
        for record in records
    ]
    if not found:
        msg = f"{settings.data}: has no images in part={settings.part}; choose another"
        raise SpinelineError(msg)
    if not settings.ids:
        picks = np.linspace(0, len(found) - 1, min(settings.limit, len(found)))
        return [found[index] for index in np.rint(picks).astype(int)]
    by_id = {record.image_id: (part, record) for part, record in found}
    for image_id in settings.ids:
        if image_id not in by_id:
            hint = close_match(image_id, list(by_id)) if len(by_id) < 20 else ""
            raise ConfigError(f"ids={image_id}: no such image in part={settings.part}{hint}")
    return [by_id[image_id] for image_id in dict.fromkeys(settings.ids)]


def draw_record(
    dataset: Dataset, record: ImageRecord, settings: DataShow, *, title: str = ""
) -> NDArray[np.uint8]:
    """One image with its structures, uint8 (h, w, 3) RGB.

    Raises:
        ImageReadError: the image file cannot be read.
    """
    from spineline.datasets.drawing import draw_overlay

    image = read_uint8_image(dataset.image_path(record))
    marks = record_marks(record, labels=settings.labels, boxes=settings.boxes)
    return draw_overlay(image, marks, title=title, scale=settings.scale)


def record_marks(
    record: ImageRecord, *, labels: str = "pathology", boxes: bool = True
) -> Sequence[Mark]:
    """The marks of a record's structures; one with findings carries an exclamation mark."""
    from spineline.datasets.drawing import Mark

    marks = []
    for structure in record.structures:
        words = [] if labels == "none" else [structure.level]
        if labels == "pathology":
            words += [",".join(structure.pathology) or "?"]
            words += ["!"] if structure.findings else []
        box = structure.box_xyxy if boxes else None
        marks.append(Mark(structure.point_xy, box, structure.kind, " ".join(words)))
    return marks
