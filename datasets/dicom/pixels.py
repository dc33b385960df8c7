"""Pixels of one slice, read only after a check of its size."""

from __future__ import annotations

import gzip
import io
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import pixel_array
from pydicom.uid import UID

from spineline.datasets.common.arrays import Float32Array, FloatArray
from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.dicom.header import (
    HeaderRejected,
    SliceHeader,
    check_inflated_size,
    integer_of,
    places_of_frame,
    quiet_pydicom,
)
from spineline.datasets.dicom.jpeg_lossless import (
    EXTRA,
    SYNTAXES,
    DecoderMissingError,
    decode_lossless_jpeg,
)
from spineline.datasets.dicom.quick import open_dicom
from spineline.datasets.images import MAX_PIXELS, is_constant

MAX_DICOM_BYTES = 1 << 30
"""Larger files are refused before they are read."""

_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_GREY_OF_RGB = (0.299, 0.587, 0.114)  # ITU-R BT.601

# One decoder per syntax: other installed decoders abort the process or silently decode damaged
# data.
_DECODERS = {
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG baseline
    "1.2.840.10008.1.2.4.51": "pillow",  # JPEG extended
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81": "pyjpegls",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.5": "pylibjpeg",  # RLE: pydicom's own decoder takes five times as long
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91": "pylibjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.201": "pylibjpeg",  # HTJ2K lossless
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
}


def read_pixels(header: SliceHeader, *, invert: bool = True) -> Float32Array:
    """Read the pixels of one slice, with bright values high.

    Rescale slope and intercept are applied, in an enhanced file those of the frame. MONOCHROME1 is
    inverted within its stored range. Padding gets the lowest value of the rest, and colour becomes
    grey. Only this one frame is decoded.

    Args:
        header: the slice.
        invert: false leaves MONOCHROME1 as it is stored, with bright values low.

    Returns:
        (rows, columns) float32, not windowed.

    Raises:
        DicomReadError: there are no pixel data, the size is implausible, the compression is damaged
            or unsupported, or the image is constant. The message says what was found and what to
            do.
    """
    with quiet_pydicom():
        dataset = _read(header)
        _check_size(header, dataset)
        stored = _decode(header, dataset)
        pixels = _to_grey(header, stored, dataset, invert=invert)
    if pixels.shape != (header.rows, header.columns):
        raise _error(header, f"pixels are {pixels.shape}, the header says otherwise", _AGAIN)
    if is_constant(pixels):
        raise _error(header, "constant image, nothing can be seen in it", "choose another slice")
    return pixels


_AGAIN = "the file is damaged: export it again"


def _error(header: SliceHeader, found: str, advice: str) -> DicomReadError:
    return DicomReadError(f"{header.path}: {found}; {advice}")


def _read(header: SliceHeader) -> Dataset:
    try:
        size = header.path.stat().st_size
        if size > MAX_DICOM_BYTES:
            raise _too_large(header, f"{size >> 20} MiB are")
        check_inflated_size(header.path)
        with open_dicom(header.path) as file:
            if not isinstance(file, gzip.GzipFile):
                return pydicom.dcmread(header.path)
            data = file.read(MAX_DICOM_BYTES + 1)
        if len(data) > MAX_DICOM_BYTES:
            raise _too_large(header, "inflated, it holds")
        return pydicom.dcmread(io.BytesIO(data))
    except DicomReadError:
        raise
    except HeaderRejected as error:
        raise _error(header, error.reason, _AGAIN) from error
    except OSError as error:
        raise _error(header, f"cannot be read ({error.strerror or error})", _AGAIN) from error
    except Exception as error:  # pydicom raises nearly anything on damaged bytes
        raise _error(header, f"cannot be read ({type(error).__name__})", _AGAIN) from error


def _too_large(header: SliceHeader, found: str) -> DicomReadError:
    found += f" more than the {MAX_DICOM_BYTES >> 20} MiB allowed"
    return _error(header, found, "export single-frame files")


