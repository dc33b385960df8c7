"""``.mrk.json``: points as markups of 3D Slicer, in patient coordinates.

Source of the format: markups schema v1.0.3 of 3D Slicer. Coordinates are LPS mm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spineline.converters.formats.correction import ImageToCorrect, grade_of, tool_label
from spineline.datasets.drawing import COLOURS_RGB

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
    "Schema/markups-schema-v1.0.3.json#"
)


@dataclass(frozen=True, slots=True)
class MarkupPoint:
    """One control point: label, description, position (LPS mm), and whether it is selected."""

    label: str
    description: str
    position_mm: tuple[float, ...]
    selected: bool


def markups_document(
    name: str, points: Sequence[MarkupPoint], more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Make a document with one list of points.

    Args:
        name: name of the list in Slicer.
        points: points in order. Discs are selected and vertebrae are not, which colours them.
        more: our own keys, which the schema allows and Slicer ignores.
    """
    markup = {
        "type": "Fiducial",
        "name": name,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(points),
        "controlPoints": [_control_point(n, point) for n, point in enumerate(points, 1)],
        "display": {
            "visibility": True,
            "selectedColor": [round(v / 255, 4) for v in COLOURS_RGB["disc"]],
            "color": [round(v / 255, 4) for v in COLOURS_RGB["vertebra"]],
            "propertiesLabelVisibility": False,
            "pointLabelsVisibility": True,
        },
        **(more or {}),
    }
    return {"@schema": _SCHEMA, "markups": [markup]}


def markups_to_correct(image: ImageToCorrect) -> dict[str, Any]:
    """Make markups of an image's structures with patient coordinates; descriptions are grades."""
    structures = [s for s in image.record.structures if s.level in image.points_mm]
    points = [
        MarkupPoint(tool_label(s), grade_of(s), image.points_mm[s.level], s.kind == "disc")
        for s in structures
    ]
    return markups_document("spineline", points)


def _control_point(number: int, point: MarkupPoint) -> dict[str, Any]:
    return {
        "id": str(number),
        "label": point.label,
        "description": point.description,
        "associatedNodeID": "",
        "position": [round(v, 3) for v in point.position_mm],
        "orientation": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        "selected": point.selected,
        "locked": False,
        "visibility": True,
        "positionStatus": "defined",
    }
