"""Grey PNG files, with OpenCV and Pillow as oracles."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from spineline.datasets.common import png
from spineline.datasets.images import read_image


def unpack_grey(data: bytes) -> np.ndarray | None:
    return png.unpack_grey(data, 1 << 20)


FILTERS = {"none": [0], "sub": [1], "up": [2], "average": [3], "paeth": [4], "all": [0, 1, 2, 3, 4]}
SHAPES = [
    (1, 1),
    (3, 1),
    (40000, 1),
    (1, 40000),
    (1024, 1024),
    (2, 20000),
    (127, 257),
    (128, 255),
    (448, 330),
]


def images(shape: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(shape[0]) * 3, np.arange(shape[1]) // 7)
    noisy = smooth + rng.integers(0, 9, shape)
    return [np.zeros(shape, np.uint8), smooth.astype(np.uint8), noisy.astype(np.uint8)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_opencv_packs_is_unpacked(shape) -> None:
    for pixels in images(shape):
        unpacked = unpack_grey(cv2.imencode(".png", pixels)[1].tobytes())
        assert unpacked is not None
        assert unpacked.dtype == np.uint8
        assert (unpacked == pixels).all()


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
def test_every_filter_reads_as_pillow_reads_it(filters: list[int], tmp_path) -> None:
    pixels = images((90, 120))[2]
    data = packed(filtered(pixels, filters), pixels.shape)
    unpacked = unpack_grey(data)
    assert unpacked is None or (unpacked == pixels).all()
    (tmp_path / "a.png").write_bytes(data)
    assert (np.asarray(Image.open(io.BytesIO(data))) == pixels).all()
    assert (read_image(tmp_path / "a.png") == pixels).all()


def filtered(pixels: np.ndarray, filters: list[int]) -> np.ndarray:
    """The rows as the PNG specification filters them, each behind the number of its filter."""
    framed = np.pad(pixels.astype(int), ((1, 0), (1, 0)))
    left, up, corner = framed[1:, :-1], framed[:-1, 1:], framed[:-1, :-1]
    to_left, to_up = np.abs(up - corner), np.abs(left - corner)
    to_corner = np.abs(left + up - 2 * corner)
    paeth = np.where(to_up <= to_corner, up, corner)
    paeth = np.where((to_left <= to_up) & (to_left <= to_corner), left, paeth)
    guesses = np.stack([np.zeros_like(up), left, up, (left + up) // 2, paeth])
    kinds = np.resize(filters, len(pixels))
    rows = (pixels - guesses[kinds, np.arange(len(pixels))]) % 256
    return np.column_stack([kinds, rows]).astype(np.uint8)


def packed(rows: np.ndarray, size_hw: tuple[int, ...]) -> bytes:
    """A grey PNG file of 8 bits that holds these filtered rows."""
    head = struct.pack(">IIBBBBB", size_hw[1], size_hw[0], 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, held in ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(name + held))
        data += struct.pack(">I", len(held)) + name + held + check
    return data


def test_rows_of_both_filters() -> None:
    rows = np.array([[0, 5, 6, 7], [1, 5, 1, 1], [0, 1, 2, 3]], np.uint8)
    data = packed(rows, (3, 3))
    assert unpack_grey(data).tolist() == [[5, 6, 7], [5, 6, 7], [1, 2, 3]]
    assert np.asarray(Image.open(io.BytesIO(data))).tolist() == [[5, 6, 7], [5, 6, 7], [1, 2, 3]]


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGB", "I;16"])
def test_other_kinds_are_left_to_a_general_reader(mode: str) -> None:
    file = io.BytesIO()
    Image.fromarray(images((50, 60))[2]).convert(mode).save(file, "png")
    assert unpack_grey(file.getvalue()) is None


def test_exif_is_left_to_a_general_reader() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(images((50, 60))[1]).save(file, "png", exif=exif)
    assert unpack_grey(file.getvalue()) is None


def test_more_pixels_than_allowed_are_not_unpacked() -> None:
    data = cv2.imencode(".png", np.zeros((30, 50), np.uint8))[1].tobytes()
    assert png.unpack_grey(data, 1500) is not None
    assert png.unpack_grey(data, 1499) is None


def test_few_bytes_that_hold_billions_are_not_unpacked() -> None:
    data = bytearray(cv2.imencode(".png", np.zeros((3000, 3000), np.uint8))[1].tobytes())
    data[16:24] = struct.pack(">II", 30, 30)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    assert unpack_grey(bytes(data)) is None


def test_damaged_files_are_left_to_a_general_reader() -> None:
    data = cv2.imencode(".png", images((300, 300))[2])[1].tobytes()
    for cut in (*range(80), 9000, len(data) - 20, len(data) - 14):
        assert unpack_grey(data[:cut]) is None
    for place in (12, 20, 24, 25, 28, 41, 5000):
        broken = bytearray(data)
        broken[place] ^= 0xFF
        assert unpack_grey(bytes(broken)) is None
