"""Check the share of branches that tests reach: python .ci/branches.py REPORT.json …

Each argument is a coverage report of one package, named after it: ``pipeline.inference.json``.
The exit status is 1 if a package reaches fewer of its branches than its floor in pyproject.toml.
Without arguments, the packages that have a floor are printed, one per line.
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def floors() -> dict[str, int]:
    """Minimum percentage of branches that must be reached, by package."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(content["tool"]["spineline"]["branch-floors"])


def judged(report: Path, floor: int | None) -> tuple[str, bool]:
    """A one-line summary of a report, and whether it reaches the floor."""
    totals = json.loads(report.read_text(encoding="utf-8"))["totals"]
    branches, lines = (
        (totals["covered_branches"], totals["num_branches"]),
        (totals["covered_lines"], totals["num_statements"]),
    )
    line = f"{_share('branches', *branches)}, {_share('lines', *lines)}"
    if floor is None:
        return line, True
    enough = 100 * branches[0] >= floor * branches[1]
    return f"{line}; floor {floor} %{'' if enough else ', WHICH IT IS BELOW'}", enough


def _share(what: str, reached: int, of: int) -> str:
    percent = 100 * reached / of if of else 100.0
    return f"{percent:.2f} % of {what} ({reached} of {of})"


def main(words: list[str]) -> int:
    """Print a line for each report and return 1 if one is below its floor, else 0."""
    if not words:
        print("\n".join(floors()))
        return 0
    status = 0
    for report in map(Path, words):
        package = report.stem.replace(".", "/")
        line, enough = judged(report, floors().get(package))
        print(f"{package}: {line}")
        status |= not enough
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
