"""Several slices of one spine, joined: places and names from all of them, grades on the best.

The frame chosen by its headers is analysed first. On the slices beside it, the levels are read
along its spine, which costs little, and confirms its names or not. There is a doubt if levels are
missing, the naming is uncertain, slices disagree on the names, or the spine's score is low. Then
the detector also runs on these slices, on the T1 of the same place, and on slices further away. The
candidates of all slices, mapped to the best slice through patient coordinates, are decoded there
together: a level that one slice does not show may be visible on its neighbour.

Two slices name the same places if structures of one kind lie at one place in the patient. Their
probabilities of the whole naming are pooled by the mean of their logs, weighted by the scores of
the chains. It is the mean, not the sum, because errors on slices of one spine are correlated. So
slices that agree leave the probability unchanged, and one that disagrees lowers it.

On five slices each of 28 spines of another scanner, replacing the middle slice by a neighbour with
any higher score gave no improvement. So a neighbour must have more levels, or a score higher by
`_MARGIN`. Of these spines, 16 were doubtful by one slice; joint decoding of three slices put 0.72
of their levels within 12 px instead of 0.63. Without a doubt, it improved nothing.
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
from spineline.datasets.dicom.kinds import weighting
from spineline.datasets.dicom.stacks.stack import shares_coordinates
from spineline.datasets.labels import LEVELS, SEGMENT_RANKS
from spineline.pipeline.inference.candidates import Candidates, joined_candidates
from spineline.pipeline.inference.decode import DecodedSpine
from spineline.pipeline.inference.naming import SHIFTS, Naming, Rival, softmax
from spineline.pipeline.inference.results import SlicesSeen
from spineline.pipeline.inference.slices.canal import canal_contrast
from spineline.pipeline.inference.sources.frame import Frame, Surroundings, Unread, read_beside
from spineline.pipeline.inference.t2_weighting import t2_log_odds
from spineline.pipeline.inference.warnings import warning

_LEAST_MATCHES = 3  # structures at one place, to compare two namings
_MARGIN = 3.0  # of the score: so much better a slice beside the middle one must be
_POOR = 36.0  # the score of a chain that leaves a doubt; sound ones have 45 to 60
_LESS_CONTRAST = 0.05  # of the canal, between images of one contrast
_SOUND = 0.5  # of the best score: a chain whose names are worth a warning
_LEAST_SHARE = 1e-9  # keeps logs finite

LookRole = Literal["slice", "reading", "series"]


class Finder(Protocol):
    """Finds the spine of an image, among candidates if they are known."""

    def __call__(  # noqa: D102
        self, *, image: PixelArray, candidates: Candidates | None = None
    ) -> DecodedSpine: ...


@dataclass(frozen=True, slots=True)
class SliceLook:
    """One image and its spine.

    Attributes:
        frame: the image.
        spine: in the image's own coordinates.
        role: ``slice``: of the series in use, analysed by the detector; ``reading``: read along the
            spine of another slice; ``series``: an image of another series.
    """

    frame: Frame
    spine: DecodedSpine
    role: LookRole = "slice"


@dataclass(frozen=True, slots=True)
class Joined:
    """The slice to grade, and its spine, named by all slices.

    Attributes:
        frame: with the warnings and notes of the choice.
        spine: in its coordinates.
        seen: what was read; None if only this image was to be.
        alone: the detector's candidates on that slice alone, if its spine was decoded among those
            of all slices.
    """

    frame: Frame
    spine: DecodedSpine
    seen: SlicesSeen | None = None
    alone: Candidates | None = None

    @property
    def offered(self) -> Candidates:
        """The detector's candidates on the graded slice only."""
        return self.spine.candidates if self.alone is None else self.alone


def look_around(
    frame: Frame,
    spine: DecodedSpine,
    find: Finder,
    *,
    sure: float,
    read: Finder | None = None,
    contrast: float | None = None,
) -> Joined:
    """Analyse the surroundings of a frame, and join the findings.

    Args:
        frame: the one chosen by its headers.
        spine: found in it.
        find: finds the spine of an image.
        sure: a naming with a lower probability leaves a doubt.
        read: reads the levels of an image along a spine found in another; None without a level
            reader: the detector then runs on all slices.
        contrast: of equally suited series, those with at least these log odds of T2 are preferred,
            see [spineline.pipeline.inference.t2_weighting][], and of those the ones with nearly the
            brightest canal if no header states a weighting; None prefers none.
    """
    if frame.around is None:
        return Joined(frame, spine)
    first, others = _best_series(SliceLook(frame, spine), find, contrast)
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
    """The first naming with the pooled probability of all.

    >>> sure = Naming(0.9, (Rival(-2, 0.01), Rival(-1, 0.04), Rival(1, 0.04), Rival(2, 0.01)))
    >>> round(joined_naming([(sure, 0, 1.0), (sure, 0, 1.0)]).probability, 3)
    0.9
    >>> round(joined_naming([(sure, 0, 1.0), (sure, 1, 0.5)]).probability, 3)
    0.66

    Args:
        namings: each with the number of vertebrae by which it names the same places lower than the
            first, and its weight, above 0.
    """
    weights = [weight for _, _, weight in namings]
    pooled = [
        float(np.average([_log_of(n, s - lower) for n, lower, _ in namings], weights=weights))
        for s in (0, *SHIFTS)
    ]
    given, *others = softmax(pooled, 1.0)
    return replace(namings[0][0], probability=given, rivals=tuple(map(Rival, SHIFTS, others)))


