"""Choice of a study's series and slice: the middle of the T2 sagittal stack.

Each stack of parallel sagittal slices gets demerits (`_demerits`). The stack with the fewest is
chosen, and warnings report its demerits. Ties are decided by more slices, then the higher
resolution, then the lower series UID, so that the order of files does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from spineline.datasets.common.arrays import Float32Array, FloatArray
from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.common.remarks import (
    FreeText,
    NameText,
    Parameter,
    PathText,
    Remark,
    SeriesText,
    remark,
)
from spineline.datasets.dicom.contrast import (
    dixon_parts,
    look_at_one_place,
    look_at_sagittal,
)
from spineline.datasets.dicom.geometry import (
    pixel_to_patient,
    standard_orientation,
    to_standard_orientation,
)
from spineline.datasets.dicom.header import RejectionKind, SliceHeader
from spineline.datasets.dicom.kinds import (
    DixonPart,
    dixon_part,
    fat_suppression,
    is_derived,
    is_of_dixon_scan,
    is_of_other_region,
    is_of_sagittal_plane,
    is_real_part,
    named_parts,
    no_anatomy,
    plane_of,
    weighting,
)
from spineline.datasets.dicom.pixels import read_pixels

_MYELOGRAPHY_ECHO_MS = 300.0
_LOOKS = 8
"""Most stacks whose pixels are checked for what headers do not state."""
_STATION_SHARE = 0.35
"""A stack this fraction of its height above another shows another station of a whole spine."""
_COLUMN_MM = 60.0
"""Largest distance, seen from above, of the centres of two stations of one scan."""
_NAMED_FILES = 5
"""Most damaged files that are named one by one in warnings."""
_LEAST_STEPS = 3
_GAP = 1.5
"""Steps this many times as wide as the others of a stack are gaps."""
_FAT_OF_T2, _FAT_WITHOUT_TIMES = 1.8, 8.0
"""Least brightness of fat, relative to the canal, in a fat image; without times it may be T1."""
_SHIFT_SHARE = 0.25
"""Slices shifted by this fraction of their height within their plane do not form a stack."""


class NoSagittalT2Error(DicomReadError):
    """A study holds images, but no sagittal T2 series.

    Attributes:
        found: what it holds instead, with a remark for each stack.
    """

    def __init__(self, text: Remark | str, found: Sequence[Remark] = ()) -> None:
        super().__init__(text)
        self.found = tuple(found)


ReadImage: TypeAlias = Callable[[SliceHeader], Float32Array]


class Demerit(NamedTuple):
    """A disadvantage of a stack.

    Attributes:
        weight: weight in the choice among stacks.
        text: description; if it is empty, there is no warning.
        code: code of that warning.
    """

    weight: int
    text: str
    code: str = "slice_choice"


def _dark_fat(how: str) -> Demerit:
    text = f"fat-suppressed ({how}); grades are less certain on it"
    return Demerit(5, text, "fat_suppressed")


_OF_DIXON: dict[DixonPart, Demerit] = {
    "water": _dark_fat("the water image of a Dixon scan"),
    "in-phase": Demerit(6, ""),
    "opposed-phase": Demerit(
        12, "the opposed-phase image of a Dixon scan; grades are less certain on it"
    ),
    "fat": Demerit(
        14,
        "fat only, the opposite of fat-suppressed (the fat image of a Dixon scan); grades are "
        "less sure on it",
    ),
}


@dataclass(frozen=True, slots=True)
class Rejection:
    """A file that gave no slice.

    Attributes:
        path: the file.
        reason: why, as plain text.
        kind: ``foreign`` (not a DICOM image), ``damaged``, ``no-image`` or ``duplicate``.
        study_uid: UID of its study; empty if it does not state one.
    """

    path: Path
    reason: str
    kind: RejectionKind = "damaged"
    study_uid: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """The slices of one SeriesInstanceUID, sorted along their normal."""

    series_uid: str
    description: str
    slices: tuple[SliceHeader, ...]


@dataclass(frozen=True, slots=True)
class Study:
    """The series of one StudyInstanceUID.

    Attributes:
        study_uid: its UID; empty if no file of the folder could be read.
        name: unique in its source, and valid as a folder name.
        folder: the lowest folder that contains all of its files.
        series: sorted by series number, then UID.
        rejections: files beside them that gave no slice.
        single_file: whether the user named this one file, which is then used whatever it shows.
    """

    study_uid: str
    name: str
    folder: Path
    series: tuple[Series, ...]
    rejections: tuple[Rejection, ...] = ()
    single_file: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen slice, and why.

    Attributes:
        series: the series of the slice, without its other stacks.
        slice: the slice.
        warnings: what the user should know about the choice; their codes are ``slice_choice``,
            ``fat_suppressed``, ``no_geometry`` and ``files_left_out``.
        notes: the choice itself, and each series and file left out with its reason.
        neighbours: the other slices of the same stack, one per place, by distance from the chosen
            one along the normal, nearest first.
        alternatives: the slices of each equally suited stack, in order of rank.
        t1_slices: the slices of a sagittal T1 stack in the same frame of reference, sorted along
            the normal; empty without one.
        tie: warnings about equally suited stacks.
        forced: the warning that this is not a sagittal T2 series; None if it is one.
        found: what the study holds, if it has no sagittal T2 series.
    """

    series: Series
    slice: SliceHeader
    warnings: tuple[Remark, ...] = ()
    notes: tuple[Remark, ...] = ()
    neighbours: tuple[SliceHeader, ...] = ()
    alternatives: tuple[Series, ...] = ()
    t1_slices: tuple[SliceHeader, ...] = ()
    tie: tuple[Remark, ...] = ()
    forced: Remark | None = None
    found: tuple[Remark, ...] = ()


