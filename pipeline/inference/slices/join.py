"""Several looks at one spine, joined: its places and names by all of them, its grades on the best.

The frame chosen by its headers is looked at first. On the slices beside it the levels are read
along the spine found there, which costs little, and bears its names out or not. Where that leaves a
doubt (levels are missing, the naming is not sure, slices name it otherwise, the spine is a poor
one), the slices are searched for spines of their own, then the T1 of the same place, then slices
further off. What the detector offers on all of them, moved to the best slice through the patient's
coordinates, is decoded there as one: what one slice does not show stands on its neighbour.

Two looks name the same places where structures of one kind lie at one place in the patient. What
they say of the whole naming is pooled by the mean of the logs of its probabilities, each weighted
by the score of its chain. The mean, not the sum: slices of one spine err together. So slices that
agree leave the probability as it is, and one that names the spine otherwise lowers it.

On five slices each of 28 spines of another scanner, a slice beside the middle one that was taken
for any higher score was no better than that: it must have more levels, or `_MARGIN` more. Of those
looked at alone 16 left a doubt; decoding three slices as one put 0.72 of their levels within 12 px
instead of 0.63. Where there was no doubt it changed nothing for the better.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from spineline.datasets.common.arrays import FloatArray, PixelArray
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.remarks import Remark, SeriesText, remark
from spineline.datasets.dicom.geometry import patient_to_pixel
from spineline.datasets.dicom.select import shares_coordinates
from spineline.datasets.labels import LEVELS
from spineline.pipeline.inference.candidates import (
    SEGMENT_RANKS,
    Candidates,
    joined_candidates,
)
from spineline.pipeline.inference.decode import DecodedSpine
from spineline.pipeline.inference.naming import SHIFTS, Naming, Rival, softmax
from spineline.pipeline.inference.results import SlicesSeen
from spineline.pipeline.inference.sources import Frame, Surroundings, Unread, read_beside
from spineline.pipeline.inference.warnings import warning

_LEAST_MATCHES = 3  # structures at one place, to compare two namings
_MARGIN = 3.0  # of the score: so much better a slice beside the middle one must be
_POOR = 36.0  # the score of a chain that leaves a doubt; sound ones have 45 to 60
_SOUND = 0.5  # of the best score: a chain whose names are worth a warning
_LEAST_SHARE = 1e-9  # keeps logs finite

LookRole = Literal["slice", "reading", "series"]


class Finder(Protocol):
    """Finds the spine of an image, among candidates where these are known."""

    def __call__(  # noqa: D102
        self, *, image: PixelArray, candidates: Candidates | None = None
    ) -> DecodedSpine: ...


@dataclass(frozen=True, slots=True)
class SliceLook:
    """One image, and the spine as it shows it.

    Attributes:
        frame: the image.
        spine: in its own coordinates.
        role: ``slice`` of the series in use, searched for a spine; ``reading`` of one along the
            spine of another; image of another ``series``.
    """

    frame: Frame
    spine: DecodedSpine
    role: LookRole = "slice"


@dataclass(frozen=True, slots=True)
class Joined:
    """The slice to grade, and its spine named by all looks.

    Attributes:
        frame: with the warnings and notes of the choice.
        spine: in its coordinates.
        seen: what was looked at; None where this one image was to be.
        alone: what the detector offers on that slice alone, where its spine was decoded among
            what all slices offer.
    """

    frame: Frame
    spine: DecodedSpine
    seen: SlicesSeen | None = None
    alone: Candidates | None = None

    @property
    def offered(self) -> Candidates:
        """What the detector offers on the slice that is graded, and on no other."""
        return self.spine.candidates if self.alone is None else self.alone


def look_around(
    frame: Frame, spine: DecodedSpine, find: Finder, *, sure: float, read: Finder | None = None
) -> Joined:
    """Look at what surrounds a frame, and join what it says.

    Args:
        frame: the one chosen by its headers.
        spine: found in it.
        find: finds the spine of an image.
        sure: a naming less probable leaves a doubt.
        read: reads the levels of an image along a spine found in another; None where there is no
            level reader: all slices are then searched for spines of their own.
    """
    if frame.around is None:
        return Joined(frame, spine)
    first, others = _best_series(SliceLook(frame, spine), find)
    around = first.frame.around or Surroundings()
    near, notes = _read(first.frame, around.near)
    looks = [first, *others, *_glances(first, near, find, read)]
    chosen = graded = first
    if _in_doubt(looks, sure) or len(spine.structures) < len(LEVELS) or spine.score < _POOR:
        looks = [_searched(look, find) for look in looks]
        rounds: tuple[tuple[Sequence[Unread], LookRole], ...]
        rounds = (around.t1, "series"), (around.far, "slice")
        for further, role in rounds:
            if _in_doubt(looks, sure):
                frames, failed = _read(first.frame, further)
                looks += [SliceLook(each, find(image=each.image), role) for each in frames]
                notes += failed
        chosen = _graded(looks)
        graded = _decoded_as_one(chosen, looks, find)
        if graded is not chosen:
            notes.append(_decoded_note(chosen, graded, len(looks)))
        looks = [graded if look is chosen else look for look in looks]
    joined = _joined(first, graded, looks, notes)
    return joined if graded is chosen else replace(joined, alone=chosen.spine.candidates)


def joined_naming(namings: Sequence[tuple[Naming, int, float]]) -> Naming:
    """The first naming, as sure as all of them make it.

    >>> sure = Naming(0.9, (Rival(-2, 0.01), Rival(-1, 0.04), Rival(1, 0.04), Rival(2, 0.01)))
    >>> round(joined_naming([(sure, 0, 1.0), (sure, 0, 1.0)]).probability, 3)
    0.9
    >>> round(joined_naming([(sure, 0, 1.0), (sure, 1, 0.5)]).probability, 3)
    0.66

    Args:
        namings: each with the rungs by which it names the same places lower than the first does,
            and its weight, above 0.
    """
    weights = [weight for _, _, weight in namings]
    pooled = [
        float(np.average([_log_of(n, s - lower) for n, lower, _ in namings], weights=weights))
        for s in (0, *SHIFTS)
    ]
    given, *others = softmax(pooled, 1.0)
    return replace(namings[0][0], probability=given, rivals=tuple(map(Rival, SHIFTS, others)))


def rungs_lower(one: SliceLook, other: SliceLook) -> int | None:
    """Rungs by which ``other`` names the places of ``one`` lower; None where few are the same."""
    mine, its = one.spine.structures, other.spine.structures
    if not mine or not its:
        return None
    points = _moved(np.array([s.point_xy for s in its]), other.frame, one.frame)
    if points is None:
        return None
    places, ranks = np.array([s.point_xy for s in mine]), []
    for structure, point in zip(its, points, strict=True):
        away = np.hypot(*(places - point).T)
        near = mine[int(away.argmin())]
        if away.min() <= near.height / 4 and near.kind == structure.kind:
            ranks.append(structure.rank - near.rank)
    if len(ranks) < _LEAST_MATCHES:
        return None
    return round(float(np.median(ranks)) / SEGMENT_RANKS)


def _best_series(first: SliceLook, find: Finder) -> tuple[SliceLook, list[SliceLook]]:
    """The better of equally suited series, by their middle slices, and the others."""
    around = first.frame.around
    if around is None or not around.rivals:
        return first, []
    rivals = [SliceLook(frame, find(image=frame.image)) for frame in around.rivals]
    best = _best([first, *rivals], first)
    others = [replace(each, role="series") for each in (first, *rivals) if each is not best]
    notes = [note for note in first.frame.notes[1:] if not _is_of(note, best.frame)]
    wording = "also read, as equally suited: {series.shown}; {found} levels there, {kept} here"
    counts = {"kept": len(best.spine.structures)}
    notes[:0] = [
        remark("", wording, series=series, found=len(each.spine.structures), **counts)
        for each in others
        if (series := _series_of(each.frame)) is not None
    ]
    warnings = tuple(each for each in best.frame.warnings if each not in around.tie)
    frame = replace(best.frame, notes=(*best.frame.notes[:1], *notes), warnings=warnings)
    return replace(best, frame=frame), others


def _glances(
    first: SliceLook, near: Sequence[Frame], find: Finder, read: Finder | None
) -> Iterator[SliceLook]:
    """What the slices beside the first say of the spine that was found in it."""
    for frame in near:
        if read is None:
            yield SliceLook(frame, find(image=frame.image))
            continue
        offered = _moved_candidates(first.spine.candidates, first.frame, frame)
        if offered is not None:
            yield SliceLook(frame, read(image=frame.image, candidates=offered), "reading")


def _searched(look: SliceLook, find: Finder) -> SliceLook:
    """The look, with a spine of its own where levels were read along that of another."""
    return SliceLook(look.frame, find(image=look.frame.image)) if look.role == "reading" else look


def _read(frame: Frame, beside: Sequence[Frame | Unread]) -> tuple[list[Frame], list[Remark]]:
    """Slices beside a frame, and a note for each that cannot be read."""
    frames: list[Frame] = []
    notes: list[Remark] = []
    for each in beside:
        try:
            frames.append(read_beside(frame, each))
        except SpinelineError:
            wording = "slice {place} of its series was not used: it cannot be read"
            notes.append(remark("", wording, place=each.slice_index + 1))
    return frames, notes


def _in_doubt(looks: Sequence[SliceLook], sure: float) -> bool:
    """Whether the names of the first look are less than sure, or others name it otherwise."""
    compared = _compared(looks[0], looks)
    if looks[0].spine.naming is None or any(lower for _, lower in compared):
        return True
    return _naming_of(compared).probability < sure


def _joined(
    first: SliceLook, graded: SliceLook, looks: Sequence[SliceLook], notes: Sequence[Remark]
) -> Joined:
    """The slice to grade under the names that all looks together leave it."""
    compared = _compared(graded, looks)
    naming = graded.spine.naming and _naming_of(compared)
    frame = replace(
        graded.frame,
        around=None,
        warnings=(*first.frame.warnings, *_disagreement(compared)),
        notes=(*_notes_of(first, graded), *notes),
    )
    own = {look.frame.slice_index + 1 for look in looks if look.role != "series"}
    others = sum(look.role == "series" for look in looks)
    seen = SlicesSeen(graded.frame.slice_index + 1, tuple(sorted(own)), others)
    return Joined(frame, replace(graded.spine, naming=naming), seen)


def _graded(looks: Sequence[SliceLook]) -> SliceLook:
    """The slice to grade: the best of those whose own names are the ones that all favour."""
    first = looks[0]
    slices = [look for look in looks if look.role == "slice"]
    if first.spine.naming is None:
        return _best(slices, first)
    compared = _compared(first, looks)
    naming = _naming_of(compared)
    by_share = [(naming.probability, 0), *((r.probability, r.shift) for r in naming.rivals)]
    favoured = max(by_share, key=lambda share: share[0])[1]
    fit = [look for look, lower in compared if look.role == "slice" and lower == favoured]
    return _best(fit or [first], first)


def _decoded_as_one(graded: SliceLook, looks: Sequence[SliceLook], find: Finder) -> SliceLook:
    """The slice with what is offered on all others too, where that is worth more than its own."""
    moved = (_moved_candidates(each.spine.candidates, each.frame, graded.frame) for each in looks)
    offered = [candidates for candidates in moved if candidates is not None]
    if len(offered) < 2:
        return graded
    spine = find(image=graded.frame.image, candidates=joined_candidates(offered))
    return _best([graded, replace(graded, spine=spine)], graded, margin=0)


def _decoded_note(alone: SliceLook, graded: SliceLook, count: int) -> Remark:
    wording = "slice {place}: candidates of {of} images were decoded together, {levels} levels; "
    wording += "{alone} by only that slice"
    counts = {
        "place": graded.frame.slice_index + 1,
        "of": count,
        "levels": len(graded.spine.structures),
        "alone": len(alone.spine.structures),
    }
    return remark("", wording, **counts)


def _best(looks: Sequence[SliceLook], first: SliceLook, margin: float = _MARGIN) -> SliceLook:
    """The look with the most levels, then with the best score, the first one having more."""

    def worth(look: SliceLook) -> tuple[int, float]:
        return len(look.spine.structures), look.spine.score + margin * (look is first)

    return max(looks, key=worth)


def _compared(one: SliceLook, looks: Sequence[SliceLook]) -> list[tuple[SliceLook, int]]:
    """The looks whose names can be compared, that one first, with the rungs they are lower by."""
    found = [(one, 0)]
    for look in looks:
        named = look.spine.naming is not None or look.role == "reading"
        lower = rungs_lower(one, look) if named and look is not one else None
        if lower is not None:
            found.append((look, lower))
    return found


def _naming_of(compared: Sequence[tuple[SliceLook, int]]) -> Naming:
    """The naming of the first look by all that were searched for a spine of their own."""
    weights = _weights(compared)
    return joined_naming(
        [
            (naming, lower, weight)
            for (look, lower), weight in zip(compared, weights, strict=True)
            if look.role != "reading" and (naming := look.spine.naming) is not None
        ]
    )


def _weights(compared: Sequence[tuple[SliceLook, int]]) -> list[float]:
    """The share of each look's score in the best one: a poor chain says little of its names."""
    scores = [max(look.spine.score, _LEAST_SHARE) for look, _ in compared]
    return [max(score / max(scores), _LEAST_SHARE) for score in scores]


