"""Fat suppression and contrast of a sagittal spine from its pixels, where no header states them.

Everything depends on one path: the spinal canal. It is found as a narrow upright band that is
brighter than its surroundings in front and behind. Brightness is compared row by row on the path,
in front of it (marrow), behind it (muscle) and under the skin of the back (fat). So the fall-off of
the coil has little effect. Images are in standard orientation (face to the left, head up), float,
not windowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from spineline.datasets.common.arrays import Float32Array, FloatArray, IntArray
from spineline.datasets.dicom.kinds import DixonPart

_GRID_MM = 1.5
_ASSUMED_HEIGHT_MM = 300.0  # height of an image without pixel spacing
_ROWS = (0.12, 0.72)  # fractions of the image's height between which the canal is followed
_CANAL_MM = 25.0  # a band as wide as this is not the canal
_CANAL_TO_SKIN_MM = (30.0, 135.0)
_MARROW_MM = (14.0, 39.0)  # in front of the middle of the canal
_MUSCLE_MM = 9.0  # behind the middle of the canal, where muscle begins
_SKIN_MM = 24.0  # depth under the skin of the back in which fat is searched
_LEAST = 0.02  # lowest brightness, as a fraction of its range; darker values count as this

_CLEAR_CANAL, _EVEN_CANAL, _BRIGHT_CANAL = 1.2, 0.35, 0.4
_SUPPRESSED_SCORE = -1.2
_SUPPRESSED_FAT = 0.6
_T1_CANAL, _T1_FAT = 0.95, 1.8
_DARK_FAT, _PLAIN_FAT, _RATIO_OF_PLAIN_FAT = 0.35, 0.4, 2.0
_RATIO_OF_MARROW = 2.0  # of T1 to T2
_RATIO_OF_FAT_TO_WATER = 3.0
_WATER_FAT, _NEARLY_AS_DARK = 0.5, 1.5


@dataclass(frozen=True, slots=True)
class SagittalLook:
    """Brightness in a sagittal spine, as medians over the rows of the canal.

    Attributes:
        canal: contrast of the canal, relative to the mean brightness around it.
        evenness: the canal's brightness in the darkest fifth of rows, relative to its median; a
            row of bright spots is not a canal.
        marrow: brightness of vertebrae (and discs), relative to the canal's.
        fat: greatest brightness under the skin of the back, relative to the canal's.
        fat_to_muscle: the same relative to the brightness of muscle.
        marrow_to_muscle: brightness of vertebrae relative to that of muscle.
    """

    canal: float
    evenness: float
    marrow: float
    fat: float
    fat_to_muscle: float
    marrow_to_muscle: float

    @property
    def has_suppressed_fat(self) -> bool:
        """Whether fluid is bright and fat, in marrow and under the skin, is not.

        The thresholds come from frames without fat suppression and one fat-suppressed study. Marrow
        nearly as dark as muscle counts as much as dark fat under the skin.
        """
        ratios = self.marrow / 0.25, self.fat / 0.5, self.fat_to_muscle / 3, self.marrow_to_muscle
        score = float(np.sum(np.log(np.maximum(ratios, 1e-3)))) - float(np.log(1.5))
        return (
            self.canal >= _CLEAR_CANAL
            and self.evenness >= _EVEN_CANAL
            and self.fat <= _SUPPRESSED_FAT
            and score <= _SUPPRESSED_SCORE
        )

    @property
    def is_like_t1(self) -> bool:
        """Whether fat is by far the brightest and there is no bright canal."""
        return self.canal < _T1_CANAL and self.fat > _T1_FAT


@dataclass(frozen=True, slots=True)
class _Path:
    """The canal in an image on the common grid: rows, columns, and the skin's column by row."""

    rows: IntArray
    columns: IntArray
    skin: IntArray
    contrast: float


def look_at_sagittal(
    image: Float32Array, spacing_rc_mm: tuple[float, float] | None = None
) -> SagittalLook | None:
    """Measure the middle slice of a sagittal stack; None if no body is visible.

    Args:
        image: (rows, columns) in standard orientation.
        spacing_rc_mm: between rows and columns; None assumes an image 300 mm long.
    """
    values = _on_grid(image, spacing_rc_mm)
    path = None if values is None else _canal(values)
    if values is None or path is None:
        return None
    canal, marrow, muscle, fat = _along(values, path)
    return SagittalLook(
        path.contrast,
        float(np.percentile(canal, 20) / np.median(canal)),
        float(np.median(marrow / canal)),
        float(np.median(fat / canal)),
        float(np.median(fat / np.maximum(muscle, _LEAST / 2))),
        float(np.median(marrow / np.maximum(muscle, _LEAST / 2))),
    )


