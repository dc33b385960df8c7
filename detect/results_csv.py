"""``results.csv`` of a training run."""

from __future__ import annotations

from pathlib import Path

from spineline.datasets.files import write_text


def trim_results(file: Path, epochs: int) -> None:
    """Keep the header and the first ``epochs`` whole lines of a killed run's ``results.csv``."""
    if not file.exists():
        return
    lines = file.read_text(encoding="utf-8").split("\n")
    columns = lines[0].count(",")
    kept = [line for line in lines[1:] if line.count(",") == columns and line]
    kept = [line for line in kept if int(line.split(",")[0]) <= epochs]
    write_text(file, "\n".join([lines[0], *kept]) + "\n")