@dataclass(frozen=True, slots=True)
class _Stack:
    """Parallel slices of one size and one kind in one series.

    Attributes:
        series: the series of the slices, without its other stacks.
        slices: sorted along the normal.
        part: which image of a Dixon scan they are.
        seen: demerits from the pixels, and from the stack's place among others.
        is_compared: whether its contrast was compared with that of other stacks of its place.
    """

    series: Series
    slices: tuple[SliceHeader, ...]
    part: DixonPart | None = None
    seen: tuple[Demerit, ...] = ()
    is_compared: bool = False

    @property
    def first(self) -> SliceHeader:
        return self.slices[0]

    def remark(self, code: str, wording: str, reason: str = "", **counts: int) -> Remark:
        """Make a remark on the series, which ``{series.shown}`` stands for in the wording."""
        series = SeriesText(self.series.description.replace("'", ""), self.first.series_number)
        reasons = {"reason": reason} if reason else {}
        return remark(code, wording, series=series, **reasons, **counts)


def read_upright(header: SliceHeader) -> Float32Array:
    """Read the pixels of a slice in standard orientation.

    Raises:
        DicomReadError: as for [spineline.datasets.dicom.pixels.read_pixels][].
    """
    return to_standard_orientation(read_pixels(header), header)[0]


def choose_slice(study: Study, *, read: ReadImage = read_upright, force: bool = False) -> Choice:
    """Choose the middle slice of the study's T2 sagittal series.

    Sagittal is decided by geometry: the slice normal runs mostly along x. Without orientation the
    description decides. T2 is decided by description, echo and repetition time. A series that is
    fat-suppressed, derived or otherwise inferior is used only if there is no better one, with a
    warning.

    Among images of a Dixon scan, water is preferred to in-phase, and both to the rest. Of the
    stations of a whole spine, the lowest is chosen. If headers do not state fat suppression,
    contrast or Dixon part, the pixels of middle slices decide. The middle is the slice nearest to
    the centre of the stack along the normal; of two equally near, it is the one further along.

    Args:
        study: the study, with headers.
        read: returns the pixels of a slice in standard orientation.
        force: without a T2 sagittal series, choose another one, with a warning.

    Raises:
        NoSagittalT2Error: the study has no sagittal T2 series; the message lists what was found.
        DicomReadError: it holds no usable image.
    """
    stacks = _with_named_parts([stack for series in study.series for stack in _stacks(series)])
    refused = [(stack, reason) for stack in stacks if (reason := _refusal(stack))]
    usable = [stack for stack in stacks if not any(stack is other for other, _ in refused)]
    texts = (stack.remark("", "{series.shown}: {reason}", why) for stack, why in refused)
    found = () if usable else tuple(dict.fromkeys(texts))
    warnings: list[Remark] = []
    if not usable and (study.single_file or force) and refused:
        taken, reason = min(refused, key=lambda each: _strangeness(each[0]))
        usable, refused = [taken], [each for each in refused if each[0] is not taken]
        asked = "the file was used as requested"
        asked = asked if study.single_file else "{series.shown}: used because of force=true"
        warnings.append(
            taken.remark("slice_choice", f"{asked}, although it is: {{reason}}", reason)
        )
    if not usable:
        text = _nothing_found(study, found)
        raise NoSagittalT2Error(text, found) if found else DicomReadError(text)
    forced = warnings[0] if warnings else None
    usable = _looked_at(_with_stations(_with_seen_parts(usable, read)), read)
    best = usable[0]
    warnings += [
        best.remark(demerit.code, "{series.shown}: {reason}", demerit.text)
        for demerit in _demerits(best)
        if demerit.text
    ]
    tie = _rivals(best, usable[1:])
    warnings += [*_upper_stations(best, usable), *tie]
    left_out = [*refused, *((stack, _why_not(stack, best)) for stack in usable[1:])]
    chosen, place, slice_warnings = _middle(best)
    warnings += slice_warnings
    warnings += [remark("no_geometry", "{reason}", reason=problem) for problem in chosen.problems]
    warnings += _files_left_out(study)
    wording = "slice {place} of {count} of {series.shown}"
    notes = (
        best.remark("", wording, place=place + 1, count=len(best.slices)),
        *(stack.remark("", "left out, {series.shown}: {reason}", why) for stack, why in left_out),
        *(remark("", "left out, {file.shown}: {reason}", **_of_file(r)) for r in study.rejections),
    )
    return Choice(
        best.series,
        chosen,
        tuple(dict.fromkeys(warnings)),
        notes,
        neighbours=_neighbours(best, chosen),
        alternatives=tuple(stack.series for stack in _equals(best, usable[1:])),
        t1_slices=_t1_slices(stacks, chosen),
        tie=tuple(tie),
        forced=forced,
        found=found,
    )


