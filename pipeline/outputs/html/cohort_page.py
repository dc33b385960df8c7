"""``to=page``: the run as a page, ``OUT/index.html``, to sort and filter without a network.

Studies are named as their folders are. Links lead to the files beside the page that are there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from spineline.datasets.common.files import write_text
from spineline.datasets.labels import LEVELS
from spineline.pipeline.inference.results import StudyResult
from spineline.pipeline.inference.warnings import CODES, codes_of
from spineline.pipeline.outputs.grade_words import (
    WORST_FIRST,
    code_name,
    furthest_words,
    has_schmorl,
    rank,
    worst,
)
from spineline.pipeline.outputs.html.cohort_chart import (
    ABSENT,
    CODE_SIGNS,
    UNGRADED,
    chart,
    grade_signs,
)
from spineline.pipeline.outputs.html.markup import Markup, document, element, joined, table
from spineline.pipeline.outputs.html.study_page import FILE as REPORT
from spineline.pipeline.outputs.html.study_page import NOT_FOR_DIAGNOSIS, model_line
from spineline.pipeline.outputs.settings import OutputSettings

FILE = "index.html"
MANIFEST = "manifest.jsonl"

_DONE = ("done", "skipped")
_LINKS = ((REPORT, "report"), ("overlay.png", "picture"), ("result.json", "JSON"))


@dataclass(frozen=True, slots=True)
class Failed:
    """A study that could not be done."""

    name: str
    reason: str


def write_cohort(
    out: Path, results: Iterable[tuple[str, StudyResult]], settings: OutputSettings
) -> None:
    """Write the run's ``index.html``."""
    del settings  # it shows what there is
    page = cohort_html(results, read_failures(out / MANIFEST), folder=out)
    write_text(out / FILE, page, sync=False)


def read_failures(manifest: Path) -> tuple[Failed, ...]:
    """Studies that the manifest's last line on them calls anything but done; none without one."""
    if not manifest.is_file():
        return ()
    last: dict[str, Failed | None] = {}
    for line in manifest.read_text(encoding="utf-8", errors="replace").splitlines():
        entry = _entry(line)
        if entry is None:
            continue
        name, status = str(entry["study"]), str(entry.get("status", ""))
        reason = str(entry.get("reason") or status or "no reason given")
        last[name] = None if status in _DONE else Failed(name, reason)
    return tuple(sorted((f for f in last.values() if f), key=lambda failed: failed.name))


def cohort_html(
    results: Iterable[tuple[str, StudyResult]],
    failures: Sequence[Failed] = (),
    *,
    folder: Path | None = None,
) -> str:
    """The page of a run.

    Args:
        results: name and result of each study done; gone through once.
        failures: studies that could not be done.
        folder: where the files of studies are, to link to those that exist; None links all.
    """
    rows, tally, last = [], _Tally(), None
    for name, result in results:
        tally.add(result)
        rows.append(_row(name, result, _links(name, folder)))
        last = result
    body = joined(
        element(
            "header",
            element("p", "spineline", class_="kicker"),
            element("h1", f"{len(rows)} {'study' if len(rows) == 1 else 'studies'}"),
            element("p", NOT_FOR_DIAGNOSIS, class_="only"),
        ),
        element(
            "main",
            _tiles(len(rows), len(failures), tally),
            _failure_section(failures),
            chart(tally.signs, tally.schmorl, len(rows)),
            _studies_section(rows, tally),
        ),
        element(
            "footer",
            model_line(last) if last is not None else None,
            element("p", NOT_FOR_DIAGNOSIS, class_="only"),
        ),
    )
    styles = ("base.css", "cohort.css")
    return document("spineline: all studies", body, styles=styles, script="cohort.js")


class _Tally:
    """Counts over the studies seen so far."""

    def __init__(self) -> None:
        self.abstained = self.warned = self.whole = 0
        self.signs: list[Counter[str]] = [Counter() for _ in LEVELS]
        self.schmorl: list[int] = [0] * len(LEVELS)
        self.codes: Counter[str] = Counter()

    def add(self, result: StudyResult) -> None:
        self.abstained += result.abstained
        self.warned += bool(result.warnings)
        self.whole += len(result.structures) == len(LEVELS)
        for counter, sign in zip(self.signs, grade_signs(result), strict=True):
            counter[sign] += 1
        for structure in result.structures:
            self.schmorl[LEVELS.index(structure.level)] += has_schmorl(structure)
        self.codes.update(codes_of(result.warnings))


