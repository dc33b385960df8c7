"""The picture of a study's page: the frame as embedded PNG, marks over it as SVG.

Units of the drawing: 1000 across the whole picture, origin at its top left corner; the frame's
pixels are `Layout.scale` units wide. Discs are round points in solid boxes, vertebrae square points
in dashed ones; points are filled where the grade is not normal; labels of an annotation are white
crosses. Nothing is told by colour alone.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

from spineline.datasets.drawing import spread
from spineline.datasets.labels import Kind
from spineline.pipeline.inference.candidates import DecodedStructure
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import GradedStructure
from spineline.pipeline.outputs.comparison import ComparedLevel, Comparison
from spineline.pipeline.outputs.grade_words import grade_words, is_normal, tag_words
from spineline.pipeline.outputs.html.markup import Markup, element, joined, number
from spineline.pipeline.outputs.palette_png import grey_png

WIDTH = 1000
_TALLEST = 1250  # units
_LETTER_SMALL = 13.0  # width of a letter on wide screens, units; as pages/study.css has it
_LETTER_LARGE = 20.5  # the same on a phone, where the numbers are left out
_LINE = 44.0  # from one label to the next, units
_GAP = 16.0
_ROUND, _SQUARE, _CROSS = 9.0, 8.0, 11.0  # half sizes of points, units


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the frame lies in the picture.

    Attributes:
        scale: units per pixel of the frame.
        left: of the frame, units.
        width, height: of the frame, units.
        columns_x: right end of the column of labels of vertebrae, left end of that of discs.
    """

    scale: float
    left: float
    width: float
    height: float
    columns_x: dict[Kind, float]

    def point(self, point_xy: Sequence[float]) -> tuple[float, float]:
        """Of a pixel's centre (origin at the centre of the top left pixel)."""
        x, y = point_xy
        return self.left + (x + 0.5) * self.scale, (y + 0.5) * self.scale


@dataclass(frozen=True, slots=True)
class _Mark:
    """A level to draw, found or labelled or both."""

    level: str
    kind: Kind
    point_xy: tuple[float, float]
    short: str
    rest: str
    title: str
    normal: bool | None = None
    doubtful: bool = False
    box_xyxy: tuple[float, float, float, float] | None = None
    label: ComparedLevel | None = None
    found: bool = True

    @property
    def room(self) -> float:
        """Units that its label takes at most."""
        return max(len(self.short) * _LETTER_LARGE, len(self.short + self.rest) * _LETTER_SMALL)


def figure(analysis: Analysis, comparison: Comparison | None, *, doubtful: float) -> Markup:
    """The frame with its marks, as one SVG element.

    Args:
        analysis: what was found.
        comparison: labels to draw beside it, or None.
        doubtful: structures below this confidence carry a question mark.
    """
    marks = _marks(analysis, comparison, doubtful)
    height, width = analysis.frame.image.shape
    layout = _layout((height, width), marks)
    count = sum(mark.found for mark in marks)
    about = f"Sagittal MR slice with {count} of 11 levels marked; the table lists them in words"
    image = element(
        "image",
        href=Markup(
            f"data:image/png;base64,{base64.b64encode(grey_png(analysis.frame.image)).decode()}"
        ),
        x=number(layout.left),
        y=0,
        width=number(layout.width),
        height=number(layout.height),
        preserveAspectRatio="none",
        role="img",
        aria_label="the slice",
    )
    columns: tuple[Kind, ...] = ("vertebra", "disc")
    places = {kind: _label_places(marks, kind, layout) for kind in columns}
    drawn = [_draw(mark, layout, places[mark.kind][mark.level]) for mark in marks]
    return element(
        "svg",
        image,
        *drawn,
        viewBox=f"0 0 {WIDTH} {number(layout.height)}",
        role="group",
        aria_label=about,
        class_="picture",
    )


def _marks(analysis: Analysis, comparison: Comparison | None, doubtful: float) -> list[_Mark]:
    labels = {} if comparison is None else dict(comparison.levels)
    found = [
        _found_mark(place, structure, labels.pop(structure.level, None), comparison, doubtful)
        for place, structure in zip(
            analysis.spine.structures, analysis.result.structures, strict=True
        )
    ]
    return [*found, *map(_missed_mark, labels.values())]


def _found_mark(
    place: DecodedStructure,
    structure: GradedStructure,
    label: ComparedLevel | None,
    comparison: Comparison | None,
    doubtful: float,
) -> _Mark:
    words = grade_words(structure)
    in_doubt = structure.confidence < doubtful
    seven = structure.seven
    chance = "" if seven is None else f" {seven.probabilities[seven.class_index]:.2f}"
    title = f"{structure.level}: {words}{chance}, confidence {structure.confidence:.2f}"
    rest = chance + (" ?" if in_doubt else "")
    if comparison is not None and not comparison.reason:
        title += f"; {label_words(label)}"
        rest += {True: " ✓", False: " ✗", None: ""}[label.grade_agrees if label else None]
    return _Mark(
        level=structure.level,
        kind=structure.kind,
        point_xy=place.point_xy,
        short=f"{structure.level} {short_words(words)}",
        rest=rest,
        title=title,
        normal=is_normal(structure),
        doubtful=in_doubt,
        box_xyxy=place.box_xyxy,
        label=label,
    )


def _missed_mark(label: ComparedLevel) -> _Mark:
    return _Mark(
        level=label.level,
        kind=label.kind,
        point_xy=label.point_xy,
        short=f"{label.level} not found",
        rest="",
        title=f"{label.level}: not found; {label_words(label)}",
        label=label,
        found=False,
    )


