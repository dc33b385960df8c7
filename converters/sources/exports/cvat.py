"""CVAT's XML: ``CVAT for images 1.1``, and the tracks of ``CVAT for video 1.1``.

Points, boxes (also rotated ones) and the points of skeletons are read as marks. Polygons,
polylines, masks, ellipses and cuboids are left out. A track marks frames by number; CVAT exports
their images with names such as ``frame_000007``. A shape that is ``outside`` is not in the frame.
The names of a task and of its source are fields of its images, because they may name a volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spineline.converters.formats.voc import parse_xml
from spineline.converters.sources.exports.marks import (
    Attributes,
    ExportedImage,
    ExportedMark,
    MarkList,
    named,
    size_of,
    turned_box,
    upright_box,
)
from spineline.converters.sources.source import EntryError, cut, pixel_numbers
from spineline.datasets.common.errors import AnnotationError, first_line

_OTHER_SHAPES = ("polygon", "polyline", "mask", "ellipse", "cuboid")


def read_cvat_export(annotations: Path) -> list[ExportedImage]:
    """Read the images of CVAT's XML file, or of the XML files of a folder.

    Raises:
        AnnotationError: a file cannot be read, is not well-formed, has a DOCTYPE, or is not CVAT's.
    """
    found: list[ExportedImage] = []
    for path in sorted(annotations.glob("*.xml")) if annotations.is_dir() else [annotations]:
        try:
            xml = path.read_bytes()
        except OSError as error:
            msg = f"annotations={path}: cannot be read ({first_line(error)})"
            raise AnnotationError(msg) from error
        found += parse_cvat(parse_xml(xml, where=str(path)), path.name)
    return found


def parse_cvat(root: Any, where: str) -> list[ExportedImage]:
    """Parse the images of an XML document: those listed, then the frames of its tracks.

    Raises:
        AnnotationError: its root is not that of CVAT.
    """
    if root.tag != "annotations":
        raise AnnotationError(f"{where}: the root is <{root.tag}>, wanted CVAT's <annotations>")
    tasks = _tasks(root)
    images = [_image(node, tasks, where) for node in root.findall("image")]
    frames: dict[str, list[tuple[Any, Any]]] = {}
    for track in root.findall("track"):
        for shape in _shapes(track):
            frames.setdefault(str(shape.get("frame")), []).append((track, shape))
    size = _task_size(root)
    ordered = sorted(frames, key=lambda text: (not text.isdecimal(), text.zfill(12)))
    about = tasks.get("", ())
    return images + [_frame(frame, frames[frame], size, about, where) for frame in ordered]


def _tasks(root: Any) -> dict[str, Attributes]:
    """Names of each task and its source by the task's id; those of a single task also by ``""``."""
    found = {}
    for task in [*root.iterfind("meta/task"), *root.iterfind("meta/project/tasks/task")]:
        said = {"task": task.findtext("name"), "source": task.findtext("source")}
        said["source"] = said["source"] or root.findtext("meta/source")
        found[task.findtext("id") or ""] = tuple((k, v.strip()) for k, v in said.items() if v)
    if len(found) == 1:
        found[""] = next(iter(found.values()))
    return found


def _task_size(root: Any) -> tuple[int, int] | None:
    sizes = [*root.iterfind("meta//original_size")]
    if len(sizes) != 1:
        return None
    return size_of(sizes[0].findtext("width"), sizes[0].findtext("height"))


def _image(node: Any, tasks: Mapping[str, Attributes], where: str) -> ExportedImage:
    name = node.get("name") or ""
    place = named(where, name or "an image")
    if not name:
        error = EntryError("bad_entry", f"{place}, id {node.get('id')}: has no name")
        return ExportedImage(place, error=error)
    about = tasks.get(node.get("task_id") or "", ())
    listed, attributes = MarkList(), list[tuple[str, str]]()
    try:
        for number, shape in enumerate(_shapes(node)):
            if shape.tag == "tag":
                attributes += [("tag", shape.get("label") or ""), *_attributes(shape)]
            else:
                _read_shape(shape, str(shape.get("label") or ""), f"{place}, {number}", listed)
    except EntryError as error:
        return ExportedImage(place, name, error=error)
    return ExportedImage(
        place,
        name,
        size_wh=size_of(node.get("width"), node.get("height")),
        attributes=(*attributes, *about),
        marks=tuple(listed.marks),
        dropped=tuple(listed.dropped),
    )


def _frame(
    frame: str,
    shapes: list[tuple[Any, Any]],
    size_wh: tuple[int, int] | None,
    about: Attributes,
    where: str,
) -> ExportedImage:
    place = f"{where}, frame {cut(frame)}"
    if not frame.isdecimal() or len(frame) > 9:
        error = EntryError("bad_entry", f"{place}: is not a frame number")
        return ExportedImage(place, error=error)
    name, listed = f"frame_{int(frame):06d}", MarkList()
    try:
        for track, shape in shapes:
            number = f"{place}, track {track.get('id')}"
            _read_shape(shape, str(track.get("label") or ""), number, listed)
    except EntryError as error:
        return ExportedImage(place, name, error=error)
    return ExportedImage(
        place,
        name,
        size_wh=size_wh,
        attributes=about,
        marks=tuple(listed.marks),
        dropped=tuple(listed.dropped),
    )


def _shapes(node: Any) -> Iterator[Any]:
    """The elements below a node, without comments and processing instructions."""
    return (child for child in node if isinstance(child.tag, str) and child.tag != "attribute")


def _attributes(node: Any) -> Attributes:
    return tuple(
        (str(child.get("name") or ""), child.text.strip())
        for child in node.findall("attribute")
        if child.text and child.text.strip()
    )


def _read_shape(node: Any, label: str, where: str, listed: MarkList) -> None:
    where = f"{where} ({node.tag} {cut(label)!r})"
    if node.get("outside") == "1":
        listed.drop("outside_mark", f"{where}: is outside the frame")
        return
    attributes = _attributes(node)
    if node.tag == "skeleton":
        for part in _shapes(node):
            _read_shape(part, str(part.get("label") or ""), where, listed)
    elif node.tag == "points":
        places = [piece for piece in (node.get("points") or "").split(";") if piece.strip()]
        if len(places) != 1:
            listed.drop("other_shape", f"{where}: has {len(places)} points, wanted one a level")
            return
        x, y = pixel_numbers(_floats(places[0].split(","), where), where, "[x, y]")
        listed.marks.append(ExportedMark(where, (label,), (x, y), attributes=attributes))
    elif node.tag == "box":
        corners = [node.get(name) or "" for name in ("xtl", "ytl", "xbr", "ybr")]
        box = upright_box(_floats(corners, where), where)
        (degrees,) = _floats([node.get("rotation") or "0"], where)
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        box, turned = turned_box(box, degrees, centre)
        listed.marks.append(
            ExportedMark(where, (label,), None, box, attributes=attributes, turned=turned)
        )
    else:
        known = node.tag in _OTHER_SHAPES
        detail = f"{where}: {'is neither a point nor a box' if known else 'is not a known shape'}"
        listed.drop("other_shape", detail)


def _floats(texts: list[str], where: str) -> list[float]:
    try:
        values = [float(text) for text in texts]
    except ValueError as error:
        shown = cut(",".join(texts))
        raise EntryError("not_a_number", f"{where}: {shown!r} are not numbers") from error
    if not all(abs(value) < 1e9 for value in values):
        raise EntryError("not_a_number", f"{where}: {cut(','.join(texts))!r} are not pixels")
    return values
