"""Fast reading of 8-bit grey PNG files, such as those of converted datasets.

Source of the format: PNG specification (ISO/IEC 15948). ISA-L decompresses several times faster
than zlib. OpenCV filters every row by "sub" by default, which NumPy reverses in one call.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from isal import isal_zlib

from spineline.datasets.common.arrays import PixelArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SUB = 1


def unpack_grey(data: bytes, most_pixels: int) -> PixelArray | None:
    """Return the pixels of a PNG file, (rows, columns) uint8, if this module can unpack it.

    Args:
        data: content of the file.
        most_pixels: most pixels that an image may have.

    Returns:
        The pixels, or None for any file that a general reader must read or refuse. Only complete,
        grey, not interlaced 8-bit images without EXIF are unpacked, and only if their rows are
        filtered by "sub" or not at all.
    """
    if data[:8] != _SIGNATURE or data[12:16] != b"IHDR" or len(data) < 33:
        return None
    width, height, *form, check = struct.unpack_from(">IIBBBBBI", data, 16)
    if form != [8, 0, 0, 0, 0] or check != zlib.crc32(data[12:29]):
        return None
    if not 0 < width * height <= most_pixels:
        return None
    size, unpacker = height * (width + 1), isal_zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(_image_data(data), size + 1)  # a few bytes may expand vastly
    except isal_zlib.error:  # type: ignore[misc]  # a class, which its stubs take for an instance
        return None
    if len(unpacked) != size or not unpacker.eof:
        return None
    rows = np.frombuffer(unpacked, np.uint8).reshape(height, width + 1)
    filters, pixels = rows[:, 0], rows[:, 1:]
    if filters.max() > _SUB:
        return None
    sums = np.add.accumulate(pixels, axis=1, dtype=np.uint8)
    return sums if filters.all() else np.where(filters[:, None] == _SUB, sums, pixels)


def _image_data(data: bytes) -> bytes:
    """Compressed rows of a PNG file, from its IDAT chunks; empty if the end is missing."""
    parts, place = [], 8
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        name = data[place + 4 : place + 8]
        if name == b"IDAT":
            parts.append(data[place + 8 : place + 8 + size])
        elif name == b"IEND":
            return b"".join(parts)
        elif name == b"eXIf":
            return b""
        place += 12 + size
    return b""
