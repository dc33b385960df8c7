"""Doubts, each with a name: what a reader should know before an answer is believed.

A warning is a line of text that begins with a code word, such as ``view_cuts_spine: …``. The words
are stable and stand in `CODES`; programs look for them with `codes_of`, people read on. The same
warnings are in ``result.json``, ``log.txt`` and on the terminal, their codes in ``results.csv`` and
in the title of the overlay.

Places are pixels of the frame as the models saw it: upright, x right, y down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from spineline.datasets.labels import LEVELS

if TYPE_CHECKING:
    from spineline.pipeline.inference.decode import DecodedSpine
    from spineline.pipeline.inference.sources import Frame

FloatArray = npt.NDArray[np.float64]

CODES: dict[str, str] = {
    "missing_levels": "levels without a structure, and why",
    "few_levels": "less than half of the levels were found: no lumbar spine, or not upright?",
    "low_confidence": "boxes that the detector is not sure of",
    "naming_in_doubt": "every name may be one or two rungs off",
    "naming_abstained": "the levels are a guess, by min_naming_probability",
    "transitional_anatomy": "more rungs than levels: the count does not fit",
    "spacing_implausible": "structures or pixels lie further apart, or closer, than they can",
    "view_cuts_spine": "the edge of the image cuts the spine",
    "orientation_unusual": "the slice was set upright, is oblique, or its spine leans",
    "no_geometry": "no usable pixel spacing, orientation or position: points have no millimetres",
    "slice_choice": "what speaks against the series or slice that was taken",
    "files_left_out": "files of the study that are damaged",
    "burned_in_text": "the pixels may show text, such as the patient's name",
    "identity_in_name": "a folder's or file's name holds the patient's name, number or birth date",
}
"""The code words and what each says."""

_RUNG_MM = (10.0, 30.0)  # vertebra to disc; a lumbar segment of an adult is 33 to 44 mm high
_LEAST_RUNGS = 4  # fewer say little about a spacing
_MOST_TILT = 25.0  # degrees; the spines of 150 labelled frames lean 4 on average and 15 at most
_MOST_OBLIQUE = 25.0  # degrees between the slice's normal and the patient's x axis
_MOST_ASPECT = 1.5  # pixels this much higher than wide, or wider than high, are hardly true


class Places(Protocol):
    """What is asked of candidates: centres (N, 2), heights (N,) in pixels and confidence (N,)."""

    @property
    def point_xy(self) -> FloatArray: ...  # noqa: D102

    @property
    def height(self) -> FloatArray: ...  # noqa: D102

    @property
    def confidence(self) -> FloatArray: ...  # noqa: D102


def warning(code: str, text: str) -> str:
    """A line that begins with a code word of `CODES`.

    Raises:
        KeyError: no such code word.
    """
    CODES[code]
    return f"{code}: {text}"


def codes_of(warnings: Iterable[str]) -> tuple[str, ...]:
    """The code words of warnings, each once, in their order; other lines have none.

    >>> codes_of(["view_cuts_spine: T12-L1", "by an earlier version", "view_cuts_spine: L5-S1"])
    ('view_cuts_spine',)
    """
    words = (line.partition(":")[0] for line in warnings)
    return tuple(dict.fromkeys(word for word in words if word in CODES))


def choice_warning(text: str) -> str:
    """A remark on the choice of the slice, with its code word."""
    if text.startswith("file ") and "left out" in text:
        return warning("files_left_out", text)
    if text.startswith(("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")):
        return warning("no_geometry", text)
    return warning("slice_choice", text)


def few_levels(count: int) -> tuple[str, ...]:
    """A warning where less than half of the levels were found."""
    if count * 2 >= len(LEVELS):
        return ()
    text = (
        f"only {count} of {len(LEVELS)} levels found: is this a sagittal T2 image of a lumbar "
        "spine, head up, face to the left, fluid bright?"
    )
    return (warning("few_levels", text),)


def further_places(
    candidates: Places, points_xy: FloatArray, heights: FloatArray, *, confidence: float
) -> tuple[str, ...]:
    """A warning where the detector is sure of places that the named levels leave over.

    A spine of eleven levels leaves none: with the bundled detector 0 of 150 labelled frames had
    such a place, with one trained on two thirds of them 2.

    Args:
        candidates: the detector's, of one image.
        points_xy: (M, 2) of the structures chosen, top to bottom.
        heights: (M,) of their boxes; a rung is half of it.
        confidence: of a box that counts as sure.
    """
    if not len(points_xy):
        return ()
    rung = float(np.median(heights)) / 2
    places: list[FloatArray] = []
    order = np.argsort(-candidates.confidence, kind="stable")
    for point in candidates.point_xy[order][candidates.confidence[order] >= confidence]:
        known = np.concatenate([points_xy, np.array(places).reshape(-1, 2)])
        if np.hypot(*(known - point).T).min() > rung / 2 and _in_line(point, points_xy, rung):
            places.append(point)
    if not places:
        return ()
    y = np.array([place[1] for place in places])
    above, below = int((y < points_xy[0, 1]).sum()), int((y > points_xy[-1, 1]).sum())
    parts = (("above", above), ("between", len(places) - above - below), ("below", below))
    where = ", ".join(f"{count} {word}" for word, count in parts if count)
    text = (
        f"{len(places)} more places look like a vertebra or disc than the levels named ({where} "
        "them): a transitional vertebra, a sixth lumbar one, or a wrong name; count by hand"
    )
    return (warning("transitional_anatomy", text),)


def _in_line(point: FloatArray, points_xy: FloatArray, rung: float) -> bool:
    """Whether a place lies in the spine or within two rungs and a half of one of its ends."""
    nearest = points_xy[np.abs(points_xy[:, 1] - point[1]).argmin()]
    return bool(np.hypot(*(nearest - point)) <= 2.5 * rung)


def doubts(frame: Frame, spine: DecodedSpine, *, confidence: float) -> tuple[str, ...]:
    """What the places found say against the view, the spacing and the orientation; text in view.

    Args:
        frame: as the models saw it.
        spine: in the coordinates of the frame.
        confidence: boxes less sure are told.
    """
    points = np.array([s.point_xy for s in spine.structures], dtype=np.float64).reshape(-1, 2)
    ranks = [LEVELS.index(s.level) for s in spine.structures]
    heights = np.array([s.box_xyxy[3] - s.box_xyxy[1] for s in spine.structures])
    return (
        *_unusual_slice(frame),
        *_leaning(points),
        *_cut(frame, points, ranks, heights),
        *_odd_spacing(frame, points, ranks),
        *_weak(spine, confidence),
        *_text_in(frame),
    )


def _text_in(frame: Frame) -> list[str]:
    """Letters in the pixels, where nothing else has told of them."""
    from spineline.datasets.dicom.burned_text import looks_like_text  # OpenCV is slow to import

    if "burned_in_text" in codes_of(frame.warnings):
        return []
    turn, stored = frame.turn, frame.image
    stored = stored[::-1] if turn.flip_y else stored
    stored = stored[:, ::-1] if turn.flip_x else stored
    if not looks_like_text(stored.T if turn.transpose else stored):
        return []
    text = "the image may show the patient's name or number: something in it stands in a row as "
    text += "letters do; look before you pass pictures on"
    return [warning("burned_in_text", text)]


def _unusual_slice(frame: Frame) -> list[str]:
    """Oblique slices, and pixels far from square, by the header."""
    header, found = frame.header, []
    normal = None if header is None else header.normal
    if header is not None and normal is not None and header.is_sagittal:
        angle = math.degrees(math.acos(min(abs(float(normal[0])), 1.0)))
        if angle > _MOST_OBLIQUE:
            text = f"the slice lies {angle:.0f} degrees off the sagittal plane"
            found.append(warning("orientation_unusual", text))
    if header is not None and header.spacing_rc_mm is not None:
        between_rows, between_columns = header.spacing_rc_mm
        if not 1 / _MOST_ASPECT <= between_rows / between_columns <= _MOST_ASPECT:
            text = (
                f"pixels are {between_rows:g} mm high and {between_columns:g} mm wide by the "
                "header; the image is looked at as stored, and millimetres may be wrong"
            )
            found.append(warning("spacing_implausible", text))
    return found


def _leaning(points: FloatArray) -> list[str]:
    if len(points) < _LEAST_RUNGS:
        return []
    dx, dy = points[-1] - points[0]
    angle = math.degrees(math.atan2(abs(dx), dy))
    if angle <= _MOST_TILT:
        return []
    text = f"the spine leans {angle:.0f} degrees: is the image upright? Levels are less sure on it"
    return [warning("orientation_unusual", text)]


def _cut(frame: Frame, points: FloatArray, ranks: Sequence[int], heights: FloatArray) -> list[str]:
    """Levels at an end that the frame leaves no room for, and an end's structure at its edge."""
    if len(points) < 2:
        return []
    height = frame.image.shape[0]
    last = len(LEVELS) - 1
    found = []
    for end, inner, outermost, step in ((0, 1, 0, -1), (-1, -2, last, 1)):
        rung = (points[end] - points[inner]) / abs(ranks[end] - ranks[inner])
        y = float(points[end, 1])
        names = LEVELS[: ranks[end]] if step < 0 else LEVELS[ranks[end] + 1 :]
        if ranks[end] != outermost and not 0 <= y + float(rung[1]) <= height - 1:
            edge = "above" if step < 0 else "below"
            text = f"the image ends {edge} {LEVELS[ranks[end]]}, where {', '.join(names)} would lie"
            found.append(warning("view_cuts_spine", f"{text}; take levels with care"))
        elif min(y, height - 1 - y) < heights[end] / 8:  # a rung is half a box, its half a quarter
            text = f"{LEVELS[ranks[end]]} lies at the very edge of the image, which may cut it"
            found.append(warning("view_cuts_spine", text))
    return found


