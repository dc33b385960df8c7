"""Lossless JPEG (ITU-T T.81, process 14; DICOM's ….4.57 and ….4.70), decoded by imagecodecs.

No available decoder refuses every truncated stream, so each stream is checked here. The decoded
values are predicted and coded again, counting only bits, and the stream must hold exactly as many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

SYNTAXES = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
"""Transfer syntaxes that are supported."""
EXTRA = "jpeg-lossless"
"""The extra of this package that installs the decoder."""

_SOF3, _DHT, _SOI, _EOI, _SOS, _DRI = 0xC3, 0xC4, 0xD8, 0xD9, 0xDA, 0xDD
_OTHER_FRAMES = (*range(0xC0, 0xC3), *range(0xC5, 0xC8), *range(0xC9, 0xD0))
_MOST_SPARE_BYTES = 4


class DecoderMissingError(Exception):
    """The package that decodes such streams is not installed."""


@dataclass(frozen=True, slots=True)
class _Stream:
    """The headers of a stream, and the length of its coded pixels in bytes."""

    precision: int
    size_hw: tuple[int, int]
    code_lengths: Mapping[int, int]
    predictor: int
    coded_bytes: int


def decode_lossless_jpeg(data: bytes) -> npt.NDArray[np.uint16]:
    """Decode the pixels of one stream of one grey image.

    Args:
        data: the stream from SOI to EOI; zero bytes may follow.

    Returns:
        (rows, columns), as stored: neither signed nor rescaled.

    Raises:
        ValueError: the stream is damaged, truncated, or of another kind.
        DecoderMissingError: imagecodecs is not installed.
    """
    stream = _parsed(data)
    decode = _decoder()
    try:
        pixels = np.asarray(decode(data))
    except (RuntimeError, MemoryError) as error:
        raise ValueError(str(error)) from error
    if pixels.shape != stream.size_hw:
        raise ValueError(f"decodes to {pixels.shape}, its header says {stream.size_hw}")
    spare = stream.coded_bytes - -(-_coded_bits(pixels, stream) // 8)
    if not 0 <= spare <= _MOST_SPARE_BYTES:
        raise ValueError("its coded pixels are cut short or damaged")
    return pixels.astype(np.uint16)


def _decoder() -> Any:
    try:
        from imagecodecs import LJPEG, ljpeg_decode
    except ImportError as error:
        raise DecoderMissingError(EXTRA) from error
    if not LJPEG.available:
        raise DecoderMissingError(EXTRA)
    return ljpeg_decode


def _parsed(data: bytes) -> _Stream:
    """The headers of a stream; its one scan must end with the marker EOI."""
    tables: dict[int, dict[int, int]] = {}
    frame: tuple[int, int, int] | None = None
    body, place = b"", 0
    for code, body, place in _segments(data):  # noqa: B007 - the last one is used below
        if code in _OTHER_FRAMES:
            raise ValueError("is a JPEG stream of another process than lossless with Huffman codes")
        if code == _DRI and any(body):
            raise ValueError("has restart intervals, which are not read")
        if code == _DHT:
            tables |= _huffman_tables(body)
        elif code == _SOF3:
            frame = _frame(body)
    if frame is None or len(body) != 6 or body[0] != 1 or body[5] & 15:
        raise ValueError("wanted one scan of one component without point transform")
    table = tables.get(body[2] >> 4)
    if table is None or not 1 <= body[3] <= 7:
        raise ValueError("names a Huffman table or predictor that it does not have")
    return _Stream(frame[0], frame[1:], table, body[3], _coded_bytes(data, place))


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, body and end of each segment up to the header of the scan."""
    if data[:2] != bytes((0xFF, _SOI)):
        raise ValueError("does not begin as a JPEG stream")
    place, code = 2, _SOI
    while code != _SOS:
        head, length = data[place : place + 2], int.from_bytes(data[place + 2 : place + 4])
        body = data[place + 4 : place + 2 + length]
        if head[:1] != b"\xff" or length < 2 or len(body) != length - 2:
            raise ValueError("its headers are cut short or damaged")
        code, place = head[1], place + 2 + length
        yield code, body, place


def _frame(body: bytes) -> tuple[int, int, int]:
    """Precision, rows, columns."""
    if len(body) != 9 or body[5] != 1 or not 2 <= body[0] <= 16:
        raise ValueError("wanted one component of 2 to 16 bits")
    return body[0], int.from_bytes(body[1:3]), int.from_bytes(body[3:5])


def _huffman_tables(body: bytes) -> dict[int, dict[int, int]]:
    """Lengths of codes in bits by category, for each table number."""
    tables = {}
    while body:
        counts = body[1:17]
        end = 17 + sum(counts)
        if len(counts) != 16 or len(body) < end:
            raise ValueError("a Huffman table is cut short")
        lengths = np.repeat(np.arange(1, 17), np.frombuffer(counts, np.uint8))
        tables[body[0] & 15] = dict(zip(body[17:end], lengths.tolist(), strict=True))
        body = body[end:]
    return tables


def _coded_bytes(data: bytes, start: int) -> int:
    """Length of the coded pixels up to EOI, without stuffed zeros."""
    place = start
    while (place := data.find(b"\xff", place)) >= 0 and data[place + 1 : place + 2] == b"\0":
        place += 2
    if place < 0 or data[place + 1 : place + 2] != bytes((_EOI,)) or data[place + 2 :].strip(b"\0"):
        raise ValueError("its coded pixels do not end with the end of the image")
    coded = data[start:place]
    return len(coded) - coded.count(b"\xff\x00")


def _coded_bits(pixels: npt.NDArray[Any], stream: _Stream) -> int:
    """Number of bits of the pixels with the stream's table and predictor (T.81, annex H)."""
    values = pixels.astype(np.int64)
    predicted = np.empty_like(values)
    predicted[0, 0] = 1 << (stream.precision - 1)
    predicted[0, 1:] = values[0, :-1]
    predicted[1:, 0] = values[:-1, 0]
    left, above, before = values[1:, :-1], values[:-1, 1:], values[:-1, :-1]
    predicted[1:, 1:] = (
        left,
        above,
        before,
        left + above - before,
        left + ((above - before) >> 1),
        above + ((left - before) >> 1),
        (left + above) >> 1,
    )[stream.predictor - 1]
    difference = np.abs(((values - predicted + 32767) & 0xFFFF) - 32767)
    categories = np.frexp(difference.astype(np.float64))[1]
    total = 0
    for category, count in enumerate(np.bincount(categories.ravel())):
        if count and category not in stream.code_lengths:
            raise ValueError("its Huffman table does not fit its pixels")
        extra = 0 if category == 16 else category
        total += int(count) * (stream.code_lengths.get(category, 0) + extra)
    return total
