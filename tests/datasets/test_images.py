"""Reading grey images, and the window that makes them 8-bit."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from spineline.datasets import images
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.images import ImageReadError, is_constant, read_image, window_to_uint8


def reference_window(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """The window, written down once more with numpy alone."""
    bottom, top = np.percentile(pixels.astype(float), [low, high])
    return np.round(np.clip((pixels.astype(float) - bottom) / (top - bottom), 0, 1) * 255)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_window_matches_the_formula(dtype: str) -> None:
    values = np.random.default_rng(0).gamma(2, 30, (60, 50))
    pixels = np.clip(values, 0, 255).astype(dtype)
    before = pixels.copy()
    shown = window_to_uint8(pixels)
    assert shown.dtype == np.uint8
    # float32 arithmetic may round a tie the other way
    assert np.abs(shown - reference_window(pixels, 0.5, 99.5)).max() <= 1
    assert (shown != reference_window(pixels, 0.5, 99.5)).mean() < 0.01
    assert_array_equal(pixels, before)


def test_window_is_worked_out_by_hand() -> None:
    assert_array_equal(
        window_to_uint8(np.array([[0, 20], [40, 100]]), 0, 100), [[0, 51], [102, 255]]
    )


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("edges", [(0.5, 99.5), (0, 100), (2.5, 50)], ids=str)
def test_counting_whole_numbers_gives_what_sorting_gives(
    dtype: str, edges: tuple[float, float]
) -> None:
    """Values that are halves are sorted; doubled they are whole numbers, of the same window."""
    rng = np.random.default_rng(0)
    for most, shape in ((1, (3, 5)), (100, (1, 1)), (100, (40, 31)), (127, (64, 64))):
        whole = rng.integers(0, most + 1, shape) - (rng.integers(0, 9) if dtype[0] != "u" else 0)
        counted = window_to_uint8(whole.astype(dtype), *edges)
        halves = (whole / 2).astype(np.float32)
        halves = np.append(
            halves, np.float32([[np.nan]] * shape[0]), axis=1
        )  # so that it is sorted
        assert_array_equal(counted, window_to_uint8(halves, *edges)[:, :-1])


def test_far_whole_numbers_are_sorted() -> None:
    pixels = np.array([[0, 2**24, 2**25, 2**26]], np.float32)
    assert_array_equal(window_to_uint8(pixels, 0, 100), [[0, 64, 128, 255]])


def test_window_ignores_outliers_but_keeps_their_side() -> None:
    pixels = np.tile(np.arange(1000.0), (10, 1))
    pixels[0, 0], pixels[0, 1] = 1e9, -1e9
    shown = window_to_uint8(pixels)
    assert shown[0, 0] == 255
    assert shown[0, 1] == 0
    assert 120 < shown[5, 500] < 135


def test_window_of_values_that_are_not_finite() -> None:
    pixels = np.array([[0.0, 1.0, 2.0], [np.nan, np.inf, -np.inf]])
    assert_array_equal(window_to_uint8(pixels, 0, 100), [[0, 128, 255], [0, 255, 0]])


@pytest.mark.parametrize(
    "pixels",
    [np.full((4, 5), 7), np.zeros((4, 5)), np.full((4, 5), np.nan), np.full((4, 5), np.inf)],
    ids=["seven", "zero", "nan", "inf"],
)
def test_constant_images_become_zeros_and_are_known(pixels: np.ndarray) -> None:
    assert is_constant(pixels)
    assert_array_equal(window_to_uint8(pixels), np.zeros((4, 5)))


def test_a_few_bright_pixels_on_even_ground_stay_visible() -> None:
    pixels = np.zeros((100, 100))
    pixels[3, 4] = 9.0
    assert not is_constant(pixels)
    assert window_to_uint8(pixels)[3, 4] == 255


def test_huge_floats_do_not_overflow() -> None:
    pixels = np.array([[-1.7e308, 0.0, 1.7e308]])
    assert_array_equal(window_to_uint8(pixels, 0, 100), [[0, 128, 255]])


@pytest.mark.parametrize("edges", [(50, 50), (-1, 99), (0, 101), (99, 1)], ids=str)
def test_bad_percentiles_are_refused(edges: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="wanted 0 <= low < high <= 100"):
        window_to_uint8(np.eye(3), *edges)


def test_png_and_jpg_agree_with_opencv(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    for name in ("a.png", "b.jpg", "C.JPEG", "d.PNG"):
        Image.fromarray(cv2.GaussianBlur(pixels, (0, 0), 2)).save(tmp_path / name)
        read = read_image(tmp_path / name)
        assert read.dtype == np.uint8
        oracle = cv2.imread(str(tmp_path / name), cv2.IMREAD_GRAYSCALE)
        assert np.abs(read.astype(int) - oracle).max() <= (0 if "png" in name.lower() else 1)


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    pixels = np.array([[0, 1, 4095], [4096, 40000, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    read = read_image(tmp_path / "a.png")
    assert read.dtype == np.float32
    assert_array_equal(read, pixels)


def test_colour_becomes_grey(tmp_path: Path) -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", colours)
    for name in ("a.png", "b.npy"):
        assert_array_equal(read_image(tmp_path / name), [[76, 150, 29, 90]])


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (5, 7, 1)], ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float64", "bool"])
def test_npy(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    np.save(tmp_path / "a.npy", pixels)
    read = read_image(tmp_path / "a.npy")
    assert read.dtype == (np.uint8 if dtype == "uint8" else np.float32)
    assert_array_equal(read, pixels.reshape(5, 7))


def npy(header: bytes, version: int = 1) -> bytes:
    """A ``.npy`` file of that header, and some numbers."""
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + bytes(64)


DAMAGED_HEADERS = {
    "open": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4"),
    "quote": npy(b"'''"),
    "deep": npy(b"-" * 9000),
    "brackets": npy(b"(" * 5000, 2),
    "bytes": npy(b"\xff" * 9, 3),
    "endless": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (10**30, 4), }"),
    "huge": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 4), }" % 10**30),
    "true": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4), }"),
    "negative": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 4), }"),
    "keys": npy(b"{1: 2, 'a': 3}"),
    "list": npy(b"{[]: 1}"),
    "type": npy(b"{'descr': ('<f4', (3,)), 'fortran_order': 1, 'shape': (4, 4), }"),
    "long": npy(b"{'descr': '" + b"x" * 9000 + b"', 'fortran_order': False, 'shape': (4, 4), }"),
    "version": npy(b"{}", 9),
    "archive": b"PK\x03\x04" + bytes(60),
}


@pytest.mark.parametrize("data", DAMAGED_HEADERS.values(), ids=DAMAGED_HEADERS)
def test_a_damaged_header_is_refused(tmp_path: Path, data: bytes) -> None:
    """NumPy has Python parse it, which raises errors of many kinds."""
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match=r"a\.npy: cannot be read as a NumPy array") as caught:
        read_image(path)
    assert len(str(caught.value)) < 400 + len(str(path))
    with pytest.raises(ValueError, match=r"."):
        images.mapped_array(path)


def bad_files(folder: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    good = folder / "good.png"
    Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(good)
    contents = {
        "cut.png": good.read_bytes()[:-2000],
        "text.png": b"not a picture",
        "empty.jpg": b"",
        "text.npy": b"not numpy",
        "cut.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, ",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(folder / "text_array.npy", np.array([["a", "b"]]))
    np.save(folder / "volume.npy", np.zeros((4, 5, 6)))
    np.save(folder / "none.npy", np.zeros((0, 5)))
    np.save(folder / "complex.npy", np.zeros((3, 5), complex))
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut.png", "cannot be decoded"),
        ("text.png", r"cannot be decoded \(it is no image\); the file may be damaged"),
        ("empty.jpg", "cannot be decoded"),
        ("text.npy", "cannot be read as a NumPy array"),
        ("cut.npy", "cannot be read as a NumPy array"),
        ("objects.npy", "cannot be read as a NumPy array"),
        ("text_array.npy", "wanted real numbers"),
        ("complex.npy", "wanted real numbers"),
        ("volume.npy", r"has shape \(4, 5, 6\)"),
        ("none.npy", r"has shape \(0, 5\)"),
        ("gone.png", "no such image file"),
        ("scan.gif", r"allowed: \.jpg, \.jpeg, \.png, \.npy, \.tif, \.tiff, \.bmp"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, name: str, message: str) -> None:
    path = bad_files(tmp_path).get(name, tmp_path / name)
    with pytest.raises(ImageReadError, match=message) as caught:
        read_image(path)
    assert name in str(caught.value)
    assert isinstance(caught.value, SpinelineError)


@pytest.mark.parametrize("name", ["a.png", "a.npy"])
def test_the_size_is_capped_before_decoding(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.endswith("png"):
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / name)
    else:
        np.save(tmp_path / name, np.zeros((20, 30)))
    monkeypatch.setattr(images, "MAX_PIXELS", 599)
    with pytest.raises(ImageReadError, match="more than the 599 allowed"):
        read_image(tmp_path / name)
