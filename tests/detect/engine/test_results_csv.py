from __future__ import annotations

from pathlib import Path

from spineline.detect.engine.results_csv import append_row


def test_rows_stand_below_one_header(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    append_row(file, {"epoch": 1, "a": 0.5, "b": float("nan")})
    append_row(file, {"epoch": 2, "a": 1 / 3, "b": 1e-7})
    assert file.read_text() == "epoch,a,b\n1,0.5,nan\n2,0.333333,1e-07\n"


def test_columns_are_those_of_the_header(tmp_path: Path) -> None:
    """A run of an earlier version that is resumed keeps its columns."""
    file = tmp_path / "results.csv"
    file.write_text("epoch,b,a\n1,2,3\n")
    append_row(file, {"epoch": 2, "a": 5, "new": 7})
    assert file.read_text() == "epoch,b,a\n1,2,3\n2,nan,5\n"
