"""Which series and which slice of a study to look at: the middle of the T2 sagittal stack.

Each stack of parallel sagittal slices gets demerits (`_demerits`); the one with the fewest is
taken, and what it has is said in the warnings. Ties fall to the stack with more slices, then to the
higher resolution, then to the lower series UID, so that the order of files plays no part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
from spineline.datasets.dicom.header import RejectionKind, SliceHeader

# A word ends where letters end: digits and marks may stand right beside it, as in `t2_tse_sag_384`.
_T2 = re.compile(r"(?<![A-Z0-9])S?T2(?![0-9])")  # Philips writes sT2W
_T1 = re.compile(r"(?<![A-Z0-9])S?T1(?![0-9])")
_PD = re.compile(r"(?<![A-Z])PD(?:W|FS)?(?![A-Z])|PROTON|DENSITY")
_T2_STAR = re.compile(
    r"T2\s*\*|T2[ _-]?STAR|(?<![A-Z])(?:MEDIC|MERGE|GRE|FFE|FLASH|SWI|FIESTA)(?![A-Z])"
)
_SAGITTAL = re.compile(r"(?<![A-Z])(?:[TW12_]*SAG(?:ITTAL)?)(?![A-Z])|矢状")
_LOCALIZER = re.compile(
    r"LOCALI[SZ]|SCOUT|SURVEY|SCANOGRAM|(?<![A-Z])(?:LOC|PLAN|AAH)(?![A-Z])|定位"
)
_FAT_SUPPRESSED = re.compile(
    r"(?<![A-Z])(?:T2|T2W)?[ _-]?(?:FS|FATS?|SFS|STIR|TIRM|SPAIR|SPIR|CHESS|WE|IR)(?![A-Z])"
    r"|FAT[ _-]?SAT|FAT[ _-]?SUP|FATSUP|(?<![A-Z])WATER(?![A-Z])|压脂|抑脂"
)
_FAT_OR_OPPOSED = re.compile(r"OPP(?:OSED)?[ _-]?PHASE|OUT[ _-]?(?:OF[ _-]?)?PHASE|FAT[ _-]ONLY")
_DIXON = re.compile(r"DIXON|IDEAL|(?<![A-Z])FLEX(?![A-Z])")
_DIXON_WATER = re.compile(r"(?<![A-Z])W(?:ATER)?(?![A-Z])")
_DIXON_FAT = re.compile(r"(?<![A-Z])F(?:AT)?(?![A-Z])")
_OTHER_REGION = re.compile(
    r"CERVI|C[ _-]?SPINE|THORA|T[ _-]SPINE|TSPINE|(?<![A-Z])(?:HWS|BWS|NECK|HEAD|BRAIN|KNEE|HIP)"
    r"(?![A-Z])|颈|胸"
)
_LUMBAR = re.compile(r"LUMB|L[ _-]?SPINE|LWS|(?<![A-Z])(?:LS|LSP)(?![A-Z])|腰")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_FAT_SCAN_OPTIONS = ("FS", "SFS", "FAT_SAT", "FATSAT", "SPIR", "SPAIR", "STIR", "WE")

_T2_ECHO_MS = 60.0
_T2_REPETITION_MS = 1500.0
_MYELOGRAPHY_ECHO_MS = 300.0


@dataclass(frozen=True, slots=True)
class Rejection:
    """A file that gave no slice.

    Attributes:
        path: the file.
        reason: why, in plain words.
        kind: ``foreign`` (no DICOM image by nature), ``damaged``, ``no-image`` or ``duplicate``.
    """

    path: Path
    reason: str
    kind: RejectionKind = "damaged"


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
        study_uid: empty where no file of the folder could be read.
        name: unique in its source and fit for a folder name.
        folder: the lowest folder that holds all of its files.
        series: sorted by series number, then UID.
        rejections: files beside them that gave no slice.
        single_file: the user named this one file, so it is taken whatever it shows.
    """

    study_uid: str
    name: str
    folder: Path
    series: tuple[Series, ...]
    rejections: tuple[Rejection, ...] = ()
    single_file: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """The slice to look at, and why.

    Attributes:
        series: the series it belongs to.
        slice: the slice.
        warnings: what the user should know of the choice; their codes are ``slice_choice``,
            ``no_geometry`` and ``files_left_out``.
        notes: the choice itself, and each series and file left out with its reason.
        neighbours: the other slices of the same stack, by their distance from the chosen one along
            the normal, nearest first, one per place.
        alternatives: the middle slices of other stacks that are as well suited, in order of rank.
        t1_slices: the slices of a sagittal T1 stack in the same frame of reference, sorted along
            the normal; empty where there is none.
        tie: those of the warnings that say that another stack is as well suited.
    """

    series: Series
    slice: SliceHeader
    warnings: tuple[Remark, ...] = ()
    notes: tuple[Remark, ...] = ()
    neighbours: tuple[SliceHeader, ...] = ()
    alternatives: tuple[SliceHeader, ...] = ()
    t1_slices: tuple[SliceHeader, ...] = ()
    tie: tuple[Remark, ...] = ()