# Stacks


def _stacks(series: Series) -> list[_Stack]:
    """Group the series' slices into stacks, in order of first occurrence."""
    groups: list[tuple[object, list[SliceHeader]]] = []
    for header in series.slices:
        kind = _kind_of(header)
        home = (group for other, group in groups if other == kind and _in_line(group[0], header))
        group = next(home, None)
        if group is None:
            groups.append((kind, [header]))
        else:
            group.append(header)
    stacks = [slices for _, group in groups for slices in _repeats(tuple(group))]
    return [_Stack(_narrowed(series, slices), slices, dixon_part(slices[0])) for slices in stacks]


def _kind_of(header: SliceHeader) -> object:
    """Values by which slices of one series belong to different stacks."""
    spacing = header.spacing_rc_mm and tuple(round(mm, 2) for mm in header.spacing_rc_mm)
    return (
        (header.rows, header.columns, spacing, header.position is None),
        (dixon_part(header), no_anatomy(header), weighting(header), is_real_part(header)),
        re.sub(r"[\d\W_]+", " ", header.series_description.upper()).strip(),
    )


def _in_line(one: SliceHeader, other: SliceHeader) -> bool:
    """Whether two slices are parallel, and not shifted within their plane."""
    if one.orientation is None or other.orientation is None:
        return one.orientation is other.orientation
    parallel = bool(np.abs(np.subtract(one.orientation, other.orientation)).max() < 0.02)
    if not parallel or not (one.has_geometry and other.has_geometry):
        return parallel
    shift = np.subtract(one.position, other.position) @ np.array(one.orientation[3:])  # type: ignore[arg-type]
    return bool(abs(shift) < _SHIFT_SHARE * _height_mm(one))


def _repeats(slices: tuple[SliceHeader, ...]) -> list[tuple[SliceHeader, ...]]:
    """Split slices that repeat every place equally often, such as two acquisitions.

    Echoes and images with suppressed fat stay together: of these, one is chosen at each place. If
    numbers repeat, the order of the files' names shows which slices belong together, if names run
    along the stack.
    """
    along = _positions(slices)
    numbers = {(header.instance_number, header.frame) for header in slices}
    kinds = {_within_place(header)[:2] for header in slices}
    if along is None or len(kinds) > 1:
        return [slices]
    is_numbered = len(numbers) == len(slices)
    places: dict[float, list[SliceHeader]] = {}
    for header, place in zip(slices, np.round(along, 2), strict=True):
        places.setdefault(float(place), []).append(header)
    counts = {len(place) for place in places.values()}
    if len(counts) > 1:
        return [slices]
    order = _within_place if is_numbered else _by_name
    split = list(zip(*(sorted(place, key=order) for place in places.values()), strict=True))
    if is_numbered:
        return split
    runs = [[_by_name(header) for header in part] for part in split]
    run_along = all(run in (sorted(run), sorted(run)[::-1]) for run in runs)
    return split if run_along else [slices]