def _log_of(naming: Naming, shift: int) -> float:
    """Log of the share of a naming ``shift`` rungs lower; beyond those known, of the least."""
    shares = {0: naming.probability, **{r.shift: r.probability for r in naming.rivals}}
    return math.log(max(shares.get(shift, min(shares.values())), _LEAST_SHARE))


def _disagreement(compared: Sequence[tuple[SliceLook, int]]) -> list[Remark]:
    """A warning where sound looks name the places of the one that is graded otherwise."""
    weights = zip(compared, _weights(compared), strict=True)
    lower = [rungs for (_, rungs), weight in weights if weight >= _SOUND]
    others = [rungs for rungs in lower if rungs]
    if not others:
        return []
    ways = (
        f"{abs(rungs)} level{'s' * (abs(rungs) > 1)} {'lower' if rungs > 0 else 'higher'}"
        for rungs in sorted(set(others))
    )
    how = ", ".join(ways)
    wording = "{count} of {of} images of this spine name it differently: {how}; "
    wording += "count the levels by hand"
    return [warning("slice_choice", wording, count=len(others), of=len(lower), how=how)]


def _notes_of(first: SliceLook, graded: SliceLook) -> tuple[Remark, ...]:
    """The notes of the choice, the first of which says which slice is graded."""
    notes = first.frame.notes
    if graded.frame is first.frame or not notes:
        return notes
    chosen = notes[0]
    wording = f"{chosen.wording or chosen.text}, the middle one, was read ({{fewer}} levels); "
    wording += "slice {graded} was graded ({levels} levels)"
    counts = {
        "fewer": len(first.spine.structures),
        "graded": graded.frame.slice_index + 1,
        "levels": len(graded.spine.structures),
    }
    return remark(chosen.code, wording, **dict(chosen.parameters), **counts), *notes[1:]


