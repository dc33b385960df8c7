"""``to=slicer``: ``points.mrk.json``, the points as markups of 3D Slicer, in patient coordinates.

The format is described in [spineline.converters.formats.slicer][]. Its schema has no field for
warnings. Slicer keeps the markup's name and the points' descriptions, also when it saves again. So
both list the missing levels and the codes of the warnings. Private keys hold the full warnings,
missing levels and whether the naming was abstained; the schema allows them and Slicer ignores them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spineline.converters.formats.slicer import MarkupPoint, markups_document
from spineline.datasets.common.files import write_json
from spineline.datasets.common.log import LOG
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import GradedStructure, StudyResult
from spineline.pipeline.outputs.settings import OutputSettings
from spineline.pipeline.outputs.study_files import doubt_words, label_of

FILE_NAME = "points.mrk.json"


def write_markups(folder: Path, analysis: Analysis, settings: OutputSettings) -> None:
    """Write ``points.mrk.json`` of a study; one without geometry is skipped with a warning.

    Raises:
        SpinelineError: the folder cannot be written to.
    """
    markups = markups_of(analysis.result, doubtful=settings.confidence)
    if markups is None:
        text = "%s: to=slicer: not written: no usable pixel spacing or position, points have no mm"
        LOG.warning(text, analysis.frame.name)
        return
    write_json(folder / FILE_NAME, markups, sync=False)


def markups_of(result: StudyResult, *, doubtful: float = 0.25) -> dict[str, Any] | None:
    """A result as a markups document, or None if its points have no patient coordinates.

    Args:
        result: what to write.
        doubtful: descriptions of structures below this confidence get a question mark.
    """
    if any(structure.point_mm is None for structure in result.structures):
        return None
    if not result.structures and result.spacing_rc_mm is None:
        return None
    title = "spineline, levels are a guess" if result.abstained else "spineline"
    title = "; ".join([title, *doubt_words(result)])
    points = [_markup_point(structure, result, doubtful) for structure in result.structures]
    more = {
        "missingLevels": list(result.missing_levels),
        "namingAbstained": result.abstained,
        "warnings": [str(warning) for warning in result.warnings],
    }
    return markups_document(title, points, more)


def _markup_point(structure: GradedStructure, result: StudyResult, doubtful: float) -> MarkupPoint:
    words = label_of(structure, doubtful).split(" ", 1)
    grade = words[1] if len(words) > 1 else "not graded"
    guess = ["levels are a guess"] if result.abstained else []
    description = "; ".join([grade, *guess, *doubt_words(result)])
    place = structure.point_mm or ()
    return MarkupPoint(structure.level, description, place, structure.kind == "disc")
