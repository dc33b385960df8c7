"""LabelMe annotations in XML: objects with a class and a polygon.

LabelMe's corners are whole pixels, the first and the last that belong to the disc. They become the
record's ``box_xyxy`` unchanged, as (left, top, right, bottom) of the corner pixels' centres. So the
numbers are those of the source and of the older project, without half a pixel added on each side.
Only the overlap of two boxes counts pixels inclusively.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spineline.converters.formats.voc import parse_xml
from spineline.converters.sources.source import LARGEST_COORDINATE, EntryError, PixelBox, cut
from spineline.datasets.common.errors import AnnotationError

_MAX_SIDE = 100_000
_STRAY_END = re.compile(r"(?:/n|\\n|\s)+$")
_XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")


@dataclass(frozen=True, slots=True)
class LabelMeObject:
    """One object of a LabelMe annotation: its class, and the corners of its polygon in pixels."""

    name: str
    deleted: bool
    points_xy: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class LabelMe:
    """A LabelMe annotation.

    Attributes:
        filename: name of the image in the XML; may be empty.
        size_wh: width and height in pixels, or None without a size in the XML.
        objects: objects in the order of the XML.
    """

    filename: str
    size_wh: tuple[int, int] | None
    objects: tuple[LabelMeObject, ...]


def clean_file_name(text: str) -> str:
    r"""Remove the stray suffixes of image file names in sources.

    >>> clean_file_name("img_1.jpg/n"), clean_file_name(" img_2.jpg\n")
    ('img_1.jpg', 'img_2.jpg')
    """
    return _STRAY_END.sub("", text).strip().replace("\\", "/")


def parse_labelme(xml: str, where: str) -> LabelMe:
    """Parse a LabelMe annotation, which may be wrapped in ``annotationgroup``.

    Raises:
        EntryError: it is not well-formed, has a DOCTYPE, is no such annotation, or has coordinates
            that are not numbers.
    """
    text = _XML_DECLARATION.sub("", xml)  # the text is decoded already, whatever it declares
    try:
        root = parse_xml(text.encode("utf-8"), where=where)
    except AnnotationError as error:
        raise EntryError("broken_xml", str(error)) from error
    if root.tag not in ("annotation", "annotationgroup"):
        detail = f"{where}: the XML's root is <{root.tag}>, wanted annotation or annotationgroup"
        raise EntryError("broken_xml", detail)
    parts = [root] if root.tag == "annotation" else root.findall("annotation")
    if not parts:
        raise EntryError("broken_xml", f"{where}: annotationgroup without annotation")
    return LabelMe(
        filename=clean_file_name(parts[0].findtext("filename") or ""),
        size_wh=_image_size(parts[0]),
        objects=tuple(_object(node, where) for part in parts for node in part.findall("object")),
    )


def rectangle(points_xy: Sequence[tuple[float, float]]) -> PixelBox | None:
    """Return the box of a polygon, or None unless it is an axis-parallel rectangle of four points.

    A polygon without width or height gives a box without area.

    >>> rectangle([(1, 2), (5, 2), (5, 4), (1, 4)])
    (1.0, 2.0, 5.0, 4.0)
    >>> rectangle([(1, 2), (5, 3), (5, 4), (1, 4)]) is None
    True
    """
    if len(points_xy) != 4:
        return None
    xs, ys = (sorted(values) for values in zip(*points_xy, strict=True))
    box = (float(xs[0]), float(ys[0]), float(xs[3]), float(ys[3]))
    if box[0] == box[2] or box[1] == box[3]:  # a line or a point, which is rejected later
        return box
    around = [*points_xy[1:], points_xy[0]]
    straight = all((a[0] == b[0]) != (a[1] == b[1]) for a, b in zip(points_xy, around, strict=True))
    return box if straight and len(set(points_xy)) == 4 else None


def _image_size(node: Any) -> tuple[int, int] | None:
    texts = [(node.findtext(f"imagesize/{side}") or "").strip() for side in ("ncols", "nrows")]
    if not all(re.fullmatch(r"[0-9]{1,6}", text) for text in texts):
        return None
    width, height = int(texts[0]), int(texts[1])
    return (width, height) if 0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE else None


def _object(node: Any, where: str) -> LabelMeObject:
    polygons = node.findall("polygon")
    points = polygons[0].findall("pt") if len(polygons) == 1 else []
    return LabelMeObject(
        name=(node.findtext("name") or "").strip(),
        deleted=(node.findtext("deleted") or "").strip().lower() in ("1", "true", "yes"),
        points_xy=tuple((_number(p, "x", where), _number(p, "y", where)) for p in points),
    )


def _number(node: Any, name: str, where: str) -> float:
    text = (node.findtext(name) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST_COORDINATE:
        detail = f"{where}: a corner's <{name}> is {cut(text)!r}, wanted a number of pixels"
        raise EntryError("not_a_number", detail)
    return value
