"""Doubts about a spine that was found: its count, spacing, naming, view and orientation.

Places are pixels of the frame as the models saw it: upright, x right, y down.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.common.remarks import Remark
from spineline.datasets.labels import LEVELS
from spineline.datasets.volumes.volume import volume_suffix
from spineline.pipeline.inference.candidates import Candidates, DecodedStructure
from spineline.pipeline.inference.decode import DecodedSpine, DecodeSettings, Reason
from spineline.pipeline.inference.naming import Naming
from spineline.pipeline.inference.sources.frame import Frame
from spineline.pipeline.inference.warnings import codes_of, warning

_REASONS: dict[Reason, str] = {
    "no_candidate": "no box of this level",
    "low_confidence": "its boxes are too doubtful",
    "spacing_implausible": "its boxes lie where the spacing of the spine does not allow them",
    "out_of_order": "its boxes lie above or below where the order of levels allows them",
}
_STEP_MM = (10.0, 30.0)  # vertebra to disc; a lumbar segment of an adult is 33 to 44 mm high
_LEAST_VERTEBRAE = 3  # fewer say little about a height
_LEAST_STRUCTURES = 4  # fewer say little about a spacing
_MOST_TILT = 25.0  # degrees; the spines of 150 labelled frames lean 4 on average and 15 at most
_MOST_OBLIQUE = 25.0  # degrees between the slice's normal and the patient's x axis
_MOST_ASPECT = 1.5  # pixels this much higher than wide, or wider than high, are hardly true
_ODD_GAP = 1.8  # of 1,000 labelled gaps the widest is 1.74 times the rule's, the narrowest 0.57
_ODD_HEIGHTS = (0.65, 1.5)  # 1,425 labelled vertebrae of 285 frames: 0.68 to 1.28 but for 7
_LEAST_BELOW = 1.75  # ranks of image below L5-S1, in which the sacrum is known
_LEAST_RIVAL = 0.05  # rivals less probable than this are not named


def spine_warnings(
    frame: Frame,
    candidates: Candidates,
    spine: DecodedSpine,
    *,
    settings: DecodeSettings,
    min_naming_probability: float,
) -> tuple[Remark, ...]:
    """All warnings about a spine.

    Args:
        frame: as the models saw it.
        candidates: the detector's, from which the spine was decoded.
        spine: in the coordinates of the frame.
        settings: of the decoding; boxes below its confidence are named.
        min_naming_probability: below it, the naming is abstained.
    """
    found, confidence = spine.structures, settings.confidence
    of_chain: list[Remark] = []
    if settings.method == "spine":
        of_chain += further_places(candidates, found, confidence=confidence)
        of_chain += unequal_heights(found)
        of_chain += _odd_gaps(found)
        of_chain += sacrum_unseen(found, frame.image.shape[0])
        of_chain += naming_in_doubt(spine.naming, settings.sure_naming)
    return (
        *few_levels(len(found)),
        *of_chain,
        *naming_abstained(spine.naming, min_naming_probability),
        *_missing_levels(spine),
        *_unusual_slice(frame),
        *_leaning(found),
        *_cut_view(frame, found),
        *_odd_spacing(frame, found),
        *_low_confidence(found, confidence),
        *_text_in_pixels(frame),
    )


def few_levels(count: int) -> list[Remark]:
    """A warning if less than half of the levels were found."""
    if count * 2 >= len(LEVELS):
        return []
    text = (
        f"only {count} of {len(LEVELS)} levels found: is this a sagittal T2 image of a lumbar "
        "spine, head up, face to the left, fluid bright?"
    )
    return [warning("few_levels", text, count=count)]


def further_places(
    candidates: Candidates, structures: Sequence[DecodedStructure], *, confidence: float
) -> list[Remark]:
    """A warning if the detector is confident of places that the named levels do not cover.

    A spine of eleven levels has none. With the bundled detector, 0 of 150 labelled frames had such
    a place, with one trained on two thirds of them 2.

    Args:
        candidates: the detector's, of one image.
        structures: those chosen, top to bottom.
        confidence: minimum confidence of such a box.
    """
    if not structures:
        return []
    points_xy = _points_of(structures)
    step = float(np.median([structure.height for structure in structures])) / 2
    places: list[FloatArray] = []
    order = np.argsort(-candidates.confidence, kind="stable")
    for point in candidates.point_xy[order][candidates.confidence[order] >= confidence]:
        known = np.concatenate([points_xy, np.array(places).reshape(-1, 2)])
        nearest = points_xy[np.abs(points_xy[:, 1] - point[1]).argmin()]
        in_line = np.hypot(*(nearest - point)) <= 2.5 * step
        if in_line and np.hypot(*(known - point).T).min() > step / 2:
            places.append(point)
    if not places:
        return []
    y = np.array([place[1] for place in places])
    above, below = int((y < points_xy[0, 1]).sum()), int((y > points_xy[-1, 1]).sum())
    parts = (("above", above), ("between", len(places) - above - below), ("below", below))
    where = ", ".join(f"{count} {word}" for word, count in parts if count)
    more = "1 more place looks" if len(places) == 1 else f"{len(places)} more places look"
    text = (
        f"{more} like a vertebra or disc than the levels named ({where} "
        "them): a transitional vertebra, a sixth lumbar one, or a wrong name; count by hand"
    )
    return [warning("transitional_anatomy", text, **dict(parts))]


def unequal_heights(structures: Sequence[DecodedStructure]) -> list[Remark]:
    """A warning if a vertebra, from disc to disc, is much lower or higher than the others.

    It may be collapsed or fused with its neighbour, or two vertebrae, or half of one, may be
    counted as one.
    """
    points = {s.rank: s.point_xy for s in structures}
    heights = {
        LEVELS[rank]: math.dist(points[rank - 1], points[rank + 1])
        for rank in range(1, len(LEVELS), 2)
        if {rank - 1, rank + 1} <= points.keys()
    }
    if len(heights) < _LEAST_VERTEBRAE:
        return []
    usual = float(np.median(list(heights.values())))
    low, high = _ODD_HEIGHTS
    odd = {level: h / usual for level, h in heights.items() if not low <= h / usual <= high}
    if not odd:
        return []
    named = ", ".join(f"{level} {share:.1f} times" for level, share in odd.items())
    text = (
        f"from disc to disc, {named} the height of the others: collapsed or fused vertebrae, or "
        "names that count one twice; count by hand"
    )
    return [warning("transitional_anatomy", text, levels=tuple(odd))]


def sacrum_unseen(structures: Sequence[DecodedStructure], height: int) -> list[Remark]:
    """A warning if names cannot be counted from the sacrum.

    Either the lowest levels were not found although the image has space for them, or the image ends
    where the sacrum would begin: 285 labelled frames have at least 1.9 ranks below L5-S1.

    Args:
        structures: top to bottom.
        height: of the image in pixels.
    """
    if len(structures) < 2:
        return []
    last, below = structures[-1], ranks_below(structures, height)
    missing = LEVELS[last.rank + 1 :]
    if below < _LEAST_BELOW:
        text = "the image ends before the sacrum, from which levels are counted"
    elif missing:
        text = (
            f"nothing was found below {last.level}, where the image has room for "
            f"{', '.join(missing)} and the sacrum"
        )
    else:
        return []
    wording = f"levels may be off: {text}; compare with another image of the patient"
    return [warning("naming_in_doubt", wording, level=last.level, levels=missing)]


def ranks_below(structures: Sequence[DecodedStructure], height: int) -> float:
    """Ranks of image below the place of L5-S1; negative if that lies outside.

    Args:
        structures: top to bottom, at least one.
        height: of the image in pixels.
    """
    top, bottom = structures[0], structures[-1]
    steps = bottom.rank - top.rank
    step = (bottom.point_xy[1] - top.point_xy[1]) / steps if steps else bottom.height / 2
    lowest = bottom.point_xy[1] + (len(LEVELS) - 1 - bottom.rank) * step
    return (height - 1 - lowest) / step


def naming_in_doubt(naming: Naming | None, sure: float) -> list[Remark]:
    """A warning if the probability is below ``sure``, with the rivals and their probabilities."""
    if naming is None or naming.probability >= sure:
        return []
    near = [rival for rival in naming.rivals if rival.probability >= _LEAST_RIVAL]
    near = near or [max(naming.rivals, key=lambda rival: rival.probability)]
    near.sort(key=lambda rival: (abs(rival.shift), rival.shift))
    ways = [
        list(rivals) for _, rivals in itertools.groupby(near, key=lambda rival: abs(rival.shift))
    ]
    off = " or ".join(("one", "two")[abs(rivals[0].shift) - 1] for rivals in ways)
    words = (
        f"{('one level', 'two levels')[abs(rivals[0].shift) - 1]} "
        + " or ".join("higher" if rival.shift < 0 else "lower" for rival in rivals)
        for rivals in ways
    )
    names = ", or ".join(words)
    probabilities = " or ".join(f"{rival.probability:.2f}" for rival in near)
    text = (
        f"levels may be off by {off}: every name {names} fits nearly as well "
        f"(probability {probabilities}, {naming.probability:.2f} as named)"
    )
    probability, shifts = round(naming.probability, 6), tuple(rival.shift for rival in near)
    return [warning("naming_in_doubt", text, probability=probability, shifts=shifts)]


def naming_abstained(naming: Naming | None, minimum: float) -> list[Remark]:
    """A warning if the naming is abstained."""
    if naming is None or not naming.abstained:
        return []
    text = (
        f"the naming's probability is {naming.probability:.3g}, and "
        f"min_naming_probability={minimum:g}; treat the levels as a guess"
    )
    probability = round(naming.probability, 6)
    return [warning("naming_abstained", text, probability=probability, minimum=minimum)]


def _points_of(structures: Sequence[DecodedStructure]) -> FloatArray:
    """(N, 2) centres."""
    return np.array([s.point_xy for s in structures], dtype=np.float64).reshape(-1, 2)


def _odd_gaps(structures: Sequence[DecodedStructure]) -> list[Remark]:
    """A warning for each gap that is unusual for the levels at its ends (`_ODD_GAP`)."""
    found = []
    for upper, lower in itertools.pairwise(structures):
        expected = (lower.rank - upper.rank) * (upper.height + lower.height) / 4
        ratio = math.dist(upper.point_xy, lower.point_xy) / expected
        if not 1 / _ODD_GAP < ratio < _ODD_GAP:
            text = (
                f"{upper.level} and {lower.level} are {ratio:.1f} times as far apart as their "
                "boxes lead to expect: a level may be "
                f"{'left out' if ratio > 1 else 'counted twice'} there"
            )
            levels = (upper.level, lower.level)
            found.append(warning("spacing_implausible", text, levels=levels, ratio=round(ratio, 3)))
    return found


def _missing_levels(spine: DecodedSpine) -> list[Remark]:
    """A warning for each reason why levels are missing."""
    levels_of: dict[Reason, list[str]] = {}
    for level, reason in spine.missing:
        levels_of.setdefault(reason, []).append(level)
    return [
        warning(
            "missing_levels",
            f"{', '.join(levels)} ({reason}: {_REASONS[reason]})",
            levels=tuple(levels),
            reason=reason,
        )
        for reason, levels in levels_of.items()
    ]


def _unusual_slice(frame: Frame) -> list[Remark]:
    """Warnings of oblique slices, and of pixels far from square, by the header."""
    header, found = frame.header, []
    normal = None if header is None else header.normal
    if header is not None and normal is not None and header.is_sagittal:
        angle = math.degrees(math.acos(min(abs(float(normal[0])), 1.0)))
        if angle > _MOST_OBLIQUE:
            text = f"the slice lies {angle:.0f} degrees off the sagittal plane"
            found.append(warning("orientation_unusual", text, degrees=round(angle, 1)))
    pixel = None if header is None else header.spacing_rc_mm or header.aspect_rc
    if header is not None and pixel is not None:
        high, wide = pixel
        if not 1 / _MOST_ASPECT <= high / wide <= _MOST_ASPECT:
            text = (
                f"pixels are {high / wide:.3g} times as high as wide by the header's "
                "PixelAspectRatio; "
                if header.spacing_rc_mm is None
                else f"pixels are {high:g} mm high and {wide:g} mm wide by the header; "
            )
            text += (
                "the image is analysed as stored, and millimetres may be wrong"
                if frame.turn.scaled_hw is None
                else "pixels were made square accordingly: is the header right?"
            )
            known = {} if header.spacing_rc_mm is None else {"spacing_rc_mm": header.spacing_rc_mm}
            found.append(warning("spacing_implausible", text, **known))
    return found


def _leaning(structures: Sequence[DecodedStructure]) -> list[Remark]:
    if len(structures) < _LEAST_STRUCTURES:
        return []
    points = _points_of(structures)
    dx, dy = points[-1] - points[0]
    angle = math.degrees(math.atan2(abs(dx), dy))
    if angle <= _MOST_TILT:
        return []
    text = (
        f"the spine leans {angle:.0f} degrees: is the image upright? Levels are less certain on it"
    )
    return [warning("orientation_unusual", text, degrees=round(angle, 1))]


def _cut_view(frame: Frame, structures: Sequence[DecodedStructure]) -> list[Remark]:
    """Warnings of levels outside the frame's ends, and of a structure at its edge."""
    if len(structures) < 2:
        return []
    bottom = frame.image.shape[0] - 1
    found = []
    for end, inner, edge in (
        (structures[0], structures[1], "above"),
        (structures[-1], structures[-2], "below"),
    ):
        y = end.point_xy[1]
        step = (y - inner.point_xy[1]) / abs(end.rank - inner.rank)
        names = LEVELS[: end.rank] if edge == "above" else LEVELS[end.rank + 1 :]
        if names and not 0 <= y + step <= bottom:
            text = f"the image ends {edge} {end.level}, where {', '.join(names)} would lie"
            text += "; take levels with care"
            found.append(warning("view_cuts_spine", text, level=end.level, levels=tuple(names)))
        elif min(y, bottom - y) < end.height / 8:  # a quarter of the structure's own height
            text = f"{end.level} lies at the very edge of the image, which may cut it"
            found.append(warning("view_cuts_spine", text, level=end.level))
    return found


