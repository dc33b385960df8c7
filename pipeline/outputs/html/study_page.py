"""``to=report``: one study as a page, ``STUDY/report.html``, that opens anywhere without a network.

It identifies the study only by the name of its folder: it contains no name, number or birth date of
a person, and no UID.
"""

from __future__ import annotations

import math
from pathlib import Path

from spineline.datasets.common.files import write_text
from spineline.datasets.labels import LEVELS
from spineline.pipeline.inference.naming import Naming
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import GradedStructure, StudyResult
from spineline.pipeline.outputs.comparison import Comparison, comparison_of
from spineline.pipeline.outputs.grade_words import (
    CODES_OF,
    code_name,
    furthest_words,
    worst,
)
from spineline.pipeline.outputs.html.render import render
from spineline.pipeline.outputs.html.study_figure import figure_of
from spineline.pipeline.outputs.settings import OutputSettings

REPORT_FILE = "report.html"


def write_report_page(folder: Path, analysis: Analysis, settings: OutputSettings) -> None:
    """Write a study's ``report.html``."""
    comparison = comparison_of(analysis, settings)
    page = report_html(analysis, comparison, doubtful=settings.confidence)
    write_text(folder / REPORT_FILE, page, sync=False)


def report_html(
    analysis: Analysis, comparison: Comparison | None = None, *, doubtful: float = 0.25
) -> str:
    """The page of a study.

    Args:
        analysis: what to show.
        comparison: labels to show beside it, or None.
        doubtful: structures below this confidence are marked; all are if the naming is abstained.
    """
    result, naming = analysis.result, analysis.result.naming
    doubtful = math.inf if result.abstained else doubtful
    tiles = {
        "Levels found": levels_found(result),
        "Naming probability": "not known" if naming is None else f"{naming.probability:.2f}",
        "Furthest from normal": furthest_words(worst(result.structures)),
        "Warnings": len(result.warnings),
    }
    return render(
        "study.html",
        name=analysis.frame.name,
        result=result,
        warnings=[(warning.code, warning.text) for warning in result.warnings],
        tiles=tiles,
        structures={structure.level: structure for structure in result.structures},
        grades={structure.level: _grades(structure) for structure in result.structures},
        namings=_namings(naming),
        comparison=comparison,
        labels=None if comparison is None or comparison.reason else comparison.levels,
        doubtful=doubtful,
        any_doubtful=any(structure.confidence < doubtful for structure in result.structures),
        turned=analysis.frame.turn.is_turned,
        figure=figure_of(analysis, comparison, doubtful=doubtful),
    )


def levels_found(result: StudyResult) -> str:
    """The number of levels found, in words."""
    if result.refusal:
        return "refused"
    forced = ", forced" if result.forced else ""
    return f"{len(result.structures)} of {len(LEVELS)}{forced}"


def _grades(structure: GradedStructure) -> list[tuple[str, float, bool]]:
    """Each grade of the kind in words, its probability, and whether it was predicted."""
    seven = structure.seven
    if seven is None:
        return []
    return [
        (code_name(code), seven.probabilities[code], code == seven.class_index)
        for code in CODES_OF[structure.kind]
    ]


def _namings(naming: Naming | None) -> list[tuple[str, float, bool]]:
    """Each naming of the levels in words, its probability, and whether it was chosen."""
    if naming is None:
        return []
    ways = [("as named here", naming.probability, True)]
    for rival in naming.rivals:
        shift = abs(rival.shift)
        steps = {1: "one level", 2: "two levels"}.get(shift, f"{shift} levels")
        where = "higher" if rival.shift < 0 else "lower"
        ways.append((f"every name {steps} {where}", rival.probability, False))
    return ways
