"""What an export of an annotation tool holds, before its words are understood.

A reader of a tool's files turns them into [ExportedImage][]s and knows nothing of levels, grades or
images on disk; it can be used by itself. Coordinates are the tool's own pixel numbers, x to the
right and y down: half a pixel between tools that count from a pixel's corner and those that count
from its centre is neither added nor taken away. ``point_mm`` is in DICOM's patient coordinates
(LPS, mm).
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
        where: says in messages which mark is meant.
        words: what the tool calls it, the label first; further ones may be its level or grade.
        point_xy: in pixels; None where it is a rectangle, or a place in the patient.
        box_xyxy: in pixels, where it is a rectangle.
        point_mm: a place in the patient, LPS mm.
        attributes: whatever else the tool says of it.
        group: marks of one group and image belong together; empty: to none.
        turned: the rectangle was turned, and ``box_xyxy`` is its upright hull.
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
    """A mark that can stand for no level: the name of a finding, and what was found."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class ExportedImage:
    """One image of an export with its marks.

    Attributes:
        where: says in messages which entry is meant.
        name: path or address of the image as the tool gives it; may be empty.
        instance_uid: SOP instance UID, where the export names one.
        slice_index: of a volume or a file of several frames, from 0; None where it says none.
        size_wh: width and height in pixels as the tool gives them, or None.
        attributes: what the tool says of the image.
        marks: in the order of the export.
        dropped: marks that can be no level.
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
        """Note a mark that can be no level."""
        self.dropped.append(DroppedMark(reason, detail))


def json_files(annotations: Path) -> list[tuple[str, Any]]:
    """Names and contents of a JSON file, or of those of a folder's ``annotations`` or itself.

    Where ``PART.json`` lies beside ``person_keypoints_PART.json`` or ``instances_PART.json``, these
    are the same part under the names that other tools look for, and are passed over.

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
    """Width and height from numbers or texts; None where they are none.

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
    r"""Which entry is meant, in messages: its file and the name of its image, fit for a terminal.

    >>> named("a.json", "b.png"), named("a.json", "b\n.png")
    ('a.json, b.png', "a.json, 'b\\n.png'")
    """
    return f"{where}, {cut(name) if name.isprintable() else cut(repr(name))}"


def texts_of(value: Any, depth: int = 0) -> tuple[str, ...]:
    """A JSON value as texts: a list gives several, null and objects none.

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
    """The attributes that an object of JSON holds; what is no plain value is passed over."""
    if not isinstance(content, Mapping):
        return ()
    return tuple((str(name), text) for name, value in content.items() for text in texts_of(value))


def upright_box(numbers: Sequence[Any], where: str) -> PixelBox:
    """A box from two corners, whichever they are.

    Raises:
        EntryError: not four finite numbers.
    """
    x1, y1, x2, y2 = pixel_numbers(list(numbers), f"{where}: box", "[x1, y1, x2, y2]")
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def turned_box(
    box_xyxy: PixelBox, degrees: float, about_xy: tuple[float, float]
) -> tuple[PixelBox, bool]:
    """The upright hull of a box turned clockwise about a point, and whether it is turned at all.

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
