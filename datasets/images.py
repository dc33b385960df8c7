"""Grey images: reading them at full depth, and the window that converts them to 8 bits.

Arrays are (rows, columns), and higher values are brighter. An image is rotated by its EXIF
orientation, as every viewer and annotation tool shows it. The pixel coordinates of annotations and
results refer to that image. Nothing else rotates or mirrors an image here.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import Float32Array, IntArray, PixelArray
from spineline.datasets.common.errors import SpinelineError, first_line
from spineline.datasets.common.files import plain_name
from spineline.datasets.common.png import unpack_grey
from spineline.datasets.volumes.tiff import TiffPage, page_alone, tiff_pages, whole_pages

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

GreyImage = PixelArray | Float32Array

IMAGE_SUFFIXES: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".npy", ".tif", ".tiff", ".bmp")
"""File suffixes that [read_image][] reads, lower case."""

MAX_PIXELS = 64_000_000
"""Most pixels of an image, over all frames of a DICOM file; larger ones are not decoded."""

_GREY_OF_RGB = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and OpenCV use
_SMALL = (np.uint8, np.int8, np.uint16, np.int16, np.float16)  # all exact as float32
_GREY_16_BIT_MODES = ("I;16", "I;16B", "I;16L", "I", "F")
_ORIENTATION = 0x0112  # number of the tag in EXIF and in TIFF
_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"
_MOST_FILE_BYTES = 1 << 30
_SMALL_FILE_BYTES = 1 << 20
_MOST_COUNTED = 1 << 24  # OpenCV counts in float32, which is exact for integers up to here


class ImageReadError(SpinelineError):
    """An image file cannot be read as a grey image."""


def image_names(paths: Sequence[Path]) -> list[str]:
    """Return names for images that are valid for folders, without the suffix if that is unique.

    ``pipeline predict`` names its results this way. Upper and lower case are not distinguished, as
    in some file systems. A number is appended to names that are still equal.

    >>> image_names([Path("a b.png"), Path("c.jpg"), Path("c.png")])
    ['a_b', 'c.jpg', 'c.png']
    """
    stems = [plain_name(path.stem, "image").lower() for path in paths]
    counts = Counter(stems)
    names: list[str] = []
    used: set[str] = set()
    for path, stem in zip(paths, stems, strict=True):
        name = plain_name(path.stem if counts[stem] == 1 else path.name, "image")
        number, wanted = 1, name
        while name.lower() in used:
            number += 1
            name = f"{wanted}-{number}"
        used.add(name.lower())
        names.append(name)
    return names


def window_to_uint8(pixels: npt.ArrayLike, low: float = 0.5, high: float = 99.5) -> PixelArray:
    """Map grey values between two percentiles linearly to 0 … 255.

    Every image passes through here before a model, so that training and prediction agree.
    Percentiles are computed over finite pixels. If they are equal (a few bright pixels on an even
    background), the extremes are used. NaN becomes 0, infinities become 0 and 255. A constant image
    has no window and becomes zeros; check with [is_constant][] where that matters.

    Args:
        pixels: (rows, columns) of any real dtype; not changed.
        low: percentile that becomes 0.
        high: percentile that becomes 255.

    Returns:
        (rows, columns) uint8, rounded to nearest.

    Raises:
        ValueError: the percentiles do not satisfy 0 <= low < high <= 100.

    >>> window_to_uint8(np.array([[0.0, 1.0], [5.0, np.nan]]), 0, 100).tolist()
    [[0, 51], [255, 0]]
    """
    if not 0 <= low < high <= 100:
        msg = f"percentiles low={low}, high={high}: wanted 0 <= low < high <= 100"
        raise ValueError(msg)
    values = np.asarray(pixels)
    counted = _counted(values)
    if counted is not None:
        return _window_counted(*counted, low, high)
    if values.dtype != np.float32:
        values = values.astype(np.float32 if values.dtype in _SMALL else np.float64)
    finite = values if np.isfinite(values).all() else values[np.isfinite(values)]
    if finite.size == 0:
        return np.zeros(values.shape, np.uint8)
    bottom, top = (float(edge) for edge in np.percentile(finite, (low, high)))
    if not top > bottom:
        bottom, top = float(finite.min()), float(finite.max())
    return _stretched(values, bottom, top)


def _stretched(values: npt.NDArray[Any], bottom: float, top: float) -> PixelArray:
    if not top > bottom:
        return np.zeros(values.shape, np.uint8)
    # In float64 the difference of two float64 extremes can overflow; halving first cannot.
    scaled = (values / 2 - bottom / 2) * (255.0 / (top / 2 - bottom / 2))
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0)
    return np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)


def _counted(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], int] | None:
    """Integers from 0 and the offset taken off, if the pixels are integers of a small range.

    This holds for nearly every image. Counting then replaces sorting, and a table the arithmetic.
    """
    if values.size == 0 or values.dtype not in (np.float32, *_SMALL[:-1]):
        return None
    if values.dtype == np.uint8:
        return values, 0
    least, most = float(values.min()), float(values.max())
    if not -(2**24) < least <= most < 2**24 or most - least >= 2**16:  # NaN is in no range
        return None
    whole = values.astype(np.int32)
    if values.dtype == np.float32 and not np.array_equal(whole, values):
        return None
    whole -= int(least)
    return whole, int(least)


def _window_counted(steps: npt.NDArray[Any], least: int, low: float, high: float) -> PixelArray:
    """Window integers; the result equals that of sorting bit by bit."""
    counts = _counts(steps)
    up_to = counts.cumsum()
    bottom, top = (_percentile(up_to, least, float(edge)) for edge in (low, high))
    if not top > bottom:
        (used,) = np.nonzero(counts)
        bottom, top = float(used[0] + least), float(used[-1] + least)
    table = _stretched(np.arange(least, least + len(counts), dtype=np.float32), bottom, top)
    if steps.dtype == np.uint8 and steps.ndim == 2:
        import cv2

        return cv2.LUT(np.ascontiguousarray(steps), table)
    return np.take(table, steps)


def _counts(steps: npt.NDArray[Any]) -> IntArray:
    """Count how often each integer occurs, from 0 on."""
    if steps.dtype == np.uint8 and steps.size <= _MOST_COUNTED:
        import cv2

        counts = cv2.calcHist([np.ascontiguousarray(steps)], [0], None, [256], [0, 256])
        return counts.ravel().astype(np.int64)
    return np.bincount(steps.ravel(), minlength=256)


def _percentile(up_to: IntArray, least: int, percent: float) -> float:
    """Return a percentile of integers, as NumPy interpolates it.

    Args:
        up_to: cumulative counts of the integers, from the smallest one on.
        least: the smallest integer.
        percent: 0 … 100.
    """
    last = int(up_to[-1]) - 1
    place = last * (percent / 100)
    before = int(place)
    share = place - before
    ranks = (before, min(before + 1, last))
    below, above = (least + int(np.searchsorted(up_to, rank, side="right")) for rank in ranks)
    step = above - below
    return below + step * share if share < 0.5 else above - step * (1 - share)


def is_constant(pixels: npt.ArrayLike) -> bool:
    """Return whether all finite pixels have one value (or there are none), so nothing is visible.

    >>> is_constant(np.full((2, 2), 7)), is_constant(np.array([1.0, np.nan, 2.0]))
    (True, False)
    """
    values = np.asarray(pixels)
    finite = values[np.isfinite(values)]
    return finite.size == 0 or bool((finite == finite.flat[0]).all())


def read_image(path: Path | str, page: int | None = None) -> GreyImage:
    """Read an image file (``jpg``, ``png``, ``npy``, ``tif``, ``bmp``) as a grey image.

    Colour becomes grey by the BT.601 weights, and a transparency channel is dropped. The image is
    rotated by its EXIF orientation.

    Args:
        path: the file; its suffix gives the format, in upper or lower case.
        page: of a TIFF file, from 0. Without it, a file of several pages is an error, unless all
            but one are masks or smaller copies.

    Returns:
        (rows, columns): uint8 if the file holds 8 bits, otherwise float32 with the file's own
        values (a 16-bit PNG keeps its 0 … 65535, in grey and in colour).

    Raises:
        ImageReadError: the file is missing, damaged, empty, too large, of another format, or not
            an image.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        msg = f"{path}: not an image this reads; allowed: {', '.join(IMAGE_SUFFIXES)}"
        raise ImageReadError(msg)
    if not path.is_file():
        raise ImageReadError(f"{path}: no such image file; check the path")
    pixels = _read_npy(path) if suffix == ".npy" else _read_picture(path, page)
    return _as_grey(pixels, path)


