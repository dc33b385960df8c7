"""``to=slicer``: ``points.mrk.json``, the points as markups of 3D Slicer, in the patient's frame.

Source of the format: markups schema v1.0.3 of 3D Slicer. Coordinates are LPS mm.

The schema has no field for warnings. What Slicer keeps, also when it saves again, are the markup's
name and the points' descriptions: both name the missing levels and the code words of the warnings.
The warnings in full, missing levels and whether the naming was abstained stand beside them in keys
of our own, which the schema allows and Slicer passes over.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spineline.datasets.common.files import write_json
from spineline.datasets.common.log import LOG
from spineline.datasets.drawing import COLOURS_RGB
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import GradedStructure, StudyResult
from spineline.pipeline.outputs.settings import OutputSettings
from spineline.pipeline.outputs.study_files import doubt_words, label_of

FILE_NAME = "points.mrk.json"

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
    "Schema/markups-schema-v1.0.3.json#"
)


def write_markups(folder: Path, analysis: Analysis, settings: OutputSettings) -> None:
    """Write ``points.mrk.json`` of a study; one without geometry is warned of and left out.

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
    """A result as a document of markups, or None where its points have no place in the patient.

    Args:
        result: what to write.
        doubtful: descriptions of structures below this confidence carry a question mark.
    """
    if any(structure.point_mm is None for structure in result.structures):
        return None
    if not result.structures and result.spacing_rc_mm is None:
        return None
    title = "spineline, levels are a guess" if result.abstained else "spineline"
    title = "; ".join([title, *doubt_words(result)])
    points = [
        _control_point(number, structure, result, doubtful)
        for number, structure in enumerate(result.structures, 1)
    ]
    markup = {
        "type": "Fiducial",
        "name": title,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(points),
        "controlPoints": points,
        "display": {
            "visibility": True,
            "selectedColor": [round(v / 255, 4) for v in COLOURS_RGB["disc"]],
            "color": [round(v / 255, 4) for v in COLOURS_RGB["vertebra"]],
            "propertiesLabelVisibility": False,
            "pointLabelsVisibility": True,
        },
        "missingLevels": list(result.missing_levels),
        "namingAbstained": result.abstained,
        "warnings": [str(warning) for warning in result.warnings],
    }
    return {"@schema": _SCHEMA, "markups": [markup]}


def _control_point(
    number: int, structure: GradedStructure, result: StudyResult, doubtful: float
) -> dict[str, Any]:
    """One point; discs are selected and vertebrae are not, which gives them their colours."""
    words = label_of(structure, doubtful).split(" ", 1)
    grade = words[1] if len(words) > 1 else "not graded"
    guess = ["levels are a guess"] if result.abstained else []
    return {
        "id": str(number),
        "label": structure.level,
        "description": "; ".join([grade, *guess, *doubt_words(result)]),
        "associatedNodeID": "",
        "position": [round(v, 3) for v in structure.point_mm or ()],
        "orientation": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        "selected": structure.kind == "disc",
        "locked": False,
        "visibility": True,
        "positionStatus": "defined",
    }
