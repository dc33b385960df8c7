"""LabelMe's JSON: a file for each image, with points and rectangles.

A rectangle has two opposite corners. Shapes with the same ``group_id`` belong together. Set flags
and the description may give the grade. Polygons, lines, circles and masks are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spineline.converters.sources.exports.marks import (
    ExportedImage,
    ExportedMark,
    MarkList,
    attributes_of,
    size_of,
    texts_of,
    upright_box,
)
from spineline.converters.sources.source import EntryError, cut, load_json, pixel_numbers, short
from spineline.datasets.common.errors import AnnotationError

_OF_THE_FILE = ("version", "imagePath", "imageData", "imageHeight", "imageWidth", "shapes", "flags")


def read_labelme_export(annotations: Path) -> list[ExportedImage]:
    """Read the images of a LabelMe file, or of a folder of them at any depth.

    A file that cannot be read becomes an entry with an error. JSON files of a folder without any
    shapes are not LabelMe's, and are ignored.
    """
    if not annotations.is_dir():
        return [parse_labelme_json(load_json(annotations), annotations.name)]
    found = []
    for path in sorted(annotations.rglob("*.json")):
        where = path.relative_to(annotations).as_posix()
        if path.name[0] == ".":
            continue
        try:
            content = load_json(path)
        except AnnotationError as error:
            text = str(error).replace(f"annotations={path}", where).replace(str(path), where)
            found.append(ExportedImage(where, error=EntryError("bad_entry", text)))
            continue
        if isinstance(content, Mapping) and "shapes" in content:
            found.append(parse_labelme_json(content, where))
    return found


def parse_labelme_json(content: Any, where: str) -> ExportedImage:
    """Parse the image of one LabelMe file."""
    shapes = content.get("shapes") if isinstance(content, Mapping) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        error = EntryError("bad_entry", f"{where}: shapes is not a list of objects")
        return ExportedImage(where, error=error)
    name = content.get("imagePath")
    listed = MarkList()
    try:
        if not isinstance(name, str) or not name.strip():
            raise EntryError("bad_entry", f"{where}: has no imagePath")
        for number, shape in enumerate(shapes):
            _read_shape(shape, f"{where}, shape {number}", listed)
    except EntryError as error:
        return ExportedImage(where, error=error)
    flags = content.get("flags")
    others = {key: value for key, value in content.items() if key not in _OF_THE_FILE}
    return ExportedImage(
        where,
        name.strip(),
        size_wh=size_of(content.get("imageWidth"), content.get("imageHeight")),
        attributes=(*attributes_of(others), *attributes_of(flags)),
        marks=tuple(listed.marks),
        dropped=tuple(listed.dropped),
    )


def _read_shape(shape: Mapping[str, Any], where: str, listed: MarkList) -> None:
    label = next(iter(texts_of(shape.get("label"))), "")
    kind = str(shape.get("shape_type", "polygon"))
    where = f"{where} ({cut(kind)} {cut(label)!r})"
    points = shape.get("points")
    count = len(points) if isinstance(points, list) else 0
    if kind not in ("point", "rectangle"):
        listed.drop("other_shape", f"{where}: is neither a point nor a rectangle")
        return
    if not isinstance(points, list) or count not in ((1,) if kind == "point" else (2, 4)):
        wanted = "one" if kind == "point" else "two corners"
        detail = f"{where}: its points are {short(points)}, wanted {wanted}"
        raise EntryError("not_a_number", detail)
    places = [pixel_numbers(point, where, "[x, y]") for point in points]
    flags, group = shape.get("flags"), shape.get("group_id")
    is_set = [str(k) for k, v in flags.items() if v is True] if isinstance(flags, Mapping) else []
    description = texts_of(shape.get("description"))
    mark = ExportedMark(
        where,
        (label, *is_set, *description),
        point_xy=(places[0][0], places[0][1]) if kind == "point" else None,
        box_xyxy=None if kind == "point" else _hull(places, where),
        attributes=(
            *(("description", text) for text in description),
            *attributes_of({k: v for k, v in shape.items() if k not in _OF_A_SHAPE}),
        ),
        group="" if group is None else str(group),
    )
    listed.marks.append(mark)


_OF_A_SHAPE = ("label", "points", "shape_type", "flags", "description", "group_id", "mask")


def _hull(places: list[tuple[float, ...]], where: str) -> tuple[float, float, float, float]:
    xs, ys = [place[0] for place in places], [place[1] for place in places]
    return upright_box([min(xs), min(ys), max(xs), max(ys)], where)
