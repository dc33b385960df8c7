"""docs/robustness.md says what is run, and cases of bad input go as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import robustness
from fuzz_targets import TARGETS
from pages import read_sections

PAGE = Path(__file__).resolve().parents[1] / "docs" / "robustness.md"


def rows(section: str) -> list[list[str]]:
    sections = read_sections(PAGE)
    if section not in sections:
        pytest.skip("benchmarks/robustness.py has not written the page's tables yet")
    text = sections[section]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[1:]]


def test_the_page_has_every_case() -> None:
    shown = [(row[0], row[1], row[2]) for row in rows("cases")]
    assert shown == [(case.group, case.given, str(case.code)) for case in robustness.CASES]


def test_the_page_has_every_class_of_mutants_and_none_went_wrong() -> None:
    found = rows("mutants")
    assert [(row[0], row[1]) for row in found] == [(t.name, t.what) for t in TARGETS]
    for row in found:
        mutants, refused, answered, warned, bad = map(int, row[2:7])
        assert bad == 0
        assert refused + answered + warned == mutants >= 20


def test_what_is_given_is_given_once() -> None:
    given = [case.given for case in robustness.CASES]
    assert len(set(given)) == len(given)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_case_goes_as_the_page_says(tmp_path: Path) -> None:
    done = robustness.run_cases(robustness.CASES, tmp_path / "cases")
    assert [f"{d.case.given}: {d.problem}: {d.said[-500:]}" for d in done if d.problem] == []


def test_a_line_for_a_cell() -> None:
    assert robustness.shorten("fine\nerror: a|b <x>\n") == "error: a\\|b &lt;x>"
    assert len(robustness.shorten("x" * 500)) == 150
