"""``predictions.csv`` of ``classify val`` and ``kfold classify``: a line per graded structure."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from spineline.datasets.common.errors import AnnotationError, first_line
from spineline.datasets.labels import LEVELS, SEVEN_NAMES

GRADES_FILE = "predictions.csv"

GRADE_COLUMNS: tuple[str, ...] = (
    "image", "study", "level", "seven", "binary",
    *(f"p_{name}" for name in SEVEN_NAMES), "p_v5",
)  # fmt: skip
"""Codes of the label, then the network's outputs; empty without a head."""


def read_grades(places: Sequence[Path]) -> list[dict[str, str]]:
    """Read the lines of prediction files; ``fold`` is that of the line, else the file's number.

    Args:
        places: files, or folders with a ``predictions.csv``.

    Raises:
        AnnotationError: a file is missing, damaged, or lacks columns of ``classify val``.
    """
    rows: list[dict[str, str]] = []
    for number, place in enumerate(places):
        file = place / GRADES_FILE if place.is_dir() else place
        rows += [{"fold": str(number), **row} for row in _read_file(file)]
    return rows


def _read_file(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"{file}: cannot be read ({first_line(error)})") from error
    wanted = f"{file}: wanted the {GRADES_FILE} of kfold classify or classify val"
    if not rows:
        raise AnnotationError(f"{wanted}, found no line")
    for line, row in enumerate(rows, 2):
        missing = next((name for name in GRADE_COLUMNS if row.get(name) is None), None)
        if missing is not None:
            raise AnnotationError(f"{wanted}, found no column {missing} in line {line}")
        if row["level"] not in LEVELS:
            raise AnnotationError(f"{file}, line {line}: {row['level'][:40]!r} is not a level")
    return rows
