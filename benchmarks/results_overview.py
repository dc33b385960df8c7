"""The tables at the top of the page of results: one per question, quoted from the sections below.

    python benchmarks/results_overview.py

Nothing is measured here. A row names a section, a row of its table and a column. If a section no
longer has them, the script reports it and writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from harness import parse_words
from pages import read_sections, write_section

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import Settings, key
from spineline.datasets.common.tables import markdown_table

SECTION = "overview"
DOCS = Path(__file__).resolve().parents[1] / "docs"
HEADS = ("what", "value", "n", "data", "from")
PAGES = ("results", "benchmarks", "speed")


@dataclass(frozen=True, slots=True, kw_only=True)
class OverviewSettings(Settings):
    docs: Path = key("folder with results.md, benchmarks.md and speed.md", default=DOCS)


@dataclass(frozen=True, slots=True)
class Quote:
    """One line of a table.

    Attributes:
        what: in the words of a reader.
        data: what it was measured on.
        section: of the page; ``benchmarks:NAME`` and ``speed:NAME`` for other pages.
        row: first cell of the row, without backticks; the first such row counts.
        column: its heading; ``value`` is shown with the interval beside it.
        unit: shown after the value.
        beside: column of a published value, shown in brackets after the value.
    """

    what: str
    data: str
    section: str
    row: str
    column: str = "value"
    unit: str = ""
    beside: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A heading, its table, and a note on it."""

    title: str
    quotes: tuple[Quote, ...]
    note: str


SPIDER, TIANCHI = "SPIDER's test part", "Tianchi, out of fold"
PHANTOMS = "phantoms"


def _val(section: str, data: str, *rows: tuple[str, str], beside: str = "") -> tuple[Quote, ...]:
    return tuple(Quote(what, data, section, row, beside=beside) for what, row in rows)


def _stress(section: str, data: str, row: str) -> tuple[Quote, ...]:
    shares = (
        ("correct names, of the names given, over 27 image variants", "right of named"),
        ("wrong names without a warning, over 27 image variants", "wrong without one"),
        ("abstained, over 27 image variants", "abstained"),
    )
    return tuple(Quote(what, data, section, row, column) for what, column in shares)


LEVELS = (
    ("levels within 6 mm", "level_accuracy_6mm"),
    ("levels within 8 pixels", "level_accuracy_8px"),
    ("all names of the image correct", "offset_accuracy"),
    ("images named without abstention", "naming.coverage"),
    ("calibration error of the naming probability", "naming.ece"),
)
QUESTIONS = (
    Question(
        "Does it work on images from elsewhere?",
        (
            *_val("spider-test", SPIDER, *LEVELS),
            *_stress("naming-stress-spider", SPIDER, "external, all"),
        ),
        "Six millimetres are taken as 12 pixels here. The table does not say how well images from "
        "elsewhere are *graded*. [Images that are refused](suitability.md) covers unsuitable "
        "images, and [Robustness](robustness.md) broken and unusual files.",
    ),
    Question(
        "Does it find and name the structures?",
        (
            *_val("out-of-fold", TIANCHI, *LEVELS),
            *_stress("naming-stress-lumbar", TIANCHI, "lumbar, all"),
        ),
        "The image variants differ in brightness, contrast, sharpness and view. Some cut levels "
        "off or rotate the image by 90 degrees; abstaining is then right.",
    ),
    Question(
        "How good are the grades?",
        _val(
            "out-of-fold",
            TIANCHI,
            ("grade among seven classes: accuracy", "seven.accuracy"),
            ("grade among seven classes: macro F1", "seven.macro_f1"),
            ("discs, normal against abnormal: AUC", "ccf.c_disc"),
            ("vertebrae, normal against abnormal: AUC", "ccf.c_vertebra"),
            ("Schmorl's nodes: AUC on discs", "binary.auc_disc"),
            ("Schmorl's nodes: sensitivity", "binary.sensitivity"),
            ("Schmorl's nodes: specificity", "binary.specificity"),
            ("calibration error of the seven classes", "seven.ece"),
        ),
        "Grades are for the structures as the pipeline found them. [Limits of the grades]"
        "(grade_limits.md) says what the labels allow, and how changes of the image affect grades.",
    ),
    Question(
        "How does it compare with others?",
        (
            *_val(
                "out-of-fold",
                TIANCHI,
                ("levels within 8 pixels", "level_accuracy_8px"),
                ("grade among seven classes: accuracy", "seven.accuracy"),
                ("Schmorl's node or not: accuracy", "binary.accuracy"),
                ("level, place and grade right: recall", "report.recall"),
                ("level, place and grade right: precision", "report.precision"),
                ("level, place and grade right: AP", "report.ap"),
                ("mean accuracy of levels times mean AUC", "ccf.score"),
                beside="published",
            ),
            Quote(
                "time of a naive script for a study, relative to ours",
                PHANTOMS,
                "benchmarks:naive-chain",
                "naive: resnet18, matplotlib",
                "by ours",
                " times",
            ),
        ),
        "*Published* values are for other test studies or folds of the same set, so this is not a "
        "paired comparison. [The report's rows](#the-reports-rows) reproduces each row of the "
        "report. [Discs, healthy or sick](#discs-healthy-or-sick) compares with the older project "
        "on cervical discs.",
    ),
    Question(
        "How fast is it?",
        (
            Quote(
                "one study, from the start of the process to its end",
                PHANTOMS,
                "speed:against",
                "start, s",
                "now",
                " s",
            ),
            Quote(
                "the same, relative to version 0.1",
                PHANTOMS,
                "speed:against",
                "start, s",
                "now by base",
                " times",
            ),
            Quote(
                "a study of a cohort, one slice: processor time relative to version 0.1",
                PHANTOMS,
                "speed:against",
                "cohort `slices=1`, a study, ms",
                "now by base, cpu",
                " times",
            ),
            Quote(
                "a study of a cohort, several slices: processor time relative to one slice in "
                "version 0.1",
                PHANTOMS,
                "speed:against",
                "cohort `slices=auto`, a study, ms",
                "now by base, cpu",
                " times",
            ),
            Quote(
                "peak memory (PSS) relative to version 0.1",
                PHANTOMS,
                "speed:against",
                "memory `slices=1`, MiB",
                "now by base",
                " times",
            ),
            Quote(
                "converting 2,000 frames, relative to version 0.1",
                PHANTOMS,
                "speed:against",
                "convert, 2000 frames, s",
                "now by base",
                " times",
            ),
            Quote(
                "`spineline help`, whole process",
                "",
                "benchmarks:start-up",
                "spineline help",
                "seconds",
                " s",
            ),
            Quote(
                "converting 2,000 frames to three formats: time of supervision relative to ours",
                PHANTOMS,
                "benchmarks:convert-speed",
                "supervision, images once",
                "by ours",
                " times",
            ),
            Quote(
                "peak memory over 2,000 studies (PSS)",
                PHANTOMS,
                "benchmarks:cohort-memory",
                "2000 studies",
                "peak PSS, MiB",
                " MiB",
            ),
        ),
        "These were measured on two cores without a GPU: of an Intel Xeon for comparisons with "
        "version 0.1, otherwise of an AMD EPYC. A value of an older version need not hold for "
        "this one: see [Benchmarks](benchmarks.md).",
    ),
)


