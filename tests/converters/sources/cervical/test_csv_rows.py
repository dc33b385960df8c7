from __future__ import annotations

from pathlib import Path

import pytest

from spineline.converters.sources.cervical.csv_rows import csv_files, parse_csv
from spineline.datasets.cervical import CervicalColumns
from spineline.datasets.common.errors import AnnotationError

COLUMNS = CervicalColumns()
HEADER = f"{COLUMNS.file},{COLUMNS.usable},{COLUMNS.xml}"


def test_where_csv_files_are_looked_for(tmp_path: Path) -> None:
    for folder in ("descr", "images"):
        (tmp_path / folder).mkdir()
    for name in ("b.CSV", "a.csv", ".a.csv", "c.txt"):
        (tmp_path / "descr" / name).write_text(HEADER)
    names = ["a.csv", "b.CSV"]
    assert [path.name for path in csv_files(tmp_path)] == names
    assert [path.name for path in csv_files(tmp_path / "descr")] == names
    assert csv_files(tmp_path / "descr/a.csv") == [tmp_path / "descr/a.csv"]
    with pytest.raises(AnnotationError, match="holds no CSV file"):
        csv_files(tmp_path / "images")


def test_a_byte_order_mark_and_blank_lines_are_no_rows() -> None:
    text = f"\ufeff{HEADER}\r\n\r\na.png,,\r\n\r\nb.png,,\r\n"
    rows = parse_csv(text.encode(), "x.csv", COLUMNS)
    assert [r.where for r in rows] == ["x.csv, row 2", "x.csv, row 3"]
    assert [r.cells[COLUMNS.file] for r in rows] == ["a.png", "b.png"]
