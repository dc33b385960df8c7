"""Label Studio's JSON: tasks with key points and rectangles in per cent of the image.

Regions with the same id are one mark: its labels, and its choices, texts and numbers. Polygons,
brushes and ellipses are left out, and so are predictions unless requested. A rectangle is rotated
clockwise about its top left corner; its upright hull is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spineline.converters.sources.exports.marks import (
    Attributes,
    ExportedImage,
    ExportedMark,
    MarkList,
    attributes_of,
    json_files,
    named,
    size_of,
    texts_of,
    turned_box,
)
from spineline.converters.sources.source import EntryError, pixel_numbers, short
from spineline.datasets.common.errors import AnnotationError

_IMAGE_KEYS = ("image", "img", "image_url", "file", "url", "path", "ocr")
_UID_KEYS = ("sop_instance_uid", "instance_uid", "SOPInstanceUID")
_SHAPES = ("keypointlabels", "rectanglelabels", "keypoint", "rectangle")
_LABELS = ("keypointlabels", "rectanglelabels", "labels")
_ABOUT = ("choices", "textarea", "number", "rating", "taxonomy")


def read_labelstudio_export(
    annotations: Path, *, predictions: bool = False, annotator: str | None = None
) -> list[ExportedImage]:
    """Read the tasks of a Label Studio export.

    Args:
        annotations: the JSON file, or a folder of them.
        predictions: use the first prediction of a task without annotation.
        annotator: annotator whose annotations count (``completed_by``); None: each task may have
            only one annotation.

    Raises:
        AnnotationError: a file is no such export.
    """
    return [
        image
        for name, content in json_files(annotations)
        for image in parse_labelstudio(content, name, predictions, annotator)
    ]


def parse_labelstudio(
    content: Any, where: str, predictions: bool = False, annotator: str | None = None
) -> list[ExportedImage]:
    """Parse the tasks of an export's JSON, in its order; see [read_labelstudio_export][].

    Raises:
        AnnotationError: it is not a list of tasks.
    """
    tasks = content if isinstance(content, list) else [content]
    if not all(isinstance(task, dict) for task in tasks):
        raise AnnotationError(f"{where}: wanted a list of Label Studio's tasks")
    return [
        _task(task, f"{where}, task {short(task.get('id', number))}", predictions, annotator)
        for number, task in enumerate(tasks)
    ]


def _task(
    task: Mapping[str, Any], where: str, predictions: bool, annotator: str | None
) -> ExportedImage:
    data = task.get("data")
    if not isinstance(data, Mapping):
        return ExportedImage(where, error=EntryError("bad_entry", f"{where}: has no data"))
    uids = [data[key] for key in _UID_KEYS if isinstance(data.get(key), str)]
    name, uid = _image_name(task, data), uids[0] if uids else ""
    place = named(where, name) if name else where
    listed = MarkList()
    try:
        if not name and not uid:
            detail = f"{place}: its data names no image; wanted a key image or sop_instance_uid"
            raise EntryError("bad_entry", detail)
        result = _result(task, place, predictions, annotator)
        size = _original_size(result, place)
        about = _read_result(result, size, place, listed)
    except EntryError as error:
        return ExportedImage(place, name, uid, error=error)
    return ExportedImage(
        place,
        name,
        uid,
        size_wh=size,
        attributes=(*attributes_of(data), *about),
        marks=tuple(listed.marks),
        dropped=tuple(listed.dropped),
    )


def _image_name(task: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The image's address: a key with a usual name, or else the only text like a path."""
    for key in _IMAGE_KEYS:
        if isinstance(data.get(key), str) and data[key].strip():
            return str(data[key]).strip()
    paths = [v.strip() for v in data.values() if isinstance(v, str) and ("/" in v or "." in v)]
    if len(paths) == 1:
        return paths[0]
    upload = task.get("file_upload")
    return upload if isinstance(upload, str) else ""


def _result(
    task: Mapping[str, Any], where: str, predictions: bool, annotator: str | None
) -> list[Mapping[str, Any]]:
    """The regions of the one annotation of a task that counts."""
    done = _objects(task.get("annotations", task.get("completions")))
    kept = [entry for entry in done if not entry.get("was_cancelled")]
    if annotator is not None:
        kept = [entry for entry in kept if annotator in _people(entry.get("completed_by"))]
    if len(kept) > 1:
        people = ", ".join(sorted({(_people(e.get("completed_by")) or ["?"])[0] for e in kept}))
        detail = f"{where}: has {len(kept)} annotations (completed_by {people}), wanted one; "
        raise EntryError("several_annotations", f"{detail}annotator=… says whose to use")
    if not kept and predictions:
        kept = _objects(task.get("predictions"))[:1]
    if not kept:
        why = "is not annotated" if not done else "has no annotation that counts"
        if task.get("predictions") and not predictions:
            why += "; predictions=true uses its predictions"
        raise EntryError("no_annotation", f"{where}: {why}", failed=False)
    result = kept[0].get("result")
    if not isinstance(result, list) or not all(isinstance(item, dict) for item in result):
        raise EntryError("bad_entry", f"{where}: its result is not a list of regions")
    return result


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _people(completed_by: Any) -> list[str]:
    """Identifiers of an annotator: a number, or id and address of an object."""
    if isinstance(completed_by, Mapping):
        return [text for key in ("id", "email") for text in texts_of(completed_by.get(key))]
    return list(texts_of(completed_by))