def _by_name(header: SliceHeader) -> tuple[tuple[int, int, str], ...]:
    """Key of a slice by its file's path, in which ``im2`` comes before ``im10``."""
    parts = re.split(r"(\d+)", str(header.path))
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def _narrowed(series: Series, slices: tuple[SliceHeader, ...]) -> Series:
    """The series with these of its slices, described as they are."""
    if len(slices) == len(series.slices):
        return series
    description = slices[0].series_description or series.description
    return Series(series.series_uid, description, slices)


def _height_mm(header: SliceHeader) -> float:
    return header.rows * header.spacing_rc_mm[0] if header.spacing_rc_mm else 0.0


def _geometry_of(stack: _Stack) -> object:
    """Values that stacks at the same places have in common."""
    middle = _middle(stack)[0]
    rounded = [
        None if values is None else tuple(round(value, 1) for value in values)
        for values in (middle.orientation, middle.position, middle.spacing_rc_mm)
    ]
    return middle.rows, middle.columns, *rounded


def _with_named_parts(stacks: Sequence[_Stack]) -> list[_Stack]:
    """Assign Dixon parts to stacks whose descriptions differ only in the word of a Dixon part.

    If such a word is the only difference between series at the same places, they are the images of
    a Dixon scan, even if nothing says Dixon.
    """
    groups: dict[object, dict[int, DixonPart]] = {}
    for n, stack in enumerate(stacks):
        for rest, part in named_parts(stack.series.description):
            groups.setdefault((rest, _geometry_of(stack)), {})[n] = part
    parts = {
        n: part for group in groups.values() if len(set(group.values())) > 1
        for n, part in group.items()
    }  # fmt: skip
    return [replace(stack, part=stack.part or parts.get(n)) for n, stack in enumerate(stacks)]


def _with_seen_parts(stacks: Sequence[_Stack], read: ReadImage) -> list[_Stack]:
    """Stacks of Dixon scans with the parts that their pixels show.

    Names are kept, unless water and fat are clearly swapped. Stacks of the same place that do not
    differ in their headers are a Dixon scan if one of them shows fat only.
    """
    groups: dict[object, list[int]] = {}
    silent: dict[object, list[int]] = {}
    for n, stack in enumerate(stacks):
        if stack.part is not None or is_of_dixon_scan(stack.first):
            groups.setdefault(_geometry_of(stack), []).append(n)
        else:
            silent.setdefault((_geometry_of(stack), _words_and_times(stack.first)), []).append(n)
    changed = dict(enumerate(stacks))
    for places in groups.values():
        group = [stacks[n] for n in places]
        if len(group) > 1:
            changed.update(zip(places, _seen_parts(group, read), strict=True))
    for places in silent.values():
        group = [stacks[n] for n in places]
        if 1 < len(group) <= _LOOKS and _middle(group[0])[0].has_geometry:
            changed.update(zip(places, _unnamed_parts(group, read), strict=True))
    return list(changed.values())


def _words_and_times(header: SliceHeader) -> object:
    """Values by which the headers of two stacks state different contrasts."""
    times = header.echo_time_ms, header.repetition_time_ms, header.inversion_time_ms
    return header.words, header.scan_options, header.image_type, *times


def _unnamed_parts(group: Sequence[_Stack], read: ReadImage) -> list[_Stack]:
    """The stacks of one place and header, with their parts if they are a Dixon scan."""
    images = [image for stack in group if (image := _image_of(stack, read)) is not None]
    if len(images) < len(group) or len({image.shape for image in images}) != 1:
        return list(group)
    least = _FAT_WITHOUT_TIMES if weighting(group[0].first) == "unknown" else _FAT_OF_T2
    spacing = _spacing_upright(group[0].first)
    parts = dixon_parts(images, spacing, least_fat=least)
    if "fat" not in parts:
        return list(group)
    return [replace(stack, part=part) for stack, part in zip(group, parts, strict=True)]


def _seen_parts(group: Sequence[_Stack], read: ReadImage) -> list[_Stack]:
    images = [_image_of(stack, read) for stack in group]
    known = [n for n, image in enumerate(images) if image is not None]
    shapes = {image.shape for image in images if image is not None}
    if len(known) < 2 or len(shapes) != 1:
        return list(group)
    found = dixon_parts([i for i in images if i is not None], _spacing_upright(group[0].first))
    seen = dict(zip(known, found, strict=True))
    named = [stack.part for stack in group]
    swapped = {
        n: part
        for n, part in seen.items()
        if {named[n], part} == {"water", "fat"} and named.count(named[n]) == 1
    }
    result = []
    for n, stack in enumerate(group):
        if len(swapped) == 2 and n in swapped:
            text = f"named as the {stack.part} image of a Dixon scan, but shows {swapped[n]}"
            result.append(replace(stack, part=swapped[n], seen=(*stack.seen, Demerit(0, text))))
        else:
            taken = seen.get(n) in named
            result.append(stack if stack.part or taken else replace(stack, part=seen.get(n)))
    return result