def short_words(words: str) -> str:
    """A grade for the picture, where there is little room.

    >>> short_words("bulging + Schmorl's node"), short_words("Schmorl's node")
    ('bulging+S', 'Schmorl')
    """
    return words.replace(" + Schmorl's node", "+S").replace("Schmorl's node", "Schmorl")


def label_words(label: ComparedLevel | None) -> str:
    """What an annotation says of a level, and how far away."""
    if label is None:
        return "not labelled"
    words = f"labelled {tag_words(label.kind, label.pathology)}"
    if label.distance_px is not None:
        words += f", {label.distance_px:.1f} px"
    if label.distance_mm is not None:
        words += f" ({label.distance_mm:.1f} mm)"
    return words + (" away" if label.distance_px is not None else "")


def _layout(size_hw: tuple[int, int], marks: Sequence[_Mark]) -> Layout:
    """The largest frame beside which the labels have room, of at most `_TALLEST` units."""
    height, width = size_hw
    boxes = [(*m.point_xy, *m.point_xy) if m.box_xyxy is None else m.box_xyxy for m in marks]
    first = min((max(0.0, box[0]) for box in boxes), default=width / 2)
    last = max((min(float(width), box[2] + 1) for box in boxes), default=width / 2)
    room = {
        kind: max((m.room + 2 * _GAP for m in marks if m.kind == kind), default=0.0)
        for kind in ("vertebra", "disc")
    }

    def added(scale: float) -> tuple[float, float]:
        right = room["disc"] - scale * (width - last)
        return max(0.0, room["vertebra"] - scale * first), max(0.0, right)

    low, high = 0.0, min(WIDTH / width, _TALLEST / height)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if middle * width + sum(added(middle)) <= WIDTH else (low, middle)
        )
    scale = max(low, 1e-3)
    before, after = added(scale)
    left = before + max(0.0, WIDTH - before - after - scale * width) / 2
    return Layout(
        scale,
        left,
        scale * width,
        scale * height,
        {"vertebra": left + scale * first - _GAP, "disc": left + scale * last + _GAP},
    )


def _label_places(marks: Sequence[_Mark], kind: Kind, layout: Layout) -> dict[str, float]:
    """Height of each label of a kind, none over another."""
    of_kind = sorted((m for m in marks if m.kind == kind), key=lambda m: (m.point_xy[1], m.level))
    wanted = [layout.point(mark.point_xy)[1] for mark in of_kind]
    low, high = _LINE / 2, max(_LINE / 2, layout.height - _LINE / 2)
    heights = spread(wanted, apart=_LINE, low=low, high=high)
    return {mark.level: place for mark, place in zip(of_kind, heights, strict=True)}


def _draw(mark: _Mark, layout: Layout, label_y: float) -> Markup:
    x, y = layout.point(mark.point_xy)
    column = layout.columns_x[mark.kind]
    right = mark.kind == "disc"
    parts = [
        element("title", mark.title),
        _box(mark, layout),
        _line("lead", (x, y), (column - 5 if right else column + 5, label_y)),
        _truth(mark, layout) if mark.label else None,
        _point(mark, x, y) if mark.found else None,
        element(
            "text",
            mark.short,
            element("tspan", mark.rest, class_="rest") if mark.rest else None,
            x=number(column),
            y=number(label_y),
            text_anchor=None if right else "end",
        ),
    ]
    return element(
        "a",
        *parts,
        href=f"#row-{mark.level}",
        id=f"mark-{mark.level}",
        class_=f"mark {mark.kind}" + ("" if mark.found else " missed"),
        aria_label=mark.title,
    )


def _box(mark: _Mark, layout: Layout) -> Markup | None:
    if mark.box_xyxy is None:
        return None
    (left, top), (right, bottom) = layout.point(mark.box_xyxy[:2]), layout.point(mark.box_xyxy[2:])
    return element(
        "rect",
        class_="box",
        x=number(left),
        y=number(top),
        width=number(right - left),
        height=number(bottom - top),
    )


def _point(mark: _Mark, x: float, y: float) -> Markup:
    class_ = "point" if mark.normal is False else "point hollow"
    if mark.kind == "disc":
        return element("circle", class_=class_, cx=number(x), cy=number(y), r=number(_ROUND))
    size = number(2 * _SQUARE)
    at = {"x": number(x - _SQUARE), "y": number(y - _SQUARE)}
    return element("rect", class_=class_, **at, width=size, height=size)


def _truth(mark: _Mark, layout: Layout) -> Markup | None:
    """The label's cross, joined to the point that was found."""
    if mark.label is None:
        return None
    x, y = layout.point(mark.label.point_xy)
    arms = "".join(
        f"M{number(x - dx)} {number(y - dy)}L{number(x + dx)} {number(y + dy)}"
        for dx, dy in ((_CROSS, _CROSS), (_CROSS, -_CROSS))
    )
    from_x, from_y = layout.point(mark.point_xy)
    apart = math.hypot(x - from_x, y - from_y)
    return joined(
        _line("away", (from_x, from_y), (x, y)) if apart > _CROSS else None,
        element("path", class_="truth under", d=arms),
        element("path", class_="truth", d=arms),
    )


def _line(class_: str, start: tuple[float, float], end: tuple[float, float]) -> Markup:
    (x1, y1), (x2, y2) = start, end
    ends = {"x1": number(x1), "y1": number(y1), "x2": number(x2), "y2": number(y2)}
    return element("line", class_=class_, **ends)
