"""The annotation of a synthetic neck, and a matching cervical source: CSV, LabelMe XML.

The source has the flaws of real ones. There are unusable slices beside the midline, thoracic and
deleted objects, duplicate boxes, and a shape that is not a rectangle. XML may be wrapped, and file
names have stray suffixes. The marks depend only on the generator.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lxml import etree

from spineline.datasets.cervical import USABLE_VALUE, CervicalColumns
from spineline.datasets.labels import NO_LEVEL
from spineline.datasets.phantoms.anatomy import Disc
from spineline.datasets.phantoms.canvas import View, local
from spineline.datasets.phantoms.phantom import Phantom, framed_record
from spineline.datasets.types import ImageRecord, Structure

PATIENT_COLUMN = "Пациент"

_UNUSABLE_VALUE = "Не визуализируются"
_COMMENT_COLUMN = "Комментарий"
_DISC_CLASS = "mezhpozvonochnyj-disk"
_KINDS = {"v1": "zdorovyj", "v2": "degeneraciya", "v3": "protruziya", "v4": "ekstruziya"}
_MARKED = ("C2-C3", "C3-C4", "C4-C5", "C5-C6", "C6-C7")
_LAST = "C7-T1"  # marked in a few images
_THORACIC = "T1-T2"
_MARGIN_MM = 1.5  # between a disc and the rectangle around it


@dataclass(frozen=True, slots=True)
class MarkedObject:
    """One object as a reader marked it: class, corners in whole pixels, and whether deleted."""

    name: str
    points_xy: tuple[tuple[int, int], ...]
    deleted: bool = False


def neck_record(phantom: Phantom, image_id: str) -> ImageRecord:
    """Return the annotation of the mid-sagittal slice: the discs that readers mark as cervical."""
    structures = []
    for disc in _marked_discs(phantom):
        left, top, right, bottom = _disc_box(disc, phantom.view)
        point = ((left + right) / 2, (top + bottom) / 2)
        tag = "healthy" if disc.tags == ("v1",) else "sick"
        structures.append(Structure(NO_LEVEL, "disc", point, (left, top, right, bottom), (tag,)))
    return framed_record(phantom, image_id, tuple(sorted(structures, key=lambda s: s.place)))


def marked_objects(phantom: Phantom, rng: np.random.Generator) -> tuple[MarkedObject, ...]:
    """Return a reader's marks: the discs, and sometimes marks that conversion must leave out."""
    marked = _marked_discs(phantom)
    found = [
        MarkedObject(_class_of(disc, "shejnyj"), _corners(disc, phantom.view)) for disc in marked
    ]
    sick = [disc for disc in marked if disc.tags != ("v1",)]
    first = _corners(marked[0], phantom.view)
    healthy = f"shejnyj-{_DISC_CLASS}-{_KINDS['v1']}"
    if rng.random() < 0.4:
        disc = next(disc for disc in phantom.anatomy.discs if disc.name == _THORACIC)
        found.append(MarkedObject(_class_of(disc, "grudnoj"), _corners(disc, phantom.view)))
    if rng.random() < 0.3:
        moved = tuple((x + 3, y + 2) for x, y in first)
        found.append(MarkedObject(healthy, moved, deleted=True))
    if rng.random() < 0.2:
        found.append(MarkedObject(healthy, (*first[:3], (first[3][0] + 2, first[3][1] - 1))))
    if sick and rng.random() < 0.3:  # marked twice: conversion keeps the sick one
        found.insert(0, MarkedObject(healthy, _corners(sick[0], phantom.view)))
    return tuple(found)


def labelme_xml(
    filename: str, size_hw: tuple[int, int], objects: Sequence[MarkedObject], *, wrapped: bool
) -> str:
    """Format a LabelMe annotation as XML, optionally wrapped in ``annotationgroup``."""
    root = etree.Element("annotation")
    _add(root, "filename", filename)
    _add(root, "folder", "spine")
    size = _add(root, "imagesize")
    _add(size, "nrows", str(size_hw[0]))
    _add(size, "ncols", str(size_hw[1]))
    for number, item in enumerate(objects):
        node = _add(root, "object")
        for name, text in (
            ("name", item.name), ("deleted", str(int(item.deleted))), ("verified", "0"),
            ("occluded", "no"), ("id", str(number)),
        ):  # fmt: skip
            _add(node, name, text)
        polygon = _add(node, "polygon")
        _add(polygon, "username", "anonymous")
        for x, y in item.points_xy:
            corner = _add(polygon, "pt")
            _add(corner, "x", str(x))
            _add(corner, "y", str(y))
    if wrapped:
        group = etree.Element("annotationgroup")
        group.append(root)
        root = group
    return str(etree.tostring(root, encoding="unicode"))


def source_rows(number: int, image_id: str, xml: str) -> list[list[str]]:
    """Return the rows of one patient: the mid-sagittal slice, and an unusable one beside it."""
    stray = ("", "/n", "", "\n")[number % 4]
    patient = f"phantom {number:03d}"
    beside = f"{image_id.split('-', maxsplit=1)[0]}-001.png"
    return [
        [str(2 * number), f"{image_id}.png{stray}", USABLE_VALUE, xml, "", patient],
        [str(2 * number + 1), beside, _UNUSABLE_VALUE, "", "", patient],
    ]


def source_csv(rows: Sequence[Sequence[str]], *, mark: bool) -> bytes:
    """Encode rows as a CSV file in UTF-8, with or without a byte-order mark."""
    columns = CervicalColumns()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["ID", columns.file, columns.usable, columns.xml, _COMMENT_COLUMN, PATIENT_COLUMN]
    )
    writer.writerows(rows)
    return text.getvalue().encode("utf-8-sig" if mark else "utf-8")


def _marked_discs(phantom: Phantom) -> list[Disc]:
    """The five discs C2-C3 to C6-C7, and C7-T1 in one of eight necks."""
    names = (*_MARKED, _LAST) if phantom.look.seed % 8 == 0 else _MARKED
    return [disc for disc in phantom.anatomy.discs if disc.name in names]


def _disc_box(disc: Disc, view: View) -> list[float]:
    """The upright rectangle ``xyxy`` around a disc, corners at whole pixels inside the frame."""
    half = disc.depth / 2
    front, back = -half - disc.bulge_front - _MARGIN_MM, half + disc.bulge + _MARGIN_MM
    v = disc.height / 2 + _MARGIN_MM
    corners = local(disc.centre, disc.angle, [front, back, back, front], [-v, -v, v, v])
    height, width = view.size_hw
    pixels = np.clip(np.rint(view.to_pixels(corners)), 0, [width - 1, height - 1])
    return [*pixels.min(axis=0).tolist(), *pixels.max(axis=0).tolist()]


def _class_of(disc: Disc, region: str) -> str:
    kind = "sekvestr" if disc.migration > 2.5 else _KINDS[disc.tags[0]]
    return f"{region}-{_DISC_CLASS}-{kind}"


def _corners(disc: Disc, view: View) -> tuple[tuple[int, int], ...]:
    left, top, right, bottom = (round(value) for value in _disc_box(disc, view))
    return (left, top), (right, top), (right, bottom), (left, bottom)


def _add(parent: etree._Element, name: str, text: str | None = None) -> etree._Element:
    node = etree.SubElement(parent, name)
    node.text = text
    return node
