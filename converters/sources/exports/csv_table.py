"""A CSV of points: each row has an image, coordinates and a level.

Columns have the names of [CsvColumns][] unless keys give others. The header determines the
delimiter: comma, semicolon or tab. With semicolons, numbers may have a decimal comma.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from spineline.converters.settings import CsvColumns
from spineline.converters.sources.exports.marks import ExportedImage, ExportedMark
from spineline.converters.sources.source import EntryError, cut, pixel_numbers
from spineline.datasets.common.errors import AnnotationError, first_line
from spineline.datasets.common.settings import close_match

_MOST_BYTES = 256 << 20


def read_csv_export(
    annotations: Path, columns: CsvColumns, only: str | None = None
) -> list[ExportedImage]:
    """Read the images of a CSV file, or of the CSV files of a folder.

    Args:
        annotations: the file, or a folder.
        columns: names of the columns.
        only: ``COLUMN:VALUE``: rows with another value are ignored.

    Raises:
        AnnotationError: a file is not readable, or lacks required columns.
    """
    files = [annotations]
    if annotations.is_dir():
        files = sorted(p for p in annotations.glob("*.csv") if p.name[0] != ".")
    found = []
    for path in files:
        try:
            data = path.read_bytes()
            if len(data) > _MOST_BYTES:
                raise AnnotationError(f"{path.name}: more than {_MOST_BYTES >> 20} MiB")
            text = data.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"annotations={path}: cannot be read as UTF-8 text ({first_line(error)})"
            raise AnnotationError(msg) from error
        found += parse_point_table(text, path.name, columns, only)
    return found


def parse_point_table(
    text: str, where: str, columns: CsvColumns, only: str | None = None
) -> list[ExportedImage]:
    """Parse the images of a CSV text, in the order of their first rows; see [read_csv_export][].

    Raises:
        AnnotationError: the header or a column is missing, or it is no table.
    """
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    try:
        rows = [r for r in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(r)]
    except csv.Error as error:
        raise AnnotationError(f"{where}: no CSV table ({error})") from error
    if len(rows) < 2:
        raise AnnotationError(f"{where}: wanted a header and rows, found {len(rows)} lines")
    names = [cell.strip().lower() for cell in rows[0]]
    table = _Table(names, columns, delimiter == ";")
    table.check(where)
    column, value = _condition(only, names, where)
    entries: dict[tuple[str, str, str], list[tuple[str, dict[str, str]]]] = {}
    for number, row in enumerate(rows[1:], 2):
        cells = dict(zip(names, (cell.strip() for cell in row), strict=False))
        if column and cells.get(column, "").casefold() != value:
            continue
        image = (table.image(cells), table.cell(cells, "uid"), table.cell(cells, "slice"))
        entries.setdefault(image, []).append((f"{where}, row {number}", cells))
    return [table.entry(image, listed) for image, listed in entries.items()]


def _condition(only: str | None, names: Sequence[str], where: str) -> tuple[str, str]:
    if only is None:
        return "", ""
    column, colon, value = only.partition(":")
    column = column.strip().lower()
    if not colon or column not in names:
        hint = close_match(column, names)
        raise AnnotationError(f"only={only}: wanted COLUMN:VALUE with a column of {where}{hint}")
    return column, value.strip().casefold()


@dataclass(frozen=True, slots=True)
class _Table:
    """The header of a table, and the meaning of its columns."""

    names: Sequence[str]
    columns: CsvColumns
    decimal_comma: bool

    def check(self, where: str) -> None:
        """Refuse a table without the required columns."""
        missing = [name for name in ("x", "y", "level") if not self._has(name)]
        if not self._has("uid") and not all(part in self.names for part in self._image_parts()):
            missing.append("image")
        for spec in fields(self.columns):
            if getattr(self.columns, spec.name) != spec.default and spec.name not in missing:
                parts = self._image_parts() if spec.name == "image" else [spec.name]
                if not all(part in self.names or self._has(part) for part in parts):
                    missing.append(spec.name)
        if missing:
            named = getattr(self.columns, missing[0])
            msg = f"{where}: has no column {named!r}; columns.{missing[0]}=… names another of "
            raise AnnotationError(f"{msg}{', '.join(self.names)}")
        if len(set(self.names)) != len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise AnnotationError(f"{where}: has two columns {twice!r}, wanted one of each name")

    def image(self, cells: Mapping[str, str]) -> str:
        """Return the image that a row names; empty without one."""
        parts = [cells.get(part, "") for part in self._image_parts()]
        return "/".join(parts) if all(parts) else ""

    def cell(self, cells: Mapping[str, str], name: str) -> str:
        """Return the cell of a column by its meaning."""
        return cells.get(str(getattr(self.columns, name)).strip().lower(), "")

    def entry(
        self, image: tuple[str, str, str], rows: Sequence[tuple[str, dict[str, str]]]
    ) -> ExportedImage:
        """Return the entry of one image from its rows."""
        name, uid, slice_text = image
        where = rows[0][0]
        try:
            if not name and not uid:
                raise EntryError("bad_entry", f"{where}: names no image")
            index = self._slice(slice_text, where)
            marks = tuple(self._mark(place, cells) for place, cells in rows)
        except EntryError as error:
            return ExportedImage(where, name, uid, error=error)
        known = {
            str(getattr(self.columns, n)).strip().lower() for n in ("x", "y", "level", "grade")
        }
        attributes = tuple(
            dict.fromkeys(
                (column, text)
                for _, cells in rows
                for column, text in cells.items()
                if text and column not in known
            )
        )
        return ExportedImage(where, name, uid, index, attributes=attributes, marks=marks)

    def _mark(self, where: str, cells: Mapping[str, str]) -> ExportedMark:
        numbers = [self._number(self.cell(cells, axis), f"{where}: {axis}") for axis in "xy"]
        x, y = pixel_numbers(numbers, where, "[x, y]")
        level, grade = self.cell(cells, "level"), self.cell(cells, "grade")
        others = [(name, text) for name, text in cells.items() if text]
        attributes = (*others, ("grade", grade)) if grade else tuple(others)
        return ExportedMark(where, (level,), (x, y), attributes=tuple(dict.fromkeys(attributes)))

    def _number(self, text: str, what: str) -> float:
        if self.decimal_comma and re.fullmatch(r"[+-]?\d+,\d+", text):
            text = text.replace(",", ".")
        try:
            return float(text)
        except ValueError as error:
            raise EntryError("not_a_number", f"{what} is {cut(text)!r}, wanted pixels") from error

    def _slice(self, text: str, where: str) -> int | None:
        if not text:
            return None
        if not re.fullmatch(r"[0-9]{1,6}(\.0*)?", text):
            detail = f"{where}: slice is {cut(text)!r}, wanted a number from 0"
            raise EntryError("not_a_number", detail)
        return int(float(text))

    def _image_parts(self) -> list[str]:
        return [part.strip().lower() for part in self.columns.image.split("/")]

    def _has(self, name: str) -> bool:
        return str(getattr(self.columns, name, name)).strip().lower() in self.names