def _image_of(stack: _Stack, read: ReadImage) -> Float32Array | None:
    """The pixels of a stack's middle slice, or None if they cannot be read."""
    try:
        return read(_middle(stack)[0])
    except DicomReadError:
        return None


def _with_stations(stacks: Sequence[_Stack]) -> list[_Stack]:
    """Add a demerit to stacks that lie well above another stack that is as good."""
    text = "shows an upper station of a whole spine"
    return [
        replace(stack, seen=(*stack.seen, Demerit(7, text)))
        if any(_lies_above(stack, other) for other in stacks)
        else stack
        for stack in stacks
    ]


def _lies_above(stack: _Stack, other: _Stack) -> bool:
    heights = [_centre_height(each.first) for each in (stack, other)]
    if heights[0] is None or heights[1] is None or _penalty(other) > _penalty(stack):
        return False
    if not (shares_coordinates(stack.first, other.first) or _are_in_column(stack, other)):
        return False
    tall = min(_height_mm(stack.first), _height_mm(other.first))
    return heights[0] - heights[1] > _STATION_SHARE * tall


def _are_in_column(one: _Stack, other: _Stack) -> bool:
    """Whether two stacks are alike but for their height, so that both are stations of one scan.

    De-identification may give each a frame of reference of its own.
    """
    kinds = [_words_and_times(stack.first) for stack in (one, other)]
    centres = [_centre(stack.first) for stack in (one, other)]
    if kinds[0] != kinds[1] or centres[0] is None or centres[1] is None:
        return False
    return bool(np.hypot(*(centres[0] - centres[1])[:2]) < _COLUMN_MM)


def _centre_height(header: SliceHeader) -> float | None:
    """Height of a slice's centre in the patient, mm."""
    centre = _centre(header)
    return None if centre is None else float(centre[2])


def _centre(header: SliceHeader) -> FloatArray | None:
    """A slice's centre in the patient, LPS mm."""
    if not header.has_geometry:
        return None
    middle = [[(header.columns - 1) / 2, (header.rows - 1) / 2]]
    return pixel_to_patient(header, np.array(middle))[0]


def _upper_stations(best: _Stack, stacks: Sequence[_Stack]) -> list[Remark]:
    count = sum(_lies_above(replace(stack, seen=()), best) for stack in stacks)
    if not count:
        return []
    wording = "{series.shown} was chosen, the lowest of {count} stations of a whole spine"
    return [best.remark("slice_choice", wording, count=count + 1)]


def _looked_at(stacks: Sequence[_Stack], read: ReadImage) -> list[_Stack]:
    """Stacks by rank, after the pixels of the best ones were checked."""
    ordered = sorted(_compared(sorted(stacks, key=_rank), read), key=_rank)
    done: list[_Stack] = []
    for _ in range(_LOOKS):
        best = _penalty(ordered[0])
        places = (n for n, s in enumerate(ordered) if _penalty(s) == best and s not in done)
        place = next(places, None)
        if place is None:
            break
        ordered[place] = _seen(ordered[place], read)
        done.append(ordered[place])
        ordered.sort(key=_rank)
    return ordered


def _compared(ordered: Sequence[_Stack], read: ReadImage) -> list[_Stack]:
    """Stacks, of which equally suited ones of the same place are compared by their pixels.

    Side by side, fat suppression and T1 show more reliably than in one image.
    """
    best = _penalty(ordered[0])
    groups: dict[object, list[int]] = {}
    for n, stack in enumerate(ordered):
        if _penalty(stack) == best and _middle(stack)[0].has_geometry:
            groups.setdefault(_geometry_of(stack), []).append(n)
    result = list(ordered)
    for places in (each for each in groups.values() if len(each) > 1):
        images = [_image_of(ordered[n], read) for n in places[:_LOOKS]]
        shown = [(n, i) for n, i in zip(places, images, strict=False) if i is not None]
        if len(shown) < 2 or len({image.shape for _, image in shown}) > 1:
            continue
        spacing = _spacing_upright(ordered[places[0]].first)
        looks = look_at_one_place([image for _, image in shown], spacing)
        for (n, _), look in zip(shown, looks, strict=True):
            if look is not None:
                fat_is_dark, is_t1 = look.has_suppressed_fat(looks), look.is_like_t1(looks)
                stack = _with_look(ordered[n], fat_is_dark=fat_is_dark, is_like_t1=is_t1)
                result[n] = replace(stack, is_compared=True)
    return result


