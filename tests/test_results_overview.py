"""The tables at the top of the page of results quote its sections, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pages
import pytest
import results_overview as overview

from spineline.datasets.common.errors import SpinelineError

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    for name in ("results.md", "benchmarks.md", "speed.md"):
        shutil.copy(DOCS / name, tmp_path)
    return tmp_path


def test_the_tables_are_those_of_the_sections() -> None:
    """After a section is written anew: python benchmarks/results_overview.py."""
    shown = pages.read_sections(DOCS / "results.md")[overview.SECTION]
    assert shown == overview.overview_text(DOCS).strip("\n")


def test_a_changed_figure_is_quoted_as_changed(docs: Path) -> None:
    page = docs / "results.md"
    text = page.read_text().replace(
        "| `offset_accuracy` | 0.9149 |", "| `offset_accuracy` | 0.1235 |"
    )
    page.write_text(text)
    overview.main([f"docs={docs}"])
    line = "| all names of the image correct                            | 0.124 (0.830 – 0.979)"
    assert line in page.read_text()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("spineline:spider-test ", "spineline:other ", "section 'spider-test' is not there"),
        ("| `seven.ece`", "| `seven.other`", "no row 'seven.ece' with a column 'value'"),
        ("right of named", "else", "no row 'external, all' with a column 'right of named'"),
    ],
)
def test_what_is_not_there_is_said(docs: Path, old: str, new: str, message: str) -> None:
    page = docs / "results.md"
    page.write_text(page.read_text().replace(old, new))
    before = page.read_bytes()
    with pytest.raises(SpinelineError, match=message):
        overview.main([f"docs={docs}"])
    assert page.read_bytes() == before
