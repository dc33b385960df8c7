"""Pixels: values, and everything that can be wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.dicom import pixels as dicom_pixels
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.pixels import codestream_size, read_pixels
from spineline.datasets.dicom.study import scan

WriteDicom = Callable[..., Path]
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 4096, (80, 96), dtype=np.uint16)


def header_of(path: Path) -> SliceHeader:
    return scan(path)[0].series[0].slices[0]


def change(path: Path, edit: Callable[[Dataset], None]) -> Path:
    dataset = pydicom.dcmread(path)
    edit(dataset)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32"])
def test_stored_values_come_back(write_dicom: WriteDicom, dtype: str) -> None:
    info = np.iinfo(dtype)
    low, high = max(info.min, -(2**20)), min(info.max, 2**20)
    pixels = RNG.integers(low, high, (20, 30)).astype(dtype)
    read = read_pixels(header_of(write_dicom("a", pixels)))
    assert read.dtype == np.float32
    assert_array_equal(read, pixels)


def test_rescale_is_applied(write_dicom: WriteDicom) -> None:
    path = write_dicom("a", NOISE, RescaleSlope=2.5, RescaleIntercept=-100.0)
    assert_allclose(read_pixels(header_of(path)), NOISE * 2.5 - 100)


@pytest.mark.parametrize("slope", ["abc", "nan", "0", ""])
def test_a_slope_that_is_none_is_left_alone(write_dicom: WriteDicom, slope: str) -> None:
    path = write_dicom("a", NOISE, RescaleSlope="1.", RescaleIntercept=5)

    def edit(dataset: Dataset) -> None:
        raw = dataset.get_item("RescaleSlope")
        dataset._dict[raw.tag] = raw._replace(value=slope.encode(), length=len(slope))

    assert_allclose(read_pixels(header_of(change(path, edit))), NOISE + 5.0)


@pytest.mark.parametrize(
    ("pixels", "bits", "inverted"),
    [
        (NOISE, 12, 4095 - NOISE.astype(int)),
        (NOISE, 16, 65535 - NOISE.astype(int)),
        ((NOISE.astype(np.int16) - 2048), 16, -1 - (NOISE.astype(int) - 2048)),
    ],
    ids=["12-bit", "16-bit", "signed"],
)
def test_monochrome1_is_inverted_in_its_stored_range(
    write_dicom: WriteDicom, pixels: np.ndarray, bits: int, inverted: np.ndarray
) -> None:
    path = write_dicom(
        "a", pixels, PhotometricInterpretation="MONOCHROME1", BitsStored=bits, HighBit=bits - 1
    )
    assert_array_equal(read_pixels(header_of(path)), inverted)


def test_padding_does_not_stretch_the_range(write_dicom: WriteDicom) -> None:
    pixels = NOISE.astype(np.int16) + 10
    pixels[:20] = -2000
    read = read_pixels(header_of(write_dicom("a", pixels, PixelPaddingValue=-2000)))
    assert_array_equal(read[20:], pixels[20:])
    assert (read[:20] == pixels[20:].min()).all()


@pytest.mark.parametrize(
    ("dtype", "padding", "tags"),
    [
        ("int16", -2000, {"PixelPaddingValue": 63536}),
        ("uint16", 63536, {"PixelPaddingValue": -2000}),
        ("int16", -1995, {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1990}),
        ("uint16", 5000, {"PixelPaddingValue": 6000, "PixelPaddingRangeLimit": 4096}),
    ],
    ids=["unsigned-in-signed", "signed-in-unsigned", "range", "range-downwards"],
)
def test_padding_of_the_other_sign_or_in_a_range(
    write_dicom: WriteDicom, dtype: str, padding: int, tags: dict[str, int]
) -> None:
    pixels = NOISE.astype(dtype)
    pixels[:10] = padding

    def edit(dataset: Dataset) -> None:
        for keyword, value in tags.items():
            dataset.add_new(keyword, "SS" if value < 0 else "US", value)

    read = read_pixels(header_of(change(write_dicom("a", pixels), edit)))
    assert_array_equal(read[:10], NOISE[10:].min())
    assert_array_equal(read[10:], NOISE[10:])


@pytest.mark.parametrize("shift", [0, 4])
def test_a_high_bit_above_the_stored_bits_loses_no_value(
    write_dicom: WriteDicom, shift: int
) -> None:
    path = write_dicom("a", NOISE << shift, BitsStored=12, HighBit=15)
    assert_array_equal(read_pixels(header_of(path)), NOISE << shift)


@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless], ids=lambda s: s.keyword
)
def test_lossless_compression(write_dicom: WriteDicom, syntax: pydicom.uid.UID) -> None:
    path = write_dicom("a", NOISE, syntax=syntax, BitsStored=12, HighBit=11)
    assert_array_equal(read_pixels(header_of(path)), NOISE)


def test_colour_becomes_grey(write_dicom: WriteDicom) -> None:
    colours = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    path = write_dicom("a", colours, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    assert_allclose(read_pixels(header_of(path)), colours @ [0.299, 0.587, 0.114], rtol=1e-6)


def test_nothing_is_decoded_beside_the_frame(write_dicom: WriteDicom) -> None:
    planes = np.stack([NOISE, NOISE[::-1], NOISE[:, ::-1]])
    path = write_dicom("a", NOISE)
    change(
        path,
        lambda d: d.update({"NumberOfFrames": 3, "PixelData": planes.tobytes()}),  # type: ignore[arg-type]
    )
    header = SliceHeader(path, "1", "1", "1", 80, 96, frame=2, frames=3)
    assert_array_equal(read_pixels(header), planes[2])


def cut_tail(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def drop(*keywords: str) -> Callable[[Path], None]:
    def edit(dataset: Dataset) -> None:
        for keyword in keywords:
            del dataset[keyword]

    return lambda path: change(path, edit) and None


def put(**tags: object) -> Callable[[Path], None]:
    return lambda path: change(path, lambda d: d.update(tags)) and None  # type: ignore[arg-type]


DAMAGE: dict[str, tuple[object, Callable[[Path], None], str]] = {
    "no-pixels": (None, drop("PixelData"), "has no PixelData, or it is cut short; export"),
    "cut-pixels": (None, lambda p: cut_tail(p, 3000), "pixels cannot be decoded"),
    "rows-zero": (None, put(Rows=0), "Rows x Columns is 0 x 96"),
    "too-few-frames": (None, put(NumberOfFrames=4), "pixels cannot be decoded"),
    "too-few-rows": (None, put(Rows=800), "pixels cannot be decoded"),
    "absurd": (None, put(Rows=40000, Columns=40000), "40000 x 40000 x 1, more than"),
    "absurd-frames": (None, put(NumberOfFrames=100_000), "80 x 96 x 100000, more than"),
    "no-bits": (None, drop("BitsAllocated"), "pixels cannot be decoded"),
    "rle-cut": (RLELossless, lambda p: cut_tail(p, 4000), "cannot be|cut short"),
    "rle-bomb": (RLELossless, put(Rows=40000, Columns=40000), "more than the 64,000,000 pixels"),
    "j2k-cut": (JPEG2000Lossless, lambda p: cut_tail(p, 4000), "cannot be|cut short"),
    "jls-cut": (JPEGLSLossless, lambda p: cut_tail(p, 4000), "cannot be|cut short"),
    "j2k-other-size": (JPEG2000Lossless, put(Rows=60), "compressed pixels are 80 x 96"),
    "jls-other-size": (JPEGLSLossless, put(Columns=60), "compressed pixels are 80 x 96"),
    "palette": (None, put(PhotometricInterpretation="PALETTE COLOR"), "colour palette|decoded"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_wrong_with_pixels_is_told(write_dicom: WriteDicom, name: str) -> None:
    syntax, damage, message = DAMAGE[name]
    path = write_dicom("scan7", NOISE, syntax=syntax, BitsStored=12, HighBit=11)
    header = header_of(path)
    damage(path)
    with pytest.raises(DicomReadError, match=message) as caught:
        read_pixels(header)
    assert "scan7" in str(caught.value)
    assert "; " in str(caught.value)  # what to do
    assert "ecret" not in str(caught.value)


def test_causes_are_chained(write_dicom: WriteDicom) -> None:
    path = write_dicom("a", NOISE)
    header = header_of(path)
    cut_tail(path, 3000)
    with pytest.raises(DicomReadError) as caught:
        read_pixels(header)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("keep", np.linspace(0.5, 0.99, 8).round(2).tolist())
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless], ids=lambda s: s.keyword)
def test_a_compressed_stream_cut_anywhere_is_never_half_a_picture(
    write_dicom: WriteDicom, syntax: pydicom.uid.UID, keep: float
) -> None:
    path = write_dicom("a", NOISE, syntax=syntax, BitsStored=12, HighBit=11)
    header = header_of(path)

    def edit(dataset: Dataset) -> None:
        stream = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
        dataset.PixelData = encapsulate([stream[: int(keep * len(stream))]])

    change(path, edit)
    with pytest.raises(DicomReadError, match=r"cut short|cannot be"):
        read_pixels(header)


def test_a_syntax_without_decoder_says_so(write_dicom: WriteDicom) -> None:
    path = write_dicom("a", NOISE, syntax=RLELossless)
    change(path, lambda d: setattr(d.file_meta, "TransferSyntaxUID", JPEGLosslessSV1))
    with pytest.raises(DicomReadError, match=r"stored as 'JPEG Lossless.*export uncompressed"):
        read_pixels(header_of(path))


def test_an_unknown_transfer_syntax(write_dicom: WriteDicom) -> None:
    path = write_dicom("a", NOISE)
    known = b"1.2.840.10008.1.2.1\0"
    assert path.read_bytes().count(known) == 1
    path.write_bytes(path.read_bytes().replace(known, b"1.2.840.10008.1.7.1\0"))
    with pytest.raises(DicomReadError, match="no transfer syntax that is known; the file is dam"):
        read_pixels(header_of(path))


def test_compressed_data_out_of_proportion(write_dicom: WriteDicom) -> None:
    path = write_dicom("a", NOISE, syntax=RLELossless)
    change(path, lambda d: setattr(d, "PixelData", encapsulate([bytes(2_000_000)])))
    with pytest.raises(DicomReadError, match="2000000 compressed bytes for 15360 bytes of pixels"):
        read_pixels(header_of(path))


@pytest.mark.parametrize("value", [0, 7, 4095])
def test_a_constant_image_is_refused(write_dicom: WriteDicom, value: int) -> None:
    path = write_dicom("a", np.full((80, 96), value, np.uint16))
    with pytest.raises(DicomReadError, match="constant image, nothing can be seen in it; choose"):
        read_pixels(header_of(path))


def test_a_huge_file_is_not_read(write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch) -> None:
    header = header_of(write_dicom("a", NOISE))
    monkeypatch.setattr(dicom_pixels, "MAX_DICOM_BYTES", 1000)
    with pytest.raises(DicomReadError, match="MiB allowed"):
        read_pixels(header)


def test_a_file_that_has_gone(write_dicom: WriteDicom, tmp_path: Path) -> None:
    header = header_of(write_dicom("a", NOISE))
    with pytest.raises(DicomReadError, match="cannot be read"):
        read_pixels(replace(header, path=tmp_path / "gone"))


@pytest.mark.parametrize(
    ("syntax", "size"), [(JPEG2000Lossless, (80, 96)), (JPEGLSLossless, (80, 96))],
    ids=["j2k", "jls"],
)  # fmt: skip
def test_sizes_in_code_streams(
    write_dicom: WriteDicom, syntax: pydicom.uid.UID, size: tuple[int, int]
) -> None:
    dataset = pydicom.dcmread(write_dicom("a", NOISE, syntax=syntax, BitsStored=12, HighBit=11))
    stream = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    assert codestream_size(stream) == size


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff", bytes(50)], ids=repr)
def test_no_code_stream_has_no_size(data: bytes) -> None:
    assert codestream_size(data) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all  of\nit", "ValueError: all of it"),
        ("word " * 40, f"ValueError: {'word ' * 31}…"),
        ("", "ValueError"),
    ],
)
def test_causes_are_cut_at_a_word(text, expected) -> None:
    from spineline.datasets.dicom.pixels import _short

    assert _short(ValueError(text)) == expected