def _original_size(result: Sequence[Mapping[str, Any]], where: str) -> tuple[int, int] | None:
    sizes = {size_of(item.get("original_width"), item.get("original_height")) for item in result}
    sizes.discard(None)
    if len(sizes) > 1:
        raise EntryError("other_size", f"{where}: its regions give the image several sizes")
    return next(iter(sizes), None)


def _read_result(
    result: Sequence[Mapping[str, Any]],
    size_wh: tuple[int, int] | None,
    where: str,
    listed: MarkList,
) -> Attributes:
    """Read the regions into marks; returns the attributes of the image as a whole."""
    regions: dict[str, list[Mapping[str, Any]]] = {}
    about_image: list[tuple[str, str]] = []
    for number, item in enumerate(result):
        if item.get("type") == "relation":
            continue
        known = item.get("type") in (*_SHAPES, "labels")
        if not known and not _has_place(item) and item.get("type") in _ABOUT:
            about_image += _said(item)
        else:
            regions.setdefault(str(item.get("id", f"#{number}")), []).append(item)
    for key, items in regions.items():
        _read_region(items, size_wh, f"{where}, region {key}", listed)
    return tuple(about_image)


def _has_place(item: Mapping[str, Any]) -> bool:
    value = item.get("value")
    return isinstance(value, Mapping) and "x" in value and "y" in value


def _said(item: Mapping[str, Any]) -> Attributes:
    """The value of a control, under its own name (``from_name``)."""
    value = item.get("value")
    content = value.get(_key_of(item)) if isinstance(value, Mapping) else None
    return tuple((str(item.get("from_name", "")), text) for text in texts_of(content))


def _key_of(item: Mapping[str, Any]) -> str:
    return {"textarea": "text"}.get(str(item.get("type")), str(item.get("type")))


def _read_region(
    items: Sequence[Mapping[str, Any]],
    size_wh: tuple[int, int] | None,
    where: str,
    listed: MarkList,
) -> None:
    shapes = [item for item in items if item.get("type") in _SHAPES]
    shapes += [i for i in items if i.get("type") in ("labels", *_ABOUT) and _has_place(i)]
    if not any(item.get("type") in (*_SHAPES, "labels") for item in shapes):
        kinds = ", ".join(sorted({str(item.get("type")) for item in items}))
        listed.drop("other_shape", f"{where}: is of type {kinds}, neither a key point nor a box")
        return
    values = [item.get("value") for item in items]
    labels = [
        (str(item.get("from_name", "")), text)
        for item, value in zip(items, values, strict=True)
        if item.get("type") in _LABELS and isinstance(value, Mapping)
        for text in texts_of(value.get(str(item.get("type"))))
    ]
    attributes = [pair for item in items if item.get("type") in _ABOUT for pair in _said(item)]
    words = tuple(dict.fromkeys(text for _, text in labels)) or ("",)
    shape = shapes[0]
    if shape.get("image_rotation"):
        listed.drop("other_shape", f"{where}: was drawn on the rotated image (image_rotation)")
        return
    if size_wh is None:
        detail = f"{where}: no region gives original_width and original_height"
        raise EntryError("no_size", f"{detail}, so percentages cannot be converted")
    value, (width, height) = shape.get("value"), size_wh
    if not isinstance(value, Mapping) or not _has_place(shape):
        raise EntryError("bad_entry", f"{where}: has no x and y")
    x, y = pixel_numbers([value["x"], value["y"]], where, "[x, y]")
    x, y = _pixels(x, width), _pixels(y, height)
    is_point = "keypoint" in str(shape.get("type")) or "height" not in value
    if is_point:
        mark = ExportedMark(where, words, (x, y), attributes=(*labels[1:], *attributes))
    else:
        sides = [value.get("width"), value.get("height"), value.get("rotation") or 0]
        wide, high, degrees = pixel_numbers(sides, where, "[width, height, rotation]")
        upright = (x, y, _pixels(wide, width, x), _pixels(high, height, y))
        box, turned = turned_box(upright, degrees, (x, y))
        about = (*labels[1:], *attributes)
        mark = ExportedMark(where, words, None, box, attributes=about, turned=turned)
    listed.marks.append(mark)


def _pixels(per_cent: float, side: int, start: float = 0.0) -> float:
    """Convert per cent of a side to pixels, without the rounding error of the percentage.

    >>> _pixels(30.666666666666668, 375)
    115.0
    """
    return round(start + per_cent * side / 100, 6)
