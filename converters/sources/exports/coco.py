"""COCO: categories with a box or a key point each, or one category with named key points.

CVAT calls the latter COCO Keypoints 1.0. A key point that is not marked (visibility 0) is ignored.
Crowds and run-length masks are left out, and a polygon counts by its box.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spineline.converters.sources.exports.marks import (
    ExportedImage,
    ExportedMark,
    MarkList,
    attributes_of,
    json_files,
    named,
    size_of,
)
from spineline.converters.sources.source import EntryError, PixelBox, pixel_numbers, short
from spineline.datasets.common.errors import AnnotationError


def read_coco_export(annotations: Path) -> list[ExportedImage]:
    """Read the images of a COCO file, or of the COCO files of a folder.

    Raises:
        AnnotationError: a file is not COCO.
    """
    return [
        image for name, content in json_files(annotations) for image in parse_coco(content, name)
    ]


def parse_coco(content: Any, where: str) -> list[ExportedImage]:
    """Parse the images of a COCO object, in its order.

    Raises:
        AnnotationError: it lacks lists of images, annotations and categories.
    """
    images, annotations, categories = (
        _objects(content, name, where) for name in ("images", "annotations", "categories")
    )
    by_id = {entry.get("id"): entry for entry in categories if _is_id(entry.get("id"))}
    marks: dict[Any, list[dict[str, Any]]] = {}
    for entry in annotations:
        key = entry.get("image_id")
        marks.setdefault(key if _is_id(key) else None, []).append(entry)
    times = Counter(entry.get("id") for entry in images if _is_id(entry.get("id")))
    images = _with_videos(images, content.get("videos"))
    found = [_image(entry, times, marks, by_id, where) for entry in images]
    for key, entries in marks.items():
        if key not in times:
            detail = f"{where}: {len(entries)} annotations are of image {short(key)}, which is not "
            detail += "among its images"
            place = f"{where}, image {short(key)}"
            found.append(ExportedImage(place, error=EntryError("bad_entry", detail)))
    return found


def _objects(content: Any, name: str, where: str) -> list[dict[str, Any]]:
    listed = content.get(name) if isinstance(content, Mapping) else None
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        msg = (
            f"{where}: {name} is not a list of objects; wanted a COCO file with images, "
            f"annotations "
        )
        raise AnnotationError(f"{msg}and categories")
    return listed


def _with_videos(images: list[dict[str, Any]], videos: Any) -> list[dict[str, Any]]:
    """Images with the name of their video (``video_id``), which may be that of a volume."""
    listed = videos if isinstance(videos, list) else []
    names = {
        v.get("id"): v.get("name") for v in listed if isinstance(v, dict) and _is_id(v.get("id"))
    }
    keys = (entry.get("video_id") for entry in images)
    found = [names.get(key) if _is_id(key) else None for key in keys]
    return [
        {"video": name, **entry} if isinstance(name, str) else entry
        for entry, name in zip(images, found, strict=True)
    ]


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _image(
    entry: Mapping[str, Any],
    times: Mapping[Any, int],
    marks: Mapping[Any, list[dict[str, Any]]],
    categories: Mapping[Any, Mapping[str, Any]],
    where: str,
) -> ExportedImage:
    key, name = entry.get("id"), entry.get("file_name")
    place = f"{where}, image {short(key)}"
    if not isinstance(name, str) or not name or not _is_id(key):
        error = EntryError("bad_entry", f"{place}: has no id or no file_name")
        return ExportedImage(place, error=error)
    place = named(where, name)
    if times[key] > 1:
        detail = f"{place}: {times[key]} images have the id {short(key)}, so it is not clear "
        detail += "which of them an annotation belongs to"
        return ExportedImage(place, name, error=EntryError("duplicate_id", detail))
    listed = MarkList()
    attributes = attributes_of({k: v for k, v in entry.items() if k not in ("id", "file_name")})
    size, uid = size_of(entry.get("width"), entry.get("height")), entry.get("instance_uid")
    try:
        for annotation in marks.get(key, ()):
            _read_annotation(annotation, categories, place, listed)
    except EntryError as error:
        return ExportedImage(place, name, error=error)
    return ExportedImage(
        place,
        name,
        instance_uid=uid if isinstance(uid, str) else "",
        size_wh=size,
        attributes=(*attributes, *attributes_of(entry.get("attributes"))),
        marks=tuple(listed.marks),
        dropped=tuple(listed.dropped),
    )


def _read_annotation(
    entry: Mapping[str, Any],
    categories: Mapping[Any, Mapping[str, Any]],
    where: str,
    listed: MarkList,
) -> None:
    where = f"{where}, annotation {short(entry.get('id'))}"
    key = entry.get("category_id")
    category = categories.get(key) if _is_id(key) else None
    if category is None or not isinstance(category.get("name"), str):
        listed.drop("unknown_class", f"{where}: category {short(key)} is not among the categories")
        return
    if entry.get("iscrowd"):
        listed.drop("other_shape", f"{where}: marks a crowd (iscrowd), not one structure")
        return
    if isinstance(entry.get("segmentation"), Mapping):
        listed.drop("other_shape", f"{where}: is a mask (run-length encoded), not a point or box")
        return
    attributes = attributes_of(entry.get("attributes"))
    level = tuple(text for name, text in attributes if name.lower() == "level")
    points, names = _points(entry, category, where)
    box = _box(entry.get("bbox"), where)
    if len(names) > 1:
        for name, point in zip(names, points, strict=True):
            if point is not None:
                place = f"{where}, {name}"
                listed.marks.append(ExportedMark(place, (name,), point, attributes=attributes))
        return
    point = points[0] if points else None
    if point is None and box is None:
        listed.drop("other_shape", f"{where}: has neither a marked point nor a bbox")
        return
    words = (str(category["name"]), *level, *names)
    listed.marks.append(ExportedMark(where, words, point, box, attributes=attributes))


def _points(
    entry: Mapping[str, Any], category: Mapping[str, Any], where: str
) -> tuple[list[tuple[float, float] | None], list[str]]:
    """The key points (None: not marked), and their names if the category gives them."""
    numbers = entry.get("keypoints")
    if not numbers:
        return [], []
    if not isinstance(numbers, list) or len(numbers) % 3:
        detail = f"{where}: keypoints is {short(numbers)}, wanted x, y, visibility of each"
        raise EntryError("not_a_number", detail)
    count = len(numbers) // 3
    listed = category.get("keypoints")
    names = [str(name) for name in listed] if isinstance(listed, list) else []
    if len(names) != count and (count > 1 or len(names) > 1):
        detail = f"{where}: has {count} key points, its category {short(category.get('name'))} "
        raise EntryError("point_count", f"{detail}names {len(names)}")
    points: list[tuple[float, float] | None] = []
    for n in range(count):
        x, y, seen = pixel_numbers(
            numbers[3 * n : 3 * n + 3], f"{where}, key point {n}", "[x, y, visibility]"
        )
        points.append((x, y) if seen > 0 else None)
    return points, names


def _box(value: Any, where: str) -> PixelBox | None:
    if not value:
        return None
    left, top, width, height = pixel_numbers(value, f"{where}: bbox", "[left, top, width, height]")
    if width < 0 or height < 0:
        detail = f"{where}: bbox {short(value)} has a negative width or height"
        raise EntryError("bad_entry", detail)
    return (left, top, left + width, top + height) if width > 0 and height > 0 else None
