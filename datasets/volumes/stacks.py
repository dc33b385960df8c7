"""Plain images that are the slices of one study: of a folder, or the pages of a TIFF file."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from spineline.datasets.common.errors import SpinelineError, first_line
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.images import ImageReadError, image_size

Slice = TypeVar("Slice", bound="Path | int")

_LEAST = 5  # fewest images that look like a stack
_RUNS = 0.8  # smallest fraction of steps between their numbers that are 1
_IMAGE_DESCRIPTION, _X_RESOLUTION, _Y_RESOLUTION = 270, 282, 283  # numbers of TIFF tags
_UNITS_MM = {"mm": 1.0, "cm": 10.0, "um": 0.001, "micron": 0.001, "inch": 25.4}
"""Units that ImageJ writes."""


def natural_order(path: Path) -> tuple[tuple[int, int | str], ...]:
    """Sort key for natural order: ``im2`` before ``im10``.

    >>> sorted(map(Path, ["im10.png", "im2.png", "IM1.png"]), key=natural_order)[0].name
    'IM1.png'
    """
    parts = re.split(r"(\d+)", path.name.lower())
    keys = tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts if part)
    return (*keys, (2, path.name))


def is_tiff_stack(path: Path) -> bool:
    """Return whether a file is a TIFF file of several pages; false if it cannot be read."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        count, _, imagej = _pages_of(path)
    except ImageReadError:
        return False
    return count > 1 or imagej.get("images", "1") != "1"


def image_stack(paths: Sequence[Path]) -> tuple[SliceHeader, ...]:
    """Make slices of images, without a place in the patient, in natural order of their names.

    Args:
        paths: one or more images of one folder, or one TIFF file of several pages.

    Raises:
        SpinelineError: an image cannot be read, or their sizes differ.
    """
    if len(paths) == 1 and is_tiff_stack(paths[0]):
        return _page_stack(paths[0])
    ordered = sorted(paths, key=natural_order)
    sizes = {path: image_size(path) for path in ordered}
    width, height = _one_size(sizes, "{odd}: {found} pixels, and {count} images beside it have")
    return tuple(
        SliceHeader(path, "", "", "", height, width, instance_number=number)
        for number, path in enumerate(ordered, 1)
    )


def _page_stack(path: Path) -> tuple[SliceHeader, ...]:
    """The pages of a TIFF file as slices, with the size of a pixel if ImageJ wrote it."""
    count, tags, imagej = _pages_of(path)
    if sum(imagej.get(name, "1") != "1" for name in ("channels", "slices", "frames")) > 1:
        msg = f"{path}: its pages are of several channels or times; save the slices of one of them"
        raise ImageReadError(msg)
    if imagej.get("images", str(count)) != str(count):
        msg = (
            f"{path}: ImageJ says that it holds {imagej['images']:.20} images, and it has {count} "
        )
        raise ImageReadError(f"{msg}page(s); save it in another format, such as an image sequence")
    sizes = {page: image_size(path, page) for page in range(count)}
    text = f"{path}: page {{odd}} (from 0) has {{found}} pixels, and {{count}} others have"
    width, height = _one_size(sizes, text)
    spacing = _imagej_spacing(tags, imagej.get("unit", ""))
    return tuple(
        SliceHeader(
            path, "", "", "", height, width, spacing,
            instance_number=page + 1, frame=page, frames=count,
        )
        for page in range(count)
    )  # fmt: skip


def _one_size(sizes: Mapping[Slice, tuple[int, int]], text: str) -> tuple[int, int]:
    """Return the size of all slices; raises SpinelineError, with a text, if one differs."""
    (usual, count), *others = Counter(sizes.values()).most_common()
    if others:
        odd = next(name for name, size in sizes.items() if size != usual)
        shown = ["x".join(map(str, size)) for size in (sizes[odd], usual)]
        msg = f"{text.format(odd=odd, found=shown[0], count=count)} {shown[1]}: slices of "
        raise SpinelineError(f"{msg}one stack are of one size; move what is none elsewhere")
    return usual


def _pages_of(path: Path) -> tuple[int, dict[int, Any], dict[str, str]]:
    """The number of pages of a TIFF file, the tags of the first, and what ImageJ says of them.

    Raises:
        ImageReadError: it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("TIFF",)) as picture:
            count = int(picture.n_frames)  # type: ignore[attr-defined]
            tags = dict(picture.tag_v2)  # type: ignore[attr-defined]
    except Exception as error:  # Pillow raises errors of many kinds on damaged files
        raise ImageReadError(f"{path}: cannot be read as TIFF ({first_line(error)})") from error
    text = str(tags.get(_IMAGE_DESCRIPTION, ""))
    lines = text.splitlines() if text.startswith("ImageJ=") else []
    return count, tags, dict(line.partition("=")[::2] for line in lines)


def _imagej_spacing(tags: Mapping[int, Any], unit: str) -> tuple[float, float] | None:
    """Height and width of a pixel in mm by ImageJ's tags, or None if they do not say it.

    Other programs use the tags of the resolution for the size on paper.
    """
    unit_mm = _UNITS_MM.get(unit.replace("\\u00B5", "u").replace("\xb5", "u"), math.nan)
    try:
        height, width = (unit_mm / float(tags[tag]) for tag in (_Y_RESOLUTION, _X_RESOLUTION))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (height, width) if 0 < height < 100 and 0 < width < 100 else None


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
