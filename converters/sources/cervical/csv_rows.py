"""The CSV files of a cervical source, row by row.

Files are untrusted: sizes are limited. A problem in one row is reported for that row, and the other
rows are read.
"""

from __future__ import annotations

import codecs
import csv
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spineline.converters.sources.source import EntryError, cut
from spineline.datasets.cervical import CervicalColumns
from spineline.datasets.common.errors import AnnotationError

MAX_CSV_BYTES = 256 << 20
MAX_FIELD = 10 << 20
"""Most characters of one CSV field."""

_FIELD_LIMIT_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row of a CSV file.

    Attributes:
        where: file and row, counted as in a spreadsheet: the header is row 1. Blank lines are not
            counted.
        cells: text by column name.
        problem: the problem with the row as a whole, or None.
    """

    where: str
    cells: Mapping[str, str]
    problem: EntryError | None = None


def csv_files(annotations: Path) -> list[Path]:
    """Return the CSV files of a source: the file, those of a folder, or of its folder ``descr``.

    Raises:
        AnnotationError: there is none.
    """
    if annotations.is_file():
        return [annotations]
    for folder in (annotations, annotations / "descr"):
        if folder.is_dir():
            listed = sorted(folder.iterdir())
            found = [p for p in listed if p.suffix.lower() == ".csv" and p.name[0] != "."]
            if found:
                return found
    what = "holds no CSV file" if annotations.is_dir() else "no such file or folder"
    raise AnnotationError(f"annotations={annotations}: {what}; wanted the source's CSV files")


def read_csv(path: Path, columns: CervicalColumns) -> tuple[CsvRow, ...]:
    """Read the rows of a CSV file; see [parse_csv][].

    Raises:
        AnnotationError: the file is too large, not readable, or no such table.
    """
    try:
        if (size := path.stat().st_size) > MAX_CSV_BYTES:
            raise AnnotationError(f"{path.name}: {size} bytes, allowed {MAX_CSV_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path.name}: cannot be read ({error.strerror})") from error
    return parse_csv(data, path.name, columns)


def parse_csv(data: bytes, where: str, columns: CervicalColumns) -> tuple[CsvRow, ...]:
    """Parse the rows of a CSV file; unusable rows carry the reason.

    Args:
        data: UTF-8, with or without a byte-order mark.
        where: name of the file for messages.
        columns: the required columns.

    Raises:
        AnnotationError: the file as a whole is no such table: it is empty, lacks a column, is in
            UTF-16, or its header is not UTF-8.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise AnnotationError(f"{where}: UTF-16 text, wanted UTF-8; save it as CSV UTF-8")
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    listed = iter(_csv_records(text))
    _, header, problem = next(listed, (0, [], ""))
    names = [name.strip() for name in header]
    hint = _separator_hint(text, columns)
    if problem or not names:
        reason = f"its header cannot be read ({problem})" if problem else "empty"
        wanted = ", ".join(repr(name) for name in (columns.file, columns.usable, columns.xml))
        raise AnnotationError(f"{where}: {reason}; wanted a header with {wanted}{hint}")
    _check_header(names, where, columns, hint)
    rows = tuple(
        _csv_row(f"{where}, row {number}", names, cells, problem, columns)
        for number, cells, problem in listed
    )
    if not rows:
        raise AnnotationError(f"{where}: a header and no rows")
    return rows


def _csv_records(text: str) -> list[tuple[int, list[str], str]]:
    """Number from 1, cells and problem of each record that is not blank."""
    listed: list[tuple[int, list[str], str]] = []
    number = 0
    with _wide_csv_fields():
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        while True:
            first, problem = reader.line_num + 1, ""
            try:
                cells = next(reader)
            except StopIteration:
                return listed
            except csv.Error as error:
                cells, last = [], reader.line_num
                problem = f"not CSV near line {last}: {error}"
                if first < last:
                    problem += f"; lines {first} to {last} are left out: is a quote there never "
                    problem += "closed?"
            if cells or problem:
                number += 1
                listed.append((number, cells, problem))


@contextmanager
def _wide_csv_fields() -> Iterator[None]:
    """Lift the csv module's limit, which is global to the process; rows are measured one by one."""
    with _FIELD_LIMIT_LOCK:
        before = csv.field_size_limit(MAX_CSV_BYTES)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _csv_row(
    where: str, names: Sequence[str], cells: Sequence[str], problem: str, columns: CervicalColumns
) -> CsvRow:
    by_name = dict(reversed(list(zip(names, cells, strict=False))))
    if problem:
        return CsvRow(where, by_name, EntryError("bad_row", f"{where}: {problem}"))
    missing = [name for name in (columns.file, columns.usable, columns.xml) if name not in by_name]
    if missing:
        detail = f"{where}: {len(cells)} of {len(names)} columns, without {missing[0]!r}"
        return CsvRow(where, by_name, EntryError("bad_row", detail))
    for name, text in by_name.items():
        if len(text) > MAX_FIELD:
            detail = f"{where}: {name!r} holds {len(text)} characters, allowed {MAX_FIELD}"
            return CsvRow(where, {}, EntryError("oversized_field", detail))
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            detail = f"{where}: {name!r} is not UTF-8; save the file as CSV UTF-8"
            return CsvRow(where, {}, EntryError("wrong_encoding", detail))
    return CsvRow(where, by_name)


def _check_header(names: Sequence[str], where: str, columns: CervicalColumns, hint: str) -> None:
    if any("\ud800" <= c <= "\udfff" for name in names for c in name):
        raise AnnotationError(f"{where}: its header is not UTF-8; save the file as CSV UTF-8")
    for key in ("file", "usable", "xml", "patient"):
        name = getattr(columns, key)
        if name is not None and name not in names:
            found = ", ".join(repr(cut(n)) for n in names[:20])
            msg = f"{where}: no column {name!r}; found {found}; name it with columns.{key}=…{hint}"
            raise AnnotationError(msg)


def _separator_hint(text: str, columns: CervicalColumns) -> str:
    """Hint for a table whose columns are not separated by commas."""
    header = text.lstrip().partition("\n")[0]
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        cells = [cell.strip().strip('"') for cell in header.split(separator)[:1000]]
        if len(cells) > 1 and columns.file in cells:
            return f"; its columns are separated by {name}: save it with commas"
    return ""
