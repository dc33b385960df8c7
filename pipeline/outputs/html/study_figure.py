"""The figure of a study's page: positions of the frame and its marks in ``templates/figure.svg``.

The drawing is 1000 units wide, with its origin at the top left corner. Discs are round points in
solid boxes, vertebrae square points in dashed ones. Points are filled if the grade is not normal,
and labels of an annotation are white crosses. Nothing depends on colour alone.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spineline.datasets.drawing import spread
from spineline.datasets.labels import KINDS, Kind
from spineline.pipeline.inference.candidates import DecodedStructure
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import GradedStructure
from spineline.pipeline.outputs.comparison import ComparedLevel, Comparison
from spineline.pipeline.outputs.grade_words import grade_words, is_normal, tag_words
from spineline.pipeline.outputs.palette_png import grey_png

_ACROSS = 1000
_TALLEST = 1250  # units
_LETTER_SMALL = 13.0  # width of a letter on wide screens, in units, as in assets/report.css
_LETTER_LARGE = 20.5  # the same on a phone, where the numbers are omitted
_LINE = 44.0  # from one label to the next, units
_GAP = 16.0


@dataclass(frozen=True, slots=True)
class FigureMark:
    """A level to draw, found or labelled or both.

    Attributes:
        level, kind: of the level.
        point_xy: its point, else its label's, in pixels of the frame.
        box_xyxy: in pixels of the frame; None if the level was not found.
        short, rest: the text beside the spine, and the part that a narrow screen omits.
        title: the full description of the mark.
        normal: whether the grade is normal; None without a grade.
        label: of the annotation.
    """

    level: str
    kind: Kind
    point_xy: tuple[float, float]
    box_xyxy: tuple[float, float, float, float] | None
    short: str
    rest: str
    title: str
    normal: bool | None = None
    label: ComparedLevel | None = None

    @property
    def room(self) -> float:
        """Maximum width of its text, in units."""
        return max(len(self.short) * _LETTER_LARGE, len(self.short + self.rest) * _LETTER_SMALL)


@dataclass(frozen=True, slots=True)
class StudyFigure:
    """The frame and what is drawn over it.

    Attributes:
        png: the frame as PNG in base 64.
        marks: of the levels.
        scale: units per pixel of the frame.
        left, width, height: of the frame, in units.
        columns_x: right end of the text column of vertebrae, left end of that of discs.
        text_y: height of each level's text, without overlaps, in units.
    """

    png: str
    marks: Sequence[FigureMark]
    scale: float
    left: float
    width: float
    height: float
    columns_x: Mapping[Kind, float]
    text_y: Mapping[str, float]

    def place(self, point_xy: Sequence[float]) -> tuple[float, float]:
        """Position in units of a pixel (origin at the centre of the top left pixel)."""
        x, y = point_xy
        return self.left + (x + 0.5) * self.scale, (y + 0.5) * self.scale


def figure_of(
    analysis: Analysis, comparison: Comparison | None, *, doubtful: float
) -> StudyFigure:  # fmt: skip
    """The content and layout of a study's figure.

    Args:
        analysis: what was found.
        comparison: labels to draw beside it, or None.
        doubtful: structures below this confidence get a question mark.
    """
    labels = {} if comparison is None else dict(comparison.levels)
    compared = comparison is not None and not comparison.reason
    found = zip(analysis.spine.structures, analysis.result.structures, strict=True)
    marks = [
        _found_mark(place, structure, labels.pop(structure.level, None), compared, doubtful)
        for place, structure in found
    ]
    marks += [
        FigureMark(
            level=label.level,
            kind=label.kind,
            point_xy=label.point_xy,
            box_xyxy=None,
            short=f"{label.level} not found",
            rest="",
            title=f"{label.level}: not found; {_label_words(label)}",
            label=label,
        )
        for label in labels.values()
    ]
    rows, columns = analysis.frame.image.shape
    scale, left, columns_x = _layout((rows, columns), marks)
    text_y: dict[str, float] = {}
    for kind in KINDS:
        of_kind = sorted(
            (m for m in marks if m.kind == kind), key=lambda m: (m.point_xy[1], m.level)
        )
        wanted = [(mark.point_xy[1] + 0.5) * scale for mark in of_kind]
        high = max(_LINE / 2, rows * scale - _LINE / 2)
        heights = spread(wanted, apart=_LINE, low=_LINE / 2, high=high)
        text_y |= zip((mark.level for mark in of_kind), heights, strict=True)
    png = base64.b64encode(grey_png(analysis.frame.image)).decode()
    return StudyFigure(png, marks, scale, left, scale * columns, scale * rows, columns_x, text_y)


def _found_mark(
    place: DecodedStructure,
    structure: GradedStructure,
    label: ComparedLevel | None,
    compared: bool,
    doubtful: float,
) -> FigureMark:
    words, seven = grade_words(structure), structure.seven
    chance = "" if seven is None else f" {seven.probabilities[seven.class_index]:.2f}"
    title = f"{structure.level}: {words}{chance}, confidence {structure.confidence:.2f}"
    rest = chance + (" ?" if structure.confidence < doubtful else "")
    if compared:
        title += f"; {_label_words(label)}"
        rest += {True: " ✓", False: " ✗", None: ""}[label.grade_agrees if label else None]
    short = words.replace(" + Schmorl's node", "+S").replace("Schmorl's node", "Schmorl")
    return FigureMark(
        level=structure.level,
        kind=structure.kind,
        point_xy=place.point_xy,
        box_xyxy=place.box_xyxy,
        short=f"{structure.level} {short}",
        rest=rest,
        title=title,
        normal=is_normal(structure),
        label=label,
    )


def _label_words(label: ComparedLevel | None) -> str:
    """The label's grade and distance in words."""
    if label is None:
        return "not labelled"
    words = f"labelled {tag_words(label.kind, label.pathology)}"
    if label.distance_px is None:
        return words
    mm = "" if label.distance_mm is None else f" ({label.distance_mm:.1f} mm)"
    return f"{words}, {label.distance_px:.1f} px{mm} away"


def _layout(
    size_hw: tuple[int, int], marks: Sequence[FigureMark]
) -> tuple[float, float, dict[Kind, float]]:
    """The largest frame that leaves space for the texts: its scale, left end, and columns."""
    height, width = size_hw
    boxes = [(*m.point_xy, *m.point_xy) if m.box_xyxy is None else m.box_xyxy for m in marks]
    first = min((max(0.0, box[0]) for box in boxes), default=width / 2)
    last = max((min(float(width), box[2] + 1) for box in boxes), default=width / 2)
    room = {
        kind: max((m.room + 2 * _GAP for m in marks if m.kind == kind), default=0.0)
        for kind in KINDS
    }

    def added(scale: float) -> tuple[float, float]:
        right = room["disc"] - scale * (width - last)
        return max(0.0, room["vertebra"] - scale * first), max(0.0, right)

    low, high = 0.0, min(_ACROSS / width, _TALLEST / height)
    for _ in range(30):
        middle = (low + high) / 2
        fits = middle * width + sum(added(middle)) <= _ACROSS
        low, high = (middle, high) if fits else (low, middle)
    scale = max(low, 1e-3)
    before, after = added(scale)
    left = before + max(0.0, _ACROSS - before - after - scale * width) / 2
    return (
        scale,
        left,
        {"vertebra": left + scale * first - _GAP, "disc": left + scale * last + _GAP},
    )
