"""Ways to spoil a binary file: bytes, DICOM, images, weights and the JSON inside them.

Same generator, same mutant. Nothing here knows what reads the file: `fuzz_targets` does.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Rng = np.random.Generator

HOSTILE_NAMES = (
    "../../x", "..", ".", "/etc/passwd", "a/../../../x", "..\\..\\x", "C:\\x", "a\0b", "~", "~root",
    "-rf", "--help", "a b\tc", "a\nb", "\u202egnp.exe", "e\u0301" * 20, "\U0001f9b4",
    "\ud800", "n" * 255, "n" * 5000, "CON", "x;rm -rf", "$(touch x)", "`x`", "%s%n", "<b>&amp;",
    "'\"", "",
)  # fmt: skip
"""Names and ids that lead elsewhere, break a file system or a terminal, or are none."""

HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, -(2**64), 1e308, -1e308, 1e-320, float("nan"), 0.5,
    float("inf"), float("-inf"), 10**400, "", "abc", "NaN", "1e999", "0x10", "１２", [], {}, [[]],
    [{}], {"": None}, [None], "x" * 70_000, [0] * 1000, {"$ref": "#"},
)  # fmt: skip


def pick(rng: Rng, items: Any) -> Any:
    """One of a sequence."""
    return items[int(rng.integers(len(items)))]


# ---- bytes


def spoil_bytes(data: bytes, rng: Rng) -> bytes:
    """One to four rough changes: flips, cuts, inserted, doubled or wiped chunks, wrong lengths."""
    for _ in range(int(rng.integers(1, 5))):
        data = pick(rng, _BYTES)(data, rng)
    return data


def _place(data: bytes, rng: Rng) -> int:
    """A place in the data; every second one near the start, where headers are."""
    end = len(data) if rng.random() < 0.5 else min(len(data), 2048)
    return int(rng.integers(0, end + 1))


def _flip(data: bytes, rng: Rng) -> bytes:
    spoilt = bytearray(data)
    for _ in range(int(rng.integers(1, 9)) if spoilt else 0):
        spoilt[min(_place(data, rng), len(spoilt) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(spoilt)


def _cut(data: bytes, rng: Rng) -> bytes:
    return data[: _place(data, rng)]


def _insert(data: bytes, rng: Rng) -> bytes:
    at, size = _place(data, rng), int(rng.integers(1, 65))
    filling = pick(rng, (bytes(size), b"\xff" * size, rng.bytes(size)))
    return data[:at] + filling + data[at:]


def _double(data: bytes, rng: Rng) -> bytes:
    at, size = _place(data, rng), int(rng.integers(1, 1025))
    return data[: at + size] + data[at : at + size] + data[at + size :]


def _drop(data: bytes, rng: Rng) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 257)) :]


def _lie(data: bytes, rng: Rng) -> bytes:
    """Four bytes that may be a length become another one."""
    at = _place(data, rng)
    value = pick(rng, (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE, 0x10000, len(data) * 2 + 1))
    return data[:at] + struct.pack(pick(rng, ("<L", ">L")), value & 0xFFFFFFFF) + data[at + 4 :]


_BYTES: tuple[Callable[[bytes, Rng], bytes], ...] = (
    _flip, _flip, _cut, _insert, _double, _drop, _lie,
)  # fmt: skip


# ---- JSON


def spoil_json(value: Any, rng: Rng) -> bytes:
    """A JSON document with one to three values replaced, removed, doubled, nested or renamed."""
    value = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        places = list(places_in(value))
        if not places:
            break
        holder, name = pick(rng, places)
        value = _change(value, holder, name, rng)
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    if rng.random() < 0.15:
        text = _nested(rng)
    return spoil_bytes(text, rng) if rng.random() < 0.2 else text


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value of a JSON document."""
    if not isinstance(value, dict | list):
        return
    for name in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, name
        yield from places_in(value[name])


def _change(value: Any, holder: Any, name: Any, rng: Rng) -> Any:
    how = int(rng.integers(6))
    if how <= 2:
        hostile = HOSTILE_NAMES if isinstance(holder[name], str) and how else HOSTILE_VALUES
        holder[name] = copy.deepcopy(pick(rng, hostile))
    elif how == 3:
        del holder[name]
    elif how == 4 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[name]))
    elif how == 4:
        holder[pick(rng, HOSTILE_NAMES)] = holder.pop(name)
    else:
        return pick(rng, (value, [value], {"x": value}, value))
    return value