def _check_size(header: SliceHeader, dataset: Dataset) -> None:
    """Refuse sizes that no slice has, by the header and by the compressed data."""
    keyword = next((k for k in _PIXEL_KEYWORDS if k in dataset), None)
    if keyword is None:
        raise _error(header, "has no PixelData, or it is cut short", "export the whole image again")
    rows, columns = (integer_of(dataset, keyword) or 0 for keyword in ("Rows", "Columns"))
    frames = max(integer_of(dataset, "NumberOfFrames") or 1, 1)
    if rows < 1 or columns < 1:
        raise _error(header, f"Rows x Columns is {rows} x {columns}", _AGAIN)
    if rows * columns * frames > MAX_PIXELS:
        found = (
            f"Rows x Columns x Frames is {rows} x {columns} x {frames}, "
            f"more than the {MAX_PIXELS:,} pixels allowed"
        )
        raise _error(header, found, "if the size is true, export single slices")
    syntax = _transfer_syntax(dataset)
    if syntax is None:
        raise _error(header, "names no transfer syntax that is known", _AGAIN)
    if keyword == "PixelData" and syntax.is_compressed and syntax.is_encapsulated:
        _check_compressed(header, dataset, rows, columns, frames)


def _transfer_syntax(dataset: Dataset) -> UID | None:
    try:
        syntax = dataset.file_meta.TransferSyntaxUID
    except Exception:  # absent, or its bytes are damaged
        return None
    return syntax if isinstance(syntax, UID) and syntax.is_transfer_syntax else None