def overview_text(docs: Path) -> str:
    """All tables as Markdown.

    Raises:
        SpinelineError: a section, row or column of a quote does not exist.
    """
    pages = {name: read_sections(docs / f"{name}.md") for name in PAGES}
    lines = []
    for question in QUESTIONS:
        rows = [_cells(quote, pages) for quote in question.quotes]
        lines += [f"## {question.title}", "", markdown_table(HEADS, rows), "", question.note, ""]
    return "\n".join(lines)


def _cells(quote: Quote, pages: dict[str, dict[str, str]]) -> tuple[str, ...]:
    page, _, name = f"results:{quote.section}".rpartition(":")
    page = page.removeprefix("results:")
    where = f"{page}.md: section {name!r}"
    text = pages[page].get(name)
    if text is None:
        raise SpinelineError(f"{where} is not there; mend QUESTIONS in {Path(__file__).name}")
    for row in _rows(text):
        if next(iter(row.values())).strip("`") == quote.row and quote.column in row:
            link = _anchor(text) if page == "results" else f"{page}.md{_anchor(text)}"
            return _line(quote, row, link, "" if page == "results" else _version(text))
    msg = f"{where} has no row {quote.row!r} with a column {quote.column!r}"
    raise SpinelineError(f"{msg}; mend QUESTIONS in {Path(__file__).name}")


def _line(quote: Quote, row: dict[str, str], link: str, version: str) -> tuple[str, ...]:
    value, between = row[quote.column], row.get("95 % interval", "")
    if quote.column == "value" and between:
        value = f"{Decimal(value).quantize(Decimal('0.001'), ROUND_HALF_UP)} ({between})"
    value += quote.unit
    if quote.beside:
        value += f"; published {row[quote.beside]}"
    data = ", ".join(filter(None, (quote.data, version)))
    return (quote.what, value, row.get("n", row.get("spines", "")), data, f"[section]({link})")


def _rows(text: str) -> Iterator[dict[str, str]]:
    """The rows of all tables of a section, by column heading."""
    heads: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            heads = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not heads:
            heads = cells
        elif not re.fullmatch(r"[|\-: ]+", line):
            yield dict(zip(heads, cells, strict=False))


def _version(text: str) -> str:
    """The version of spineline that a benchmark ran, which may be older than this one."""
    found = re.search(r"\bspineline (\d+\.\d+\.\d+)", text)
    return f"spineline {found[1]}" if found else ""


def _anchor(text: str) -> str:
    """The anchor of a section's first heading, by the numbering of the site and of GitHub."""
    heading = re.search(r"^## (.+)$", text, re.MULTILINE)
    if heading is None:
        return ""
    return "#" + re.sub(r"[^\w\- ]", "", heading[1].lower()).strip().replace(" ", "-")


def main(words: list[str]) -> None:
    settings = parse_words(words, OverviewSettings)
    if settings is not None:
        text = overview_text(settings.docs)
        write_section(settings.docs / "results.md", SECTION, text, title="Results")


if __name__ == "__main__":
    run_script(main)