@dataclass(frozen=True, slots=True)
class PlaceLook:
    """Brightness of one of several images of the same place, along the one canal of all.

    Attributes:
        fat: greatest brightness under the skin of the back, relative to the canal's.
        marrow: brightness of vertebrae (and discs), relative to the canal's.
    """

    fat: float
    marrow: float

    def is_like_t1(self, others: Sequence[PlaceLook | None]) -> bool:
        """Whether fat is far brighter than the canal, and marrow brighter than in another image."""
        plain = (each.marrow for each in others if each is not None and each.fat < _T1_FAT)
        return self.fat >= _T1_FAT and self.marrow >= _RATIO_OF_MARROW * min(plain, default=np.inf)

    def has_suppressed_fat(self, others: Sequence[PlaceLook | None]) -> bool:
        """Whether fat is much darker than in another T2 image of the place that shows it."""
        plain = (each.fat for each in others if each is not None and each.fat < _T1_FAT)
        brightest = max(plain, default=0.0)
        is_shown = brightest >= _PLAIN_FAT
        return is_shown and self.fat <= min(_DARK_FAT, brightest / _RATIO_OF_PLAIN_FAT)


def look_at_one_place(
    images: Sequence[Float32Array], spacing_rc_mm: tuple[float, float] | None = None
) -> tuple[PlaceLook | None, ...]:
    """Measure images of one place along the canal of the one that shows it best.

    Args:
        images: (rows, columns) each, of one slice position and size, in standard orientation.
        spacing_rc_mm: between rows and columns.

    Returns:
        A look for each image that shows something, if at least two do; else only None.
    """
    grids = [_on_grid(image, spacing_rc_mm) for image in images]
    paths = [path for grid in grids if grid is not None and (path := _even_canal(grid)) is not None]
    if sum(grid is not None for grid in grids) < 2 or not paths:
        return (None,) * len(images)
    looks = [[None if grid is None else _at(grid, path) for grid in grids] for path in paths]
    return tuple(max(looks, key=_disparity))


def _even_canal(values: Float32Array) -> _Path | None:
    """The canal, unless it is dark, or a row of bright spots."""
    path = _canal(values)
    if path is None:
        return None
    canal, *_ = _along(values, path)
    middle = float(np.median(canal))
    is_even = np.percentile(canal, 20) >= _EVEN_CANAL * middle
    return path if is_even and middle >= _BRIGHT_CANAL else None


def _at(values: Float32Array, path: _Path) -> PlaceLook:
    canal, marrow, _, fat = (float(np.median(each)) for each in _along(values, path))
    canal = max(canal, _LEAST)
    return PlaceLook(fat / canal, marrow / canal)


def _disparity(looks: Iterable[PlaceLook | None]) -> float:
    """How much images differ along a path; most along the canal, where fluid is, less elsewhere."""
    fat = [max(look.fat, _LEAST) for look in looks if look is not None]
    return max(fat) / min(fat)


def dixon_parts(
    images: Sequence[Float32Array],
    spacing_rc_mm: tuple[float, float] | None = None,
    *,
    least_fat: float = _T1_FAT,
) -> tuple[DixonPart | None, ...]:
    """Identify images of a Dixon scan by comparing their brightness at the same places.

    Water has the lowest ratio of fat to canal, and fat the highest. Of the others, the one with the
    brightest marrow is in phase, if it is brighter than that of water. If several are as dark in
    their fat as water, they are out of phase, with darker marrow. Only clear cases are named.

    Args:
        images: (rows, columns) each, of one slice position and size, in standard orientation.
        spacing_rc_mm: between rows and columns.
        least_fat: lowest ratio of fat to canal in a fat image.
    """
    looks = look_at_one_place(images, spacing_rc_mm)
    known = {n: look for n, look in enumerate(looks) if look is not None}
    parts: list[DixonPart | None] = [None] * len(images)
    if len(known) < 2:
        return tuple(parts)
    darkest, brightest = (pick(known, key=lambda n: known[n].fat) for pick in (min, max))
    least = known[darkest].fat
    if known[brightest].fat < _RATIO_OF_FAT_TO_WATER * least:
        return tuple(parts)
    dark = [n for n in known if known[n].fat <= _NEARLY_AS_DARK * least]
    water = max(dark, key=lambda n: known[n].marrow)
    rest = {n: known[n].marrow for n in known}
    if known[brightest].fat >= least_fat:
        parts[brightest] = "fat"
        del rest[brightest]
    if least <= _WATER_FAT:
        parts[water] = "water"
        del rest[water]
    in_phase = max(rest, key=lambda n: rest[n], default=None)
    for n, marrow in rest.items():
        is_bright = n == in_phase and (parts[water] is None or marrow > known[water].marrow)
        parts[n] = "in-phase" if is_bright else "opposed-phase"
    return tuple(parts)