def read_uint8_image(path: Path | str) -> PixelArray:
    """Read a grey image as models see it: deeper values than 8 bits are windowed to 8 bits.

    Args:
        path: as for [read_image][].

    Returns:
        (rows, columns) uint8.

    Raises:
        ImageReadError: as for [read_image][].
    """
    pixels = read_image(path)
    return (
        pixels.astype(np.uint8, copy=False) if pixels.dtype == np.uint8 else window_to_uint8(pixels)
    )


def read_colours(path: Path) -> PixelArray | None:
    """Read the colours of an image file, or return None if it is grey.

    Args:
        path: as for [read_image][].

    Returns:
        (rows, columns, 3) uint8 red, green, blue.

    Raises:
        ImageReadError: the file is missing, damaged, or too large.
    """
    if path.suffix.lower() == ".npy":
        return None
    with _opened_picture(path) as (picture, orientation, _):
        if picture.mode in ("1", "L", "LA", *_GREY_16_BIT_MODES):
            return None
        return np.ascontiguousarray(upright(np.asarray(picture.convert("RGB")), orientation))


def exif_orientation(path: Path, page: int | None = None) -> int:
    """Return the EXIF orientation by which viewers rotate an image file, 1 (as stored) … 8.

    PNG files have it in their eXIf chunk, TIFF files in a tag of their own; without one it is 1.

    Raises:
        ImageReadError: the file is missing or damaged.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy" or (suffix == ".png" and _is_png_without_exif(path)):
        return 1
    tiff = _tiff_page(path, page)
    if tiff is not None:
        return tiff.orientation
    with _opened_picture(path) as (_, orientation, _):
        return orientation


def image_size(path: Path, page: int | None = None) -> tuple[int, int]:
    """Return (width, height) of an image file as displayed, from its header only.

    Args:
        path: the file.
        page: as for [read_image][].

    Raises:
        ImageReadError: the file is missing, damaged, too large, or of another format.
    """
    if path.suffix.lower() == ".npy":
        try:
            shape = mapped_array(path).shape
        except (OSError, ValueError) as error:
            raise ImageReadError(f"{path}: cannot be read ({first_line(error)})") from error
        if len(shape) not in (2, 3):
            msg = f"{path}: holds an array of shape {shape}, wanted (rows, columns)"
            raise ImageReadError(msg)
        width, height = int(shape[1]), int(shape[0])
        _check_size(height, width, path)
        return width, height
    plain = _plain_png_size(path)
    if plain is not None:
        _check_size(plain[1], plain[0], path)
        return plain
    tiff = _tiff_page(path, page)
    if tiff is not None:
        _check_size(*tiff.size_wh, path)
        return tiff.size_wh
    with _opened_picture(path) as (picture, orientation, _):
        width, height = picture.size
        return (height, width) if orientation > 4 else (width, height)


def upright(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Rotate and mirror an image by its EXIF orientation.

    Source: Exif 2.32, tag Orientation, which defines where row 0 and column 0 of the stored image
    lie in the displayed one.

    Args:
        pixels: (rows, columns, …) as stored.
        orientation: 1 … 8.

    >>> upright(np.array([[1, 2, 3], [4, 5, 6]]), 6).tolist()
    [[4, 1], [5, 2], [6, 3]]
    """
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels


def mapped_array(path: Path) -> npt.NDArray[Any]:
    """Map the array of a ``.npy`` file: the shape is read now, values on access.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it holds no array or Python objects, is damaged, or is too short.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError):
        raise
    except Exception as error:  # the header is parsed as Python, which raises errors of many kinds
        raise ValueError(f"its header is damaged: {first_line(error)}") from error


def _tiff_page(path: Path, number: int | None) -> TiffPage | None:
    """Return a page of a TIFF file, or None for a file of another format.

    Args:
        path: the file.
        number: as for [read_image][].

    Raises:
        ImageReadError: the file is missing or damaged, has no such page, or has several without
            ``number``.
    """
    try:
        pages = tiff_pages(path)
    except (OSError, ValueError) as error:
        raise _not_decoded(path, first_line(error)) from error
    if number is None:
        pages = whole_pages(pages)
        if len(pages) > 1:
            msg = f"{path}: holds several pages, which only pipeline predict reads, as "
            raise ImageReadError(f"{msg}slices; save them as files, one image each")
        return pages[0] if pages else None
    if number >= max(len(pages), 1):
        raise _not_decoded(path, f"page {number} (from 0) of {len(pages)}")
    return pages[number] if pages else None


def _not_decoded(path: Path, reason: object) -> ImageReadError:
    msg = f"{path}: cannot be decoded ({reason}); the file may be damaged: export it again"
    return ImageReadError(msg)


@contextmanager
def _opened_picture(
    path: Path, page: int | None = None
) -> Iterator[tuple[Picture, int, io.BufferedReader | io.BytesIO]]:
    """Open a picture file with its pixels as stored.

    The page of a TIFF file is opened alone and without its orientation. Pillow rotates TIFF files
    itself when it decodes them, and rotates uncompressed ones wrongly.

    Args:
        path: the file.
        page: as for [read_image][].

    Returns:
        The picture, its EXIF orientation, and the file that was opened.

    Raises:
        ImageReadError: the file is missing, damaged, too large, or has several pages without
            ``page``. Decoding errors within the context are converted too.
    """
    from PIL import Image, UnidentifiedImageError

    tiff = _tiff_page(path, page)
    try:
        with path.open("rb") as file:
            if tiff is not None and os.fstat(file.fileno()).st_size > _MOST_FILE_BYTES:
                size = os.fstat(file.fileno()).st_size >> 20
                raise ImageReadError(f"{path}: {size} MiB are more than the 1024 allowed")
            source = file if tiff is None else io.BytesIO(page_alone(file.read(), tiff))
            with Image.open(source) as picture:
                _check_size(picture.height, picture.width, path)
                yield picture, _orientation_of(picture, file, tiff), source
    except ImageReadError:
        raise
    except (
        OSError, ValueError, KeyError, TypeError, IndexError, SyntaxError, EOFError, struct.error,
        Image.DecompressionBombError,
    ) as error:  # fmt: skip
        reason = "it is no image" if isinstance(error, UnidentifiedImageError) else error
        raise _not_decoded(path, reason) from error


def _orientation_of(picture: Picture, file: io.BufferedReader, tiff: TiffPage | None) -> int:
    """The EXIF orientation of a picture, which Pillow does not rotate; 1 without one."""
    if tiff is not None:
        return tiff.orientation
    if picture.format == "PNG" and "exif" not in picture.info and b"eXIf" not in _chunks(file.name):
        return 1  # avoids that Pillow decodes all pixels to look for a chunk after them
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF is ignored
        return 1
    return orientation if orientation in range(1, 9) else 1


def _plain_png_size(path: Path) -> tuple[int, int] | None:
    """(width, height) of a complete PNG file without EXIF; None if Pillow must read or refuse it.

    Pillow takes longer, and most frames are such files.
    """
    if path.suffix.lower() != ".png":
        return None
    try:
        with path.open("rb", buffering=0) as file:
            head = file.read(33)
        mark, width, height, depth, colour, crc = struct.unpack(">16sIIBB3xI", head)
        sound = mark == _PNG_START and crc == zlib.crc32(head[12:29])
    except (OSError, struct.error):
        return None
    usual = depth == 8 and colour in (0, 2, 3, 4, 6) and width and height
    return (width, height) if sound and usual and _is_png_without_exif(path) else None


def _is_png_without_exif(path: Path) -> bool:
    """Whether a file is a complete PNG without an eXIf chunk."""
    try:
        names = _chunks(path)
    except OSError:
        return False
    return {b"IHDR", b"IEND"} <= names and b"eXIf" not in names


def _chunks(path: str | Path) -> set[bytes]:
    """Names of the chunks of a PNG file; ``IEND`` is among them if the file is complete."""
    names: set[bytes] = set()
    place = 8
    with open(path, "rb", buffering=0) as raw:  # a buffer would be refilled for each chunk
        small = os.fstat(raw.fileno()).st_size <= _SMALL_FILE_BYTES
        file = io.BytesIO(raw.read()) if small else raw  # one call to the system instead of many
        while b"IEND" not in names:
            file.seek(place)
            head = file.read(8)
            if len(head) < 8:
                break
            names.add(head[4:])
            place += 12 + int.from_bytes(head[:4], "big")
    return names


def _read_picture(path: Path, page: int | None) -> npt.NDArray[Any]:
    unpacked = _unpacked_png(path) if path.suffix.lower() == ".png" else None
    if unpacked is not None:
        return unpacked
    with _opened_picture(path, page) as (picture, orientation, source):
        if _is_deep_colour(picture, path):
            source.seek(0)
            pixels = _decode_deep_colour(source.read(), path)
        elif picture.mode in _GREY_16_BIT_MODES:
            pixels = np.asarray(picture).astype(np.float32)
            if picture.format == "TIFF" and picture.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
                pixels = (65535 if picture.mode.startswith("I;16") else pixels.max()) - pixels
        else:
            pixels = np.asarray(picture if picture.mode == "L" else picture.convert("L"))
        return upright(pixels, orientation)


def _unpacked_png(path: Path) -> PixelArray | None:
    """Pixels of a plain grey PNG file, or None if Pillow must read or refuse it."""
    try:
        small = path.stat().st_size <= MAX_PIXELS
        return unpack_grey(path.read_bytes(), MAX_PIXELS) if small else None
    except OSError:
        return None


def _is_deep_colour(picture: Picture, path: Path) -> bool:
    """Whether a picture has several channels of over 8 bits, which Pillow would cut to 8."""
    if picture.format == "PNG":
        with path.open("rb") as file:
            depth, colour_type = file.read(26)[24:26]
        return depth == 16 and colour_type in (2, 4, 6)
    if picture.format == "TIFF":
        bits = picture.tag_v2.get(258, (1,))  # type: ignore[attr-defined]
        return len(bits) > 1 and max(bits) > 8
    return False


def _decode_deep_colour(data: bytes, path: Path) -> npt.NDArray[Any]:
    """(rows, columns, channels) as stored: one channel of grey, or red, green, blue."""
    import cv2

    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageReadError(f"{path}: cannot be decoded ({first_line(error)})") from error
    if pixels is None:
        raise ImageReadError(f"{path}: cannot be decoded; the file may be damaged: export it again")
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] < 3 or (data[:4] == b"\x89PNG" and data[25] == 4):
        return pixels[:, :, 0]  # grey with transparency
    return pixels[:, :, 2::-1]


def _read_npy(path: Path) -> npt.NDArray[Any]:
    try:
        mapped = mapped_array(path)
        if mapped.dtype.kind not in "uifb":
            msg = f"{path}: holds {mapped.dtype} values; wanted real numbers"
            raise ImageReadError(msg)
        if mapped.ndim in (2, 3):
            _check_size(int(np.prod(mapped.shape)), 1, path)
        return np.array(mapped)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        msg = f"{path}: cannot be read as a NumPy array ({reason}); save it with numpy.save"
        raise ImageReadError(msg) from error


def _check_size(height: int, width: int, path: Path) -> None:
    if height * width > MAX_PIXELS:
        msg = (
            f"{path}: {height}x{width} pixels are more than the {MAX_PIXELS:,} allowed; "
            "crop or shrink the image"
        )
        raise ImageReadError(msg)


def _as_grey(pixels: npt.NDArray[Any], path: Path) -> GreyImage:
    if pixels.ndim == 3 and pixels.shape[2] not in (3, 4) and 1 in (pixels.shape[0::2]):
        pixels = pixels[0] if pixels.shape[0] == 1 else pixels[:, :, 0]
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4):
        grey = pixels[:, :, :3].astype(np.float32) @ np.array(_GREY_OF_RGB, np.float32)
        pixels = np.rint(grey).astype(np.uint8) if pixels.dtype == np.uint8 else grey
    if pixels.ndim != 2 or pixels.size == 0:
        msg = f"{path}: has shape {pixels.shape}; wanted one grey image (rows, columns)"
        raise ImageReadError(msg)
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    return np.ascontiguousarray(pixels, dtype=np.float32)
