from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from spineline.converters.sources.frames import FrameIds, find_frames, frame_size
from spineline.datasets.images import ImageReadError, upright


def test_frames_are_found_by_id_in_order(tmp_path):
    for name in ("b.PNG", "a.npy", "a.jpg", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    frames = find_frames(tmp_path)
    assert {k: [p.name for p in v] for k, v in frames.items()} == {
        "a": ["a.jpg", "a.npy"],
        "b": ["b.PNG"],
    }


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".npy"])
def test_size_is_width_then_height(tmp_path, suffix):
    path, pixels = tmp_path / f"a{suffix}", np.zeros((20, 30), np.uint8)
    if suffix == ".npy":
        np.save(path, pixels)
    else:
        cv2.imwrite(str(path), pixels)
    assert frame_size(path) == (30, 20)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", b""),
        ("a.jpg", b"no image"),
        ("a.npy", b"no array"),
        ("b.npy", b"\x93NUMPY\1\0\x37\0{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4"),
        ("gone.png", None),
        ("gone.npy", None),
    ],
)
def test_what_is_no_image(tmp_path, name, data):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageReadError, match=rf"{name}: cannot be read as an image"):
        frame_size(tmp_path / name)


def test_absurd_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(5))
    with pytest.raises(ImageReadError, match=r"shape \(5,\)"):
        frame_size(tmp_path / "a.npy")
    header = np.lib.format.header_data_from_array_1_0(np.zeros((1, 1), np.uint8))
    with (tmp_path / "b.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (90_000, 90_000)})
    with pytest.raises(ImageReadError, match=r"b\.npy"):
        frame_size(tmp_path / "b.npy")


def test_ids_of_frames():
    ids = FrameIds()
    assert ids.take("a/x.png", "a/x.png") == "x"
    assert ids.take("x.png", "a/x.png") is None  # the same file
    assert ids.take("b/x.png", "b/x.png") == "b-x"
    assert ids.take("b/x.jpg", "b/x.jpg") == "b-x-jpg"
    assert ids.take("b-x.png", "b-x.png") == "b-x-png"  # its own name is taken by now
    assert ids.take("c/x.png", None) is None
    assert ids.take("y.png", None) == "y"
    assert ids.take("c/y.png", "c/y.png") is None  # which of the two y is meant is not known
    assert ids.take("with blank/x.png", "with blank/x.png") == "with-blank-x"
    assert ids.take("with-blank/x.png", "with-blank/x.png") == "with-blank-x-png"
    assert ids.take("with,blank/x.png", "with,blank/x.png") == "x-2"


def test_frames_are_converted_as_viewers_show_them_and_counted(report_source, run_cli, tmp_path):
    """Frames whose stored pixels are turned, one of each format; the fourth is as it is shown."""
    names = {"001-000.jpg": 6, "002-000.png": 3, "003-000.tif": 7, "004-000.png": 1}
    files = report_source(*(name.split(".")[0] for name in names))
    shown = {}
    for name, orientation in names.items():
        path = files.images / f"{name.split('.')[0]}.png"
        shown[path.stem] = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        path.unlink()
        undo = {1: 1, 3: 3, 6: 8, 7: 7}[orientation]  # what brings the shown image back
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(np.ascontiguousarray(upright(shown[path.stem], undo)))
        stored.save(files.images / name, exif=exif, quality=100)
    code, said, _ = run_cli("convert", "report", *files.words(split="train", window="none"))
    assert code == 0
    assert "exif_orientation 3" in said
    for stem, wanted in shown.items():
        found = cv2.imread(str(tmp_path / f"out/images/train/{stem}.png"), cv2.IMREAD_GRAYSCALE)
        assert found.shape == wanted.shape
        assert np.abs(found.astype(int) - wanted).max() <= 3  # of a JPEG
    content = json.loads((tmp_path / "out/conversion.json").read_text())
    assert content["counts"]["findings"]["exif_orientation"] == 3