def _odd_spacing(frame: Frame, points: FloatArray, ranks: Sequence[int]) -> list[str]:
    """A distance from level to level, in the header's millimetres, that no spine has."""
    spacing = None if frame.header is None else frame.header.spacing_rc_mm
    if spacing is None or len(points) < _LEAST_RUNGS:
        return []
    per_y, per_x = spacing[::-1] if frame.turn.transpose else spacing
    steps = np.hypot(np.diff(points[:, 0]) * per_x, np.diff(points[:, 1]) * per_y) / np.diff(ranks)
    typical = float(np.median(steps))
    if _RUNG_MM[0] <= typical <= _RUNG_MM[1]:
        return []
    text = (
        f"vertebra and disc lie {typical:.1f} mm apart by the header's PixelSpacing, wanted "
        f"{_RUNG_MM[0]:g} to {_RUNG_MM[1]:g}: the spacing is wrong, or this is no grown spine"
    )
    return [warning("spacing_implausible", text)]


def _weak(spine: DecodedSpine, limit: float) -> list[str]:
    weak = [f"{s.level} {s.confidence:.2f}" for s in spine.structures if s.confidence < limit]
    if not weak:
        return []
    text = f"the detector's confidence is below {limit:g}: {', '.join(weak)}"
    return [warning("low_confidence", text)]
