"""Choice of a study's series and slice: the middle of the T2 sagittal stack.

Each stack of parallel sagittal slices gets demerits (`demerits_of`). The stack with the fewest is
chosen, and warnings report its demerits. Ties are decided by more slices, then the higher
resolution, then the lower series UID, so that the order of files does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.common.remarks import (
    FreeText,
    NameText,
    Parameter,
    PathText,
    Remark,
    remark,
)
from spineline.datasets.dicom.geometry import (
    to_standard_orientation,
)
from spineline.datasets.dicom.header import RejectionKind, SliceHeader
from spineline.datasets.dicom.kinds import (
    no_anatomy,
    weighting,
)
from spineline.datasets.dicom.pixels import read_pixels
from spineline.datasets.dicom.stacks.demerits import (
    demerits_of,
    equally_suited,
    rank_of,
    stack_refusal,
    strangeness,
    why_not,
)
from spineline.datasets.dicom.stacks.pixel_evidence import (
    ReadImage,
    ranked_by_pixels,
    with_named_parts,
    with_seen_parts,
)
from spineline.datasets.dicom.stacks.stack import (
    Stack,
    middle_slice,
    neighbours_of,
    shares_coordinates,
    stacks_of,
)
from spineline.datasets.dicom.stacks.stations import upper_stations, with_stations
from spineline.datasets.dicom.types import Rejection, Series, Study

_NAMED_FILES = 5
"""Most damaged files that are named one by one in warnings."""


class NoSagittalT2Error(DicomReadError):
    """A study holds images, but no sagittal T2 series.

    Attributes:
        found: what it holds instead, with a remark for each stack.
    """

    def __init__(self, text: Remark | str, found: Sequence[Remark] = ()) -> None:
        super().__init__(text)
        self.found = tuple(found)


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
    stacks = with_named_parts([stack for series in study.series for stack in stacks_of(series)])
    offered = _offered(study, stacks, force=force)
    ranked = ranked_by_pixels(with_stations(with_seen_parts(offered.usable, read)), read)
    best, others = ranked[0], ranked[1:]
    chosen, place, slice_warnings = middle_slice(best)
    tie = _rivals(best, others)
    warnings = (
        *(() if offered.forced is None else (offered.forced,)),
        *(
            best.remark(demerit.code, "{series.shown}: {reason}", demerit.text)
            for demerit in demerits_of(best)
            if demerit.text
        ),
        *upper_stations(best, ranked),
        *tie,
        *slice_warnings,
        *(remark("no_geometry", "{reason}", reason=problem) for problem in chosen.problems),
        *_files_left_out(study),
    )
    left_out = [*offered.refused, *((stack, why_not(stack, best)) for stack in others)]
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
        neighbours=neighbours_of(best, chosen),
        alternatives=tuple(stack.series for stack in equally_suited(best, others)),
        t1_slices=_t1_slices(stacks, chosen),
        tie=tuple(tie),
        forced=offered.forced,
        found=offered.found,
    )


@dataclass(frozen=True, slots=True)
class _Offered:
    """The stacks of a study that may be chosen, and the others.

    Attributes:
        usable: at least one.
        refused: the others, each with the reason.
        forced: the warning that the usable one was refused too, and is used all the same.
        found: a remark for each stack if all were refused.
    """

    usable: list[Stack]
    refused: list[tuple[Stack, str]]
    forced: Remark | None = None
    found: tuple[Remark, ...] = ()


def _offered(study: Study, stacks: Sequence[Stack], *, force: bool) -> _Offered:
    """The stacks that may be T2 sagittal; with ``force``, or one file, the one nearest to it.

    Raises:
        NoSagittalT2Error: there is none, and none is forced.
        DicomReadError: there is no stack.
    """
    reasons = [stack_refusal(stack) for stack in stacks]
    refused = [(stack, why) for stack, why in zip(stacks, reasons, strict=True) if why]
    usable = [stack for stack, why in zip(stacks, reasons, strict=True) if not why]
    if usable:
        return _Offered(usable, refused)
    texts = (stack.remark("", "{series.shown}: {reason}", why) for stack, why in refused)
    found = tuple(dict.fromkeys(texts))
    if not found:
        raise DicomReadError(_nothing_found(study, found))
    if not (study.single_file or force):
        raise NoSagittalT2Error(_nothing_found(study, found), found)
    taken, reason = min(refused, key=lambda each: strangeness(each[0]))
    asked = "{series.shown}: used because of force=true"
    asked = "the file was used as requested" if study.single_file else asked
    forced = taken.remark("slice_choice", f"{asked}, although it is: {{reason}}", reason)
    return _Offered([taken], [each for each in refused if each[0] is not taken], forced, found)


def _rivals(best: Stack, others: Sequence[Stack]) -> list[Remark]:
    """A warning if another stack is as good, so that a detail decided."""
    equal = equally_suited(best, others)
    if not equal:
        return []
    wording = "{series.shown} was chosen from {count} equally suited series; {reason} decided"
    why = why_not(equal[0], best)
    return [best.remark("slice_choice", wording, why, count=len(equal) + 1)]


def _t1_slices(stacks: Sequence[Stack], chosen: SliceHeader) -> tuple[SliceHeader, ...]:
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
    return min(suited, key=rank_of).slices if suited else ()


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