def _check_compressed(
    header: SliceHeader, dataset: Dataset, rows: int, columns: int, frames: int
) -> None:
    try:
        data = get_frame(dataset.PixelData, header.frame or 0, number_of_frames=frames)
    except Exception as error:  # damaged item lengths
        raise _error(header, f"compressed pixels cannot be split ({error})", _AGAIN) from error
    stored = rows * columns * header.samples * (integer_of(dataset, "BitsAllocated") or 16) // 8
    if len(data) > 2 * stored + 65536:
        found = f"{len(data)} compressed bytes for {stored} bytes of pixels"
        raise _error(header, found, _AGAIN)
    claimed = codestream_size(data)
    if claimed is not None and claimed != (rows, columns):
        found = (
            f"compressed pixels are {claimed[0]} x {claimed[1]}, "
            f"Rows x Columns is {rows} x {columns}"
        )
        raise _error(header, found, _AGAIN)


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """Return rows and columns in the header of a JPEG, JPEG-LS or JPEG 2000 stream, else None.

    >>> codestream_size(bytes.fromhex("ffd8ffc0000b080102010301"))
    (258, 259)
    """
    start = data.find(b"\xff\x4f\xff\x51")
    if 0 <= start < 512 and len(data) >= start + 24:  # JPEG 2000: SIZ follows SOC
        box = data[start + 8 :]
        right, bottom, left, top = (int.from_bytes(box[n : n + 4], "big") for n in (0, 4, 8, 12))
        return bottom - top, right - left
    if data[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 9 < len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        is_frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if is_frame or marker == 0xF7:  # SOF of JPEG, SOF55 of JPEG-LS
            height, width = data[place + 5 : place + 7], data[place + 7 : place + 9]
            return int.from_bytes(height, "big"), int.from_bytes(width, "big")
        place += 2 + length
    return None


def _decode(header: SliceHeader, dataset: Dataset) -> npt.NDArray[Any]:
    syntax = dataset.file_meta.TransferSyntaxUID
    _check_complete(header, dataset)
    high = integer_of(dataset, "HighBit") or 0
    if not syntax.is_encapsulated and high >= (integer_of(dataset, "BitsStored") or 16):
        dataset.BitsStored = high + 1  # values are not in the lowest bits, where pydicom looks
    try:
        if str(syntax) in SYNTAXES:
            return _decode_lossless_jpeg(header, dataset)
        return pixel_array(
            dataset, index=header.frame, decoding_plugin=_DECODERS.get(str(syntax), "")
        )
    except DecoderMissingError as error:
        found = f"pixels are stored as '{syntax.name}', which needs a decoder that is not installed"
        advice = f"install it with pip install 'spineline[{EXTRA}]', or export uncompressed DICOM"
        raise _error(header, found, advice) from error
    except (RuntimeError, NotImplementedError) as error:
        found = f"pixels stored as '{syntax.name}' cannot be decoded"
        advice = "the data is damaged or no decoder is installed; export uncompressed DICOM"
        raise _error(header, f"{found} ({_short(error)})", advice) from error
    except Exception as error:  # ValueError, AttributeError and others, depending on the damage
        raise _error(header, f"pixels cannot be decoded ({_short(error)})", _AGAIN) from error


def _decode_lossless_jpeg(header: SliceHeader, dataset: Dataset) -> npt.NDArray[Any]:
    """The stored values of one frame.

    Raises:
        RuntimeError: the stream is damaged, truncated, or not of one grey component.
    """
    frames = max(integer_of(dataset, "NumberOfFrames") or 1, 1)
    data = get_frame(dataset.PixelData, header.frame or 0, number_of_frames=frames)
    try:
        values = decode_lossless_jpeg(data)
    except ValueError as error:
        raise RuntimeError(str(error)) from error
    if not integer_of(dataset, "PixelRepresentation"):
        return values
    sign = 1 << ((integer_of(dataset, "BitsStored") or 16) - 1)
    return ((values.astype(np.int32) & (2 * sign - 1)) ^ sign) - sign


def _check_complete(header: SliceHeader, dataset: Dataset) -> None:
    """Refuse a truncated JPEG 2000 stream, which would silently decode into a half-empty image."""
    if "PixelData" not in dataset or not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    frames = max(integer_of(dataset, "NumberOfFrames") or 1, 1)
    data = get_frame(dataset.PixelData, header.frame or 0, number_of_frames=frames)
    is_jpeg = data[:2] in (b"\xff\xd8", b"\xff\x4f")
    if is_jpeg and data.rstrip(b"\0")[-2:] != b"\xff\xd9":
        raise _error(header, "compressed pixels are cut short (no end mark)", _AGAIN)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    text = shorten(text, 160, placeholder=" …")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _to_grey(
    header: SliceHeader, stored: npt.NDArray[Any], dataset: Dataset, *, invert: bool
) -> Float32Array:
    photometric = str(dataset.get("PhotometricInterpretation", "")).upper()
    if photometric == "PALETTE COLOR":
        raise _error(header, "is stored with a colour palette", "export grey images")
    if stored.ndim == 3 and stored.shape[2] in (3, 4):
        stored = stored[:, :, :3].astype(np.float64) @ np.array(_GREY_OF_RGB)
    if stored.ndim != 2:
        found = f"pixels have shape {stored.shape}, wanted one grey image"
        raise _error(header, found, "export single slices")
    values = stored.astype(np.float64)
    outside = _is_padding(values, dataset)
    if photometric == "MONOCHROME1" and invert:
        values = _inverted(values, dataset)
    slope, intercept = rescaling_of(dataset, header.frame)
    values = values * slope + intercept
    if outside.any() and not outside.all():
        values[outside] = values[~outside].min()
    return values.astype(np.float32)


def _is_padding(values: FloatArray, dataset: Dataset) -> npt.NDArray[np.bool_]:
    """Where stored values are padding: one value, or a range (PS3.3 C.7.5.1.1.2).

    Either limit may be written as if pixels were signed when they are not, or the other way round.
    """
    keywords = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    limits = [limit for keyword in keywords if (limit := _number(dataset, keyword)) is not None]
    if "PixelPaddingValue" not in dataset or not limits:
        return np.zeros(values.shape, bool)
    if "PixelData" in dataset:
        values_stored = 2.0 ** (integer_of(dataset, "BitsAllocated") or 16)
        lowest = -values_stored / 2 if integer_of(dataset, "PixelRepresentation") else 0.0
        limits = [(limit - lowest) % values_stored + lowest for limit in limits]
    return (values >= min(limits)) & (values <= max(limits))


def rescaling_of(dataset: Dataset, frame: int | None) -> tuple[float, float]:
    """Return slope and intercept of a frame, or 1 and 0 without usable ones.

    In enhanced files they are in the Pixel Value Transformation Sequence of a frame or of all
    frames (PS3.3 C.7.6.16.2.9), else in the data set. Both come from the first place that has one.

    Args:
        dataset: the header.
        frame: index from 0, or None for a file of one image.
    """
    keywords = ("RescaleSlope", "RescaleIntercept")
    places = places_of_frame(dataset, frame)
    place = next((place for place in places if any(k in place for k in keywords)), places[-1])
    return _number(place, keywords[0]) or 1.0, _number(place, keywords[1]) or 0.0


def _inverted(values: FloatArray, dataset: Dataset) -> FloatArray:
    """Mirror MONOCHROME1 within its stored range: lowest and highest storable value swap."""
    if "PixelData" not in dataset:
        return -values
    if integer_of(dataset, "PixelRepresentation"):
        return -1 - values
    return 2 ** (integer_of(dataset, "BitsStored") or 16) - 1 - values


def _number(dataset: Dataset, keyword: str) -> float | None:
    """A finite number of a tag, or None."""
    try:
        number = float(dataset.get(keyword))
    except Exception:
        return None
    return number if np.isfinite(number) else None
