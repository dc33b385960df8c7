"""Text in the pixels, as scanners and exports burn it in: letters in a row, told by their shape.

No letter is read. A piece counts as letters where it is as high as letters are, thin (not a filled
block), and stands on one line with others of about its height, close beside them. Pieces are looked
for where the image is brighter than a share of its range: text is nearly as bright as anything in
an MR image, and anatomy hardly ever stands in rows.

Measured on 150 T2 frames of lumbar spines, windowed, 256 to 640 pixels high, none with text: the
longest row was of 4 letters; on the same frames turned, mirrored, enlarged, shrunk, noisy and with
other contrasts (1,350) it was of 6, which is taken for text, or more in 4. Of white text with
letters 8 to 20 pixels high, drawn into the corners of these frames by two versions of OpenCV, 92 to
100 % were found; of text at three quarters of the brightest pixel, 90 to 99 %. Text darker than
half of it, upright lines of text, and fewer than six letters are not found.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from spineline.datasets.images import GreyImage

LEAST_LETTERS = 6
"""Letters in a row that are taken for text."""

MAX_SEARCHED_PIXELS = 4_000_000
"""Larger images are not searched; no slice of an MR study is."""

_SHARES = (0.5, 0.8)  # of the image's range; the lower finds fine letters, the upper those on fat
_LEAST_PIECES = 3  # letters that touch are one piece; fewer pieces make no row
_HIGH = (5, 40)  # letters in pixels
_WIDE = 4.0  # letters that touch, in heights
_LETTER_WIDE = 1.4  # one letter with its serifs, in heights
_TOUCHING_WIDE = 0.9  # each of several letters in one piece, in heights
_FULL = (0.8, 0.8)  # least pixels by height, most by the box: strokes, and no filled block
_OUTLINE = (8, 500)  # pixels
_MOST_PIECES = 300
_STROKE_WIDE = 0.3  # a single upright stroke, in heights: it fills its box
_GAP = (-0.25, 1.8)  # between neighbours, in heights: slanted letters overlap, words stand apart
_LIKE_HIGH = 0.6  # small letters beside capitals
_ON_LINE = 0.12  # feet of neighbours, in heights

_Piece = tuple[int, int, int, int]


def letters_in_a_row(pixels: GreyImage) -> int:
    """The length of the longest row of letter-like pieces; 0 where there is none.

    Args:
        pixels: (rows, columns), bright being bright, the way round in which they are stored, since
            text is level there.
    """
    if pixels.size == 0 or pixels.size > MAX_SEARCHED_PIXELS:
        return 0
    image = np.ascontiguousarray(pixels)
    least, most = cv2.minMaxLoc(image)[:2]
    if not np.isfinite(most - least) or most <= least:
        return 0
    rows = [
        _longest_row(_pieces(cv2.compare(image, least + share * (most - least), cv2.CMP_GE)))
        for share in _SHARES
    ]
    return max(rows)


def looks_like_text(pixels: GreyImage) -> bool:
    """Whether something in an image stands in a row as letters do.

    >>> looks_like_text(np.zeros((64, 64), np.uint8))
    False
    """
    return letters_in_a_row(pixels) >= LEAST_LETTERS


def _pieces(bright: npt.NDArray[np.uint8]) -> list[_Piece]:
    """Left, top, width and height of what may be letters in a mask; none in too busy a one."""
    outlines = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    least, most = _OUTLINE
    boxes = [cv2.boundingRect(line) for line in outlines if least <= len(line) <= most]
    found = [(x, y, w, h) for x, y, w, h in boxes if _is_like_letters(bright, x, y, w, h)]
    return found if len(found) <= _MOST_PIECES else []


def _is_like_letters(bright: npt.NDArray[np.uint8], x: int, y: int, w: int, h: int) -> bool:
    if not (_HIGH[0] <= h <= _HIGH[1] and w <= _WIDE * h):
        return False
    if w <= _STROKE_WIDE * h:
        return True
    full = cv2.countNonZero(bright[y : y + h, x : x + w])
    return _FULL[0] * h <= full <= _FULL[1] * w * h


def _longest_row(pieces: Sequence[_Piece]) -> int:
    """Letters in the longest row of pieces that follow each other on one line."""
    if len(pieces) < _LEAST_PIECES:
        return 0
    boxes = np.array(sorted(pieces), dtype=np.float64)
    letters = _letters(boxes).tolist()
    rows = [(count, 1) for count in letters]  # letters and pieces of the longest row up to each
    for number, before in zip(*np.nonzero(_follow(boxes)), strict=True):
        count, pieces_before = rows[before]
        rows[number] = max(rows[number], (count + letters[number], pieces_before + 1))
    return max((count for count, members in rows if members >= _LEAST_PIECES), default=0)


def _letters(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """How many letters each of (n, 4) pieces may hold; they touch each other in a wide one."""
    wide = boxes[:, 2] / boxes[:, 3]
    return np.where(wide <= _LETTER_WIDE, 1, np.rint(wide / _TOUCHING_WIDE)).astype(np.int64)


def _follow(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """(n, n): whether a piece stands on the line of an earlier one, close to the right of it.

    Args:
        boxes: (n, 4) left, top, width and height, by the left.
    """
    left, top, width, height = boxes.T
    foot, right = top + height, left + width
    high = np.maximum(height[:, None], height)
    low = np.minimum(height[:, None], height)
    gap = left[:, None] - right
    on_line = np.abs(foot[:, None] - foot) <= np.maximum(1.0, _ON_LINE * high)
    beside = (gap >= _GAP[0] * high) & (gap <= _GAP[1] * high)
    return np.tril(on_line & beside & (low >= _LIKE_HIGH * high), -1)