def _odd_spacing(frame: Frame, structures: Sequence[DecodedStructure]) -> list[Remark]:
    """A warning of a distance from level to level, in the header's mm, that no spine has."""
    header = frame.header
    spacing = None if header is None else header.spacing_rc_mm
    if header is None or spacing is None or len(structures) < _LEAST_STRUCTURES:
        return []
    high, wide = spacing[::-1] if frame.turn.transpose else spacing
    per_x, per_y = np.divide((wide, high), frame.turn.scale_xy)
    dx, dy = np.diff(_points_of(structures), axis=0).T
    steps = np.hypot(dx * per_x, dy * per_y) / np.diff([s.rank for s in structures])
    typical = float(np.median(steps))
    if _STEP_MM[0] <= typical <= _STEP_MM[1]:
        return []
    source = "the header's PixelSpacing"
    if not frame.is_dicom:
        is_volume = bool(volume_suffix(header.path))
        source = "the header's voxel size" if is_volume else "the file's resolution tags"
    text = (
        f"vertebra and disc lie {typical:.1f} mm apart by {source}, wanted "
        f"{_STEP_MM[0]:g} to {_STEP_MM[1]:g}: the spacing is wrong, or this is not an adult spine"
    )
    return [warning("spacing_implausible", text, step_mm=round(typical, 3))]


def _low_confidence(structures: Sequence[DecodedStructure], limit: float) -> list[Remark]:
    weak = [structure for structure in structures if structure.confidence < limit]
    if not weak:
        return []
    named = ", ".join(f"{s.level} {s.confidence:.2f}" for s in weak)
    text = f"the detector's confidence is below {limit:g}: {named}"
    return [warning("low_confidence", text, levels=tuple(s.level for s in weak), limit=limit)]


def _text_in_pixels(frame: Frame) -> list[Remark]:
    """A warning of letters in the pixels, if no other warning mentions them."""
    from spineline.datasets.dicom.burned_text import looks_like_text  # OpenCV is slow to import

    if "burned_in_text" in codes_of(frame.warnings):
        return []
    turn, stored = frame.turn, frame.image
    stored = stored[::-1] if turn.flip_y else stored
    stored = stored[:, ::-1] if turn.flip_x else stored
    if not looks_like_text(stored.T if turn.transpose else stored):
        return []
    text = "the image may show the patient's name or number: something in it looks like a row of "
    text += "letters; check it before you share images"
    return [warning("burned_in_text", text)]
