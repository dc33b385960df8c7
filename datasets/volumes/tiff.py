"""The pages of a TIFF file, from their tables of tags. No pixel is decoded.

Pillow reads pixels, but it rotates some files wrongly, and does not say which pages are previews.
Source of the format: TIFF 6.0, and BigTIFF, whose offsets have 64 bits.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

_ORDERS = {
    b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True),
}  # fmt: skip
"""Byte order by a file's first bytes, and whether it is a BigTIFF file."""

_FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 16: "Q"}  # of values, by the type of a tag
_KIND, _OLD_KIND, _WIDTH, _HEIGHT, _PHOTOMETRIC = 254, 255, 256, 257, 262
_DESCRIPTION, _ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION = 270, 274, 282, 283
_TAGS = (_KIND, _OLD_KIND, _WIDTH, _HEIGHT, _PHOTOMETRIC, _DESCRIPTION, _ORIENTATION,
         _X_RESOLUTION, _Y_RESOLUTION)  # fmt: skip
_REDUCED, _MASK = 1, 4  # bits of the tag NewSubfileType
_MOST_TEXT = 1 << 16
_MOST_OFFSET = 1 << 40  # no file is as large, and systems refuse larger ones
_MOST_PAGES = 1 << 16


@dataclass(frozen=True, slots=True)
class TiffPage:
    """One page of a TIFF file.

    Attributes:
        index: its place among the pages of the file, from 0.
        size_wh: width and height in pixels, as displayed.
        orientation: how viewers rotate it, 1 (as stored) … 8, as in EXIF.
        is_reduced: whether it is marked as a copy of another page in a lower resolution.
        is_mask: whether it is marked as a mask of another page.
        description: a text of the program that wrote it.
        resolution_yx: pixels per unit of length, downwards and across; None if it is not stated.
        places: offsets in the file: of its table, of the offset of the next table, and of the entry
            of its orientation, which is 0 without one.
    """

    index: int
    size_wh: tuple[int, int]
    orientation: int
    is_reduced: bool
    is_mask: bool
    description: str
    resolution_yx: tuple[float, float] | None
    places: tuple[int, int, int]


def tiff_pages(path: Path) -> tuple[TiffPage, ...]:
    """Read the tables of a TIFF file; there are no pages if a file does not begin like one.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is damaged or cut short.
    """
    with path.open("rb") as file:
        order, is_big = _ORDERS.get(file.read(4), ("", False))
        pages: list[TiffPage] = []
        tables: set[int] = set()
        try:
            (table,) = _numbers(file, order, *((8, "Q") if is_big else (4, "I"))) if order else (0,)
            while table and table not in tables:  # as Pillow, which ends at a known table
                tables.add(table)
                page, table = _page(file, order, is_big, len(pages), table)
                pages.append(page)
                if len(pages) > _MOST_PAGES:
                    raise ValueError(f"it has more than {_MOST_PAGES:,} pages")
        except struct.error as error:
            raise ValueError("its table of tags is damaged or cut short") from error
        if order and not pages:
            raise ValueError("it has no page")
    return tuple(pages)


def whole_pages(pages: Sequence[TiffPage]) -> tuple[TiffPage, ...]:
    """Return the pages without masks and smaller copies; all pages if none would remain.

    A page that is marked as reduced but is as large as the others is no preview, and is kept.
    """
    images = [page for page in pages if not page.is_mask]
    largest = max((_area(page) for page in images if not page.is_reduced), default=0)
    whole = (page for page in images if not page.is_reduced or _area(page) >= largest)
    return tuple(whole) or tuple(pages)


def page_alone(data: bytes, page: TiffPage) -> bytes:
    """Return the content of a file in which this page is the only one, and is not rotated.

    Args:
        data: content of the file.
        page: one of its pages.
    """
    changed = bytearray(data)
    table, following, orientation = page.places
    order, is_big = _ORDERS[data[:4]]
    form = "Q" if is_big else "I"
    struct.pack_into(f"{order}{form}", changed, 8 if is_big else 4, table)
    struct.pack_into(f"{order}{form}", changed, following, 0)
    if orientation:  # tag, type, number of values, value
        struct.pack_into(f"{order}HH{form}H", changed, orientation, _ORIENTATION, 3, 1, 1)
    return bytes(changed)


def _area(page: TiffPage) -> int:
    return page.size_wh[0] * page.size_wh[1]


def _page(
    file: BufferedReader, order: str, is_big: bool, index: int, table: int
) -> tuple[TiffPage, int]:
    """Read a page, and the offset of the next one's table, 0 for none."""
    (count,) = _numbers(file, order, table, "Q" if is_big else "H")
    first, size = (table + 8, 20) if is_big else (table + 2, 12)
    following = first + count * size
    found: dict[int, Any] = {}
    rotated = 0
    for entry in range(first, following, size):
        tag, kind, many = _numbers(file, order, entry, "HHQ" if is_big else "HHI")
        if tag not in _TAGS or tag in found or kind not in _FORMATS or not many:
            continue
        rotated = entry if tag == _ORIENTATION else rotated
        form = f"{min(many, _MOST_TEXT)}s" if kind == 2 else _FORMATS[kind]
        place = entry + size - (8 if is_big else 4)
        if struct.calcsize(f"{order}{form}") > (8 if is_big else 4):
            (place,) = _numbers(file, order, place, "Q" if is_big else "I")
        found[tag] = _numbers(file, order, place, form)
    (after,) = _numbers(file, order, following, "Q" if is_big else "I")
    if _WIDTH not in found or _HEIGHT not in found:
        raise ValueError(f"page {index} (from 0) has no width or height")
    kind = _first(found, _KIND)
    stated = _first(found, _ORIENTATION)
    orientation = stated if stated in range(1, 9) else 1
    width, height = int(_first(found, _WIDTH)), int(_first(found, _HEIGHT))
    text = found.get(_DESCRIPTION, (b"",))[0]
    page = TiffPage(
        index=index,
        size_wh=(height, width) if orientation > 4 else (width, height),
        orientation=orientation,
        is_reduced=bool(kind & _REDUCED) or _first(found, _OLD_KIND) == 2,
        is_mask=bool(kind & _MASK) or _first(found, _PHOTOMETRIC) == 4,
        description=text.decode("latin-1").rstrip("\0") if isinstance(text, bytes) else "",
        resolution_yx=_resolution(found),
        places=(table, following, rotated),
    )
    return page, int(after)


def _first(found: dict[int, Any], tag: int) -> int:
    """The first number of a tag; 0 if it has none."""
    value = found.get(tag, (0,))[0]
    return value if isinstance(value, int) else 0


def _resolution(found: dict[int, Any]) -> tuple[float, float] | None:
    values = [found.get(tag, ()) for tag in (_Y_RESOLUTION, _X_RESOLUTION)]
    if not all(len(value) == 2 and value[0] > 0 and value[1] > 0 for value in values):
        return None
    down, across = (value[0] / value[1] for value in values)
    return down, across


def _numbers(file: BufferedReader, order: str, offset: int, form: str) -> tuple[Any, ...]:
    """Values at an offset of a file; raises struct.error if it ends before."""
    file.seek(min(offset, _MOST_OFFSET))
    return struct.unpack(f"{order}{form}", file.read(struct.calcsize(f"{order}{form}")))
