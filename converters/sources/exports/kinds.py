"""The kinds of exports and views, and how the tool of an export is recognised by its content."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

ExportKind = Literal["coco", "cvat", "labelstudio", "labelme", "slicer", "csv"]

EXPORT_KINDS: tuple[ExportKind, ...] = get_args(ExportKind)

EXPORT_NAMES: dict[str, str] = {
    "coco": "a COCO file",
    "cvat": "CVAT's XML",
    "labelstudio": "a Label Studio export",
    "labelme": "LabelMe's JSON",
    "slicer": "3D Slicer's markups",
    "csv": "a CSV of points",
    "tianchi": "a Tianchi source",
    "report": "a report source",
    "prepared": "a prepared source",
    "result": "a result of pipeline predict",
}
"""Description of each kind, in words that follow "this is"."""

SLICE_VIEWS: dict[str, str] = {
    "upright": "head up and face left, as 3D Slicer, ITK-SNAP and spineline show it",
    "stored": "as SimpleITK.GetArrayFromImage(image)[:, :, n] of a volume whose first axis runs "
    "from side to side: x counts along the first of the file's two other axes, y along the second",
    "array": "as nibabel's volume[n]: y along the first of them, x along the second",
    "rot90": "as np.rot90(volume[n]) of the latter",
}
"""Ways in which slices of volumes are shown as pictures."""


def kind_of_json(content: Any) -> str | None:
    """Return the kind of a JSON export by its content: a key of ``EXPORT_NAMES``, or None.

    >>> kind_of_json({"shapes": [], "imagePath": "a.png"}), kind_of_json({"markups": []})
    ('labelme', 'slicer')
    """
    if isinstance(content, Mapping):
        return _kind_of_object(content)
    if not isinstance(content, list):
        return None
    for entry in content:
        if isinstance(entry, Mapping) and (kind := _kind_of_entry(entry)):
            return kind
    return None


def _kind_of_object(content: Mapping[str, Any]) -> str | None:
    if "markups" in content:
        return "slicer"
    if "shapes" in content:
        return "labelme"
    if {"images", "annotations"} <= set(content):
        return "coco"
    if {"structures", "schema"} <= set(content):
        return "result"
    return _kind_of_entry(content)


def _kind_of_entry(entry: Mapping[str, Any]) -> str | None:
    data = entry.get("data")
    if isinstance(data, Mapping) and {"annotations", "predictions", "completions"} & set(entry):
        return "labelstudio"
    if "studyUid" in entry or isinstance(data, list):
        return "tianchi"
    if "point" in entry:
        return "report"
    return "prepared" if "img_path" in entry else None


def why_no_export(content: Any) -> str:
    """Explain a JSON that resembles an export, and what to do; empty if it resembles none."""
    entries = content if isinstance(content, list) else [content]
    first = next((e for e in entries if isinstance(e, Mapping)), {})
    if "data" not in first and {"annotation_id", "lead_time", "annotator"} & set(first):
        return (
            "this is Label Studio's JSON-MIN, which leaves out what a region belongs to; export "
            "as JSON"
        )
    if {"image_id", "category_id"} <= set(first):
        return (
            "this is a list of COCO annotations without its images and categories; wanted the "
            "whole file"
        )
    if isinstance(content, Mapping) and any(str(name).startswith("_via_") for name in content):
        return "this is a project of the VGG annotator; export it as COCO"
    if isinstance(content, Mapping) and {"items", "categories"} <= set(content):
        return "this is Datumaro's JSON; convert it to COCO (datum convert -f coco)"
    return ""


def kind_of_head(path: Path) -> str | None:
    """Return the kind of a file that is not JSON, by its first bytes and name; None if unknown.

    Besides the kinds there are ``labelme-xml`` (also Pascal VOC) and ``archive``.
    """
    name = path.name.lower()
    if name.endswith(".fcsv"):
        return "slicer"
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16).removeprefix(codecs.BOM_UTF8)
    except OSError:
        return None
    if head[:4] == b"PK\x03\x04" or head[:2] == b"\x1f\x8b":
        return "archive"
    if head.lstrip()[:1] == b"<":
        if b"<annotations" in head:
            return "cvat"
        return "labelme-xml" if b"<annotation" in head else None
    if b"# Markups fiducial file" in head:
        return "slicer"
    return "csv" if name.endswith((".csv", ".tsv", ".txt")) else None
