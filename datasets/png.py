"""Grey PNG files of 8 bits, such as converted datasets hold, unpacked quickly.

Source of the format: PNG specification (ISO/IEC 15948). ISA-L unpacks zlib's data several times as
fast as zlib. OpenCV filters every row by "sub" by default, which NumPy undoes in one call.
"""

from __future__ import annotations

import struct

import numpy as np
from isal import isal_zlib

from spineline.datasets.common.arrays import PixelArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SUB = 1


def unpack_grey(data: bytes) -> PixelArray | None:
    """The pixels of a PNG file, (rows, columns) uint8, where this module can unpack it.

    Args:
        data: of the file.

    Returns:
        None for all but whole, grey, not interlaced images of 8 bits whose rows are filtered by
        "sub" or not at all: a general reader unpacks those, or says what is wrong with them.
    """
    if data[:8] != _SIGNATURE or data[12:16] != b"IHDR" or len(data) < 33:
        return None
    width, height, *form = struct.unpack_from(">IIBBBBB", data, 16)
    if form != [8, 0, 0, 0, 0]:
        return None
    try:
        rows = np.frombuffer(isal_zlib.decompress(_image_data(data)), np.uint8)
    except isal_zlib.error:
        return None
    if rows.size != height * (width + 1) or rows.size == 0:
        return None
    rows = rows.reshape(height, width + 1)
    filters, pixels = rows[:, 0], rows[:, 1:]
    if filters.max() > _SUB:
        return None
    if filters.all():
        return np.add.accumulate(pixels, axis=1, dtype=np.uint8)
    unpacked = pixels.copy()
    filtered = filters == _SUB
    unpacked[filtered] = np.add.accumulate(pixels[filtered], axis=1, dtype=np.uint8)
    return unpacked


def _image_data(data: bytes) -> bytes:
    """The packed rows of a PNG file, of its IDAT chunks; nothing where its end is missing."""
    parts, place = [], 8
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        name = data[place + 4 : place + 8]
        if name == b"IDAT":
            parts.append(data[place + 8 : place + 8 + size])
        elif name == b"IEND":
            return b"".join(parts)
        place += 12 + size
    return b""
