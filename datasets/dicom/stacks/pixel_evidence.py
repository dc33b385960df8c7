"""What the pixels of stacks show of Dixon parts, fat suppression and contrast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.dicom.contrast import (
    dixon_parts,
    look_at_one_place,
    look_at_sagittal,
)
from spineline.datasets.dicom.geometry import (
    standard_orientation,
)
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.kinds import (
    DixonPart,
    fat_suppression,
    is_of_dixon_scan,
    named_parts,
    weighting,
)
from spineline.datasets.dicom.stacks.demerits import dark_fat, penalty_of, rank_of
from spineline.datasets.dicom.stacks.stack import (
    Demerit,
    Stack,
    geometry_of,
    middle_slice,
    words_and_times,
)

_LOOKS = 8
"""Most stacks whose pixels are checked for what headers do not state."""
_FAT_OF_T2, _FAT_WITHOUT_TIMES = 1.8, 8.0
"""Least brightness of fat, relative to the canal, in a fat image; without times it may be T1."""


ReadImage: TypeAlias = Callable[[SliceHeader], Float32Array]


def with_named_parts(stacks: Sequence[Stack]) -> list[Stack]:
    """Assign Dixon parts to stacks whose descriptions differ only in the word of a Dixon part.

    If such a word is the only difference between series at the same places, they are the images of
    a Dixon scan, even if nothing says Dixon.
    """
    groups: dict[object, dict[int, DixonPart]] = {}
    for n, stack in enumerate(stacks):
        for rest, part in named_parts(stack.series.description):
            groups.setdefault((rest, geometry_of(stack)), {})[n] = part
    parts = {
        n: part for group in groups.values() if len(set(group.values())) > 1
        for n, part in group.items()
    }  # fmt: skip
    return [replace(stack, part=stack.part or parts.get(n)) for n, stack in enumerate(stacks)]


def with_seen_parts(stacks: Sequence[Stack], read: ReadImage) -> list[Stack]:
    """Stacks of Dixon scans with the parts that their pixels show.

    Names are kept, unless water and fat are clearly swapped. Stacks of the same place that do not
    differ in their headers are a Dixon scan if one of them shows fat only.
    """
    groups: dict[object, list[int]] = {}
    silent: dict[object, list[int]] = {}
    for n, stack in enumerate(stacks):
        if stack.part is not None or is_of_dixon_scan(stack.first):
            groups.setdefault(geometry_of(stack), []).append(n)
        else:
            silent.setdefault((geometry_of(stack), words_and_times(stack.first)), []).append(n)
    changed = dict(enumerate(stacks))
    for places in groups.values():
        group = [stacks[n] for n in places]
        if len(group) > 1:
            changed.update(zip(places, _seen_parts(group, read), strict=True))
    for places in silent.values():
        group = [stacks[n] for n in places]
        if 1 < len(group) <= _LOOKS and middle_slice(group[0])[0].has_geometry:
            changed.update(zip(places, _unnamed_parts(group, read), strict=True))
    return list(changed.values())


def _unnamed_parts(group: Sequence[Stack], read: ReadImage) -> list[Stack]:
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


def _seen_parts(group: Sequence[Stack], read: ReadImage) -> list[Stack]:
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


def _image_of(stack: Stack, read: ReadImage) -> Float32Array | None:
    """The pixels of a stack's middle slice, or None if they cannot be read."""
    try:
        return read(middle_slice(stack)[0])
    except DicomReadError:
        return None


def ranked_by_pixels(stacks: Sequence[Stack], read: ReadImage) -> list[Stack]:
    """Stacks by rank, after the pixels of the best ones were checked."""
    ordered = sorted(_compared(sorted(stacks, key=rank_of), read), key=rank_of)
    done: list[Stack] = []
    for _ in range(_LOOKS):
        best = penalty_of(ordered[0])
        places = (n for n, s in enumerate(ordered) if penalty_of(s) == best and s not in done)
        place = next(places, None)
        if place is None:
            break
        ordered[place] = _seen(ordered[place], read)
        done.append(ordered[place])
        ordered.sort(key=rank_of)
    return ordered


def _compared(ordered: Sequence[Stack], read: ReadImage) -> list[Stack]:
    """Stacks, of which equally suited ones of the same place are compared by their pixels.

    Side by side, fat suppression and T1 show more reliably than in one image.
    """
    best = penalty_of(ordered[0])
    groups: dict[object, list[int]] = {}
    for n, stack in enumerate(ordered):
        if penalty_of(stack) == best and middle_slice(stack)[0].has_geometry:
            groups.setdefault(geometry_of(stack), []).append(n)
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


def _with_look(stack: Stack, *, fat_is_dark: bool, is_like_t1: bool) -> Stack:
    """A stack with the demerits that its pixels show and its header does not state."""
    known = {demerit.text for demerit in stack.seen}
    found = []
    if fat_is_dark and stack.part is None and fat_suppression(stack.first) is None:
        found.append(dark_fat("no header says so, but fat is dark"))
    if is_like_t1 and weighting(stack.first) == "unknown":
        found.append(Demerit(4, "its image looks T1-weighted: fat is bright and no fluid is"))
    return replace(stack, seen=(*stack.seen, *(each for each in found if each.text not in known)))


def _seen(stack: Stack, read: ReadImage) -> Stack:
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
