"""Datasets of a few pixels, written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spineline.datasets.coco import coco_from_records, coco_text
from spineline.datasets.labels import LabelSet, kind_of_level
from spineline.datasets.splits import PARTS
from spineline.datasets.types import ImageRecord, Structure

WriteDataset = Callable[..., Path]


@pytest.fixture
def make_structure() -> Callable[..., Structure]:
    """A structure from its level, point, half box size and tags."""

    def make(
        level: str,
        point_xy: tuple[float, float],
        half_wh: tuple[float, float],
        pathology: Sequence[str] = (),
        findings: Sequence[str] = (),
    ) -> Structure:
        (x, y), (w, h) = point_xy, half_wh
        box = (x - w, y - h, x + w, y + h)
        tags = tuple(pathology)
        return Structure(level, kind_of_level(level), point_xy, box, tags, tuple(findings))

    return make


@pytest.fixture
def write_dataset(tmp_path: Path) -> WriteDataset:
    """Write a converted dataset: records and their pixels by part, COCO alone."""

    def write(
        parts: Mapping[str, Sequence[tuple[ImageRecord, NDArray[np.uint8]]]],
        labels: LabelSet = "level",
    ) -> Path:
        root = tmp_path / "dataset"
        for part in PARTS:
            items = parts.get(part, ())
            (root / "images" / part).mkdir(parents=True)
            for record, pixels in items:
                Image.fromarray(pixels).save(root / "images" / part / f"{record.image_id}.png")
            records = [record for record, _ in items]
            names = [f"{record.image_id}.png" for record in records]
            (root / "annotations").mkdir(exist_ok=True)
            text = coco_text(coco_from_records(records, labels, names))
            (root / "annotations" / f"{part}.json").write_text(text, encoding="utf-8")
        return root

    return write


@pytest.fixture
def write_dicom(tmp_path: Path) -> Callable[..., Path]:
    """Write one MR slice: ``write_dicom("a/b.dcm", pixels, EchoTime=90.0, PixelSpacing=None)``.

    Tags given as keywords replace the defaults; None leaves a tag out. ``series`` and ``index``
    give the UIDs and the position, 4 mm further to the patient's right per index.
    """
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    def write(
        name: str = "slice.dcm",
        pixels: NDArray[np.generic] | None = None,
        *,
        study: str = "1.2.3",
        series: str = "1.2.3.1",
        index: int = 0,
        syntax: str | None = None,
        **tags: object,
    ) -> Path:
        ramp = np.arange(80 * 96, dtype=np.uint16).reshape(80, 96)
        stored = ramp if pixels is None else pixels
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = tags.get("SOPClassUID", MRImageStorage)
        instance = tags.get("SOPInstanceUID", f"{series}.{index}")
        ds.file_meta.MediaStorageSOPInstanceUID = instance
        values: dict[str, object] = {
            "SOPClassUID": MRImageStorage,
            "SOPInstanceUID": instance,
            "StudyInstanceUID": study,
            "SeriesInstanceUID": series,
            "SeriesNumber": 1,
            "InstanceNumber": index + 1,
            "Modality": "MR",
            "PatientName": "Secret^Name",
            "PatientID": "SECRET-ID",
            "PatientBirthDate": "19501231",
            "SeriesDescription": "T2_TSE_SAG",
            "EchoTime": 100.0,
            "RepetitionTime": 3000.0,
            "ImageOrientationPatient": [0.0, 1.0, 0.0, 0.0, 0.0, -1.0],
            "ImagePositionPatient": [-4.0 * index, -100.0, 120.0],
            "PixelSpacing": [0.8, 0.8],
            "SamplesPerPixel": 1 if stored.ndim == 2 else stored.shape[-1],
            "PhotometricInterpretation": "MONOCHROME2",
            "Rows": stored.shape[0],
            "Columns": stored.shape[1],
            "BitsAllocated": stored.dtype.itemsize * 8,
            "BitsStored": stored.dtype.itemsize * 8,
            "HighBit": stored.dtype.itemsize * 8 - 1,
            "PixelRepresentation": int(stored.dtype.kind == "i"),
            "PixelData": stored.tobytes(),
        }
        with pydicom.config.disable_value_validation():
            for keyword, value in {**values, **tags}.items():
                if value is not None:
                    setattr(ds, keyword, value)
        if syntax is not None:
            ds.compress(syntax, generate_instance_uid=False)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with pydicom.config.disable_value_validation():
            ds.save_as(path, enforce_file_format=True)
        return path

    return write
