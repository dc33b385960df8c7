"""What speaks against a stack, and the order of stacks that follows."""

from __future__ import annotations

from collections.abc import Sequence

from spineline.datasets.dicom.kinds import (
    DixonPart,
    fat_suppression,
    is_derived,
    is_of_other_region,
    is_of_sagittal_plane,
    is_real_part,
    no_anatomy,
    plane_of,
    weighting,
)
from spineline.datasets.dicom.stacks.stack import Demerit, Stack

_MYELOGRAPHY_ECHO_MS = 300.0


def dark_fat(how: str) -> Demerit:
    """The demerit of suppressed fat; ``how`` says what shows it."""
    text = f"fat-suppressed ({how}); grades are less certain on it"
    return Demerit(5, text, "fat_suppressed")


_OF_DIXON: dict[DixonPart, Demerit] = {
    "water": dark_fat("the water image of a Dixon scan"),
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


def stack_refusal(stack: Stack) -> str | None:
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


def strangeness(stack: Stack) -> tuple[bool, bool, bool]:
    """How far a refused stack is from the goal: not MR, then no anatomy, then another plane."""
    header = stack.first
    return (
        header.modality not in ("", "MR"),
        no_anatomy(header) is not None,
        not is_of_sagittal_plane(header),
    )


def demerits_of(stack: Stack) -> list[Demerit]:
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
    of_fat = [] if fat is None else [dark_fat(fat)]
    stated = (Demerit(weight, text) for holds, weight, text in found if holds)
    return [*stated, *of_fat, *of_part, *stack.seen]


def penalty_of(stack: Stack) -> int:
    """The sum of a stack's demerits."""
    return sum(demerit.weight for demerit in demerits_of(stack))


def rank_of(stack: Stack) -> tuple[int, int, int, float, str]:
    """Sort key: fewest demerits, most slices, most pixels, finest spacing, lowest series UID."""
    header = stack.first
    spacing = min(header.spacing_rc_mm) if header.spacing_rc_mm else float("inf")
    size = header.rows * header.columns
    return penalty_of(stack), -len(stack.slices), -size, spacing, stack.series.series_uid


def equally_suited(best: Stack, others: Sequence[Stack]) -> list[Stack]:
    """The other stacks with as few demerits, in order of rank."""
    return [other for other in others if penalty_of(other) == penalty_of(best)]


def why_not(stack: Stack, best: Stack) -> str:
    """Why one usable stack ranks behind another."""
    if penalty_of(stack) != penalty_of(best):
        texts = [demerit.text for demerit in demerits_of(stack) if demerit.text]
        return "; ".join(texts) or f"the {stack.part} image of a Dixon scan"
    names = ("", "the number of slices", "the matrix size", "the pixel spacing", "the series UID")
    pairs = zip(names, rank_of(stack), rank_of(best), strict=True)
    return next((name for name, mine, its in pairs if mine != its), "the order of slices")
