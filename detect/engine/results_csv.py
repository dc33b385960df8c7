"""``results.csv`` of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spineline.datasets.common.files import write_text


def append_row(file: Path, row: Mapping[str, float]) -> None:
    """Append a line, below a header where there is none yet.

    The columns are those of the header: one that the row lacks is ``nan``, one that only the row
    has is left out.
    """
    columns = list(row)
    head = ""
    if file.exists():
        with file.open(encoding="utf-8") as stream:
            columns = stream.readline().strip().split(",")
    else:
        head = ",".join(columns) + "\n"
    values = ",".join(f"{row.get(name, float('nan')):.6g}" for name in columns)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"{head}{values}\n")


def trim_results(file: Path, epochs: int) -> None:
    """Keep the header and the first ``epochs`` whole lines of a killed run's ``results.csv``."""
    if not file.exists():
        return
    lines = file.read_text(encoding="utf-8").split("\n")
    columns = lines[0].count(",")
    kept = [line for line in lines[1:] if line.count(",") == columns and line]
    kept = [line for line in kept if int(line.split(",")[0]) <= epochs]
    write_text(file, "\n".join([lines[0], *kept]) + "\n")
