"""Overlays: boxes, points and names drawn on a frame.

Coordinates of marks are native pixels, with the origin at the centre of the top left pixel. A
picture that is enlarged ``scale`` times shows a native ``x`` at ``(x + 0.5) * scale - 0.5``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from spineline.datasets.common.arrays import PixelArray
from spineline.datasets.labels import KINDS, Kind

Colour = tuple[int, int, int]

COLOURS_RGB: dict[Kind, Colour] = {
    "disc": (255, 176, 0),
    "vertebra": (86, 180, 233),
}
"""Orange and sky blue: distinct for every kind of colour vision, both bright on a dark frame."""

HEALTH_COLOURS_RGB: dict[str, Colour] = {
    "healthy": (0, 158, 115),
    "sick": (213, 94, 0),
}
"""Bluish green and vermilion of Okabe and Ito, distinct for every kind of colour vision."""

CROSS_RGB: Colour = (255, 255, 255)
"""Colour of places from annotations; white, so that it cannot be mistaken for a kind's."""

_BACKGROUND_RGB = (16, 16, 16)
_TEXT_RGB = (235, 235, 235)
_LONG_SIDE = 900  # length in pixels of an enlarged frame's longer side
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_SCALE = 0.5
_LINE_HEIGHT = 22
_TITLE_HEIGHT = 28
_GAP = 14
_CROSS = 8  # half the size of a cross
_PLATE = 0.35  # fraction of the frame's brightness behind a label


@dataclass(frozen=True, slots=True)
class Mark:
    """One structure to draw.

    Attributes:
        point_xy: centre in native pixels.
        box_xyxy: box in native pixels (it may extend beyond the edge), or None to draw no box.
        kind: ``disc`` or ``vertebra``; decides the colour and the side of the label.
        label: text beside the spine, such as ``L4-L5 bulging 0.83``; empty for none.
        colour_rgb: colour of box, point and label; None uses that of the kind.
        cross_xy: another place of the same structure, such as an annotation's; it is drawn as a
            white cross and joined to the point. None for none.
        has_point: False draws no point, for a mark that has only ``cross_xy``.
    """

    point_xy: tuple[float, float]
    box_xyxy: tuple[float, float, float, float] | None
    kind: Kind
    label: str
    colour_rgb: Colour | None = None
    cross_xy: tuple[float, float] | None = None
    has_point: bool = True

    @property
    def colour(self) -> Colour:
        """The colour of the mark."""
        return COLOURS_RGB[self.kind] if self.colour_rgb is None else self.colour_rgb


@dataclass(frozen=True, slots=True)
class _Label:
    mark: Mark
    anchor_xy: tuple[int, int]
    centre_y: int
    width: int


def default_scale(height: int, width: int) -> int:
    """Return the enlargement, 1 to 4, that brings an image's longer side near 900 pixels.

    >>> default_scale(256, 256), default_scale(448, 448), default_scale(1024, 512)
    (4, 2, 1)
    """
    return int(np.clip(round(_LONG_SIDE / max(height, width)), 1, 4))