def _nested(rng: Rng) -> bytes:
    depth = int(rng.integers(500, 200_000))
    opening, closing = pick(rng, ((b"[", b"]"), (b'{"a":', b"}")))
    return opening * depth + (b"1" + closing * depth if rng.random() < 0.5 else b"")


# ---- DICOM


def dicom_elements(data: bytes) -> list[tuple[int, int, int, int, int]]:
    """Tag, place of the VR, place and size of the length, place of the value; explicit VR, flat."""
    found, at = [], 132
    while at + 12 <= len(data):
        group, element, vr, length = struct.unpack_from("<HH2sH", data, at)
        size, where, value = 2, at + 6, at + 8
        if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"UC"):
            (length,) = struct.unpack_from("<L", data, at + 8)
            size, where, value = 4, at + 8, at + 12
        if length == 0xFFFFFFFF:
            break
        found.append((group << 16 | element, at + 4, where, size, value))
        at = value + length
    return found


def spoil_dicom(data: bytes, rng: Rng) -> bytes:
    """An explicit little endian file with one to three elements spoilt."""
    for _ in range(int(rng.integers(1, 4))):
        data = pick(rng, _DICOM)(data, rng)
    return data


def _element(data: bytes, rng: Rng) -> tuple[int, int, int, int, int] | None:
    elements = dicom_elements(data)
    return pick(rng, elements) if elements else None


def _dicom_length(data: bytes, rng: Rng) -> bytes:
    found = _element(data, rng)
    if found is None:
        return data
    _, _, where, size, _ = found
    value = pick(rng, (0, 1, 3, 0x7FFF, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, int(rng.integers(64))))
    lie = (value & (0xFFFF if size == 2 else 0xFFFFFFFF)).to_bytes(size, "little")
    return data[:where] + lie + data[where + size :]


def _dicom_vr(data: bytes, rng: Rng) -> bytes:
    found = _element(data, rng)
    if found is None:
        return data
    vr = pick(rng, (b"OB", b"SQ", b"US", b"DS", b"UI", b"FD", b"PN", b"UN", b"AT", b"ZZ", b"\0\0"))
    return data[: found[1]] + vr + data[found[1] + 2 :]


def _dicom_value(data: bytes, rng: Rng) -> bytes:
    """Another text or number of the same length in place of a value."""
    found = _element(data, rng)
    if found is None:
        return data
    size = int.from_bytes(data[found[2] : found[2] + found[3]], "little")
    if not 0 < size < 256:
        return data
    texts = (
        b"nan", b"inf\\inf", b"-1\\-1", b"0\\0", b"1e400", b"\\\\\\\\", b"abc", b"../../x",
        b"\xff\xfe\0", b"9" * 16, b"\0",
    )  # fmt: skip
    value = pick(rng, (*texts, rng.bytes(size), b"\xff" * size, bytes(size)))
    return data[: found[4]] + (value + b" " * size)[:size] + data[found[4] + size :]


def _dicom_swap(data: bytes, rng: Rng) -> bytes:
    """Two elements change places, tags and all; or one is there twice; or is gone."""
    elements = dicom_elements(data)
    if len(elements) < 4:
        return data
    starts = [e[1] - 4 for e in elements] + [len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(starts)]
    i, j = (int(rng.integers(len(parts))) for _ in range(2))
    how = int(rng.integers(3))
    if how == 0:
        parts[i], parts[j] = parts[j], parts[i]
    elif how == 1:
        parts.insert(j, parts[i])
    else:
        del parts[i]
    return data[: starts[0]] + b"".join(parts)


def _dicom_known(data: bytes, rng: Rng) -> bytes:
    """Elements on which reading depends get values that none has."""
    import pydicom
    from pydicom.uid import UID

    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        keyword = pick(rng, tuple(_KNOWN))
        value = pick(rng, _KNOWN[keyword])
        if keyword == "TransferSyntaxUID":
            dataset.file_meta.TransferSyntaxUID = UID(value)
        else:
            setattr(dataset, keyword, value)
        stream = io.BytesIO()
        dataset.save_as(stream)
        return stream.getvalue()
    except Exception:  # what pydicom will not write stays as it was
        return data


