"""The main outputs: result.json and overlay.png of each study, results.csv and log.txt of a run."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from spineline.datasets.common.files import write_bytes, write_json, write_lines
from spineline.datasets.drawing import COLOURS_RGB, CROSS_RGB, Colour, Mark, draw_overlay
from spineline.datasets.labels import LEVELS, SEVEN_NAMES
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import GradedStructure, StudyResult
from spineline.pipeline.inference.warnings import codes_of
from spineline.pipeline.outputs.comparison import ComparedLevel, Comparison
from spineline.pipeline.outputs.grade_words import tag_words
from spineline.pipeline.outputs.palette_png import overlay_palette_png

LOG_NAME = "log.txt"

RESULT_COLUMNS = (
    "study", "study_uid", "series_uid", "instance_uid", "level", "kind", "x", "y", "x_mm", "y_mm",
    "z_mm", "left", "top", "right", "bottom", "confidence", "seven_class", "seven_name",
    "seven_probability", "seven_tied_with", "binary_class", "binary_probability",
    "binary_threshold", "naming_probability", "naming_abstained", "warnings", "status",
)  # fmt: skip
"""Columns of results.csv: points and boxes in stored pixels, mm in patient coordinates (LPS).

The last four describe the study: the probability of its naming, 1 if its levels are a guess, the
codes of its warnings, separated by blanks, and its status. The status is ``ok``, ``refused``,
``forced`` (unsuitable, but processed) or ``failed`` (without a result).
"""

_OF_LEVELS = (
    "not_lumbar_t2", "suitability_in_doubt", "few_levels", "low_confidence", "naming_in_doubt",
    "naming_abstained", "transitional_anatomy", "spacing_implausible", "view_cuts_spine",
    "orientation_unusual",
)  # fmt: skip
"""Warnings that cast doubt on the levels; they come first in short outputs."""


def write_study(
    folder: Path,
    analysis: Analysis,
    *,
    overlay: bool,
    doubtful: float,
    comparison: Comparison | None = None,
) -> None:
    """Write one study's ``result.json`` and, on request, ``overlay.png``.

    Args:
        folder: the study's folder.
        analysis: what to write.
        overlay: whether to draw.
        doubtful: grades of structures below this confidence get a question mark; all do if the
            naming is abstained.
        comparison: labels to draw beside the prediction, or None.
    """
    write_json(folder / "result.json", analysis.result.to_json(), sync=False)
    if overlay:
        picture = overlay_png(analysis, doubtful=doubtful, comparison=comparison)
        write_bytes(folder / "overlay.png", picture, sync=False)


def overlay_png(
    analysis: Analysis, *, doubtful: float = 0.25, comparison: Comparison | None = None
) -> bytes:
    """The frame, upright and enlarged, with boxes, points, levels and grades, as PNG.

    Labels of an annotation are white crosses, with their grades and distances.
    """
    if analysis.result.abstained:
        doubtful = math.inf
    labels: dict[str, ComparedLevel] = {} if comparison is None else dict(comparison.levels)
    marks = []
    for place, structure in zip(analysis.spine.structures, analysis.result.structures, strict=True):
        label, words = labels.pop(structure.level, None), label_of(structure, doubtful)
        if comparison is not None and not comparison.reason:
            words += f" [{_compared_words(label)}]"
        cross = None if label is None else label.point_xy
        marks.append(Mark(place.point_xy, place.box_xyxy, place.kind, words, cross_xy=cross))
    marks += [
        Mark(
            label.point_xy,
            None,
            label.kind,
            f"{label.level} not found [{_compared_words(label)}]",
            colour_rgb=CROSS_RGB,
            cross_xy=label.point_xy,
            has_point=False,
        )
        for label in labels.values()
    ]
    title = title_of(analysis)
    legend: dict[str, Colour] = {str(kind): colour for kind, colour in COLOURS_RGB.items()}
    if comparison is not None:
        legend = {"label x": CROSS_RGB, **legend}
        title += f"; {comparison.reason}" if comparison.reason else ""
    return overlay_palette_png(
        draw_overlay(analysis.frame.image, marks, title=title, legend=legend)
    )


def _compared_words(label: ComparedLevel | None) -> str:
    """Such as ``= label, 1.2 px 0.8 mm``, with ``label protrusion`` if the grade differs."""
    if label is None:
        return "no label"
    grade = tag_words(label.kind, label.pathology)
    words = "= label" if label.grade_agrees else f"label {grade}"
    words += "" if label.distance_px is None else f", {label.distance_px:.1f} px"
    return words if label.distance_mm is None else f"{words} {label.distance_mm:.1f} mm"


def title_of(analysis: Analysis) -> str:
    """What the picture alone does not show: missing levels, doubts, and other warnings."""
    refusal = analysis.result.refusal
    if refusal is not None:
        return f"spineline; refused: {refusal}"
    forced = ["FORCED"] if analysis.result.forced else []
    return "; ".join(["spineline", *forced, *doubt_words(analysis.result)])


def doubt_words(result: StudyResult) -> list[str]:
    """A result's missing levels and the codes of its warnings, for short outputs.

    Returns:
        Up to three parts, such as ``missing: L5, L5-S1``, ``doubt: naming_in_doubt`` (doubts about
            the levels) and ``also: files_left_out`` (other warnings).
    """
    codes = [code for code in codes_of(result.warnings) if code != "missing_levels"]
    parts = (
        ("missing", result.missing_levels),
        ("doubt", [code for code in codes if code in _OF_LEVELS]),
        ("also", [code for code in codes if code not in _OF_LEVELS]),
    )
    return [f"{what}: {', '.join(words)}" for what, words in parts if words]


def label_of(structure: GradedStructure, doubtful: float) -> str:
    """Level and grade in words, such as ``L4-L5 bulging 0.83``; ``?`` if the box is doubtful.

    A second grade that is almost as probable follows: ``bulging 0.44 or normal``.
    """
    words = [structure.level]
    if structure.seven is not None:
        code = structure.seven.class_index
        words.append(SEVEN_NAMES[code].split("-")[1])
        if structure.binary is not None and structure.binary.class_index and code != 6:
            words.append("+schmorl")
        words.append(f"{structure.seven.probabilities[code]:.2f}")
        if (tied := structure.seven.tied_with) is not None:
            words.append(f"or {SEVEN_NAMES[tied].split('-')[1]}")
    elif structure.binary is not None:
        words.append("schmorl" if structure.binary.class_index else "no schmorl")
    if structure.confidence < doubtful:
        words.append("?")
    return " ".join(words)


def csv_lines(
    results: Iterable[tuple[str, StudyResult]], failed: Iterable[str] = ()
) -> Iterator[str]:
    """CSV of named results without line ends: the columns, then a line per structure.

    A study without structures, such as a refused one, has one line with its name and warnings but
    no level. Failed studies follow, with one line each that holds only their names.
    """
    yield _csv_line(RESULT_COLUMNS)
    for name, result in results:
        uids = [uid or "" for uid in (result.study_uid, result.series_uid, result.instance_uid)]
        naming = result.naming
        sure = ("", "") if naming is None else (round(naming.probability, 6), int(naming.abstained))
        last = [*sure, " ".join(codes_of(result.warnings)), result.status]
        for cells in [_cells(structure) for structure in result.structures] or [_NO_CELLS]:
            yield _csv_line([name, *uids, *cells, *last])
    for name in failed:
        yield _csv_line([name, *[""] * (len(RESULT_COLUMNS) - 2), "failed"])


def _csv_line(values: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def study_line(name: str, analysis: Analysis) -> str:
    """One short line about a study: levels found and their slice."""
    if analysis.result.status == "refused":
        return f"{name}: refused"
    found = f"{name}: {len(analysis.result.structures)} of {len(LEVELS)} levels"
    said = ["forced"] if analysis.result.forced else []
    said += ["naming abstained"] if analysis.result.abstained else []
    return ", ".join([found, *said, *map(str, analysis.frame.notes[:1])])


def log_lines(name: str, analysis: Analysis) -> list[str]:
    """The log of a study: the chosen slice, what was left out and why, and warnings."""
    warned = (f"warning, {text}" for text in analysis.result.warnings)
    refused = analysis.result.status == "refused"  # then the first line has no note
    notes = analysis.frame.notes if refused else analysis.frame.notes[1:]
    rest = (f"{name}: {text}" for text in (*notes, *warned))
    return [study_line(name, analysis), *rest]


def write_log(folder: Path, lines: Iterable[str]) -> None:
    """Write ``log.txt``; it holds no times, so that the same run gives the same bytes."""
    write_lines(folder / LOG_NAME, lines, sync=False)


def write_results_csv(
    path: Path, results: Iterable[tuple[str, StudyResult]], failed: Iterable[str] = ()
) -> None:
    """Write one line per structure of named results, which are iterated once.

    Args:
        path: the file.
        results: names and results of studies.
        failed: names of studies without a result.
    """
    write_lines(path, csv_lines(results, failed), sync=False)


_NO_CELLS: list[object] = [""] * (
    RESULT_COLUMNS.index("naming_probability") - RESULT_COLUMNS.index("level")
)


def _cells(structure: GradedStructure) -> list[object]:
    """A structure's own cells, from its level to its grades."""
    grades: list[object] = [""] * 7
    if (seven := structure.seven) is not None:
        code, tied = seven.class_index, seven.tied_with
        grades[:3] = code, SEVEN_NAMES[code], round(seven.probabilities[code], 6)
        grades[3] = "" if tied is None else SEVEN_NAMES[tied]
    if (binary := structure.binary) is not None:
        grades[4:6] = binary.class_index, round(binary.probability, 6)
        grades[6] = round(binary.threshold, 6)
    point_mm = structure.point_mm
    return [
        structure.level,
        structure.kind,
        *(round(v, 3) for v in structure.point_xy),
        *(("", "", "") if point_mm is None else (round(v, 3) for v in point_mm)),
        *(round(v, 3) for v in structure.box_xyxy),
        round(structure.confidence, 6),
        *grades,
    ]