def _with_look(stack: _Stack, *, fat_is_dark: bool, is_like_t1: bool) -> _Stack:
    """A stack with the demerits that its pixels show and its header does not state."""
    known = {demerit.text for demerit in stack.seen}
    found = []
    if fat_is_dark and stack.part is None and fat_suppression(stack.first) is None:
        found.append(_dark_fat("no header says so, but fat is dark"))
    if is_like_t1 and weighting(stack.first) == "unknown":
        found.append(Demerit(4, "its image looks T1-weighted: fat is bright and no fluid is"))
    return replace(stack, seen=(*stack.seen, *(each for each in found if each.text not in known)))


def _seen(stack: _Stack, read: ReadImage) -> _Stack:
    """A stack with the fat suppression and contrast that its middle slice shows."""
    asks_fat = stack.part is None and fat_suppression(stack.first) is None
    asks_contrast = weighting(stack.first) == "unknown" and not stack.is_compared
    image = _image_of(stack, read) if asks_fat or asks_contrast else None
    look = None if image is None else look_at_sagittal(image, _spacing_upright(stack.first))
    if look is None:
        return stack
    is_t1 = asks_contrast and look.is_like_t1
    return _with_look(stack, fat_is_dark=look.has_suppressed_fat, is_like_t1=is_t1)


def _spacing_upright(header: SliceHeader) -> tuple[float, float] | None:
    """Spacing of the image in standard orientation, in which pixels may have become square."""
    spacing, turn = header.spacing_rc_mm, standard_orientation(header)
    if spacing is not None and turn.scaled_hw is not None:
        return min(spacing), min(spacing)
    return spacing[::-1] if spacing and turn.transpose else spacing


# Demerits


def _refusal(stack: _Stack) -> str | None:
    """Why a stack cannot be the T2 sagittal one, or None."""
    header, contrast = stack.first, weighting(stack.first)
    checks = (
        (header.modality not in ("", "MR"), f"modality {header.modality}, not MR"),
        (True, no_anatomy(header)),
        (not is_of_sagittal_plane(header), plane_of(header)),
        (contrast in ("T1", "PD"), f"{contrast}-weighted"),
        (min(header.rows, header.columns) < 64, f"only {header.rows}x{header.columns} pixels"),
    )
    return next((reason for holds, reason in checks if holds and reason), None)


def _strangeness(stack: _Stack) -> tuple[bool, bool, bool]:
    """How far a refused stack is from the goal: not MR, then no anatomy, then another plane."""
    header = stack.first
    return (
        header.modality not in ("", "MR"),
        no_anatomy(header) is not None,
        not is_of_sagittal_plane(header),
    )


def _demerits(stack: _Stack) -> list[Demerit]:
    """The demerits of a usable stack."""
    header, contrast = stack.first, weighting(stack.first)
    fat = None if stack.part else fat_suppression(header)
    echo = header.echo_time_ms
    found = (
        (
            contrast == "unknown",
            8,
            "weighting unknown (no description, echo time); assumed to be T2",
        ),
        (
            is_of_other_region(header),
            8,
            "seems to show another part of the body than the lumbar spine",
        ),
        (contrast == "T2*", 6, "T2*-weighted or short repetition, not plain T2"),
        (stack.part is None and is_derived(header), 4, "a derived image, not an original one"),
        (is_real_part(header), 4, "the real part of a complex image, not its magnitude"),
        (
            contrast == "T2" and echo is not None and echo < 45,
            3,
            f"described as T2, but its echo time is {echo or 0:g} ms",
        ),
        (
            echo is not None and echo > _MYELOGRAPHY_ECHO_MS,
            3,
            f"heavily T2-weighted (echo time {echo or 0:g} ms), as for myelography",
        ),
        (
            header.orientation is None,
            3,
            "no orientation; assumed to be sagittal by its description",
        ),
        (header.modality == "", 1, "modality is missing; assumed to be MR"),
        (header.samples > 1, 4, "a colour image"),
        (len(stack.slices) < 3, 2, f"only {len(stack.slices)} slice(s)"),
    )
    of_part = [] if stack.part is None else [_OF_DIXON[stack.part]]
    of_fat = [] if fat is None else [_dark_fat(fat)]
    told = (Demerit(weight, text) for holds, weight, text in found if holds)
    return [*told, *of_fat, *of_part, *stack.seen]