def _on_grid(image: Float32Array, spacing_rc_mm: tuple[float, float] | None) -> Float32Array | None:
    """The image on pixels of 1.5 mm, with brightness from 0 (air) to 1 (nearly the brightest)."""
    one = _ASSUMED_HEIGHT_MM / max(image.shape)
    row_mm, column_mm = spacing_rc_mm or (one, one)
    height = round(image.shape[0] * row_mm / _GRID_MM)
    width = round(image.shape[1] * column_mm / _GRID_MM)
    if not (64 <= height <= 1024 and 64 <= width <= 1024):
        return None
    values = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    low, high = (float(v) for v in np.percentile(values, (5, 99.5)))
    if not high > low:
        return None
    return np.clip((values - low) / (high - low), 0, 2).astype(np.float32)


def _canal(values: Float32Array) -> _Path | None:
    """The brightest narrow upright band that lies at the canal's depth under the skin."""
    skin = _skin_of_the_back(values)
    if skin is None:
        return None
    height, width = values.shape
    smooth = cv2.blur(values, (3, 9))
    line = cv2.getStructuringElement(cv2.MORPH_RECT, (round(_CANAL_MM / _GRID_MM), 1))
    opened = cv2.morphologyEx(smooth, cv2.MORPH_OPEN, line)
    stands_out = (smooth - opened) / (cv2.blur(values, (41, 41)) + _LEAST)
    depth = (skin[:, None] - np.arange(width)[None]) * _GRID_MM
    near, far = _CANAL_TO_SKIN_MM
    stands_out[(depth < near) | (depth > far)] = 0
    rows = np.arange(int(height * _ROWS[0]), int(height * _ROWS[1]))
    columns = _best_way_down(stands_out[rows])
    return _Path(rows, columns, skin, float(np.median(stands_out[rows, columns])))


def _skin_of_the_back(values: Float32Array) -> IntArray | None:
    """The last column of the body in each row, or 0 without one."""
    smooth = cv2.GaussianBlur(values, (0, 0), 1.0)
    bright = cv2.morphologyEx(
        (smooth > 0.05).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)
    )
    count, labels, stats, _ = cv2.connectedComponentsWithStats(bright)
    if count < 2:
        return None
    body = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    last = body.shape[1] - 1 - body[:, ::-1].argmax(axis=1)
    return np.where(body.any(axis=1), last, 0)


def _best_way_down(gain: Float32Array) -> IntArray:
    """The column in each row of the path down with the largest gain, at most one column per row."""
    total = np.zeros(gain.shape[1])
    left, right = np.full_like(total, -np.inf), np.full_like(total, -np.inf)
    steps = np.empty(gain.shape, np.int8)
    for row, step in zip(gain, steps, strict=True):
        left[1:], right[:-1] = total[:-1] - 0.02, total[1:] - 0.02
        best = np.maximum(left, total)
        step[:] = total > left
        step[right > best] = 2
        step -= 1
        total = np.maximum(best, right) + row
    column = int(total.argmax())
    way = []
    for step in steps[::-1]:
        way.append(column)
        column += int(step[column])
    return np.array(way[::-1])


def _along(
    values: Float32Array, path: _Path
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Brightness by row of the canal (with a lower limit), marrow, muscle and fat of the back."""
    lengths_mm = (_MARROW_MM[1], _MARROW_MM[0], _MUSCLE_MM, _SKIN_MM)
    far, near, behind, depth = (round(mm / _GRID_MM) for mm in lengths_mm)
    found = []
    for y, x in zip(path.rows, path.columns, strict=True):
        row, skin = values[y], int(path.skin[y])
        canal = row[max(x - 2, 0) : x + 3].max()
        marrow = np.sort(row[max(x - far, 0) : max(x - near, 1)])
        muscle = np.sort(row[x + behind - 2 : max(skin - depth // 2, x + behind + 1)])
        fat = np.sort(row[max(skin - depth, x + behind - 2) : skin])
        if muscle.size and fat.size > 3:  # sorting is much faster here than a percentile
            found.append((canal, marrow[marrow.size // 2], muscle[muscle.size // 4], fat[-3]))
    table = np.array(found or [(_LEAST, 0.0, 0.0, 0.0)], dtype=np.float64)
    return np.maximum(table[:, 0], _LEAST), table[:, 1], table[:, 2], table[:, 3]