@dataclass(frozen=True, slots=True)
class _Stack:
    """Parallel slices of one size in one series."""

    series: Series
    slices: tuple[SliceHeader, ...]

    @property
    def first(self) -> SliceHeader:
        return self.slices[0]

    def remark(self, code: str, wording: str, reason: str = "", **counts: int) -> Remark:
        """A remark on the series, which ``{series.shown}`` stands for in the wording."""
        series = SeriesText(self.series.description.replace("'", ""), self.first.series_number)
        reasons = {"reason": reason} if reason else {}
        return remark(code, wording, series=series, **reasons, **counts)


def choose_slice(study: Study) -> Choice:
    """The middle slice of the study's T2 sagittal series.

    Sagittal is a matter of geometry (the slice normal runs mostly along x; by description only
    where there is no orientation), T2 one of description, echo and repetition time. A series that
    is fat-suppressed, derived or otherwise second-rate is used only when there is no better one,
    with a warning. The middle is found by position along the normal: the slice nearest to the
    centre of the stack, of two equally near the one further along.

    Raises:
        DicomReadError: the study has no sagittal T2 series; names what was found instead.
    """
    stacks = [stack for series in study.series for stack in _stacks(series)]
    refused = [(stack, reason) for stack in stacks if (reason := _refusal(stack))]
    usable = [stack for stack in stacks if not any(stack is other for other, _ in refused)]
    warnings: list[Remark] = []
    if not usable and study.single_file and stacks:
        usable = [stacks[0]]
        wording = "the file was taken as asked, although it is: {reason}"
        warnings.append(remark("slice_choice", wording, reason=refused[0][1]))
    if not usable:
        raise DicomReadError(_nothing_found(study, refused))
    usable.sort(key=_rank)
    best = usable[0]
    warnings += [
        best.remark("slice_choice", "{series.shown}: {reason}", text) for _, text in _demerits(best)
    ]
    tie = _rivals(best, usable[1:])
    warnings += tie
    left_out = [*refused, *((stack, _why_not(stack, best)) for stack in usable[1:])]
    chosen, place, slice_warnings = _middle(best)
    warnings += slice_warnings
    warnings += [remark("no_geometry", "{reason}", reason=problem) for problem in chosen.problems]
    warnings += [
        remark("files_left_out", "{file.shown} was left out: {reason}", **_of_file(rejection))
        for rejection in study.rejections
        if rejection.kind == "damaged"
    ]
    wording = "slice {place} of {count} of {series.shown}"
    notes = (
        best.remark("", wording, place=place + 1, count=len(best.slices)),
        *(stack.remark("", "left out, {series.shown}: {reason}", why) for stack, why in left_out),
        *(remark("", "left out, {file.shown}: {reason}", **_of_file(r)) for r in study.rejections),
    )
    equal = [stack for stack in usable[1:] if _rank(stack)[0] == _rank(best)[0]]
    return Choice(
        best.series,
        chosen,
        tuple(dict.fromkeys(warnings)),
        notes,
        neighbours=_neighbours(best, chosen),
        alternatives=tuple(_middle(stack)[0] for stack in equal),
        t1_slices=_t1_slices(stacks, chosen),
        tie=tuple(tie),
    )