def _series_of(frame: Frame) -> SeriesText | None:
    """The series that the first note of a frame is about."""
    values = (value for note in frame.notes[:1] for _, value in note.parameters)
    return next((value for value in values if isinstance(value, SeriesText)), None)


def _is_of(note: Remark, frame: Frame) -> bool:
    """Whether a note is about the series of a frame."""
    series = _series_of(frame)
    about = (v for _, v in note.parameters if isinstance(v, SeriesText))
    return any((str(v), v.number) == (str(series), series.number) for v in about if series)


def _moved(points_xy: FloatArray, origin: Frame, to: Frame) -> FloatArray | None:
    """(N, 2) points of one frame where they lie in another, or None where that is not known.

    Without geometry, slices of one series and size lie behind each other.
    """
    one, other = origin.header, to.header
    if one is None or other is None:
        return points_xy if one is other and origin.turn == to.turn else None
    of_one_series = one.series_uid == other.series_uid
    if not (of_one_series or shares_coordinates(one, other)):
        return None
    points_mm = origin.points_mm(origin.turn.to_native(points_xy))
    if points_mm is not None and other.has_geometry:
        return to.turn.from_native(patient_to_pixel(other, points_mm)[:, :2])
    return points_xy if of_one_series and origin.turn == to.turn else None


def _moved_candidates(candidates: Candidates, origin: Frame, to: Frame) -> Candidates | None:
    corners = _moved(candidates.box_xyxy.reshape(-1, 2), origin, to)
    if corners is None:
        return None
    return replace(candidates, box_xyxy=corners.reshape(-1, 4))
