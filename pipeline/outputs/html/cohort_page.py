"""``to=page``: the run as a page, ``OUT/index.html``, to sort and filter without a network.

Studies have the names of their folders. Links lead to files beside the page that exist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from spineline.datasets.common.files import write_text
from spineline.datasets.labels import LEVELS
from spineline.pipeline.inference.results import StudyResult
from spineline.pipeline.inference.warnings import CODES, codes_of
from spineline.pipeline.outputs.grade_words import (
    WORST_FIRST,
    furthest_words,
    has_schmorl,
    rank,
    worst,
)
from spineline.pipeline.outputs.html.render import render
from spineline.pipeline.outputs.html.study_page import REPORT_FILE, levels_found

_LINKS = {REPORT_FILE: "report", "overlay.png": "picture", "result.json": "JSON"}


@dataclass(frozen=True, slots=True)
class GradeSign:
    """A grade in the rows, filters and bars of the page.

    Attributes:
        sign: one letter: the seven-class code, ``u`` (not graded) or ``-`` (level not found).
        name: in words.
        look: class in ``assets/cohort.css``, which defines the colour.
        pattern: path drawn over the colour, in squares of 8 pixels, so that grades differ without
            colour; empty for none.
    """

    sign: str
    name: str
    look: str
    pattern: str = ""


SIGNS = (
    GradeSign("0", "normal", "normal"),
    GradeSign("2", "normal", "normal"),
    GradeSign("1", "degenerative", "degenerative", "M0 0V8M4 0V8"),
    GradeSign("3", "bulging", "bulging", "M-2 2L2 -2M0 8L8 0M6 10L10 6"),
    GradeSign("4", "protrusion", "protrusion", "M2 2h2v2h-2zM6 6h2v2h-2z"),
    GradeSign("5", "extrusion", "extrusion", "M0 0L8 8M8 0L0 8"),
    GradeSign("6", "Schmorl's node", "schmorl", "M0 2H8M0 6H8"),
    GradeSign("u", "not graded", "ungraded", "M0 4H4"),
    GradeSign("-", "not found", "absent"),
)
"""In the order of the bars."""


def write_index_page(
    out: Path,
    results: Iterable[tuple[str, StudyResult]],
    failures: Sequence[tuple[str, str]],
) -> None:
    """Write the run's ``index.html``."""
    write_text(out / "index.html", cohort_html(results, failures, folder=out), sync=False)


def cohort_html(
    results: Iterable[tuple[str, StudyResult]],
    failures: Sequence[tuple[str, str]] = (),
    *,
    folder: Path | None = None,
) -> str:
    """The page of a run.

    Args:
        results: name and result of each processed study; iterated once.
        failures: name and reason of each failed study.
        folder: location of the studies' files, to link only those that exist; None links all.
    """
    tally, last = _Tally(), None
    for name, result in results:
        tally.add(name, result, folder)
        last = result
    tiles = {
        "Done": len(tally.rows),
        "Refused": tally.refused,
        "Failed": len(failures),
        "All levels found": tally.whole,
        "Naming abstained": tally.abstained,
        "With warnings": tally.warned,
    }
    used = [sign for sign in SIGNS if any(counter[sign.sign] for counter in tally.signs)]
    return render(
        "cohort.html",
        tiles=tiles,
        failures=sorted(failures),
        tally=tally,
        signs=SIGNS,
        used=used,
        codes={code: tally.codes[code] for code in CODES if tally.codes[code]},
        result=last,
    )


@dataclass(slots=True)
class _Tally:
    """Rows and counts of the studies so far."""

    rows: list[dict[str, object]] = field(default_factory=list)
    refused: int = 0
    abstained: int = 0
    warned: int = 0
    whole: int = 0
    signs: list[Counter[str]] = field(default_factory=lambda: [Counter() for _ in LEVELS])
    schmorl: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, result: StudyResult, folder: Path | None) -> None:
        graded = {structure.level: structure.seven for structure in result.structures}
        signs = [
            "-" if level not in graded else str(seven.class_index) if seven else "u"
            for level, seven in ((level, graded.get(level)) for level in LEVELS)
        ]
        schmorl = [structure.level for structure in result.structures if has_schmorl(structure)]
        codes = codes_of(result.warnings)
        self.refused += result.status == "refused"
        self.abstained += result.abstained
        self.warned += bool(result.warnings)
        self.whole += len(result.structures) == len(LEVELS)
        for counter, sign in zip(self.signs, signs, strict=True):
            counter[sign] += 1
        self.schmorl.update(schmorl)
        self.codes.update(codes)
        self.rows.append(
            {
                "name": name,
                "signs": "".join(signs),
                "schmorl": "".join(str(int(level in schmorl)) for level in LEVELS),
                "codes": codes,
                "abstained": result.abstained,
                "cells": _cells(result),
                "links": {
                    f"{quote(name)}/{file}": words
                    for file, words in _LINKS.items()
                    if folder is None or (folder / name / file).is_file()
                },
            }
        )


def _cells(result: StudyResult) -> dict[str, tuple[str, float]]:
    """The text and the sort key of each column for a study."""
    found, furthest, naming = len(result.structures), worst(result.structures), result.naming
    probability = "–" if naming is None else f"{naming.probability:.2f}"
    codes = codes_of(result.warnings)
    others = sum(warning.code not in CODES for warning in result.warnings)
    warned = [*codes, *([f"{others} more" if codes else str(others)] if others else [])]
    return {
        "Levels found": (levels_found(result), -1 if result.refusal else found),
        "Furthest from normal": (
            furthest_words(furthest),
            len(WORST_FIRST) if furthest is None else rank(furthest),
        ),
        "Naming": (
            f"{probability} abstained" if result.abstained else probability,
            -1 if naming is None else round(naming.probability, 6),
        ),
        "Warnings": (", ".join(warned) or "–", len(result.warnings)),
    }