def _stacks(series: Series) -> list[_Stack]:
    """The series' slices grouped into parallel ones of one size, in order of first occurrence."""
    groups: list[list[SliceHeader]] = []
    for header in series.slices:
        home = next((group for group in groups if _parallel(group[0], header)), None)
        if home is None:
            groups.append([header])
        else:
            home.append(header)
    return [_Stack(series, tuple(group)) for group in groups]


def _parallel(one: SliceHeader, other: SliceHeader) -> bool:
    if (one.rows, one.columns) != (other.rows, other.columns):
        return False
    if one.orientation is None or other.orientation is None:
        return one.orientation is other.orientation
    return bool(np.abs(np.subtract(one.orientation, other.orientation)).max() < 0.02)


def _refusal(stack: _Stack) -> str | None:
    """Why a stack cannot be the T2 sagittal one, or None."""
    header, weighting = stack.first, _weighting(stack.first)
    checks = (
        (header.modality not in ("", "MR"), f"modality {header.modality}, not MR"),
        (is_capture(header), "a screen shot or secondary capture"),
        (_is_localizer(header), "a localizer"),
        (not _is_sagittal(header), _plane(header)),
        (weighting in ("T1", "PD"), f"{weighting}-weighted"),
        ("MIP" in header.words.split() or "PROJECTION IMAGE" in header.image_type, "a projection"),
        (min(header.rows, header.columns) < 64, f"only {header.rows}x{header.columns} pixels"),
    )
    return next((reason for holds, reason in checks if holds), None)


def is_capture(header: SliceHeader) -> bool:
    """Whether a slice is a screen shot or secondary capture."""
    screen = any("SCREEN" in word for word in header.image_type) or "SCREEN" in header.words
    return header.sop_class_uid.startswith(_SECONDARY_CAPTURE) or screen


def _is_localizer(header: SliceHeader) -> bool:
    return "LOCALIZER" in header.image_type or bool(_LOCALIZER.search(header.words))


def _is_sagittal(header: SliceHeader) -> bool:
    if header.orientation is None:
        return bool(_SAGITTAL.search(header.words))
    return header.is_sagittal


def _plane(header: SliceHeader) -> str:
    normal = header.normal
    if normal is None:
        return "no orientation, and the description does not say sagittal"
    return ("sagittal", "coronal", "transverse")[int(np.abs(normal).argmax())] + ", not sagittal"


def _weighting(header: SliceHeader) -> str:
    """``T2``, ``T2*``, ``T1``, ``PD`` or ``unknown``: by words, then by echo and repetition."""
    words = header.words
    if _T2_STAR.search(words):
        return "T2*"
    found = [
        name for name, pattern in (("T2", _T2), ("T1", _T1), ("PD", _PD)) if pattern.search(words)
    ]
    if len(found) == 1:
        return found[0]
    if re.search(r"STIR|TIRM", words):
        return "T2"
    by_times = _weighting_by_times(header)
    return found[0] if found and by_times == "unknown" else by_times


def _weighting_by_times(header: SliceHeader) -> str:
    echo, repetition = header.echo_time_ms, header.repetition_time_ms
    if echo is None:
        return "unknown"
    if echo >= _T2_ECHO_MS:
        return "T2" if repetition is None or repetition >= _T2_REPETITION_MS else "T2*"
    if repetition is None:
        return "T1" if echo < 20 else "unknown"
    return "T1" if repetition < _T2_REPETITION_MS else "PD"


