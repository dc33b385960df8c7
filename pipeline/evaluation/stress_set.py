"""The stress set: spines with known levels, and changes to their images.

`STRESSES` is the only list of changes. Grey values are changed by the same functions as in training
(`spineline.datasets.scanner_looks`); geometric changes are defined here. Points are native pixels,
x right, y down, origin at the centre of the top left pixel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import cv2
import numpy as np

from spineline.datasets import scanner_looks as looks
from spineline.datasets.common.arrays import FloatArray, PixelArray
from spineline.datasets.labels import LEVELS, SEGMENT_RANKS

Points = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class LabelledSpine:
    """An image with the positions of its levels.

    Attributes:
        name: of the image.
        patient: whom it shows; images of one patient stay together.
        source: its dataset.
        image: (H, W) uint8.
        points_xy: by level.
        counted: False if a vertebra was removed or inserted: names then count from the sacrum, and
            all of them must be right.
    """

    name: str
    patient: str
    source: str
    image: PixelArray
    points_xy: Points
    counted: bool = True


SpineChange = Callable[[LabelledSpine, np.random.Generator], LabelledSpine]


def drawn_by(seed: int, *words: str) -> np.random.Generator:
    """A generator that depends only on a seed and words."""
    digest = hashlib.sha256(" ".join([str(seed), *words]).encode()).digest()
    return np.random.default_rng(list(digest[:8]))


def grey(change: Callable[[PixelArray, np.random.Generator], PixelArray]) -> SpineChange:
    """A change of grey values only."""
    return lambda spine, rng: replace(spine, image=change(spine.image, rng))


def moved(spine: LabelledSpine, matrix: FloatArray, size_hw: tuple[int, int]) -> LabelledSpine:
    """The image under an affine map, (2, 3) from old pixels to new; black outside the old image."""
    height, width = size_hw
    image = cv2.warpAffine(spine.image, matrix, (width, height), flags=cv2.INTER_LINEAR)
    points = {level: tuple((matrix @ [*xy, 1.0]).tolist()) for level, xy in spine.points_xy.items()}
    return replace(
        spine, image=np.asarray(image, dtype=np.uint8), points_xy=inside(points, size_hw)
    )


def inside(points: Points, size_hw: tuple[int, int]) -> Points:
    """The points inside an image of that size."""
    height, width = size_hw
    return MappingProxyType(
        {k: (x, y) for k, (x, y) in points.items() if 0 <= x <= width - 1 and 0 <= y <= height - 1}
    )


def part_of(
    spine: LabelledSpine, left: float, top: float, right: float, bottom: float
) -> LabelledSpine:
    """The part of the image between these pixels, clipped to the image."""
    height, width = spine.image.shape
    x0, y0 = max(round(left), 0), max(round(top), 0)
    x1, y1 = min(round(right), width), min(round(bottom), height)
    points = {level: (x - x0, y - y0) for level, (x, y) in spine.points_xy.items()}
    image = spine.image[y0:y1, x0:x1].copy()
    return replace(spine, image=image, points_xy=inside(points, image.shape))


def cut_at_top(levels: int) -> SpineChange:
    """Remove the topmost levels, and everything above, from the image."""

    def change(spine: LabelledSpine, _: np.random.Generator) -> LabelledSpine:
        y = sorted(y for _, y in spine.points_xy.values())
        height, width = spine.image.shape
        return part_of(spine, 0, (y[levels - 1] + y[levels]) / 2, width, height)

    return change


def cut_at_bottom(levels: int) -> SpineChange:
    """Remove the lowest levels, and everything below, from the image."""

    def change(spine: LabelledSpine, _: np.random.Generator) -> LabelledSpine:
        y = sorted((y for _, y in spine.points_xy.values()), reverse=True)
        return part_of(spine, 0, 0, spine.image.shape[1], (y[levels - 1] + y[levels]) / 2)

    return change


def cropped(margin: float) -> SpineChange:
    """The spine with a margin of ``margin`` times the distance between neighbouring levels."""

    def change(spine: LabelledSpine, _: np.random.Generator) -> LabelledSpine:
        points = np.array(list(spine.points_xy.values()))
        room = margin * level_distance_px(spine)
        (left, top), (right, bottom) = points.min(axis=0) - room, points.max(axis=0) + room
        return part_of(spine, left, top, right, bottom)

    return change


def scaled(factor: float) -> SpineChange:
    """Scale everything around the spine; the image keeps its size."""

    def change(spine: LabelledSpine, _: np.random.Generator) -> LabelledSpine:
        centre = np.array(list(spine.points_xy.values())).mean(axis=0)
        shift = (1 - factor) * centre
        matrix = np.array([[factor, 0, shift[0]], [0, factor, shift[1]]])
        return moved(spine, matrix, spine.image.shape)

    return change


def turned(degrees: float) -> SpineChange:
    """Rotate counter-clockwise around the centre; the image grows so that nothing is lost."""

    def change(spine: LabelledSpine, _: np.random.Generator) -> LabelledSpine:
        height, width = spine.image.shape
        centre = ((width - 1) / 2, (height - 1) / 2)
        matrix = cv2.getRotationMatrix2D(centre, degrees, 1.0)
        cos, sin = np.abs(matrix[0, :2])
        new_w, new_h = round(width * cos + height * sin), round(width * sin + height * cos)
        matrix[:, 2] += (new_w - 1) / 2 - centre[0], (new_h - 1) / 2 - centre[1]
        return moved(spine, matrix, (new_h, new_w))

    return change


def flipped(spine: LabelledSpine, _: np.random.Generator) -> LabelledSpine:
    """Mirror left and right."""
    last = spine.image.shape[1] - 1
    return moved(spine, np.array([[-1.0, 0, last], [0, 1, 0]]), spine.image.shape)


def without_vertebra(spine: LabelledSpine, rng: np.random.Generator) -> LabelledSpine:
    """Cut out a vertebra of L2 … L4 and the disc below it, and close the gap.

    Everything below the disc above the vertebra (along the spine) moves up by one segment.
    """
    return _with_segment_changed(spine, rng, doubled=False)


def with_vertebra_twice(spine: LabelledSpine, rng: np.random.Generator) -> LabelledSpine:
    """Duplicate a vertebra of L2 … L4 and the disc below it, one below the other."""
    return _with_segment_changed(spine, rng, doubled=True)


def _with_segment_changed(
    spine: LabelledSpine, rng: np.random.Generator, *, doubled: bool
) -> LabelledSpine:
    usable = [
        rank for rank in (3, 5, 7) if {LEVELS[rank - 1], LEVELS[rank + 1]} <= spine.points_xy.keys()
    ]
    if not usable:
        return spine
    rank = usable[int(rng.integers(len(usable)))]
    upper, lower = (np.array(spine.points_xy[LEVELS[r]]) for r in (rank - 1, rank + 1))
    step = lower - upper
    line, sign = (lower, 1) if doubled else (upper, -1)
    height, width = spine.image.shape
    height += sign * round(step[1])
    y, x = np.mgrid[:height, :width].astype(np.float32)
    below = (x - line[0]) * step[0] + (y - line[1]) * step[1] > 0
    x, y = (
        np.where(below, a - sign * d, a).astype(np.float32) for a, d in ((x, step[0]), (y, step[1]))
    )
    image = np.asarray(cv2.remap(spine.image, x, y, cv2.INTER_LINEAR), dtype=np.uint8)
    points: dict[str, tuple[float, float]] = {}
    for level, xy in spine.points_xy.items():
        at = LEVELS.index(level)
        stays_named = at >= rank + (0 if doubled else 1)
        if stays_named:
            points[level] = (xy[0] + sign * step[0], xy[1] + sign * step[1])
        shifted = at - sign * SEGMENT_RANKS
        if at <= (rank + 1 if doubled else rank - 2) and 0 <= shifted < len(LEVELS):
            points.setdefault(LEVELS[shifted], xy)
    return replace(spine, image=image, points_xy=inside(points, image.shape), counted=False)


def level_distance_px(spine: LabelledSpine) -> float:
    """Median distance from one labelled level to the next, per level between, in pixels."""
    ranks = [rank for rank, level in enumerate(LEVELS) if level in spine.points_xy]
    points = np.array([spine.points_xy[LEVELS[rank]] for rank in ranks])
    return float(np.median(np.hypot(*np.diff(points, axis=0).T) / np.diff(ranks)))


def _plain(spine: LabelledSpine, _: np.random.Generator) -> LabelledSpine:
    return spine


STRESSES: Mapping[str, SpineChange] = MappingProxyType(
    {
        "plain": _plain,
        "gamma 0.45": grey(lambda image, _: looks.gamma(image, 0.45)),
        "gamma 0.7": grey(lambda image, _: looks.gamma(image, 0.7)),
        "gamma 1.4": grey(lambda image, _: looks.gamma(image, 1.4)),
        "gamma 2": grey(lambda image, _: looks.gamma(image, 2.0)),
        "window narrow": grey(lambda image, _: looks.window(image, 0.05, 0.6)),
        "window wide": grey(lambda image, _: looks.window(image, -0.1, 1.4)),
        "coil shading": grey(lambda image, _: looks.coil_shading(image, (0.9, 0.5), 0.45, 0.15)),
        "fat suppressed": grey(lambda image, _: looks.fat_suppressed(image, 0.9)),
        "blur": grey(lambda image, _: looks.blur(image, 1.3 * max(image.shape) / 320)),
        "noise": grey(lambda image, rng: looks.noise(image, 0.06, rng)),
        "coarse rows": grey(lambda image, _: looks.anisotropic(image, 2.5, along_rows=False)),
        "coarse columns": grey(lambda image, _: looks.anisotropic(image, 2.5, along_rows=True)),
        "2 levels cut at top": cut_at_top(2),
        "4 levels cut at top": cut_at_top(4),
        "1 level cut at bottom": cut_at_bottom(1),
        "3 levels cut at bottom": cut_at_bottom(3),
        "smaller": scaled(0.65),
        "larger": scaled(1.3),
        "tight crop": cropped(2.0),
        "turned 10": turned(10),
        "turned -10": turned(-10),
        "turned 90": turned(90),
        "turned 180": turned(180),
        "flipped": flipped,
        "vertebra removed": without_vertebra,
        "vertebra doubled": with_vertebra_twice,
    }
)
"""The changes of a spine, by name."""
