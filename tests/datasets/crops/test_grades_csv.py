"""Files of predicted grades: what is read of them, and what is no such file."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.crops.grades_csv import GRADE_COLUMNS, read_grades


def write(path: Path, *levels: str, columns: tuple[str, ...] = GRADE_COLUMNS) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for level in levels:
            writer.writerow({name: level if name == "level" else "0" for name in columns})
    return path


def test_lines_of_files_and_folders_with_the_number_of_their_fold(tmp_path: Path) -> None:
    write(tmp_path / "a" / "predictions.csv", "L1", "L1-L2")
    alone = write(tmp_path / "b.csv", "L5-S1")
    folds = write(tmp_path / "c.csv", "L2", columns=("fold", *GRADE_COLUMNS))
    found = read_grades([tmp_path / "a", alone, folds])
    levels = [(row["fold"], row["level"]) for row in found]
    assert levels == [("0", "L1"), ("0", "L1-L2"), ("1", "L5-S1"), ("0", "L2")]


@pytest.mark.parametrize(
    ("levels", "columns", "message"),
    [
        ((), GRADE_COLUMNS, r"wanted the predictions\.csv of .*, found no line"),
        (("L1",), GRADE_COLUMNS[:-1], "found no column p_v5 in line 2"),
        (("L1", "C7"), GRADE_COLUMNS, "line 3: 'C7' is not a level"),
    ],
    ids=["empty", "no column", "no level"],
)
def test_what_is_no_file_of_grades_is_refused(
    tmp_path: Path, levels: tuple[str, ...], columns: tuple[str, ...], message: str
) -> None:
    path = write(tmp_path / "p.csv", *levels, columns=columns)
    with pytest.raises(AnnotationError, match=message) as caught:
        read_grades([path])
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"], ids=["missing", "no text"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(AnnotationError, match=r"p\.csv: cannot be read"):
        read_grades([tmp_path / "p.csv"])