def vertebrae_lower(one: SliceLook, other: SliceLook) -> int | None:
    """By how many vertebrae ``other`` names the places of ``one`` lower; None if few coincide."""
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


def _best_series(
    first: SliceLook, find: Finder, contrast: float | None
) -> tuple[SliceLook, list[SliceLook]]:
    """The better of equally suited series, by their middle slices, and the others."""
    around = first.frame.around
    if around is None or not around.rivals:
        return first, []
    rivals = [SliceLook(frame, find(image=frame.image)) for frame in around.rivals]
    best = _best(_with_bright_canal([first, *rivals], contrast), first)
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


def _with_bright_canal(looks: Sequence[SliceLook], least: float | None) -> list[SliceLook]:
    """The looks with at least these log odds of T2; all if none has them.

    If no header states a weighting, only those with nearly the brightest canal, of those with
    nearly the most levels.
    """
    if least is None:
        return list(looks)
    seen = [(look, look.frame.image, look.spine.structures) for look in looks]
    bright = [
        (look, canal_contrast(image, chain) or 0.0)
        for look, image, chain in seen
        if (odds := t2_log_odds(image, chain)) is not None and odds >= least
    ]
    headers = [look.frame.header for look in looks]
    if bright and all(header and weighting(header) == "unknown" for header in headers):
        most = max(len(look.spine.structures) for look, _ in bright)
        bright = [each for each in bright if len(each[0].spine.structures) >= most - 1]
        limit = max(contrast for _, contrast in bright) - _LESS_CONTRAST
        bright = [each for each in bright if each[1] >= limit]
    return [look for look, _ in bright] or list(looks)


def _glances(
    first: SliceLook, near: Sequence[Frame], find: Finder, read: Finder | None
) -> Iterator[SliceLook]:
    """Readings of the slices beside the first, along the spine found in it."""
    for frame in near:
        if read is None:
            yield SliceLook(frame, find(image=frame.image))
            continue
        offered = _moved_candidates(first.spine.candidates, first.frame, frame)
        if offered is not None:
            yield SliceLook(frame, read(image=frame.image, candidates=offered), "reading")


def _searched(look: SliceLook, find: Finder) -> SliceLook:
    """The look with its own spine, if its levels were read along that of another."""
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
    """Whether the first look's names are uncertain, or others disagree."""
    compared = _compared(looks[0], looks)
    if looks[0].spine.naming is None or any(lower for _, lower in compared):
        return True
    return _naming_of(compared).probability < sure


def _joined(
    first: SliceLook, graded: SliceLook, looks: Sequence[SliceLook], notes: Sequence[Remark]
) -> Joined:
    """The slice to grade, with the names that all looks together support."""
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
    """The slice with the candidates of all others too, if that scores higher than its own."""
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
    """The look with the most levels, then with the best score, with a margin for the first one."""

    def worth(look: SliceLook) -> tuple[int, float]:
        return len(look.spine.structures), look.spine.score + margin * (look is first)

    return max(looks, key=worth)


def _compared(one: SliceLook, looks: Sequence[SliceLook]) -> list[tuple[SliceLook, int]]:
    """The looks whose names can be compared, that one first, with the shift of their names."""
    found = [(one, 0)]
    for look in looks:
        named = look.spine.naming is not None or look.role == "reading"
        lower = vertebrae_lower(one, look) if named and look is not one else None
        if lower is not None:
            found.append((look, lower))
    return found


def _naming_of(compared: Sequence[tuple[SliceLook, int]]) -> Naming:
    """The naming of the first look, pooled over all looks analysed by the detector."""
    weights = _weights(compared)
    return joined_naming(
        [
            (naming, lower, weight)
            for (look, lower), weight in zip(compared, weights, strict=True)
            if look.role != "reading" and (naming := look.spine.naming) is not None
        ]
    )


def _weights(compared: Sequence[tuple[SliceLook, int]]) -> list[float]:
    """The share of each look's score in the best one, so that poor chains count less."""
    scores = [max(look.spine.score, _LEAST_SHARE) for look, _ in compared]
    return [max(score / max(scores), _LEAST_SHARE) for score in scores]


def _log_of(naming: Naming, shift: int) -> float:
    """Log probability of a naming ``shift`` vertebrae lower; the lowest if it is unknown."""
    shares = {0: naming.probability, **{r.shift: r.probability for r in naming.rivals}}
    return math.log(max(shares.get(shift, min(shares.values())), _LEAST_SHARE))


def _disagreement(compared: Sequence[tuple[SliceLook, int]]) -> list[Remark]:
    """A warning if sound looks name the places of the graded one differently."""
    weights = zip(compared, _weights(compared), strict=True)
    lower = [shift for (_, shift), weight in weights if weight >= _SOUND]
    others = [shift for shift in lower if shift]
    if not others:
        return []
    ways = (
        f"{abs(shift)} level{'s' * (abs(shift) > 1)} {'lower' if shift > 0 else 'higher'}"
        for shift in sorted(set(others))
    )
    how = ", ".join(ways)
    wording = "{count} of {of} images of this spine name it differently: {how}; "
    wording += "count the levels by hand"
    return [warning("slice_choice", wording, count=len(others), of=len(lower), how=how)]


def _notes_of(first: SliceLook, graded: SliceLook) -> tuple[Remark, ...]:
    """The notes of the choice, of which the first names the graded slice."""
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
    """(N, 2) points of one frame mapped to another, or None if the mapping is unknown.

    Without geometry, slices of the same series and size are assumed to be aligned.
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