def _penalty(stack: _Stack) -> int:
    return sum(demerit.weight for demerit in _demerits(stack))


def _rank(stack: _Stack) -> tuple[int, int, int, float, str]:
    header = stack.first
    spacing = min(header.spacing_rc_mm) if header.spacing_rc_mm else float("inf")
    size = header.rows * header.columns
    return _penalty(stack), -len(stack.slices), -size, spacing, stack.series.series_uid


def _equals(best: _Stack, others: Sequence[_Stack]) -> list[_Stack]:
    """The other stacks with as few demerits, in order of rank."""
    return [other for other in others if _penalty(other) == _penalty(best)]


def _rivals(best: _Stack, others: Sequence[_Stack]) -> list[Remark]:
    """A warning if another stack is as good, so that a detail decided."""
    equal = _equals(best, others)
    if not equal:
        return []
    wording = "{series.shown} was chosen from {count} equally suited series; {reason} decided"
    why = _why_not(equal[0], best)
    return [best.remark("slice_choice", wording, why, count=len(equal) + 1)]


def _why_not(stack: _Stack, best: _Stack) -> str:
    """Why one usable stack ranks behind another."""
    if _penalty(stack) != _penalty(best):
        texts = [demerit.text for demerit in _demerits(stack) if demerit.text]
        return "; ".join(texts) or f"the {stack.part} image of a Dixon scan"
    names = ("", "the number of slices", "the matrix size", "the pixel spacing", "the series UID")
    pairs = zip(names, _rank(stack), _rank(best), strict=True)
    return next((name for name, mine, its in pairs if mine != its), "the order of slices")


# Slices of a stack


