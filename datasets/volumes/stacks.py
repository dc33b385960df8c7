"""Plain images that are the slices of one study: of a folder, or the pages of a TIFF file."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.images import ImageReadError, image_size
from spineline.datasets.volumes.tiff import TiffPage, tiff_pages, whole_pages

Slice = TypeVar("Slice", bound="Path | int")

_LEAST = 5  # fewest images that look like a stack
_RUNS = 0.8  # smallest fraction of steps between their numbers that are 1
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
    return _is_stack(_pages_of(path))


def image_stack(paths: Sequence[Path]) -> tuple[SliceHeader, ...]:
    """Make slices of images, without a place in the patient, in natural order of their names.

    Args:
        paths: one or more images of one folder, or one TIFF file of several pages.

    Raises:
        SpinelineError: an image cannot be read, or their sizes differ.
    """
    pages = _pages_of(paths[0]) if len(paths) == 1 else ()
    if _is_stack(pages):
        return _page_stack(paths[0], pages)
    ordered = sorted(paths, key=natural_order)
    sizes = {path: image_size(path) for path in ordered}
    width, height = _one_size(sizes, "{odd}: {found} pixels, and {count} images beside it have")
    return tuple(
        SliceHeader(path, "", "", "", height, width, instance_number=number)
        for number, path in enumerate(ordered, 1)
    )


def _page_stack(path: Path, pages: Sequence[TiffPage]) -> tuple[SliceHeader, ...]:
    """The pages of a TIFF file as slices, with the size of a pixel if ImageJ wrote it."""
    count, imagej = len(pages), _imagej_values(pages[0])
    if sum(imagej.get(name, "1") != "1" for name in ("channels", "slices", "frames")) > 1:
        msg = f"{path}: its pages are of several channels or times; save the slices of one of them"
        raise ImageReadError(msg)
    if imagej.get("images", str(count)) != str(count):
        msg = (
            f"{path}: ImageJ says that it holds {imagej['images']:.20} images, and it has {count} "
        )
        raise ImageReadError(f"{msg}page(s); save it in another format, such as an image sequence")
    sizes = {page.index: page.size_wh for page in pages}
    text = f"{path}: page {{odd}} (from 0) has {{found}} pixels, and {{count}} others have"
    width, height = _one_size(sizes, text)
    spacing = _imagej_spacing(pages[0], imagej.get("unit", ""))
    return tuple(
        SliceHeader(
            path, "", "", "", height, width, spacing,
            instance_number=number, frame=page.index, frames=count,
        )
        for number, page in enumerate(pages, 1)
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


def _pages_of(path: Path) -> tuple[TiffPage, ...]:
    """The pages of a TIFF file without previews and masks; none if it cannot be read as one."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return ()
    try:
        return whole_pages(tiff_pages(path))
    except (OSError, ValueError):
        return ()


def _is_stack(pages: Sequence[TiffPage]) -> bool:
    return len(pages) > 1 or any(
        _imagej_values(page).get("images", "1") != "1" for page in pages[:1]
    )


def _imagej_values(page: TiffPage) -> dict[str, str]:
    """What ImageJ says of its pages in the first one's description; empty for other programs."""
    lines = page.description.splitlines() if page.description.startswith("ImageJ=") else []
    return dict(line.partition("=")[::2] for line in lines)


def _imagej_spacing(page: TiffPage, unit: str) -> tuple[float, float] | None:
    """Height and width of a pixel in mm by ImageJ's tags, or None if they do not say it.

    Other programs use the tags of the resolution for the size on paper.
    """
    unit_mm = _UNITS_MM.get(unit.replace("\\u00B5", "u").replace("\xb5", "u"))
    if unit_mm is None or page.resolution_yx is None:
        return None
    height, width = (unit_mm / per_unit for per_unit in page.resolution_yx)
    return (height, width) if height < 100 and width < 100 else None


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