_KNOWN: dict[str, tuple[Any, ...]] = {
    "Rows": (0, 1, 3, 63, 65535, 40000),
    "Columns": (0, 1, 3, 65535, 40000),
    "NumberOfFrames": (0, -1, 2, 999999),
    "SamplesPerPixel": (0, 3, 4, 9),
    "BitsAllocated": (0, 1, 8, 12, 32, 64, 7),
    "BitsStored": (0, 1, 16, 40),
    "HighBit": (0, 40),
    "PixelRepresentation": (1, 9),
    "PhotometricInterpretation": ("MONOCHROME1", "RGB", "PALETTE COLOR", "YBR_FULL_422", "", "X"),
    "RescaleSlope": ("0", "-1", "1e30", "1e-30"),
    "RescaleIntercept": ("1e38", "-1e38"),
    "PixelSpacing": (["0", "0"], ["-1", "1"], ["1e-9", "1e9"], ["1"], ["1", "2", "3"], None),
    "ImageOrientationPatient": (["0"] * 6, ["1"] * 6, ["0", "1", "0", "0", "1e20", "-1"], None),
    "ImagePositionPatient": (["1e30"] * 3, ["0", "0"], None),
    "PixelData": (b"", b"\0\0", b"\xff" * 7, None),
    "StudyInstanceUID": ("", "../../x", "1." * 40, "a/b", None),
    "SeriesInstanceUID": ("", "../../x", None),
    "SOPInstanceUID": ("", "1.2", None),
    "SeriesDescription": ("../../x", "T1", "T2" * 5000, "\u4e2d\u6587", ""),
    "SpecificCharacterSet": ("ISO_IR 192", "GB18030", "none such", ["", "ISO 2022 IR 87"]),
    "Modality": ("CT", "", "x" * 300),
    "EchoTime": ("nan", "-1", "1e9", None),
    "TransferSyntaxUID": (
        "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.1.99", "1.2.3", "",
    ),
}  # fmt: skip

_DICOM: tuple[Callable[[bytes, Rng], bytes], ...] = (
    _dicom_length, _dicom_vr, _dicom_value, _dicom_swap, _dicom_known, _dicom_known, spoil_bytes,
)  # fmt: skip


# ---- images


def spoil_png(data: bytes, rng: Rng) -> bytes:
    """A PNG with spoilt bytes, or a header that lies with a right checksum."""
    if rng.random() < 0.5:
        return spoil_bytes(data, rng)
    width, height = (int(pick(rng, (0, 1, 7, 4000, 60_000, 2**31 - 1))) for _ in range(2))
    depth, colour = int(pick(rng, (1, 2, 8, 16, 3))), int(pick(rng, (0, 2, 3, 4, 6, 5)))
    body = struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, int(rng.integers(2)))
    chunk = b"IHDR" + body
    return data[:12] + chunk + struct.pack(">L", zlib.crc32(chunk)) + data[33:]


NPY_SHAPES = (
    "(0, 0)", "(1,)", "()", "(10**6, 10**6)", "(-1, 4)", "(4, 4, 4, 4)", "(3, 5)",
    "(2**62, 2**62)", "x",
)  # fmt: skip


def spoil_npy(data: bytes, rng: Rng) -> bytes:
    """A NumPy file with spoilt bytes, or a header that lies."""
    if rng.random() < 0.4:
        return spoil_bytes(data, rng)
    shape = pick(rng, NPY_SHAPES)
    kind = pick(rng, ("|O", "<f8", "|V9", "<c16", "<U4", ">u2", "<m8", "|b1", "zz"))
    order = pick(rng, ("True", "False", "1"))
    head = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    head += b" " * (117 - len(head)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data[128:]


# ---- weights


def spoil_safetensors(data: bytes, rng: Rng) -> bytes:
    """A safetensors file with spoilt bytes, a spoilt description, or spoilt tensor entries."""
    how = rng.random()
    if how < 0.35:
        return spoil_bytes(data, rng)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header["__metadata__"]
    if how < 0.75:
        described = json.loads(metadata["spineline"])
        text = spoil_json(described, rng)
        metadata["spineline"] = text.decode("utf-8", "replace")
        new = json.dumps(header).encode()
    else:
        new = spoil_json(header, rng)
    return struct.pack("<Q", len(new)) + new + data[8 + length :]
