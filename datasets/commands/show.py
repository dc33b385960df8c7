"""``spineline data show``: draw boxes, points, levels and tags of a dataset on its images.

A dataset of healthy and sick structures (``labels=health``) is drawn in their colours, any other in
those of discs and vertebrae. With ``predictions=…``, labels are drawn on the left and a detector's
predictions on the right.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spineline.datasets.commands.settings import DataShow
from spineline.datasets.common.arrays import PixelArray
from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.files import staged_folder, write_bytes
from spineline.datasets.common.log import LOG, progress
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.common.settings import close_match
from spineline.datasets.dataset import Dataset, load_dataset
from spineline.datasets.drawing import (
    HEALTH_COLOURS_RGB,
    Colour,
    Mark,
    contact_sheet,
    draw_overlay,
    png_bytes,
    side_by_side,
)
from spineline.datasets.images import read_uint8_image
from spineline.datasets.labels import LABEL_SETS, Classes, kind_of_class
from spineline.datasets.predictions import PredictedBox, read_predictions
from spineline.datasets.types import ImageRecord

CONTACT_SHEET = "contact_sheet.png"


@dataclass(frozen=True, slots=True)
class ShowResult:
    """Result of ``data show``.

    Attributes:
        out: the folder written.
        images: ids of the drawn images, in order.
        failures: one message per image that could not be read.
    """

    out: Path
    images: tuple[str, ...]
    failures: tuple[str, ...] = ()


def show(settings: DataShow) -> ShowResult:
    """Draw images of a dataset with their structures, and a contact sheet of them.

    Raises:
        ConfigError: ``ids`` names an image that is not in the part.
        SpinelineError: the dataset cannot be loaded or has no image in the part, or ``out`` exists
            or cannot be written.
    """
    dataset = load_dataset(settings.data, settings.images, own_classes=True)
    predictions = None if settings.predictions is None else read_predictions(settings.predictions)
    records = select_records(dataset, settings, predicted=predictions or ())
    pictures: dict[str, PixelArray] = {}
    failures = list(dataset.failures)
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        for part, record in progress(records, description="drawing"):
            try:
                title = f"{record.image_id} ({part})"
                picture = draw_record(
                    dataset, record, settings, title=title, predictions=predictions
                )
            except SpinelineError as error:
                failures.append(f"{record.image_id}: {error}")
                continue
            pictures[record.image_id] = picture
            write_bytes(stage / f"{record.image_id}.png", png_bytes(picture))
        if pictures:
            sheet = contact_sheet(list(pictures.values()), columns=settings.columns)
            write_bytes(stage / CONTACT_SHEET, png_bytes(sheet))
        write_run_record(stage, "data show", settings)
    LOG.info("%d images drawn: %s", len(pictures), settings.out / CONTACT_SHEET)
    for failure in failures:
        LOG.error("error: %s", failure)
    return ShowResult(settings.out, tuple(pictures), tuple(failures))


def select_records(
    dataset: Dataset, settings: DataShow, *, predicted: Collection[str] = ()
) -> list[tuple[str, ImageRecord]]:
    """Select images and their parts: the named ones, or ``limit`` evenly spaced ones.

    Args:
        dataset: the dataset.
        settings: the command's keys.
        predicted: file names; if the dataset has some of them, only these images are eligible.

    Raises:
        ConfigError: the part has no image with a given id.
        SpinelineError: the part has no image.
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
        found = [one for one in found if dataset.image_path(one[1]).name in predicted] or found
        picks = np.linspace(0, len(found) - 1, min(settings.limit, len(found)))
        return [found[index] for index in np.rint(picks).astype(int)]
    by_id = {record.image_id: (part, record) for part, record in found}
    for image_id in settings.ids:
        if image_id not in by_id:
            hint = close_match(image_id, list(by_id)) if len(by_id) < 20 else ""
            raise ConfigError(f"ids={image_id}: no such image in part={settings.part}{hint}")
    return [by_id[image_id] for image_id in dict.fromkeys(settings.ids)]


def draw_record(
    dataset: Dataset,
    record: ImageRecord,
    settings: DataShow,
    *,
    title: str = "",
    predictions: Mapping[str, Sequence[PredictedBox]] | None = None,
) -> PixelArray:
    """Draw one image with its structures, and any predictions beside it; uint8 (h, w, 3) RGB.

    Raises:
        ImageReadError: the image file cannot be read.
        SpinelineError: the predictions are for another image.
    """
    path = dataset.image_path(record)
    image = read_uint8_image(path)
    legend = HEALTH_COLOURS_RGB if dataset.classes == "health" else None
    marks = record_marks(
        record, labels=settings.labels, boxes=settings.boxes, label_set=dataset.classes
    )
    left = draw_overlay(image, marks, title=title, scale=settings.scale, legend=legend)
    if predictions is None:
        return left
    if path.name not in predictions:
        raise SpinelineError(f"the predictions hold no image {path.name}")
    found = [box for box in predictions[path.name] if box.confidence >= settings.confidence]
    marks = prediction_marks(found, labels=settings.labels, boxes=settings.boxes)
    right = draw_overlay(image, marks, title="prediction", scale=settings.scale, legend=legend)
    return side_by_side(left, right)


def prediction_marks(
    found: Sequence[PredictedBox], *, labels: str = "pathology", boxes: bool = True
) -> Sequence[Mark]:
    """Make marks of predicted boxes with class and confidence; other classes are drawn as discs."""
    marks = []
    for item in found:
        left, top, right, bottom = item.box_xyxy
        kind = kind_of_class(item.name)
        text = "" if labels == "none" else f"{item.name} {item.confidence:.2f}"
        box = item.box_xyxy if boxes else None
        centre = ((left + right) / 2, (top + bottom) / 2)
        marks.append(Mark(centre, box, kind, text, HEALTH_COLOURS_RGB.get(item.name)))
    return marks


def record_marks(
    record: ImageRecord,
    *,
    labels: str = "pathology",
    boxes: bool = True,
    label_set: Classes = "level",
) -> Sequence[Mark]:
    """Make marks of a record's structures; those with findings have an exclamation mark.

    A structure without level is labelled with its class name. A question mark stands for a missing
    grade.
    """
    marks = []
    for structure in record.structures:
        name = structure.level or structure.class_name
        words = [] if labels == "none" or not name else [name]
        if labels == "pathology":
            ungraded = [] if structure.class_name else ["?"]
            words += [",".join(structure.pathology)] if structure.pathology else ungraded
            words += ["!"] if structure.findings else []
        box = structure.box_xyxy if boxes else None
        colour: Colour | None = None
        index = structure.class_in("health")
        if label_set == "health" and index is not None:
            colour = HEALTH_COLOURS_RGB[LABEL_SETS["health"][index]]
        marks.append(Mark(structure.point_xy, box, structure.kind, " ".join(words), colour))
    return marks