def draw_overlay(
    image: PixelArray,
    marks: Sequence[Mark],
    *,
    title: str = "",
    scale: int | None = None,
    legend: Mapping[str, Colour] | None = None,
) -> PixelArray:
    """Draw marks on a frame: thin boxes, points, and labels in two columns beside the spine.

    Labels of vertebrae stand to the left of all boxes and labels of discs to the right. Each is
    joined to its point by a leader line, and none overlaps another. Where the frame is too narrow
    for a column of labels, a dark margin is added. A title adds a bar with the legend on top.

    Args:
        image: uint8 (H, W) grey.
        marks: what to draw, in any order; labels in ASCII (other letters show as ``?``).
        title: text of the bar on top, in as many lines as needed; no bar if empty.
        scale: enlargement of the frame; by default see [default_scale][].
        legend: names and colours of the title's legend; by default the kinds.

    Returns:
        uint8 (h, w, 3) RGB with h = H * scale (+ 28 with a title, + 22 for each further line of
        it) and w >= W * scale.

    Raises:
        ValueError: the image is not uint8 (H, W), or the scale is below 1.
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        msg = f"wanted a uint8 (H, W) image, found {image.dtype} {image.shape}"
        raise ValueError(msg)
    scale = default_scale(*image.shape) if scale is None else scale
    if scale < 1:
        msg = f"scale {scale}: wanted 1 or more"
        raise ValueError(msg)
    grey = _enlarge(image, scale)
    marks = [_scaled(mark, scale) for mark in marks]
    grey, marks, columns_x = _make_room(grey, marks)
    canvas = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    for mark in marks:
        _draw_box(canvas, mark)
    for kind in KINDS:
        _draw_labels(canvas, _placed_labels(marks, kind, canvas.shape[0]), columns_x[kind])
    for mark in marks:
        _draw_cross(canvas, mark)
        if mark.has_point:
            _draw_point(canvas, mark)
    return _with_title(canvas, title, legend or COLOURS_RGB) if title else canvas


def side_by_side(left: PixelArray, right: PixelArray) -> PixelArray:
    """Join two pictures, aligned at the top; each is uint8 (h, w, 3) RGB."""
    height = max(left.shape[0], right.shape[0])
    gap = np.full((height, _GAP, 3), _BACKGROUND_RGB, dtype=np.uint8)
    columns = []
    for picture in (left, right):
        column = np.full((height, *picture.shape[1:]), _BACKGROUND_RGB, dtype=np.uint8)
        column[: picture.shape[0]] = picture
        columns.append(column)
    return np.concatenate([columns[0], gap, columns[1]], axis=1)


def contact_sheet(
    pictures: Sequence[PixelArray], *, columns: int = 4, cell: int = 480
) -> PixelArray:
    """Arrange pictures row by row, each shrunk to fit a cell.

    Cells are square, or twice as wide if every picture is about that wide (labels beside
    predictions).

    Args:
        pictures: at least one picture, each uint8 (h, w, 3) RGB of any size.
        columns: cells in a row; fewer if there are fewer pictures.
        cell: height of a cell in pixels.

    Returns:
        uint8 (rows * cell, columns * width of a cell, 3) RGB.
    """
    across = 2 * cell if all(p.shape[1] >= 1.8 * p.shape[0] for p in pictures) else cell
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * cell, columns * across, 3), _BACKGROUND_RGB, dtype=np.uint8)
    for index, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        ratio = min((cell - 4) / height, (across - 4) / width)
        size_wh = max(1, round(width * ratio)), max(1, round(height * ratio))
        small = cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA)
        top = (index // columns) * cell + (cell - size_wh[1]) // 2
        left = (index % columns) * across + (across - size_wh[0]) // 2
        sheet[top : top + size_wh[1], left : left + size_wh[0]] = small
    return sheet


def png_bytes(picture: PixelArray) -> bytes:
    """Encode a picture as PNG: uint8 (h, w, 3) RGB or (h, w) grey."""
    pixels = picture if picture.ndim == 2 else np.ascontiguousarray(picture[:, :, ::-1])
    done, encoded = cv2.imencode(".png", pixels)
    if not done:
        raise ValueError(f"a picture of shape {picture.shape} cannot be written as PNG")
    return bytes(encoded.tobytes())


def spread(wanted: Sequence[float], *, apart: float, low: float, high: float) -> list[float]:
    """Return positions close to the wanted ones, in the same order, at least ``apart`` apart.

    The result is the least-squares solution. Crowded neighbours are pooled and centred together,
    and the row is then shifted inside ``low`` … ``high``. If space is short, the distance shrinks
    evenly.

    >>> spread([10, 11, 50], apart=10, low=0, high=100)
    [5.5, 15.5, 50.0]
    >>> spread([95, 99], apart=10, low=0, high=100)
    [90.0, 100.0]
    """
    if len(wanted) > 1:
        apart = min(apart, (high - low) / (len(wanted) - 1))
    blocks: list[tuple[float, int]] = []  # (mean of wanted minus own offset, members)
    for index, value in enumerate(wanted):
        blocks.append((float(value) - index * apart, 1))
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (mean_a, count_a), (mean_b, count_b) = blocks[-2:]
            total = count_a + count_b
            blocks[-2:] = [((mean_a * count_a + mean_b * count_b) / total, total)]
    offsets = [mean for mean, count in blocks for _ in range(count)]
    top = high - (len(wanted) - 1) * apart
    return [
        float(min(max(offset, low), top) + index * apart) for index, offset in enumerate(offsets)
    ]


def _enlarge(image: PixelArray, scale: int) -> PixelArray:
    height, width = image.shape
    interpolation = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_NEAREST
    size_wh = width * scale, height * scale
    return np.asarray(cv2.resize(image, size_wh, interpolation=interpolation), dtype=np.uint8)


def _scaled(mark: Mark, scale: int) -> Mark:
    def enlarge(value: float) -> float:
        return (value + 0.5) * scale - 0.5

    x, y = mark.point_xy
    box, cross = mark.box_xyxy, mark.cross_xy
    if box is not None:
        box = (enlarge(box[0]), enlarge(box[1]), enlarge(box[2]), enlarge(box[3]))
    if cross is not None:
        cross = (enlarge(cross[0]), enlarge(cross[1]))
    return replace(mark, point_xy=(enlarge(x), enlarge(y)), box_xyxy=box, cross_xy=cross)


def _moved(mark: Mark, by_x: int) -> Mark:
    x, y = mark.point_xy
    box, cross = mark.box_xyxy, mark.cross_xy
    if box is not None:
        box = (box[0] + by_x, box[1], box[2] + by_x, box[3])
    if cross is not None:
        cross = (cross[0] + by_x, cross[1])
    return replace(mark, point_xy=(x + by_x, y), box_xyxy=box, cross_xy=cross)


@functools.lru_cache(maxsize=4096)  # each label is measured three times, and grades repeat
def _text_width(text: str) -> int:
    return int(cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)[0][0])


def _make_room(
    grey: PixelArray, marks: Sequence[Mark]
) -> tuple[PixelArray, list[Mark], dict[Kind, int]]:
    """Add margins for columns of labels that do not fit; returns x of the columns' inner ends."""
    if not marks:
        return grey, [], {"disc": 0, "vertebra": 0}
    boxes = [(*m.point_xy, *m.point_xy) if m.box_xyxy is None else m.box_xyxy for m in marks]
    left = round(max(0.0, min(box[0] for box in boxes))) - _GAP
    right = round(min(grey.shape[1] - 1.0, max(box[2] for box in boxes))) + _GAP
    widths = {
        kind: max((_text_width(m.label) for m in marks if m.kind == kind and m.label), default=0)
        for kind in KINDS
    }
    add_left = max(0, widths["vertebra"] + _GAP // 2 - left) if widths["vertebra"] else 0
    add_right = 0
    if widths["disc"]:
        add_right = max(0, right + widths["disc"] + _GAP // 2 - grey.shape[1])
    grey = cv2.copyMakeBorder(
        grey, 0, 0, add_left, add_right, cv2.BORDER_CONSTANT, value=_BACKGROUND_RGB
    )
    columns_x: dict[Kind, int] = {"vertebra": left + add_left, "disc": right + add_left}
    return grey, [_moved(mark, add_left) for mark in marks], columns_x


def _placed_labels(marks: Sequence[Mark], kind: Kind, height: int) -> list[_Label]:
    named = sorted(
        (mark for mark in marks if mark.kind == kind and mark.label),
        key=lambda mark: (mark.point_xy[1], mark.point_xy[0], mark.label),
    )
    half = _LINE_HEIGHT / 2
    centres = spread(
        [mark.point_xy[1] for mark in named],
        apart=_LINE_HEIGHT,
        low=half,
        high=max(half, height - 1 - half),
    )
    return [
        _Label(mark, _pixel(mark.point_xy), round(y), _text_width(mark.label))
        for mark, y in zip(named, centres, strict=True)
    ]


def _draw_labels(canvas: PixelArray, labels: Sequence[_Label], column_x: int) -> None:
    for label in labels:
        to_right = label.mark.kind == "disc"
        text_x = column_x if to_right else column_x - label.width
        leader = column_x - 4 if to_right else column_x + 4
        colour = label.mark.colour
        cv2.line(canvas, label.anchor_xy, (leader, label.centre_y), colour, 1, cv2.LINE_AA)
        _write(canvas, label.mark.label, (text_x, label.centre_y + 5), colour)


def _draw_box(canvas: PixelArray, mark: Mark) -> None:
    if mark.box_xyxy is None:
        return
    top_left, bottom_right = _pixel(mark.box_xyxy[:2]), _pixel(mark.box_xyxy[2:])
    cv2.rectangle(canvas, top_left, bottom_right, mark.colour, 1, cv2.LINE_8)


def _draw_point(canvas: PixelArray, mark: Mark) -> None:
    centre = _pixel(mark.point_xy)
    cv2.circle(canvas, centre, 5, (0, 0, 0), -1, cv2.LINE_AA)
    cv2.circle(canvas, centre, 4, mark.colour, -1, cv2.LINE_AA)


def _draw_cross(canvas: PixelArray, mark: Mark) -> None:
    if mark.cross_xy is None:
        return
    centre, x, y = _pixel(mark.point_xy), *_pixel(mark.cross_xy)
    if math.dist(mark.point_xy, mark.cross_xy) > _CROSS:
        cv2.line(canvas, centre, (x, y), CROSS_RGB, 1, cv2.LINE_AA)
    for colour, width in (((0, 0, 0), 3), (CROSS_RGB, 1)):
        for dx, dy in ((_CROSS, _CROSS), (_CROSS, -_CROSS)):
            cv2.line(canvas, (x - dx, y - dy), (x + dx, y + dy), colour, width, cv2.LINE_AA)


def _with_title(
    canvas: PixelArray, title: str, legend: Mapping[str, Colour] | Mapping[Kind, Colour]
) -> PixelArray:
    bar = np.full((_TITLE_HEIGHT, canvas.shape[1], 3), _BACKGROUND_RGB, dtype=np.uint8)
    x = canvas.shape[1]
    for name, colour in legend.items():
        x -= _text_width(name) + _GAP
        _write(bar, name, (x, 19), colour)
    first, *others = _lines(title, max(0, x - _GAP), canvas.shape[1])
    title_room = bar[:, : max(0, x - _GAP)]
    if title_room.shape[1]:
        fitted = np.ascontiguousarray(title_room)
        _write(fitted, first, (8, 19), _TEXT_RGB)
        bar[:, : fitted.shape[1]] = fitted
    below = np.full(
        (_LINE_HEIGHT * len(others), canvas.shape[1], 3), _BACKGROUND_RGB, dtype=np.uint8
    )
    for number, line in enumerate(others):
        _write(below, line, (8, _LINE_HEIGHT * number + 13), _TEXT_RGB)
    return np.concatenate([bar, below, canvas])


def _lines(title: str, first_width: int, width: int) -> list[str]:
    """Wrap the title: the first line beside the legend, the others as wide as the canvas."""
    lines = [""]
    for word in title.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        room = (first_width if len(lines) == 1 else width) - 2 * 8
        if _text_width(longer) <= room or (not lines[-1] and len(lines) > 1):
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _write(canvas: PixelArray, text: str, origin_xy: tuple[int, int], colour: Colour) -> None:
    """Write text on a darkened plate, so that it is legible on bright tissue; in place."""
    x, y = origin_xy
    plate = canvas[
        max(0, y - 14) : max(0, y + 6), max(0, x - 3) : max(0, x + _text_width(text) + 3)
    ]
    plate[:] = plate * _PLATE
    ascii_text = text.encode("ascii", "replace").decode("ascii")
    cv2.putText(canvas, ascii_text, origin_xy, _FONT, _FONT_SCALE, colour, 1, cv2.LINE_AA)


def _pixel(point_xy: Sequence[float]) -> tuple[int, int]:
    return round(point_xy[0]), round(point_xy[1])
