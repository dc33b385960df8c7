"""``to=report``: one study as a page, ``STUDY/report.html``, that opens anywhere without a network.

It says which study by the name of its folder alone: no name, number or birth date of a person, and
no UID.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from spineline.datasets.common.files import write_text
from spineline.datasets.common.remarks import Remark
from spineline.datasets.labels import LEVELS
from spineline.pipeline.inference.naming import Naming, Rival
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import GradedStructure, StudyResult
from spineline.pipeline.outputs.comparison import ComparedLevel, Comparison, comparison_of
from spineline.pipeline.outputs.grade_words import (
    CODES_OF,
    code_name,
    furthest_words,
    grade_words,
    is_normal,
    tag_words,
    worst,
)
from spineline.pipeline.outputs.html.markup import Markup, document, element, joined, number
from spineline.pipeline.outputs.html.study_figure import figure
from spineline.pipeline.outputs.settings import OutputSettings

FILE = "report.html"
NOT_FOR_DIAGNOSIS = "Research use only. Not for diagnosis."
A_GUESS = "Levels are a guess"
NOTHING = Markup("–")

_TRACK = element("rect", width="100%", height="100%", class_="track")
_STEPS = {1: "one rung", 2: "two rungs"}


def write_study(folder: Path, analysis: Analysis, settings: OutputSettings) -> None:
    """Write a study's ``report.html``."""
    comparison = comparison_of(analysis, settings)
    page = report_html(analysis, comparison, doubtful=settings.confidence)
    write_text(folder / FILE, page, sync=False)


def report_html(
    analysis: Analysis, comparison: Comparison | None = None, *, doubtful: float = 0.25
) -> str:
    """The page of a study.

    Args:
        analysis: what to show.
        comparison: labels to show beside it, or None.
        doubtful: structures below this confidence are marked; all are where the naming is
            abstained.
    """
    result, name = analysis.result, analysis.frame.name
    if result.abstained:
        doubtful = math.inf
    body = joined(
        element(
            "header",
            element("p", "spineline report", class_="kicker"),
            element("h1", element("bdi", name)),
            element("p", NOT_FOR_DIAGNOSIS, class_="only"),
        ),
        element(
            "main",
            _notices(result),
            _tiles(result, comparison),
            element(
                "div",
                _figure_section(analysis, comparison, doubtful),
                element("div", _table(result, comparison, doubtful), _naming(result.naming)),
                class_="beside" if comparison is None else "beside wider",
            ),
        ),
        _footer(result),
    )
    return document(f"{name} · spineline report", body, styles=("base.css", "report.css"))


def _notices(result: StudyResult) -> Markup | None:
    """What must be read before anything else."""
    parts = []
    if result.abstained:
        text = "the naming is less probable than was asked for, so that every level may be off."
        parts.append(element("p", element("strong", A_GUESS), f": {text}"))
    if result.missing_levels:
        missing = ", ".join(result.missing_levels)
        parts.append(element("p", element("strong", "Not found"), f": {missing}"))
    if result.warnings:
        count = len(result.warnings)
        title = f"{count} {'warning' if count == 1 else 'warnings'}"
        items = [element("li", *_warning(warning)) for warning in result.warnings]
        parts += [element("h2", title), element("ul", *items)]
    if not parts:
        return None
    return element("section", *parts, class_="notices", aria_label="warnings", role="note")


def _warning(warning: Remark) -> Sequence[object]:
    """A warning, its code word set off."""
    if not warning.code:
        return (warning.text,)
    return element("code", warning.code), f": {warning.text}"


def _tiles(result: StudyResult, comparison: Comparison | None) -> Markup:
    """The study in a few numbers."""
    naming = result.naming
    tiles = [
        ("Levels found", f"{len(result.structures)} of {len(LEVELS)}"),
        ("Naming probability", "not known" if naming is None else f"{naming.probability:.2f}"),
        ("Furthest from normal", furthest_words(worst(result.structures))),
        ("Warnings", str(len(result.warnings))),
    ]
    pairs = [element("div", element("dt", what), element("dd", value)) for what, value in tiles]
    return joined(
        element("dl", *pairs, class_="tiles"),
        None
        if comparison is None
        else element(
            "p",
            element("strong", "Compared with labels: "),
            comparison.summary(),
            class_="compared",
        ),
    )


