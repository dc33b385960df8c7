"""docs/robustness.md says what is run, and cases of bad input go as it says."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from pages import read_sections

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "robustness.md"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "benchmarks" / "robustness.py"
    spec = importlib.util.spec_from_file_location("spineline_robustness", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def rows(section: str) -> list[list[str]]:
    sections = read_sections(PAGE)
    if section not in sections:
        pytest.skip("benchmarks/robustness.py has not written the page's tables yet")
    text = sections[section]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[1:]]


def test_the_page_has_every_case(script: ModuleType) -> None:
    shown = [(row[0], row[1], row[2]) for row in rows("cases")]
    assert shown == [(case.group, case.given, str(case.code)) for case in script.CASES]


def test_the_page_has_every_class_of_mutants_and_none_went_wrong() -> None:
    sys.path.append(str(ROOT / "tests" / "fuzz"))
    from fuzz_targets import TARGETS

    found = rows("mutants")
    assert [(row[0], row[1]) for row in found] == [(t.name, t.what) for t in TARGETS]
    for row in found:
        mutants, refused, answered, warned, bad = map(int, row[2:7])
        assert bad == 0
        assert refused + answered + warned == mutants >= 20


def test_what_is_given_is_given_once(script: ModuleType) -> None:
    given = [case.given for case in script.CASES]
    assert len(set(given)) == len(given)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_case_goes_as_the_page_says(script: ModuleType, tmp_path: Path) -> None:
    done = script.run_cases(script.CASES, tmp_path / "cases")
    assert [f"{d.case.given}: {d.problem}: {d.said[-500:]}" for d in done if d.problem] == []


def test_a_line_for_a_cell(script: ModuleType) -> None:
    assert script.shorten("fine\nerror: a|b <x>\n") == "error: a\\|b &lt;x>"
    assert len(script.shorten("x" * 500)) == 150
