"""Image files as viewers show them, at full depth: EXIF orientation, TIFF, BMP, 16-bit colour."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageOps

from spineline.datasets.images import (
    ImageReadError,
    exif_orientation,
    image_names,
    image_size,
    read_colours,
    read_image,
)

STORED = np.random.default_rng(0).integers(0, 256, (24, 40), dtype=np.uint8)


def shown(orientation: int) -> np.ndarray:
    """What Pillow makes of the stored pixels, told the orientation."""
    picture = Image.fromarray(STORED)
    picture.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(picture))


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "lzw.tif"])
def test_an_image_is_turned_as_viewers_show_it(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    path = tmp_path / f"a.{suffix}"
    packed = {"compression": "tiff_lzw"} if "lzw" in suffix else {}
    smooth = cv2.GaussianBlur(STORED, (0, 0), 3) if suffix == "jpg" else STORED
    Image.fromarray(smooth).save(path, exif=exif_of(orientation), **packed)
    read = read_image(path)
    oracle = np.asarray(
        ImageOps.exif_transpose(_told(Image.fromarray(smooth), orientation)), np.int16
    )
    assert np.abs(read.astype(np.int16) - oracle).max() <= (3 if suffix == "jpg" else 0)
    assert exif_orientation(path) == orientation
    assert image_size(path) == oracle.shape[::-1]


def _told(picture: Image.Image, orientation: int) -> Image.Image:
    picture.getexif()[0x0112] = orientation
    return picture


def test_an_orientation_behind_the_pixels_of_a_png_counts(tmp_path: Path) -> None:
    Image.fromarray(STORED).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    exif = exif_of(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    (tmp_path / "a.png").write_bytes(data[:-12] + chunk + data[-12:])
    assert exif_orientation(tmp_path / "a.png") == 6
    assert_array_equal(read_image(tmp_path / "a.png"), shown(6))


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_is_none_does_not_count(tmp_path: Path, orientation: int) -> None:
    for name in ("a.jpg", "a.tif"):
        Image.fromarray(STORED).save(tmp_path / name, exif=exif_of(orientation))
        assert exif_orientation(tmp_path / name) == 1
        assert read_image(tmp_path / name).shape == STORED.shape


def test_colours_are_turned_too(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    for name in ("a.png", "a.tif"):
        Image.fromarray(colours).save(tmp_path / name, exif=exif_of(8))
        found = read_colours(tmp_path / name)
        assert found is not None
        assert_array_equal(found, np.rot90(colours))


@pytest.mark.parametrize("name", ["a.bmp", "a.tif", "B.TIFF"])
def test_bmp_and_tiff_agree_with_opencv(tmp_path: Path, name: str) -> None:
    Image.fromarray(STORED).save(tmp_path / name)
    assert_array_equal(read_image(tmp_path / name), STORED)
    assert image_size(tmp_path / name) == (40, 24)
    assert_array_equal(cv2.imread(str(tmp_path / name), cv2.IMREAD_GRAYSCALE), STORED)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_deep_tiff_keeps_its_values(tmp_path: Path, dtype: str) -> None:
    deep = (STORED.astype(np.float64) * 250.5).astype(dtype)
    Image.fromarray(deep).save(tmp_path / "a.tif")
    assert_array_equal(read_image(tmp_path / "a.tif"), deep)


def test_white_is_zero_becomes_bright_is_bright(tmp_path: Path) -> None:
    deep = STORED.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "a.tif", tiffinfo={262: 0})
    assert_array_equal(read_image(tmp_path / "a.tif"), 65535.0 - deep)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_colour_keeps_its_depth(tmp_path: Path, name: str, channels: int) -> None:
    deep = np.random.default_rng(2).integers(0, 65536, (6, 7, channels), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / name), deep)  # blue, green, red
    wanted = deep[:, :, 2::-1].astype(np.float64) @ (0.299, 0.587, 0.114)
    read = read_image(tmp_path / name)
    assert read.dtype == np.float32
    assert_allclose(read, wanted, rtol=1e-5)


def test_sixteen_bit_grey_with_alpha_keeps_its_values(tmp_path: Path) -> None:
    grey = np.random.default_rng(3).integers(0, 65536, (6, 7), dtype=np.uint16)
    rows = np.dstack([grey, np.full_like(grey, 60000)]).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", 7, 6, 16, 4, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        data += struct.pack(">I", len(content)) + kind + content
        data += struct.pack(">I", zlib.crc32(kind + content))
    (tmp_path / "a.png").write_bytes(data)
    assert_array_equal(read_image(tmp_path / "a.png"), grey)


def test_a_turned_deep_colour_tiff(tmp_path: Path) -> None:
    deep = np.random.default_rng(2).integers(0, 65536, (6, 9, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.tif"), np.rot90(deep), [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    plain = read_image(tmp_path / "a.tif")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    (table,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, table)
    entries = bytes(data[table + 2 : table + 2 + 12 * count])
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    listed = sorted(
        [entries[n : n + 12] for n in range(0, len(entries), 12)] + [entry],
        key=lambda e: struct.unpack("<H", e[:2])[0],
    )
    struct.pack_into("<I", data, 4, len(data))
    data += struct.pack("<H", count + 1) + b"".join(listed) + bytes(4)
    (tmp_path / "b.tif").write_bytes(data)
    assert_allclose(read_image(tmp_path / "b.tif"), np.rot90(plain, -1), rtol=1e-6)


def save_pages(path: Path, pages: list[np.ndarray], **keys: object) -> Path:
    first, *others = map(Image.fromarray, pages)
    first.save(path, save_all=True, append_images=others, **keys)
    return path


def test_pages_of_a_tiff_are_refused_unless_one_is_named(tmp_path: Path) -> None:
    path = save_pages(tmp_path / "a.tif", [STORED] * 3)
    for read in (read_image, image_size):
        with pytest.raises(ImageReadError, match=r"several pages, which only pipeline predict"):
            read(path)
    with pytest.raises(ImageReadError, match=r"a\.tif: cannot be decoded"):
        read_image(path, 3)


@pytest.mark.parametrize("keys", [{}, {"compression": "tiff_lzw"}, {"big_tiff": True}], ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_each_page_of_a_tiff_is_that_of_pillow(tmp_path: Path, dtype: str, keys: dict) -> None:
    rng = np.random.default_rng(5)
    pages = [rng.integers(0, 250, (5 + n, 7)).astype(dtype) for n in range(3)]
    path = save_pages(tmp_path / "a.tif", pages, **keys)
    for number, page in enumerate(pages):
        assert_array_equal(read_image(path, number), page)
        assert image_size(path, number) == (7, 5 + number)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_page_is_turned_by_its_own_orientation(tmp_path: Path, compression: str | None) -> None:
    path = save_pages(
        tmp_path / "a.tif", [STORED] * 3, tiffinfo={0x0112: 6}, compression=compression
    )
    for number in range(3):
        assert exif_orientation(path, number) == 6
        assert_array_equal(read_image(path, number), np.rot90(STORED, -1))
        assert image_size(path, number) == STORED.shape


def test_a_page_of_deep_colour(tmp_path: Path) -> None:
    deep = np.random.default_rng(2).integers(0, 65536, (3, 6, 7, 3), dtype=np.uint16)
    cv2.imwritemulti(str(tmp_path / "a.tif"), list(deep))
    wanted = deep[2, :, :, ::-1].astype(np.float64) @ (0.299, 0.587, 0.114)
    assert_allclose(read_image(tmp_path / "a.tif", 2), wanted, rtol=1e-5)


def test_one_page_of_deep_colour_is_decoded_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = np.random.default_rng(2).integers(0, 65536, (3, 6, 7, 3), dtype=np.uint16)
    cv2.imwritemulti(str(tmp_path / "a.tif"), list(deep))
    opened = []
    decode = cv2.imdecode

    def count(buffer: np.ndarray, flags: int) -> np.ndarray:
        opened.append(cv2.imdecodemulti(buffer, flags)[1])
        return decode(buffer, flags)

    monkeypatch.setattr(cv2, "imdecode", count)
    read_image(tmp_path / "a.tif", 1)
    assert [len(pages) for pages in opened] == [1]


def save_kinds(
    path: Path, kinds: Sequence[tuple[int, np.ndarray]], tag: int = 254, **keys: object
) -> Path:
    """A TIFF file of pages with a NewSubfileType, or another tag, of their own."""
    made = []
    for kind, pixels in kinds:
        page = Image.fromarray(pixels)
        page.encoderinfo = {"tiffinfo": {tag: kind}}
        made.append(page)
    made[0].save(path, save_all=True, append_images=made[1:], **made[0].encoderinfo, **keys)
    return path


SMALL = STORED[::4, ::4]


@pytest.mark.parametrize(
    ("kinds", "tag"),
    [
        pytest.param([(0, STORED), (1, SMALL)], 254, id="preview behind"),
        pytest.param([(1, SMALL), (0, STORED)], 254, id="preview before"),
        pytest.param([(1, SMALL), (2, STORED), (5, SMALL)], 254, id="a scanner's"),
        pytest.param([(0, STORED), (4, STORED // 2)], 254, id="mask"),
        pytest.param([(1, STORED), (2, SMALL)], 255, id="the older tag"),
        pytest.param([(1, STORED), (4, STORED // 2)], 262, id="mask by its photometry"),
        pytest.param([(1, STORED)], 254, id="marked as a copy of nothing"),
    ],
)
@pytest.mark.parametrize("keys", [{}, {"big_tiff": True}], ids=["", "big"])
def test_previews_and_masks_are_no_pages(
    tmp_path: Path, kinds: list[tuple[int, np.ndarray]], tag: int, keys: dict
) -> None:
    path = save_kinds(tmp_path / "a.tif", kinds, tag, **keys)
    assert image_size(path) == (40, 24)
    assert_array_equal(read_image(path), STORED)
    assert exif_orientation(path) == 1


@pytest.mark.parametrize("kinds", [[(1, STORED), (0, STORED)], [(2, STORED), (2, STORED)]])
def test_pages_that_are_as_large_as_others_are_kept(
    tmp_path: Path, kinds: list[tuple[int, np.ndarray]]
) -> None:
    with pytest.raises(ImageReadError, match="holds several pages"):
        read_image(save_kinds(tmp_path / "a.tif", kinds))


@pytest.mark.parametrize("name", ["a.tif", "a.bmp", "a.png", "a.jpg"])
def test_files_cut_short_are_errors(tmp_path: Path, name: str) -> None:
    Image.fromarray(STORED).save(tmp_path / name, exif=exif_of(6))
    whole = (tmp_path / name).read_bytes()
    for length in (0, 3, 9, 20, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(ImageReadError, match=name):
            read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("shape", "size_wh"), [((24, 40), (40, 24)), ((24, 40, 3), (40, 24)), ((7,), None)]
)
def test_the_size_of_an_array_is_told_by_its_header(
    tmp_path: Path, shape: tuple[int, ...], size_wh: tuple[int, int] | None
) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    if size_wh is not None:
        assert image_size(tmp_path / "a.npy") == size_wh
        assert read_colours(tmp_path / "a.npy") is None
        return
    with pytest.raises(ImageReadError, match=r"a\.npy: holds an array of shape \(7,\), wanted"):
        image_size(tmp_path / "a.npy")
    with pytest.raises(ImageReadError, match=r"a\.npy: has shape \(7,\); wanted one grey image"):
        read_image(tmp_path / "a.npy")


def test_an_array_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"no array")
    with pytest.raises(ImageReadError, match=r"a\.npy: cannot be read"):
        image_size(tmp_path / "a.npy")


def test_a_tiff_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spineline.datasets.images._MOST_FILE_BYTES", 500)
    Image.fromarray(STORED).save(tmp_path / "a.tif")
    with pytest.raises(ImageReadError, match=r"a\.tif: 0 MiB are more than the 1024 allowed"):
        read_image(tmp_path / "a.tif")


def test_names_of_images_are_told_apart_as_file_systems_do() -> None:
    paths = [Path("a b.png"), Path("x/A_B.png"), Path("a?b.png"), Path("c.png")]
    assert image_names(paths) == ["a_b.png", "A_B.png-2", "a_b.png-3", "c"]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_size_of_a_png_is_that_of_pillow(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new(mode, (40, 24)).save(path)
    assert image_size(path) == (40, 24)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new(mode, (40, 24)).save(path, exif=turned)
    assert image_size(path) == (24, 40)


@pytest.mark.parametrize(("place", "value"), [(0, 0x88), (19, 41), (25, 7), (29, 0), (12, 0x4A)])
def test_size_of_a_png_with_a_damaged_header_is_refused(
    place: int, value: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (40, 24)).save(path)
    data = bytearray(path.read_bytes())
    data[place] = value
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match=r"a\.png: cannot be decoded"):
        image_size(path)