def _fat_suppression(header: SliceHeader) -> str | None:
    """How a slice shows that its fat is suppressed (or is all it shows), or None."""
    words, kinds = header.words, header.image_type
    if _DIXON.search(words) or {"DIXON", "WATER", "FAT", "OPP_PHASE", "IN_PHASE"} & set(kinds):
        return _dixon_part(words, kinds)
    match = _FAT_SUPPRESSED.search(words)
    if match:
        return f"described as '{match.group().strip(' _-')}'"
    options = [option for option in header.scan_options if option in _FAT_SCAN_OPTIONS]
    if options:
        return f"scan option {options[0]}"
    inversion = header.inversion_time_ms
    if inversion is not None and 50 <= inversion <= 350:
        return f"inversion time {inversion:g} ms"
    return None


def _dixon_part(words: str, kinds: Sequence[str]) -> str | None:
    after = _DIXON.split(words)[-1]
    if "IN_PHASE" in kinds or re.search(r"(?<![A-Z])IN(?![A-Z])|IN_?PHASE|(?<![A-Z])IP", after):
        return None
    if "WATER" in kinds or _DIXON_WATER.search(after):
        return "the water image of a Dixon scan"
    if "FAT" in kinds or _DIXON_FAT.search(after):
        return "the fat image of a Dixon scan"
    if "OPP_PHASE" in kinds or re.search(r"OPP|OUT|(?<![A-Z])OP(?![A-Z])", after):
        return "the opposed-phase image of a Dixon scan"
    return None


def _demerits(stack: _Stack) -> list[tuple[int, str]]:
    """What speaks against a usable stack: weight and plain words."""
    header, weighting = stack.first, _weighting(stack.first)
    fat = _fat_suppression(header)
    echo = header.echo_time_ms
    region = f"{header.words} {header.body_part}"
    derived = "DERIVED" in header.image_type[:1] or "SECONDARY" in header.image_type[1:2]
    found = (
        (weighting == "unknown", 8, "weighting unknown (no description, echo time); taken as T2"),
        (
            _OTHER_REGION.search(region) and not _LUMBAR.search(region),
            8,
            "seems to show another part of the body than the lumbar spine",
        ),
        (weighting == "T2*", 6, "T2*-weighted or short repetition, not plain T2"),
        (fat is not None, 5, f"fat-suppressed ({fat}); grades are less sure on it"),
        (bool(_FAT_OR_OPPOSED.search(header.words)), 5, "opposed-phase or fat-only image"),
        (derived, 4, "a derived image, not an original one"),
        (
            weighting == "T2" and echo is not None and echo < 45,
            3,
            f"described as T2, but its echo time is {echo or 0:g} ms",
        ),
        (
            echo is not None and echo > _MYELOGRAPHY_ECHO_MS,
            3,
            f"heavily T2-weighted (echo time {echo or 0:g} ms), as for myelography",
        ),
        (header.orientation is None, 3, "no orientation; taken as sagittal by its description"),
        (header.modality == "", 1, "modality is absent; taken as MR"),
        (header.samples > 1, 4, "a colour image"),
        (len(stack.slices) < 3, 2, f"only {len(stack.slices)} slice(s)"),
    )
    return [(weight, text) for holds, weight, text in found if holds]


def _rank(stack: _Stack) -> tuple[int, int, int, float, str]:
    header = stack.first
    spacing = min(header.spacing_rc_mm) if header.spacing_rc_mm else float("inf")
    penalty = sum(weight for weight, _ in _demerits(stack))
    size = header.rows * header.columns
    return penalty, -len(stack.slices), -size, spacing, stack.series.series_uid


def _rivals(best: _Stack, others: Sequence[_Stack]) -> list[Remark]:
    """A warning where another stack is as good, so that the choice is one of detail."""
    equal = [other for other in others if _rank(other)[0] == _rank(best)[0]]
    if not equal:
        return []
    wording = "{series.shown} was taken out of {count} equally suited series: {reason} decided"
    why = _why_not(equal[0], best)
    return [best.remark("slice_choice", wording, why, count=len(equal) + 1)]


