"""3D Slicer's markups: ``.mrk.json`` and the older ``.fcsv``, points in patient coordinates.

A file holds no image; its name identifies the study. Coordinates are LPS or RAS, as the file
states, in mm. An ``.fcsv`` without a statement is RAS, as old versions wrote it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spineline.converters.sources.exports.marks import (
    ExportedImage,
    ExportedMark,
    MarkList,
    texts_of,
)
from spineline.converters.sources.source import EntryError, cut, load_json, pixel_numbers, short
from spineline.datasets.common.errors import AnnotationError, first_line

MARKUP_SUFFIXES = (".mrk.json", ".fcsv")
_SYSTEMS = {"LPS": "LPS", "1": "LPS", "RAS": "RAS", "0": "RAS"}
_COLUMNS = [
    "id",
    "x",
    "y",
    "z",
    "ow",
    "ox",
    "oy",
    "oz",
    "vis",
    "sel",
    "lock",
    "label",
    "desc",
    "associatedNodeID",
]
_MOST_BYTES = 64 << 20


def markup_suffix(path: Path) -> str:
    """Return the suffix of a markups file; empty if it is not one by its name."""
    return next((s for s in MARKUP_SUFFIXES if path.name.lower().endswith(s)), "")


def markup_files(annotations: Path) -> list[Path]:
    """Return the markups file itself, or those of a folder at any depth, sorted."""
    if not annotations.is_dir():
        return [annotations]
    return [
        path
        for path in sorted(annotations.rglob("*"))
        if markup_suffix(path) and path.name[0] != "." and path.is_file()
    ]


def read_slicer_export(annotations: Path) -> list[ExportedImage]:
    """Read the markups files of a folder (or one file), each as an entry of points in the patient.

    The name of an entry is the file's relative path without its suffix. A file that cannot be read
    becomes an entry with an error.
    """
    found = []
    for path in markup_files(annotations):
        where = path.relative_to(annotations).as_posix() if annotations.is_dir() else path.name
        suffix = markup_suffix(path)
        name = where[: -len(suffix)] if suffix else path.stem
        try:
            if suffix == ".fcsv":
                found.append(parse_fcsv(_text(path, where), where, name))
            else:
                found.append(parse_markups(load_json(path), where, name))
        except AnnotationError as error:
            known = error
            if not isinstance(error, EntryError):
                text = str(error).replace(f"annotations={path}", where).replace(str(path), where)
                known = EntryError("bad_entry", text)
            found.append(ExportedImage(where, name, error=known))  # type: ignore[arg-type]
    return found


def parse_markups(content: Any, where: str, name: str = "") -> ExportedImage:
    """Parse the points of a ``.mrk.json``.

    Raises:
        EntryError: it has no markups, or its coordinates or units are unknown.
    """
    markups = content.get("markups") if isinstance(content, Mapping) else None
    if not isinstance(markups, list) or not all(isinstance(entry, dict) for entry in markups):
        raise EntryError("bad_entry", f"{where}: markups is not a list of objects")
    listed = MarkList()
    for number, markup in enumerate(markups):
        kind = str(markup.get("type", "Fiducial"))
        place = f"{where}, markup {number}"
        if kind.lower() != "fiducial":
            listed.drop("other_shape", f"{place}: is of type {cut(kind)}, wanted Fiducial (points)")
            continue
        system = _system(markup.get("coordinateSystem"), place)
        _check_unit(markup.get("coordinateUnits"), place)
        points = markup.get("controlPoints")
        if not isinstance(points, list) or not all(isinstance(p, dict) for p in points):
            raise EntryError("bad_entry", f"{place}: controlPoints is not a list of objects")
        for n, point in enumerate(points):
            _read_point(point, system, f"{place}, point {n}", listed)
    return ExportedImage(where, name, marks=tuple(listed.marks), dropped=tuple(listed.dropped))


def parse_fcsv(text: str, where: str, name: str = "") -> ExportedImage:
    """Parse the points of an ``.fcsv``.

    Raises:
        EntryError: its coordinates are unknown, or a row lacks its numbers.
    """
    system, columns, rows = "RAS", _COLUMNS, list[tuple[int, str]]()
    for number, line in enumerate(text.splitlines(), 1):
        head, _, value = line.lstrip("# ").partition("=")
        if line.startswith("#"):
            if head.strip() == "CoordinateSystem":
                system = _system(value.strip(), f"{where}:{number}")
            elif head.strip() == "columns":
                columns = [column.strip() for column in value.split(",")]
        elif line.strip():
            rows.append((number, line))
    listed = MarkList()
    for number, line in rows:
        cells = next(csv.reader(io.StringIO(line)), [])
        row = {key: value.strip() for key, value in zip(columns, cells, strict=False)}
        place = f"{where}:{number}"
        try:
            position = [float(row[axis]) for axis in "xyz"]
        except (KeyError, ValueError) as error:
            raise EntryError("not_a_number", f"{place}: has no numbers x, y, z") from error
        point = {"label": row.get("label"), "description": row.get("desc"), "position": position}
        _read_point(point, system, place, listed)
    return ExportedImage(where, name, marks=tuple(listed.marks), dropped=tuple(listed.dropped))


def _text(path: Path, where: str) -> str:
    try:
        data = path.read_bytes()
        if len(data) > _MOST_BYTES:
            raise EntryError("bad_entry", f"{where}: more than {_MOST_BYTES >> 20} MiB")
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EntryError("bad_entry", f"{where}: cannot be read ({first_line(error)})") from error


def _system(value: Any, where: str) -> str:
    found = _SYSTEMS.get(str(value).strip().upper())
    if found is None:
        detail = f"{where}: coordinateSystem is {short(value)}, allowed: LPS, RAS (or 1, 0)"
        raise EntryError("bad_entry", detail)
    return found


def _check_unit(value: Any, where: str) -> None:
    """Refuse other units than mm; files without units are in mm, as Slicer writes them."""
    units = [texts_of(v)[:1] or ("",) for v in (value if isinstance(value, list) else [value])]
    if value is not None and any(unit[0].lower() not in ("mm", "millimeter") for unit in units):
        raise EntryError("bad_entry", f"{where}: coordinateUnits is {short(value)}, wanted mm")


def _read_point(point: Mapping[str, Any], system: str, where: str, listed: MarkList) -> None:
    label = next(iter(texts_of(point.get("label"))), "")
    where = f"{where} ({cut(label)!r})"
    status = point.get("positionStatus", "defined")
    if status != "defined":
        listed.drop("outside_mark", f"{where}: is not placed (positionStatus {short(status)})")
        return
    x, y, z = pixel_numbers(point.get("position"), f"{where}: position", "[x, y, z]")
    place = (x, y, z) if system == "LPS" else (-x, -y, z)
    if not all(math.isfinite(v) and abs(v) < 1e5 for v in place):
        raise EntryError("not_a_number", f"{where}: position is absurdly far, wanted mm")
    description = texts_of(point.get("description"))
    listed.marks.append(
        ExportedMark(
            where,
            (label, *description),
            point_mm=place,
            attributes=tuple(("description", text) for text in description),
        )
    )
