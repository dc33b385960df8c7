"""Small sources to convert: a synthetic spine as report JSON with frames, and as DICOM studies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WIDTH, HEIGHT = 96, 160
LEVELS = ["T12-L1", "L1", "L1-L2", "L2", "L2-L3", "L3", "L3-L4", "L4", "L4-L5", "L5", "L5-S1"]
POINTS = [[48 + (n % 3), 14 + 13 * n] for n in range(11)]
CODES = [
    "(2,0)",
    "(0,0)",
    "(3,1)",
    "(1,0)",
    "(4,0)",
    "(0,0)",
    "(6,1)",
    "(0,0)",
    "(5,0)",
    "(1,0)",
    "(2,1)",
]
TAGS = ["v1", "v1", "v2,v5", "v2", "v3,", "v1", "v5", "v1", "v4", "v2", "v5,v1"]


def frame(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 60, (height, width))
    ramp = np.linspace(0, 120, height)[:, None]
    return (noise + ramp + 20).astype(np.uint8)


def report_entry(image_id: str) -> dict[str, Any]:
    """Identification bottom to top, as in most studies of the report."""
    points = [
        {"identification": 10 - n, "class": CODES[n], "coord": list(POINTS[n])} for n in range(11)
    ]
    return {"id": image_id, "point": points[::2] + points[1::2]}


@dataclass
class FilesOfSource:
    annotations: Path
    images: Path
    entries: list[Any]
    root: Path

    def save(self) -> FilesOfSource:
        self.annotations.write_text(json.dumps(self.entries))
        return self

    def words(self, **more: object) -> list[str]:
        given = {"annotations": self.annotations, "images": self.images, "out": self.root / "out"}
        return [f"{name}={value}" for name, value in {**given, **more}.items()]


@pytest.fixture
def report_source(tmp_path: Path) -> Callable[..., FilesOfSource]:
    """``report_source("053-000", …)`` → a report source with those frames."""
    import cv2

    def build(*ids: str, suffix: str = ".png") -> FilesOfSource:
        images = tmp_path / "frames"
        images.mkdir(exist_ok=True)
        names = ids or ("001-000", "002-000", "151-000")
        for seed, image_id in enumerate(names):
            cv2.imwrite(str(images / f"{image_id}{suffix}"), frame(seed))
        entries = [report_entry(name) for name in names]
        return FilesOfSource(tmp_path / "labels.json", images, entries, tmp_path).save()

    return build


def uid(*numbers: int) -> str:
    return ".".join(["1.2.826.0.1.3680043.8.498.77", *map(str, numbers)])


def write_slice(path: Path, study: int, slice_number: int, **changes: Any) -> None:
    """One sagittal T2 slice as DICOM; pixel spacing 1.5 (rows) and 1.25 (columns) mm."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = uid(study, 1, slice_number)
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, uid(study, 1, slice_number)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(study), uid(study, 1)
    ds.PatientName, ds.PatientID, ds.Modality = "SECRET^NAME", "SECRETID", "MR"
    ds.SeriesDescription, ds.InstanceNumber, ds.SeriesNumber = "T2_TSE_SAG", slice_number, 1
    ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    ds.ImagePositionPatient = [4.0 * slice_number, -80, 80]
    ds.PixelSpacing = [1.5, 1.25]
    pixels = frame(10 * study + slice_number).astype(np.uint16) * 12
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = pixels.tobytes()
    for name, value in changes.items():
        setattr(ds, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def tianchi_points() -> list[dict[str, Any]]:
    return [
        {
            "coord": list(POINTS[n]),
            "zIndex": 2,
            "tag": {"identification": LEVELS[n], "disc" if n % 2 == 0 else "vertebra": TAGS[n]},
        }
        for n in range(11)
    ]


def tianchi_entry(study: int, slice_number: int = 2, *, nested: bool = True) -> dict[str, Any]:
    points = {"point": tianchi_points()}
    annotation = {"annotator": 7, "data": points} if nested else points
    data = {
        "instanceUid": uid(study, 1, slice_number),
        "seriesUid": uid(study, 1),
        "annotation": [annotation],
    }
    return {"studyUid": uid(study), "version": "v0.1", "data": [data]}


@pytest.fixture
def tianchi_source(tmp_path: Path) -> Callable[..., FilesOfSource]:
    """``tianchi_source(3, 7)`` → ``study3`` and ``study7`` of two slices, slice 2 marked."""

    def build(*studies: int, nested: bool = True) -> FilesOfSource:
        numbers = studies or (1, 2)
        for study in numbers:
            for slice_number in (1, 2):
                write_slice(tmp_path / f"dicom/study{study}/IM{slice_number}", study, slice_number)
        entries = [tianchi_entry(study, nested=nested) for study in numbers]
        return FilesOfSource(
            tmp_path / "tianchi.json", tmp_path / "dicom", entries, tmp_path
        ).save()

    return build


@pytest.fixture
def slice_writer() -> Callable[..., None]:
    return write_slice


@pytest.fixture
def entry_maker() -> Callable[..., dict[str, Any]]:
    return tianchi_entry
