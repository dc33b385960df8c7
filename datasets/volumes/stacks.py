"""Folders of plain images that are the slices of one study, in the order of their names."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.images import ImageReadError, image_size

_LEAST = 5  # fewest images that look like a stack
_RUNS = 0.8  # smallest fraction of steps between their numbers that are 1


def natural_order(path: Path) -> tuple[tuple[int, int | str], ...]:
    """Sort key for natural order: ``im2`` before ``im10``.

    >>> sorted(map(Path, ["im10.png", "im2.png", "IM1.png"]), key=natural_order)[0].name
    'IM1.png'
    """
    parts = re.split(r"(\d+)", path.name.lower())
    keys = tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts if part)
    return (*keys, (2, path.name))


def image_stack(paths: Sequence[Path]) -> tuple[SliceHeader, ...]:
    """Make slices of images, without a place in the patient, in natural order of their names.

    Args:
        paths: one or more images of one folder.

    Raises:
        SpinelineError: an image cannot be read, or their sizes differ.
    """
    ordered = sorted(paths, key=natural_order)
    sizes = {path: image_size(path) for path in ordered}
    (usual, count), *others = Counter(sizes.values()).most_common()
    if others:
        odd = next(path for path in ordered if sizes[path] != usual)
        shown = "x".join(map(str, usual)), "x".join(map(str, sizes[odd]))
        msg = f"{odd}: {shown[1]} pixels, and {count} images beside it have {shown[0]}: slices of "
        raise SpinelineError(f"{msg}one stack are of one size; move what is none elsewhere")
    width, height = usual
    return tuple(
        SliceHeader(path, "", "", "", height, width, instance_number=number)
        for number, path in enumerate(ordered, 1)
    )


def looks_like_stack(paths: Sequence[Path]) -> bool:
    """Return whether images of a folder look like the slices of one study.

    There must be five or more, of one size, whose names differ in a single number. At least 80 % of
    the steps of that number must be 1.
    """
    if len(paths) < _LEAST:
        return False
    ordered = sorted(paths, key=natural_order)
    parts = [re.split(r"(\d+)", path.name) for path in ordered]
    if len({len(each) for each in parts}) > 1:
        return False
    columns = [column for column in zip(*parts, strict=True) if len(set(column)) > 1]
    if len(columns) != 1 or not all(text.isdecimal() for text in columns[0]):
        return False
    numbers = [int(text) for text in columns[0]]
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    if steps.count(1) < _RUNS * len(steps):
        return False
    try:
        first = image_size(ordered[0])
        return all(image_size(path) == first for path in ordered[1:])
    except ImageReadError:
        return False
