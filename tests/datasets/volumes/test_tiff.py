"""The tables of TIFF files: what they say, and what is wrong with them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from spineline.datasets.images import ImageReadError, read_image
from spineline.datasets.volumes.tiff import page_alone, tiff_pages, whole_pages

PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)


def written(path: Path, tables: list[list[tuple[int, int, int, int]]], order: str = "<") -> Path:
    """A TIFF file of tables alone: each entry is a tag, a type, a number of values, and a value."""
    places = [8 + sum(6 + 12 * len(table) for table in tables[:n]) for n in range(len(tables))]
    data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", places[0])
    for table, after in zip(tables, [*places[1:], 0], strict=True):
        data += struct.pack(f"{order}H", len(table))
        for tag, kind, count, value in table:
            shift = 16 if order == ">" and kind == 3 else 0
            data += struct.pack(f"{order}HHII", tag, kind, count, value << shift)
        data += struct.pack(f"{order}I", after)
    path.write_bytes(data)
    return path


SIZE = [(256, 3, 1, 4), (257, 4, 1, 3)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_tables_are_read_in_either_order(tmp_path: Path, order: str) -> None:
    tables = [[(254, 4, 1, 1), *SIZE], [*SIZE, (274, 3, 1, 6)], [(254, 4, 1, 4), *SIZE]]
    pages = tiff_pages(written(tmp_path / "a.tif", tables, order))
    assert [(p.index, p.size_wh, p.orientation) for p in pages] == [
        (0, (4, 3), 1), (1, (3, 4), 6), (2, (4, 3), 1),
    ]  # fmt: skip
    assert [(p.is_reduced, p.is_mask) for p in pages] == [
        (True, False), (False, False), (False, True),
    ]  # fmt: skip
    assert [page.index for page in whole_pages(pages)] == [0, 1]  # as large: no preview


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"II*\0\0\0\0\0", "it has no page"),
        (b"II*\0\x08\0\0\0", "its table of tags is damaged or cut short"),
        (b"II*\0\x08\0\0\0\x01\0", "its table of tags is damaged or cut short"),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", r"page 0 \(from 0\) has no width or height"),
        (b"II+\0\x08\0\0\0" + b"\xff" * 8, "its table of tags is damaged or cut short"),
    ],
)
def test_damaged_tables_are_errors(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        tiff_pages(tmp_path / "a.tif")
    with pytest.raises(ImageReadError, match=rf"a\.tif: cannot be decoded \({message}\)"):
        read_image(tmp_path / "a.tif")


def test_tables_in_a_circle_end_at_the_first(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", [SIZE, SIZE])
    path.write_bytes(path.read_bytes()[:-4] + struct.pack("<I", 8))
    assert len(tiff_pages(path)) == 2


def test_too_many_pages_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spineline.datasets.volumes.tiff._MOST_PAGES", 2)
    with pytest.raises(ValueError, match="it has more than 2 pages"):
        tiff_pages(written(tmp_path / "a.tif", [SIZE] * 3))


def test_other_files_have_no_pages(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("no image")
    assert tiff_pages(tmp_path / "a.tif") == ()


@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_page_alone_is_not_rotated(tmp_path: Path, order: str, kind: int) -> None:
    strip = [(258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 200), (274, kind, 1, 6),
             (277, 3, 1, 1), (278, 3, 1, 3), (279, 4, 1, 12)]  # fmt: skip
    path = written(tmp_path / "a.tif", [SIZE, [*SIZE, *strip]], order)
    path.write_bytes(path.read_bytes().ljust(200, b"\0") + PIXELS.tobytes())
    (tmp_path / "b.tif").write_bytes(page_alone(path.read_bytes(), tiff_pages(path)[1]))
    with Image.open(tmp_path / "b.tif") as picture:
        assert picture.n_frames == 1
        assert_array_equal(np.asarray(picture), PIXELS)
    assert_array_equal(read_image(path, 1), np.rot90(PIXELS, -1))
