"""What the pipeline writes: result.json, overlay.png of each study; results.csv, log.txt of all."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path

from spineline.datasets.drawing import Mark, draw_overlay
from spineline.datasets.files import write_bytes, write_json, write_text
from spineline.datasets.labels import LEVELS, SEVEN_NAMES
from spineline.pipeline.core import Analysis
from spineline.pipeline.pictures import overlay_palette_png
from spineline.pipeline.results import GradedStructure, StudyResult

COLUMNS = (
    "study", "study_uid", "series_uid", "instance_uid", "level", "kind", "x", "y", "x_mm", "y_mm",
    "z_mm", "left", "top", "right", "bottom", "confidence", "seven_class", "seven_name",
    "seven_probability", "binary_class", "binary_probability", "naming_probability",
    "naming_abstained",
)  # fmt: skip
"""Columns of results.csv: points and boxes in stored pixels, mm in the patient's frame (LPS).

The last two are the study's: how probable its levels are as a whole, and 1 where they are a guess.
"""


def write_study(folder: Path, analysis: Analysis, *, overlay: bool, doubtful: float) -> None:
    """Write one study's ``result.json`` and, on request, ``overlay.png``.

    Args:
        folder: the study's folder.
        analysis: what to write.
        overlay: whether to draw.
        doubtful: grades of structures below this confidence carry a question mark; all do where
            the naming is abstained.
    """
    write_json(folder / "result.json", analysis.result.to_json(), sync=False)
    if overlay:
        picture = overlay_png(analysis, doubtful=doubtful)
        write_bytes(folder / "overlay.png", picture, sync=False)


def overlay_png(analysis: Analysis, *, doubtful: float = 0.25) -> bytes:
    """The frame, upright and enlarged, with boxes, points, levels and grades, as PNG."""
    if analysis.result.abstained:
        doubtful = math.inf
    marks = [
        Mark(place.point_xy, place.box_xyxy, place.kind, label_of(structure, doubtful))
        for place, structure in zip(
            analysis.spine.structures, analysis.result.structures, strict=True
        )
    ]
    title = title_of(analysis)
    return overlay_palette_png(draw_overlay(analysis.frame.image, marks, title=title))


def title_of(analysis: Analysis) -> str:
    """What the picture alone would hide: levels that are missing, and doubt about the naming."""
    words = ["spineline"]
    if analysis.result.missing_levels:
        words.append(f"missing: {', '.join(analysis.result.missing_levels)}")
    if analysis.result.abstained:
        words.append("naming abstained, levels are a guess")
    elif analysis.spine.warnings:
        words.append("levels in doubt, see result.json")
    return "; ".join(words)


def label_of(structure: GradedStructure, doubtful: float) -> str:
    """Level and grade in words, such as ``L4-L5 bulging 0.83``; ``?`` where the box is doubtful."""
    words = [structure.level]
    if structure.seven is not None:
        code = structure.seven.class_index
        words.append(SEVEN_NAMES[code].split("-")[1])
        if structure.binary is not None and structure.binary.class_index and code != 6:
            words.append("+schmorl")
        words.append(f"{structure.seven.probabilities[code]:.2f}")
    elif structure.binary is not None:
        words.append("schmorl" if structure.binary.class_index else "no schmorl")
    if structure.confidence < doubtful:
        words.append("?")
    return " ".join(words)


def results_csv(results: Iterable[tuple[str, StudyResult]]) -> str:
    """One line per structure of named results, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, result in results:
        for structure in result.structures:
            writer.writerow(_row(name, result, structure))
    return text.getvalue()


def study_line(name: str, analysis: Analysis) -> str:
    """One study in one short line: levels found and the slice they were found on."""
    found = f"{name}: {len(analysis.result.structures)} of {len(LEVELS)} levels"
    abstained = ["naming abstained"] if analysis.result.abstained else []
    return ", ".join([found, *abstained, *analysis.frame.notes[:1]])


def log_lines(name: str, analysis: Analysis) -> list[str]:
    """All that is to say of one study: the slice chosen, what was left out and why, warnings."""
    warned = (f"warning, {text}" for text in analysis.result.warnings)
    rest = (f"{name}: {text}" for text in (*analysis.frame.notes[1:], *warned))
    return [study_line(name, analysis), *rest]


def write_log(folder: Path, lines: Iterable[str]) -> None:
    """Write ``log.txt``; holds no time, so that the same run gives the same bytes."""
    write_text(folder / "log.txt", "".join(f"{line}\n" for line in lines), sync=False)


def write_results_csv(path: Path, results: Iterable[tuple[str, StudyResult]]) -> None:
    """Write `results_csv` to a file."""
    write_text(path, results_csv(results), sync=False)


def _row(name: str, result: StudyResult, structure: GradedStructure) -> list[object]:
    seven, binary = structure.seven, structure.binary
    point_mm = structure.point_mm or ("", "", "")
    naming = result.naming
    return [
        name,
        result.study_uid or "",
        result.series_uid or "",
        result.instance_uid or "",
        structure.level,
        structure.kind,
        *(round(v, 3) for v in structure.point_xy),
        *(v if isinstance(v, str) else round(v, 3) for v in point_mm),
        *(round(v, 3) for v in structure.box_xyxy),
        round(structure.confidence, 6),
        *(
            ("", "", "")
            if seven is None
            else (
                seven.class_index,
                SEVEN_NAMES[seven.class_index],
                round(seven.probabilities[seven.class_index], 6),
            )
        ),
        *(("", "") if binary is None else (binary.class_index, round(binary.probability, 6))),
        *(("", "") if naming is None else (round(naming.probability, 6), int(naming.abstained))),
    ]