def _figure_section(
    analysis: Analysis, comparison: Comparison | None, doubtful: float
) -> Markup:  # fmt: skip
    compared = comparison is not None and not comparison.reason
    legend = [
        _legend_item("disc", "disc: round point, solid box"),
        _legend_item("vertebra", "vertebra: square point, dashed box"),
        _legend_item("disc hollow", "hollow: normal or not graded; filled: not normal"),
        _legend_item("label", "label of the annotation") if compared else None,
    ]
    words = "? marks what is in doubt. " if _any_doubtful(analysis.result, doubtful) else ""
    words += "✓ and ✗: grade as labelled, or not. " if compared else ""
    size = f"{analysis.result.width} × {analysis.result.height} pixels"
    spacing = analysis.result.spacing_rc_mm
    if spacing is not None:
        size += f" of {spacing[1]:.3g} × {spacing[0]:.3g} mm"
    upright = "" if analysis.frame.turn.is_identity else ", set upright to look"
    return element(
        "figure",
        figure(analysis, comparison, doubtful=doubtful),
        element(
            "figcaption",
            element("ul", *legend, class_="legend"),
            element("p", f"{words}The slice has {size}{upright}. A mark leads to its row."),
        ),
    )


def _any_doubtful(result: StudyResult, doubtful: float) -> bool:
    return any(structure.confidence < doubtful for structure in result.structures)


def _legend_item(kind: str, words: str) -> Markup:
    """A mark as in the picture, and what it means."""
    if kind == "label":
        shape = element("path", class_="truth", d="M4 4L16 16M4 16L16 4")
    elif kind.startswith("disc"):
        point = "point hollow" if "hollow" in kind else "point"
        shape = element("circle", class_=point, cx=10, cy=10, r=6)
    else:
        shape = element("rect", class_="point", x=4, y=4, width=12, height=12)
    mark = element("svg", element("g", shape, class_=f"mark {kind}"), class_="key",
                   viewBox="0 0 20 20", aria_hidden="true")  # fmt: skip
    return element("li", mark, words)


def _table(result: StudyResult, comparison: Comparison | None, doubtful: float) -> Markup:
    """All eleven levels top to bottom; those not found say so."""
    labels = None if comparison is None or comparison.reason else comparison.levels
    names = ["Level", "Grade", "Probability of each grade", "Schmorl's node", "Box confidence",
             "Point, mm", *(["Label"] if labels is not None else [])]  # fmt: skip
    heads = [element("th", name, scope="col", role="columnheader") for name in names]
    found = {structure.level: structure for structure in result.structures}
    rows = []
    for level in LEVELS:
        cells = _cells(found.get(level), doubtful)
        if labels is not None:
            cells.append(_label_cell(labels.get(level)))
        rows.append(_row(level, names[1:], cells, level in found))
    caption = "The levels, top to bottom. Points are in the patient's frame: left, back, up (LPS)."
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads, role="row"), role="rowgroup"),
        element("tbody", *rows, role="rowgroup"),
        role="table",
        class_="levels",
    )


def _row(level: str, names: Sequence[str], cells: Sequence[object], found: bool) -> Markup:
    """One row; each cell repeats its column's name for screens where rows become cards."""
    link = element("a", level, href=f"#mark-{level}") if found else level
    drawn = [
        element(
            "td",
            element("div", cell),
            role="cell",
            data_name=name,
            class_="none" if cell == NOTHING else None,
        )
        for name, cell in zip(names, cells, strict=True)
        if cell is not None
    ]
    return element(
        "tr",
        element("th", link, scope="row", role="rowheader"),
        *drawn,
        id=f"row-{level}",
        role="row",
        class_=None if found else "missing",
    )


