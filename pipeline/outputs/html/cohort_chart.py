"""Grades by level over a cohort: a stacked bar for each level, and the same as a table of counts.

Each grade has a colour and a pattern of its own, so that colour is not needed to tell them apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from spineline.datasets.labels import KIND_OF_SEVEN, LEVELS, SEVEN_NAMES
from spineline.pipeline.inference.results import StudyResult
from spineline.pipeline.outputs.grade_words import code_name
from spineline.pipeline.outputs.html.markup import Markup, element, joined, table

ABSENT = "-"
UNGRADED = "u"
CODE_SIGNS: dict[int, str] = {code: str(code) for code in range(len(SEVEN_NAMES))}
"""One letter for each grade, for rows and filters of the page."""

_PATTERNS: dict[str, tuple[str, str]] = {
    "0": ("normal", ""),
    "2": ("normal", ""),
    "1": ("degenerative", "M0 0V8M4 0V8"),
    "3": ("bulging", "M-2 2L2 -2M0 8L8 0M6 10L10 6"),
    "4": ("protrusion", "M2 2h2v2h-2zM6 6h2v2h-2z"),
    "5": ("extrusion", "M0 0L8 8M8 0L0 8"),
    "6": ("schmorl", "M0 2H8M0 6H8"),
    UNGRADED: ("ungraded", "M0 4H4"),
    ABSENT: ("absent", ""),
}
"""Class and pattern of each sign; see pages/cohort.css for the colours."""

_ORDER = ("0", "2", "1", "3", "4", "5", "6", UNGRADED, ABSENT)


def grade_signs(result: StudyResult) -> list[str]:
    """A sign for each of the eleven levels: its code, `UNGRADED` or `ABSENT`."""
    found = {structure.level: structure.seven for structure in result.structures}
    return [
        ABSENT if level not in found else UNGRADED if seven is None else str(seven.class_index)
        for level in LEVELS
        for seven in (found.get(level),)
    ]


def chart(signs: Sequence[Counter[str]], schmorl: Sequence[int], studies: int) -> Markup | None:
    """The section with the distribution of grades.

    Args:
        signs: how often each sign occurs, by level.
        schmorl: how many structures of each level carry a Schmorl's node, by either grade.
        studies: their number; without any there is no section.
    """
    if not studies:
        return None
    used = [sign for sign in _ORDER if any(counter[sign] for counter in signs)]
    rows = [
        element(
            "tr",
            element("th", level, scope="row"),
            element("td", _bar(level, counter, studies)),
        )
        for level, counter in zip(LEVELS, signs, strict=True)
    ]
    bars = element(
        "table",
        element("caption", "Share of studies by grade, for each level"),
        element("thead", element("tr", element("th", "Level", scope="col"),
                element("th", "Grades", scope="col")), class_="unseen"),
        element("tbody", *rows),
        class_="bars",
    )  # fmt: skip
    return element(
        "section",
        element("h2", "Grades by level"),
        _pattern_definitions(),
        element("ul", *_legend(used), class_="legend"),
        bars,
        _counts(signs, schmorl, used),
        class_="chart",
    )


def _bar(level: str, counter: Counter[str], studies: int) -> Markup:
    parts, x = [], 0.0
    words = ", ".join(f"{_name(sign)} {counter[sign]}" for sign in _ORDER if counter[sign])
    for sign in _ORDER:
        share = 100 * counter[sign] / studies
        if share:
            count = f"{level}: {_name(sign)} {counter[sign]} of {studies}"
            parts.append(_swatch(sign, x, share, element("title", count)))
        x += share
    return element("svg", *parts, class_="stack", role="img", aria_label=words)


def _swatch(sign: str, x: float, width: float, *children: Markup) -> Markup:
    """A filled stretch, in percent of the drawing's width, and its pattern over it."""
    class_, pattern = _PATTERNS[sign]
    place = {"x": f"{x:.3f}%", "width": f"{width:.3f}%", "height": "100%"}
    fill = element("rect", *children, class_=f"fill {class_}", **place)
    if not pattern:
        return fill
    over = element("rect", class_="over", fill=f"url(#pattern-{class_})", **place)
    return joined(fill, over)


def _pattern_definitions() -> Markup:
    patterns = [
        element(
            "pattern",
            element("path", d=path),
            id=f"pattern-{class_}",
            width=8,
            height=8,
            patternUnits="userSpaceOnUse",
        )
        for class_, path in dict(_PATTERNS.values()).items()
        if path
    ]
    drawing = element("defs", *patterns)
    return element("svg", drawing, class_="definitions", width=0, height=0, aria_hidden="true")


def _legend(used: Sequence[str]) -> list[Markup]:
    """One item for each look: normal discs and vertebrae share theirs."""
    looks: dict[str, str] = {}
    for sign in used:
        looks.setdefault(_PATTERNS[sign][0], sign)
    return [
        element(
            "li",
            element("svg", _swatch(sign, 0, 100), class_="swatch", aria_hidden="true"),
            "normal" if look == "normal" else _name(sign),
        )
        for look, sign in looks.items()
    ]


def _name(sign: str) -> str:
    return {UNGRADED: "not graded", ABSENT: "not found"}.get(sign) or code_name(int(sign))


def _counts(signs: Sequence[Counter[str]], schmorl: Sequence[int], used: Sequence[str]) -> Markup:
    """The bars in numbers; behind the bars, to open."""
    names = [
        f"{KIND_OF_SEVEN[int(sign)]} {_name(sign)}" if sign in ("0", "2") else _name(sign)
        for sign in used
    ]
    names.append("any Schmorl's node")
    heads = [element("th", name, scope="col") for name in ("Level", *names)]
    rows = [
        element(
            "tr",
            element("th", level, scope="row"),
            *(element("td", counter[sign]) for sign in used),
            element("td", nodes),
        )
        for level, counter, nodes in zip(LEVELS, signs, schmorl, strict=True)
    ]
    counts = table("Number of studies by grade, for each level", heads, rows, id="counts")
    inside = element("div", counts, class_="scrolls", role="region", tabindex=0,
                     aria_label="number of studies by grade")  # fmt: skip
    return element("details", element("summary", "The same in numbers"), inside)
