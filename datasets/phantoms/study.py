"""A phantom as a DICOM study.

The study holds a T2 sagittal series with the annotated slice in its middle. A T1 sagittal and a T2
transverse series beside it make the choice realistic. In patient coordinates (LPS mm), the centre
of L3 is the origin.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.common.files import write_bytes
from spineline.datasets.phantoms.canvas import Contrast, View
from spineline.datasets.phantoms.lumbar import render_transverse
from spineline.datasets.phantoms.phantom import Phantom, sagittal_values, stored_values
from spineline.datasets.types import ImageRecord

_SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
_TRANSVERSE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_BODY_PARTS = {"lumbar": "LSPINE", "cervical": "CSPINE"}
_SLICE_STEP_MM = 4.4
_SLICE_THICKNESS_MM = 4.0
_SIDE_SIZE = 256  # most rows and columns of the other series


@dataclass(frozen=True, slots=True)
class _Series:
    """One series: name for UIDs, DICOM description, number, echo and repetition time in ms."""

    name: str
    description: str
    number: int
    echo_ms: float
    repetition_ms: float


_T1 = _Series("t1", "T1_TSE_SAG", 1, 10.0, 620.0)
_T2 = _Series("t2", "T2_TSE_SAG", 2, 102.0, 3200.0)
_TRA = _Series("tra", "T2_TSE_TRA", 3, 104.0, 4100.0)


@dataclass(frozen=True, slots=True)
class _Slice:
    series: _Series
    index: int
    stored: Float32Array
    orientation: tuple[float, ...]
    position: tuple[float, float, float]
    spacing_mm: float


def write_phantom_study(
    folder: Path, phantom: Phantom, record: ImageRecord, *, identity: str, slices: int = 7
) -> ImageRecord:
    """Write a phantom as a DICOM study, ``folder/imageN.dcm``.

    Args:
        folder: created if it does not exist; files of the same name are replaced.
        phantom: the phantom.
        record: its annotation.
        identity: determines the UIDs, together with the record's image id.
        slices: number of slices per series; the annotated slice is ``slices // 2``, from 0.

    Returns:
        The record with the UIDs of the annotated slice, and its file relative to the folder's
        parent.

    Raises:
        SpinelineError: the folder cannot be written to.
    """
    identity = f"{identity}/{record.image_id}"
    annotated = ""
    for number, piece in enumerate(_slices(phantom, slices), 1):
        name = f"image{number}.dcm"
        write_bytes(folder / name, _dicom_bytes(piece, identity, record.image_id, phantom.region))
        if piece.series is _T2 and piece.index == slices // 2:
            annotated = name
    return replace(
        record,
        file=f"{folder.name}/{annotated}",
        study_uid=_uid(identity, "study"),
        series_uid=_uid(identity, _T2.name),
        instance_uid=_uid(identity, _T2.name, slices // 2),
    )


def _slices(phantom: Phantom, count: int) -> Iterator[_Slice]:
    """All slices of the study, series by series in order of their numbers."""
    side_view = _shrunk(phantom.view)
    sagittal: tuple[tuple[_Series, View, Contrast], ...] = (
        (_T1, side_view, "t1"),
        (_T2, phantom.view, "t2"),
    )
    for series, view, contrast in sagittal:
        for index in range(count):
            left = (index - count // 2) * _SLICE_STEP_MM  # patient's x, 0 in the annotated slice
            values = sagittal_values(phantom, contrast=contrast, lateral_mm=left, view=view)
            x, y = view.origin_xy
            corner = (left, -x * view.spacing_mm, y * view.spacing_mm)
            yield _Slice(series, index, values, _SAGITTAL, corner, view.spacing_mm)
    if phantom.region != "lumbar":  # the transverse slice shows the abdomen
        return
    spacing = 200.0 / _SIDE_SIZE
    for index in range(count):
        height = (count // 2 - index) * 12.0
        signal = render_transverse(phantom.anatomy, phantom.look, _SIDE_SIZE, spacing, -height)
        values = stored_values(phantom, signal)
        yield _Slice(_TRA, index, values, _TRANSVERSE, (-100.0, -110.0, height), spacing)


def _shrunk(view: View) -> View:
    """The same frame with fewer pixels, as in faster series."""
    height, width = view.size_hw
    if max(height, width) <= _SIDE_SIZE:
        return view
    factor = _SIDE_SIZE / max(height, width)
    size = (round(height * factor), round(width * factor))
    origin = (round(view.origin_xy[0] * factor, 2), round(view.origin_xy[1] * factor, 2))
    return View(size, round(view.spacing_mm / factor, 5), origin)


def _uid(identity: str, *parts: object) -> str:
    return str(generate_uid(entropy_srcs=["spineline-phantom", identity, *map(str, parts)]))


def _dicom_bytes(piece: _Slice, identity: str, patient: str, region: str) -> bytes:
    instance = _uid(identity, piece.series.name, piece.index)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = instance
    for keyword, value in {
        **_identity_tags(piece, identity, patient, instance),
        **_acquisition_tags(piece, region),
        **_pixel_tags(piece),
    }.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _identity_tags(
    piece: _Slice, identity: str, patient: str, instance: str
) -> dict[str, str | int]:
    return {
        "SOPClassUID": str(MRImageStorage),
        "SOPInstanceUID": instance,
        "StudyInstanceUID": _uid(identity, "study"),
        "SeriesInstanceUID": _uid(identity, piece.series.name),
        "FrameOfReferenceUID": _uid(identity, "frame"),
        "StudyID": "1",
        "SeriesNumber": piece.series.number,
        "InstanceNumber": piece.index + 1,
        "PatientName": f"PHANTOM^{patient}",
        "PatientID": f"PHANTOM-{patient}",
        "PatientBirthDate": "",
        "PatientSex": "O",
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "synthetic, no patient",
        "StudyDate": "",
        "StudyTime": "",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "Manufacturer": "spineline phantom",
    }


def _acquisition_tags(piece: _Slice, region: str) -> dict[str, Any]:
    return {
        "Modality": "MR",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"],
        "BodyPartExamined": _BODY_PARTS[region],
        "PatientPosition": "HFS",
        "SeriesDescription": piece.series.description,
        "ProtocolName": piece.series.description.lower(),
        "ScanningSequence": "SE",
        "SequenceVariant": "SK",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "EchoTime": piece.series.echo_ms,
        "RepetitionTime": piece.series.repetition_ms,
        "EchoTrainLength": 15,
        "MagneticFieldStrength": 1.5,
        "SliceThickness": _SLICE_THICKNESS_MM,
        "SpacingBetweenSlices": _SLICE_STEP_MM,
        "ImageOrientationPatient": list(piece.orientation),
        "ImagePositionPatient": [round(v, 4) for v in piece.position],
        "PixelSpacing": [piece.spacing_mm, piece.spacing_mm],
    }


def _pixel_tags(piece: _Slice) -> dict[str, Any]:
    stored = piece.stored.astype("<u2")
    low, high = np.percentile(stored, (0.5, 99.5))
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": int(stored.shape[0]),
        "Columns": int(stored.shape[1]),
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "WindowCenter": round(float(low + high) / 2),
        "WindowWidth": max(round(float(high - low)), 1),
        "PixelData": stored.tobytes(),
    }