def _cells(structure: GradedStructure | None, doubtful: float) -> list[object]:
    if structure is None:
        return ["not found", *[NOTHING] * 4]
    binary, point_mm = structure.binary, structure.point_mm
    words = element("span", grade_words(structure),
                    class_="abnormal" if is_normal(structure) is False else None)  # fmt: skip
    confidence = f"{structure.confidence:.2f}"
    doubt = element("div", "in doubt", class_="doubt")
    return [
        words,
        _probabilities(structure),
        NOTHING if binary is None or structure.kind == "vertebra" else _binary(structure),
        joined(confidence, doubt) if structure.confidence < doubtful else confidence,
        NOTHING if point_mm is None else _point(point_mm),
    ]


def _point(point_mm: Sequence[float]) -> Markup:
    """Three numbers that part between, never within, where there is little room."""
    shown = [f"{v:.1f}".replace("-", "−") for v in point_mm]
    spans = [element("span", f"{v}{',' if n < 2 else ''}") for n, v in enumerate(shown)]
    return element("span", spans[0], " ", spans[1], " ", spans[2], class_="mm")


def _binary(structure: GradedStructure) -> str:
    if structure.binary is None:
        return NOTHING
    return f"{'yes' if structure.binary.class_index else 'no'} {structure.binary.probability:.2f}"


def _probabilities(structure: GradedStructure) -> Markup:
    """A bar and a number for each grade of the kind."""
    if structure.seven is None:
        return NOTHING
    items = []
    for code in CODES_OF[structure.kind]:
        chosen = code == structure.seven.class_index
        items.append(_share(code_name(code), structure.seven.probabilities[code], marked=chosen))
    return element("ul", *items, class_="shares")


def _share(words: str, share: float, *, marked: bool) -> Markup:
    """A probability as a bar and a number."""
    bar = element("rect", width=f"{number(100 * share)}%", height="100%", class_="bar")
    drawing = element("svg", _TRACK, bar, class_="share", aria_hidden="true")
    name = element("span", words)
    return element("li", name, drawing, f"{share:.2f}", class_="on" if marked else None)


def _label_cell(label: ComparedLevel | None) -> Markup:
    if label is None:
        return element("span", "not labelled")
    words = tag_words(label.kind, label.pathology)
    agreement = {True: "✓ agrees", False: "✗ differs", None: ""}[label.grade_agrees]
    away = [] if label.distance_px is None else [f"{label.distance_px:.1f} px"]
    away += [] if label.distance_mm is None else [f"{label.distance_mm:.1f} mm"]
    distance = f"{', '.join(away)} away" if away else "level not found"
    class_ = {True: "agrees", False: "differs", None: None}[label.grade_agrees]
    mark = element("div", agreement, class_=class_) if agreement else None
    return joined(element("div", words), mark, element("div", distance, class_="away"))


def _naming(naming: Naming | None) -> Markup:
    """How sure the levels are as a whole, and what else they could be."""
    parts = [element("h2", "How sure the naming is")]
    if naming is None:
        parts.append(element("p", "Not known: each level was named by itself."))
        return element("section", *parts, class_="naming")
    if naming.abstained:
        parts.append(element("p", element("strong", f"{A_GUESS}.")))
    ways = [("as named here", naming.probability)]
    ways += [(_shift_words(rival), rival.probability) for rival in naming.rivals]
    items = [_share(words, share, marked=not n) for n, (words, share) in enumerate(ways)]
    parts.append(element("ul", *items, class_="shares wide"))
    text = "Probability that all levels together are named right, against the same places named "
    parts.append(element("p", f"{text}higher or lower. A rung is a vertebra with its disc."))
    return element("section", *parts, class_="naming")


def _shift_words(rival: Rival) -> str:
    steps = _STEPS.get(abs(rival.shift), f"{abs(rival.shift)} rungs")
    return f"every name {steps} {'higher' if rival.shift < 0 else 'lower'}"


def _footer(result: StudyResult) -> Markup:
    return element("footer", model_line(result), element("p", NOT_FOR_DIAGNOSIS, class_="only"))


def model_line(result: StudyResult) -> Markup:
    """Which models and version made a result, and where their figures are."""
    return element(
        "p",
        f"Made by spineline {result.version} with the weights {result.weights_name} (SHA-256 ",
        element("code", result.weights_sha256[:12] or "not known"),
        "). How often they are right, and on whose images they were tried: ",
        element("code", "spineline weights list"),
        ", and the model cards beside the weights.",
    )
