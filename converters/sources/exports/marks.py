"""The content of an annotation tool's export, before its words are interpreted.

A reader turns a tool's files into [ExportedImage][]s. It knows nothing of levels, grades or images
on disk, and can be used by itself. Coordinates are the tool's own pixel numbers, x to the right and
y down. Some tools count from a pixel's corner and some from its centre; this half pixel is not
corrected. ``point_mm`` is in DICOM's patient coordinates (LPS, mm).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spineline.converters.sources.source import (
    EntryError,
    PixelBox,
    cut,
    load_json,
    pixel_numbers,
)

Attributes = tuple[tuple[str, str], ...]
"""Names and texts; a name may occur more than once."""


@dataclass(frozen=True, slots=True)
class ExportedMark:
    """One point or rectangle.

    Attributes:
        where: identifies the mark in messages.
        words: the tool's names of it, the label first; others may be its level or grade.
        point_xy: in pixels; None for a rectangle, or a point in patient coordinates.
        box_xyxy: in pixels, for a rectangle.
        point_mm: a point in patient coordinates, LPS mm.
        attributes: further attributes of the mark.
        group: marks of the same group and image belong together; empty: no group.
        turned: whether the rectangle was rotated, and ``box_xyxy`` is its upright hull.
    """

    where: str
    words: tuple[str, ...]
    point_xy: tuple[float, float] | None = None
    box_xyxy: PixelBox | None = None
    point_mm: tuple[float, float, float] | None = None
    attributes: Attributes = ()
    group: str = ""
    turned: bool = False


@dataclass(frozen=True, slots=True)
class DroppedMark:
    """A mark that cannot be a level: the name of a finding, and what was found."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class ExportedImage:
    """One image of an export with its marks.

    Attributes:
        where: identifies the entry in messages.
        name: path or address of the image in the export; may be empty.
        instance_uid: SOP instance UID, if the export has one.
        slice_index: index in a volume or a file of several frames, from 0; None if not given.
        size_wh: width and height in pixels in the export, or None.
        attributes: attributes of the image.
        marks: marks in the order of the export.
        dropped: marks that cannot be a level.
        error: why the entry cannot be used at all, or None.
    """

    where: str
    name: str = ""
    instance_uid: str = ""
    slice_index: int | None = None
    size_wh: tuple[int, int] | None = None
    attributes: Attributes = ()
    marks: tuple[ExportedMark, ...] = ()
    dropped: tuple[DroppedMark, ...] = field(default=())
    error: EntryError | None = None


@dataclass(slots=True)
class MarkList:
    """The marks of one image while its entry is read."""

    marks: list[ExportedMark] = field(default_factory=list)
    dropped: list[DroppedMark] = field(default_factory=list)

    def drop(self, reason: str, detail: str) -> None:
        """Record a mark that cannot be a level."""
        self.dropped.append(DroppedMark(reason, detail))


def json_files(annotations: Path) -> list[tuple[str, Any]]:
    """Return names and contents of a JSON file, or of those in a folder or its ``annotations``.

    If ``PART.json`` lies beside ``person_keypoints_PART.json`` or ``instances_PART.json``, the
    latter are the same part under the names that other tools expect, and are ignored.

    Raises:
        AnnotationError: a file cannot be read.
    """
    if not annotations.is_dir():
        return [(annotations.name, load_json(annotations))]
    for folder in (annotations / "annotations", annotations):
        if files := sorted(p for p in folder.glob("*.json") if p.name[0] != "."):
            parts = {path.name for path in files}
            return [
                (path.name, load_json(path))
                for path in files
                if not any(
                    path.name.startswith(prefix) and path.name.removeprefix(prefix) in parts
                    for prefix in ("person_keypoints_", "instances_")
                )
            ]
    return []


def size_of(width: Any, height: Any) -> tuple[int, int] | None:
    """Return width and height from numbers or texts; None if they are not valid.

    >>> size_of("320", 240), size_of(None, 240), size_of(0, 1)
    ((320, 240), None, None)
    """
    try:
        values = (float(width), float(height))
    except (TypeError, ValueError, OverflowError):
        return None
    if not all(math.isfinite(v) and v >= 1 and v == int(v) and v < 1e9 for v in values):
        return None
    return int(values[0]), int(values[1])


def named(where: str, name: str) -> str:
    r"""Identify an entry in messages by its file and image name, safe for a terminal.

    >>> named("a.json", "b.png"), named("a.json", "b\n.png")
    ('a.json, b.png', "a.json, 'b\\n.png'")
    """
    return f"{where}, {cut(name) if name.isprintable() else cut(repr(name))}"


def texts_of(value: Any, depth: int = 0) -> tuple[str, ...]:
    """Convert a JSON value to texts: a list gives several, null and objects give none.

    >>> texts_of(["v3", 5]), texts_of(2.0), texts_of(True), texts_of(None)
    (('v3', '5'), ('2',), ('true',), ())
    """
    if isinstance(value, list):
        return tuple(t for item in value for t in texts_of(item, depth + 1)) if depth < 4 else ()
    if isinstance(value, bool):
        return (str(value).lower(),)
    if isinstance(value, float) and value.is_integer():
        return (str(int(value)),)
    if isinstance(value, str | int | float):
        return (str(value).strip(),) if str(value).strip() else ()
    return ()


def attributes_of(content: Any) -> Attributes:
    """Return the attributes of a JSON object; values that are not plain are ignored."""
    if not isinstance(content, Mapping):
        return ()
    return tuple((str(name), text) for name, value in content.items() for text in texts_of(value))


def upright_box(numbers: Sequence[Any], where: str) -> PixelBox:
    """Make a box from two opposite corners, in any order.

    Raises:
        EntryError: they are not four finite numbers.
    """
    x1, y1, x2, y2 = pixel_numbers(list(numbers), f"{where}: box", "[x1, y1, x2, y2]")
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def turned_box(
    box_xyxy: PixelBox, degrees: float, about_xy: tuple[float, float]
) -> tuple[PixelBox, bool]:
    """Return the upright hull of a box rotated clockwise about a point, and whether it is rotated.

    >>> turned_box((0, 0, 4, 2), 90, (2, 1))[0]
    (1.0, -1.0, 3.0, 3.0)
    """
    if degrees % 360 == 0:
        return box_xyxy, False
    left, top, right, bottom = box_xyxy
    corners: npt.NDArray[np.float64] = np.array(
        [(left, top), (right, top), (right, bottom), (left, bottom)]
    )
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    places = np.round((corners - about_xy) @ turn + about_xy, 9)
    (x1, y1), (x2, y2) = places.min(axis=0).tolist(), places.max(axis=0).tolist()
    return (x1, y1, x2, y2), True