def _why_not(stack: _Stack, best: _Stack) -> str:
    """Why one usable stack stands behind another."""
    if _rank(stack)[0] != _rank(best)[0]:
        return "; ".join(text for _, text in _demerits(stack))
    names = ("", "the number of slices", "the matrix size", "the pixel spacing", "the series UID")
    pairs = zip(names, _rank(stack), _rank(best), strict=True)
    return next((name for name, mine, its in pairs if mine != its), "the order of slices")


def _middle(stack: _Stack) -> tuple[SliceHeader, int, list[Remark]]:
    """The middle slice, its index in the stack, and warnings."""
    slices = stack.slices
    along = _positions(slices)
    if along is None:
        ordered = sorted(slices, key=lambda s: (s.instance_number or 0, s.frame or 0, str(s.path)))
        chosen = ordered[len(ordered) // 2]
        if len(slices) == 1:
            return chosen, 0, []
        text = "slices have no distinct positions; the middle is by instance number"
        warning = stack.remark("slice_choice", "{series.shown}: {reason}", text)
        return chosen, ordered.index(chosen), [warning]
    distance = np.abs(along - (along.min() + along.max()) / 2)
    nearest = along[distance <= distance.min() + 1e-3].max()
    places = [n for n in range(len(slices)) if abs(along[n] - nearest) <= 1e-3]
    place = min(places, key=lambda n: _within_place(slices[n]))
    warnings = []
    if len(places) > 1:
        text = "of several images in the middle the one with fat and the longest echo was taken"
        warnings.append(stack.remark("slice_choice", "{series.shown}: {reason}", text))
    return slices[place], place, warnings


def _neighbours(stack: _Stack, chosen: SliceHeader) -> tuple[SliceHeader, ...]:
    """The stack's other slices by distance from the chosen one, one per place, nearest first."""
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
    """The slices of the best sagittal T1 stack whose coordinates are those of the chosen slice."""
    suited = [
        stack
        for stack in stacks
        if _weighting(stack.first) == "T1"
        and stack.first.is_sagittal
        and not (is_capture(stack.first) or _is_localizer(stack.first))
        and stack.first.has_geometry
        and _shares_coordinates(stack.first, chosen)
    ]
    return min(suited, key=_rank).slices if suited else ()


def _shares_coordinates(one: SliceHeader, other: SliceHeader) -> bool:
    """Whether two slices of a study lie in one system of coordinates.

    De-identification may give every series a frame of reference of its own. Two stacks that are
    tilted alike to the last digit were planned on the same scan all the same.
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
        _fat_suppression(header) is not None,
        -(header.echo_time_ms or 0.0),
        header.instance_number or 0,
        header.instance_uid,
        header.frame or 0,
    )


def _positions(
    slices: Sequence[SliceHeader],
) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    """Position of each slice along the normal in mm, or None where that tells none apart."""
    normal = slices[0].normal
    positions = [s.position for s in slices if s.position is not None]
    if normal is None or len(positions) != len(slices):
        return None
    along = np.array(positions, dtype=np.float64) @ normal
    if len(slices) > 1 and along.max() - along.min() < 1e-3:
        return None
    return along


def _of_file(rejection: Rejection) -> dict[str, Parameter]:
    """The parameters of a remark on a file."""
    return {"file": PathText(rejection.path.name), "reason": FreeText(rejection.reason)}


def _nothing_found(study: Study, refused: Sequence[tuple[_Stack, str]]) -> Remark:
    if refused:
        wording = "{found}"
        found = tuple(stack.remark("", "{series.shown}: {reason}", why) for stack, why in refused)
    else:
        wording = "no usable DICOM image ({found}" + "…" * (len(study.rejections) > 3) + ")"
        found = tuple(remark("", "{file}: {reason}", **_of_file(r)) for r in study.rejections[:3])
    return remark(
        "",
        f"study {{study}}: no sagittal T2 series; found {wording}. "
        "Export the T2 sagittal series, or name one DICOM file as source",
        study=NameText(study.name),
        found=found,
    )