def _middle(stack: _Stack) -> tuple[SliceHeader, int, list[Remark]]:
    """The middle slice, its index in the stack, and warnings."""
    slices = stack.slices
    along = _positions(slices)
    if along is None:
        ordered = in_order(slices)
        chosen = ordered[len(ordered) // 2]
        if len(slices) == 1:
            return chosen, 0, []
        by = "slice location" if _has_locations(slices) else "instance number"
        text = f"slices have no distinct positions; the middle is by {by}"
        text += ", and millimetres across the slices are unknown" if chosen.has_geometry else ""
        warning = stack.remark("slice_choice", "{series.shown}: {reason}", text)
        return chosen, ordered.index(chosen), [warning]
    distance = np.abs(along - (along.min() + along.max()) / 2)
    nearest = along[distance <= distance.min() + 1e-3].max()
    places = [n for n in range(len(slices)) if abs(along[n] - nearest) <= 1e-3]
    place = min(places, key=lambda n: _within_place(slices[n]))
    warnings = []
    if len(places) > 1:
        kinds = {_within_place(slices[n])[:2] for n in places}
        text = "of several middle images, "
        text += "the one with fat and the longest echo" if len(kinds) > 1 else "the first by number"
        text += " was chosen"
        warnings.append(stack.remark("slice_choice", "{series.shown}: {reason}", text))
    if gap := _gap(along):
        warnings.append(stack.remark("slice_choice", "{series.shown}: {reason}", gap))
    return slices[place], place, warnings


def in_order(slices: Sequence[SliceHeader]) -> list[SliceHeader]:
    """Slices without distinct positions in order: by their slice locations, or else numbers."""
    if _has_locations(slices):
        return sorted(slices, key=lambda s: s.location_mm or 0.0)
    return sorted(slices, key=lambda s: (s.instance_number or 0, s.frame or 0, str(s.path)))


def _has_locations(slices: Sequence[SliceHeader]) -> bool:
    """Whether every slice has a slice location of its own."""
    locations = {header.location_mm for header in slices}
    return None not in locations and len(locations) == len(slices)


def _gap(along: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    """A text about gaps in a stack of otherwise even steps, or empty."""
    steps = np.diff(np.unique(np.round(along, 2)))
    if len(steps) < _LEAST_STEPS:
        return ""
    usual, widest = float(np.median(steps)), float(steps.max())
    wide = int((steps > _GAP * usual).sum())
    if not 0 < wide <= max(1, len(steps) // 4):
        return ""
    return f"slices seem to be missing: some lie {widest:.1f} mm apart, and most {usual:.1f} mm"


def _neighbours(stack: _Stack, chosen: SliceHeader) -> tuple[SliceHeader, ...]:
    """The stack's other slices, one per place, by distance from the chosen one."""
    along = _positions(stack.slices)
    if along is None:
        return ()
    middle = along[next(n for n, each in enumerate(stack.slices) if each is chosen)]
    at_place: dict[float, SliceHeader] = {}
    for header, place in zip(stack.slices, np.round(along - middle, 2), strict=True):
        other = at_place.setdefault(float(place), header)
        if _within_place(header) < _within_place(other):
            at_place[float(place)] = header
    at_place.pop(0.0, None)
    return tuple(at_place[place] for place in sorted(at_place, key=lambda p: (abs(p), p)))


def _t1_slices(stacks: Sequence[_Stack], chosen: SliceHeader) -> tuple[SliceHeader, ...]:
    """The slices of the best sagittal T1 stack that shares the chosen slice's coordinates."""
    suited = [
        stack
        for stack in stacks
        if weighting(stack.first) == "T1"
        and stack.first.is_sagittal
        and no_anatomy(stack.first) is None
        and stack.first.has_geometry
        and shares_coordinates(stack.first, chosen)
    ]
    return min(suited, key=_rank).slices if suited else ()


def shares_coordinates(one: SliceHeader, other: SliceHeader) -> bool:
    """Return whether two slices of a study share a coordinate system.

    De-identification may give every series its own frame of reference. Two stacks with exactly the
    same tilt were still planned on the same scan.
    """
    uids = one.frame_of_reference_uid, other.frame_of_reference_uid
    if uids[0] == uids[1] or not all(uids):
        return True
    if one.orientation is None or other.orientation is None:
        return False
    tilted = float(np.abs(one.orientation).max()) < 1 - 1e-6
    return tilted and bool(np.allclose(one.orientation, other.orientation, rtol=0, atol=1e-6))


def _within_place(header: SliceHeader) -> tuple[bool, float, int, str, int]:
    return (
        fat_suppression(header) is not None,
        -(header.echo_time_ms or 0.0),
        header.instance_number or 0,
        header.instance_uid,
        header.frame or 0,
    )


def _positions(
    slices: Sequence[SliceHeader],
) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    """Position of each slice along the normal in mm, or None if it does not distinguish them."""
    normal = slices[0].normal
    positions = [s.position for s in slices if s.position is not None]
    if normal is None or len(positions) != len(slices):
        return None
    along = np.array(positions, dtype=np.float64) @ normal
    if len(slices) > 1 and along.max() - along.min() < 1e-3:
        return None
    return along


def _files_left_out(study: Study) -> list[Remark]:
    """Remarks on dropped files of the study: damaged files, and copies of others."""
    damaged = _rejected_as("damaged", study)
    wording = "{file.shown} was left out: {reason}"
    named = damaged if len(damaged) <= _NAMED_FILES else damaged[: _NAMED_FILES - 1]
    found = [remark("files_left_out", wording, **_of_file(each)) for each in named]
    if len(damaged) > len(named):
        wording = "{count} more damaged files were left out"
        found.append(remark("files_left_out", wording, count=len(damaged) - len(named)))
    copies = _rejected_as("duplicate", study)
    if copies:
        what = "copy of slices was" if len(copies) == 1 else "copies of slices were"
        wording = f"{{count}} further {what} left out, such as {{file.shown}}"
        name = PathText(copies[0].path.name)
        found.append(remark("files_left_out", wording, count=len(copies), file=name))
    return found


def _rejected_as(kind: RejectionKind, study: Study) -> list[Rejection]:
    return [rejection for rejection in study.rejections if rejection.kind == kind]


def _counted(study: Study) -> list[Remark]:
    """Number of dropped files, for an error."""
    counts = {
        "damaged files": len(_rejected_as("damaged", study)),
        "further copies": len(_rejected_as("duplicate", study)),
    }
    wording = "{count} {what} left out"
    return [remark("", wording, count=n, what=what) for what, n in counts.items() if n]


def _of_file(rejection: Rejection) -> dict[str, Parameter]:
    """The parameters of a remark on a file."""
    return {"file": PathText(rejection.path.name), "reason": FreeText(rejection.reason)}


def _nothing_found(study: Study, series: Sequence[Remark]) -> Remark:
    if series:
        wording = "{found}"
        found = (*series, *_counted(study))
    else:
        wording = "no usable DICOM image ({found}" + "…" * (len(study.rejections) > 3) + ")"
        found = tuple(remark("", "{file}: {reason}", **_of_file(r)) for r in study.rejections[:3])
    return remark(
        "",
        f"study {{study}}: no sagittal T2 series; found {wording}. "
        "Export the T2 sagittal series"
        + (", or use one of these all the same with force=true" if series else ""),
        study=NameText(study.name),
        found=found,
    )
