"""Lossless JPEG: decoded right, and never where something is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_array_equal
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLossless, JPEGLosslessSV1

from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.dicom.jpeg_lossless import decode_lossless_jpeg
from spineline.datasets.dicom.pixels import read_pixels
from spineline.datasets.dicom.study import scan

WriteDicom = Callable[..., Path]
RNG = np.random.default_rng(0)
SMOOTH = (
    np.add.outer(np.arange(40) * 7, np.arange(50) * 11) + RNG.integers(0, 60, (40, 50))
).astype(np.uint16)
NOISE = RNG.integers(0, 65536, (40, 50), dtype=np.uint16)


def predictions(values: np.ndarray, predictor: int, precision: int) -> np.ndarray:
    """T.81, table H.1, value by value."""
    found = np.zeros(values.shape, int)
    v = values.astype(int)
    for y, x in np.ndindex(*v.shape):
        a, b, c = v[y, x - 1], v[y - 1, x], v[y - 1, x - 1]
        if y == 0:
            found[y, x] = 1 << (precision - 1) if x == 0 else a
        elif x == 0:
            found[y, x] = b
        else:
            found[y, x] = [a, b, c, a + b - c, a + ((b - c) >> 1), b + ((a - c) >> 1),
                           (a + b) >> 1][predictor - 1]  # fmt: skip
    return found


def encoded(values: np.ndarray, predictor: int = 1, precision: int = 16) -> bytes:
    """A stream with codes of five bits for every category (0 … 16)."""
    bits = []
    for d in ((values - predictions(values, predictor, precision) + 32767) % 65536 - 32767).flat:
        size = int(abs(int(d))).bit_length()
        bits.append(f"{size:05b}")
        if 0 < size < 16:
            bits.append(f"{int(d) if d > 0 else int(d) + (1 << size) - 1:0{size}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    coded = int(text, 2).to_bytes(len(text) // 8).replace(b"\xff", b"\xff\0")
    rows, columns = (n.to_bytes(2) for n in values.shape)
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    return b"".join((
        b"\xff\xd8\xff\xc3\0\x0b", bytes([precision]), rows, columns, b"\1\1\x11\0",
        b"\xff\xc4", (len(table) + 2).to_bytes(2), table,
        b"\xff\xda\0\x08\1\1\0", bytes([predictor]), b"\0\0", coded, b"\xff\xd9",
    ))  # fmt: skip


pytest.importorskip("imagecodecs")


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("values", [SMOOTH, NOISE], ids=["smooth", "noise"])
def test_all_predictors(values: np.ndarray, predictor: int) -> None:
    assert_array_equal(decode_lossless_jpeg(encoded(values, predictor)), values)


@pytest.mark.parametrize("values", [SMOOTH, NOISE], ids=["smooth", "noise"])
def test_streams_of_another_encoder(values: np.ndarray) -> None:
    from imagecodecs import ljpeg_encode

    stream = ljpeg_encode(values, bitspersample=16)
    assert_array_equal(decode_lossless_jpeg(stream), values)
    assert_array_equal(decode_lossless_jpeg(stream + b"\0"), values)


@pytest.mark.parametrize("end", [b"", b"\xff\xd9", b"\0\0\xff\xd9"], ids=["none", "eoi", "padded"])
def test_no_stream_that_is_cut_short_is_half_a_picture(end: bytes) -> None:
    stream = encoded(SMOOTH)
    cuts = {*range(len(end) + 3, 30), *range(60, len(stream) - 3, 97)}
    for kept in [len(stream) - cut for cut in sorted(cuts)]:
        with pytest.raises(ValueError, match=r"cut short|do not end|CORRUPT|headers|wanted|fit"):
            decode_lossless_jpeg(stream[:kept] + end)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"\xff\xd8", b"\0\0", "does not begin"),
        (b"\xff\xc3", b"\xff\xc0", "another process"),
        (b"\xff\xc4", b"\xff\xdd", "restart intervals"),
        (b"\1\1\x11\0", b"\3\1\x11\0", "one component"),
        (b"\xff\xda\0\x08\1\1\0\1", b"\xff\xda\0\x08\1\1\0\x09", "Huffman table or predictor"),
        (b"\xff\xda\0\x08\1\1\0", b"\xff\xda\0\x08\1\1\x50", "Huffman table or predictor"),
    ],
)
def test_streams_of_another_kind(old: bytes, new: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_lossless_jpeg(encoded(SMOOTH).replace(old, new, 1))


def stored(path: Path, stream: bytes, syntax: pydicom.uid.UID) -> Path:
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1], ids=lambda s: s.keyword)
def test_a_file_is_read(write_dicom: WriteDicom, syntax: pydicom.uid.UID) -> None:
    path = stored(write_dicom("a", SMOOTH), encoded(SMOOTH), syntax)
    header = scan(path)[0].series[0].slices[0]
    assert_array_equal(read_pixels(header), SMOOTH)


def test_signed_values_are_read(write_dicom: WriteDicom) -> None:
    signed = SMOOTH.astype(np.int16) - 300
    path = write_dicom("a", signed, BitsStored=12, HighBit=11)
    stored(path, encoded(signed.astype(np.uint16) & 0x0FFF, precision=12), JPEGLosslessSV1)
    assert_array_equal(read_pixels(scan(path)[0].series[0].slices[0]), signed)


def test_a_file_cut_short_is_refused(write_dicom: WriteDicom) -> None:
    stream = encoded(SMOOTH)[:-200] + b"\xff\xd9"
    path = stored(write_dicom("a", SMOOTH), stream, JPEGLosslessSV1)
    with pytest.raises(DicomReadError, match=r"stored as 'JPEG Lossless.* cannot be decoded"):
        read_pixels(scan(path)[0].series[0].slices[0])


def test_without_the_decoder_the_extra_is_named(
    write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(write_dicom("a", SMOOTH), encoded(SMOOTH), JPEGLosslessSV1)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(DicomReadError, match=r"'JPEG Lossless.*spineline\[jpeg-lossless\]"):
        read_pixels(scan(path)[0].series[0].slices[0])