def _entry(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "study" in value else None


def _tiles(done: int, failed: int, tally: _Tally) -> Markup:
    tiles = [
        ("Done", done),
        ("Failed", failed),
        ("All levels found", tally.whole),
        ("Naming abstained", tally.abstained),
        ("With warnings", tally.warned),
    ]
    pairs = [element("div", element("dt", what), element("dd", count)) for what, count in tiles]
    return element("dl", *pairs, class_="tiles")


def _failure_section(failures: Sequence[Failed]) -> Markup | None:
    if not failures:
        return None
    rows = [
        element(
            "tr",
            element("th", element("bdi", failed.name), scope="row"),
            element("td", failed.reason, class_="any"),
        )
        for failed in failures
    ]
    heads = (element("th", "Study", scope="col"), element("th", "Reason", scope="col"))
    failed = table("Studies that could not be done", heads, rows, id="failures")
    return element("section", element("h2", f"Failed: {len(failures)}"), failed)


def _links(name: str, folder: Path | None) -> Markup:
    """To what there is of a study."""
    there = [
        element("a", words, href=f"{quote(name)}/{file}", aria_label=f"{words} of {name}")
        for file, words in _LINKS
        if folder is None or (folder / name / file).is_file()
    ]
    return element("span", *there, class_="links")


def _row(name: str, result: StudyResult, links: Markup) -> Markup:
    """A study; what it is sorted by is in ``data-v`` of each cell, filtered by in the row's."""
    structure, naming = worst(result.structures), result.naming
    codes = codes_of(result.warnings)
    probability = "" if naming is None else f"{naming.probability:.2f}"
    if result.abstained:
        probability += " abstained"
    place = len(WORST_FIRST) if structure is None else rank(structure)
    schmorl = {s.level for s in result.structures if has_schmorl(s)}
    others = len(result.warnings) - sum(w.code in CODES for w in result.warnings)
    warnings = [*codes, *([f"{others} more"] if others and codes else [])]
    shown = ", ".join(warnings) or (str(others) if others else "–")
    return element(
        "tr",
        element("th", element("bdi", name), scope="row"),
        _cell("Levels found", f"{len(result.structures)} of {len(LEVELS)}", len(result.structures)),
        _cell("Furthest from normal", furthest_words(structure), place),
        _cell("Naming", probability or "–", -1 if naming is None else round(naming.probability, 6)),
        _cell("Warnings", shown, len(result.warnings)),
        element("td", links, data_name="Files"),
        data_g="".join(grade_signs(result)),
        data_s="".join("1" if level in schmorl else "0" for level in LEVELS),
        data_w=" ".join(codes),
        data_a="1" if result.abstained else None,
    )


def _cell(name: str, shown: str, value: float) -> Markup:
    return element("td", shown, data_name=name, data_v=value)


def _studies_section(rows: Sequence[Markup], tally: _Tally) -> Markup:
    """The table of all studies; the script shows the first of very many, and all on request."""
    heads = [
        ("Study", "text"),
        ("Levels found", "number"),
        ("Furthest from normal", "number"),
        ("Naming", "number"),
        ("Warnings", "number"),
    ]
    cells = [
        element("th", element("span", name, data_sort=how), scope="col", data_name=name)
        for name, how in heads
    ]
    cells.append(element("th", "Files", scope="col"))
    caption = "A row for each study. Naming: how probable its levels are, together."
    return element(
        "section",
        element("h2", "Studies"),
        _filters(tally),
        element("p", id="shown", role="status", aria_live="polite"),
        table(caption, cells, rows, id="studies"),
        element("button", "Show all", type="button", id="more", hidden=True),
    )


def _filters(tally: _Tally) -> Markup:
    """The form above the table; the script shows it, since without it nothing would happen."""
    seen = {sign for counter in tally.signs for sign in counter}
    grades = [("", "any grade"), ("x", "anything but normal")]
    grades += [(sign, _grade_option(code)) for code, sign in CODE_SIGNS.items()]
    grades += [("s", "Schmorl's node beside another grade")]
    grades += [(UNGRADED, "not graded")] if UNGRADED in seen else []
    grades += [(ABSENT, "not found")]
    levels = [("", "any level"), *((str(n), level) for n, level in enumerate(LEVELS))]
    warnings = [("", "with or without"), ("any", "with warnings"), ("none", "without warnings"),
                ("abstained", "naming abstained")]  # fmt: skip
    warnings += [(code, f"{code} ({tally.codes[code]})") for code in CODES if tally.codes[code]]
    name = element("input", type="search", id="by-name", autocomplete="off")
    return element(
        "form",
        element("label", "Study", name),
        _select("Grade", "by-grade", grades),
        _select("Level", "by-level", levels),
        _select("Warnings", "by-warning", warnings),
        element("button", "Clear", type="reset"),
        id="filters",
        hidden=True,
        aria_label="filter studies",
        role="search",
    )


def _grade_option(code: int) -> str:
    kind = "vertebra" if code < 2 else "disc"
    return f"{kind}: {code_name(code)}"


def _select(name: str, id_: str, options: Sequence[tuple[str, str]]) -> Markup:
    shown = [element("option", words, value=value) for value, words in options]
    return element("label", name, element("select", *shown, id=id_, autocomplete="off"))
