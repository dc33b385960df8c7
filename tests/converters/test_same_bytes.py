"""Conversion writes what version 0.1 (bc51b37) wrote, to the byte, however fast it became."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from spineline.converters.convert import convert_report
from spineline.converters.settings import ConvertReport

WRITTEN_BY_BC51B37 = {
    "annotations/train.json": "711fd49fec6e6d1e",
    "images/train/001-000.png": "68361b9ff741f141",
    "images/train/002-000.png": "8454c1bda6f78458",
    "images/train/003-000.png": "68361b9ff741f141",
    "images/train/004-000.png": "68361b9ff741f141",
    "images/train/005-000.png": "0946e2eb0fb9ea7d",
    "labels/train/001-000.txt": "8e86eb04b2bd8f62",
    "labels/train/002-000.txt": "8e86eb04b2bd8f62",
    "labels/train/003-000.txt": "2897399b0c5401d1",
    "labels/train/004-000.txt": "8e86eb04b2bd8f62",
    "labels/train/005-000.txt": "8e86eb04b2bd8f62",
    "voc/Annotations/001-000.xml": "9fb10f260a52e87b",
    "voc/Annotations/002-000.xml": "e7d7bb232e71c5a9",
    "voc/Annotations/003-000.xml": "be9b5d10576f5b8b",
    "voc/Annotations/004-000.xml": "ff662153dc5cff70",
    "voc/Annotations/005-000.xml": "f1c850aa6dbd4fd4",
}
"""The first 16 digits of the SHA-256 of each file; of images, of their pixels."""


def write_source(folder: Path) -> ConvertReport:
    """Frames of several kinds, and spines of which one leaves its frame and one runs upwards."""
    frames, entries = folder / "frames", []
    frames.mkdir(parents=True)
    rows, columns = np.mgrid[:300, :200]
    grey = (rows * 7 + columns * columns // 9) % 251
    cv2.imwrite(str(frames / "001-000.png"), grey.astype(np.uint8))
    # Pillow takes the best filter for each row.
    Image.fromarray((grey // 2 + 90).astype(np.uint8)).save(frames / "002-000.png")
    cv2.imwrite(str(frames / "003-000.png"), (grey * 16).astype(np.uint16))
    np.save(frames / "004-000.npy", grey.astype(np.float32) / 4 - 3)
    cv2.imwrite(str(frames / "005-000.png"), np.full((300, 200), 7, np.uint8))
    codes = ["(2,0)", "(0,0)", "(3,0)", "(1,0)", "(4,1)", "(0,0)", "(6,1)", "null", "(2,1)"]
    for number in range(1, 6):
        points = [
            {
                "identification": 10 - n if number == 2 else n,
                "class": [*codes, "(1,0)", "(5,0)"][n],
                "coord": [(-4.5 if number == 3 and n == 9 else 61.25) + 7 * n, 12.5 + 26.375 * n],
            }
            for n in range(11)
        ]
        entries.append({"id": f"{number:03d}-000", "point": points})
    annotations = folder / "labels.json"
    annotations.write_text(json.dumps(entries))
    return ConvertReport(
        annotations=annotations, images=frames, out=folder / "out", split="train", labels="level"
    )


def hashes(out: Path) -> dict[str, str]:
    """The hash of every label and image file."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if name.startswith(("images/", "labels/", "voc/Ann", "annotations/train")):
            if path.suffix == ".png":
                content = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).tobytes()
            elif path.is_file():
                content = path.read_bytes()
            else:
                continue
            found[name] = hashlib.sha256(content).hexdigest()[:16]
    return found


@pytest.mark.parametrize("cores", [1, 5])
def test_files_are_those_of_version_0_1(cores: int, tmp_path: Path, monkeypatch) -> None:
    from spineline.converters import write

    monkeypatch.setattr(write, "cores_here", lambda: cores)
    settings = write_source(tmp_path)
    convert_report(settings)
    assert hashes(settings.out) == WRITTEN_BY_BC51B37
