#!/usr/bin/env bash
# medio's read_meta gives a sagittal series the mirrored geometry of what its read_img reads.
#
# Packages: medio==0.7.1, itk==5.4.7, nibabel==5.4.2, dicom-numpy==0.6.5, pydicom==3.0.2, numpy==2.4.6
# Input: twelve sagittal MR slices, 4.4 mm apart, numbered from the right side of the patient to the left,
#   read by the backend for pydicom with read_img and with read_meta.
# Expected: the same affine matrix from both: the guide of the package offers read_meta for when only the
#   spatial information is needed.
# Seen: x goes from 24.4 mm downwards with the image, and from -24 mm upwards without it: read_img sorts
#   slices by position, read_meta by their numbers. Numbers the other way round hide it.
# Why it matters: a mask that is made on the array and saved with the geometry of read_meta has left and
#   right exchanged, and a place that is looked up in it is on the wrong side.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check medio==0.7.1 itk==5.4.7 nibabel==5.4.2 dicom-numpy==0.6.5 \
  pydicom==3.0.2 numpy==2.4.6
venv/bin/python - <<'EOF'
from pathlib import Path

import medio
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

SLICES = 12
RIGHT = -24.0


def series(folder, first, step):
    """Sagittal slices; the value of each pixel is ten times the millimetres from the right end."""
    uids = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    Path(folder).mkdir()
    for number in range(SLICES):
        x = first + step * number
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid()
        for name, uid in uids.items():
            setattr(ds, name, uid)
        ds.PatientName = ds.PatientID = ""
        ds.Modality, ds.InstanceNumber = "MR", number + 1
        ds.Rows, ds.Columns, ds.PixelSpacing, ds.SliceThickness = 6, 5, [0.5, 0.5], 4
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [0, 1, 0, 0, 0, -1], [round(x, 3), -100, 200]
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.PixelData = np.full((6, 5), round(10 * (x - RIGHT)), np.uint16).tobytes()
        ds.save_as(f"{folder}/{number:02}.dcm", enforce_file_format=True)


def places(affine):
    """The x of each slice of the array by an affine matrix, in millimetres from the right end."""
    return [round(float(affine[0, 2] * index + affine[0, 3]) - RIGHT, 1) for index in range(SLICES)]


series("from-right", RIGHT, 4.4)
series("from-left", RIGHT + 4.4 * (SLICES - 1), -4.4)
for folder in ("from-left", "from-right"):
    image, with_image = medio.read_img(folder, backend="pydicom")
    alone = medio.read_meta(folder, backend="pydicom")
    true = [round(float(value) / 10, 1) for value in image[0, 0]]
    print(f"{folder}: true places {true[0]} to {true[-1]}, read_img {places(with_image.affine)[0]} to"
          f" {places(with_image.affine)[-1]}, read_meta {places(alone.affine)[0]} to {places(alone.affine)[-1]}")
    assert places(with_image.affine) == true
    assert places(alone.affine) == (true if folder == "from-left" else true[::-1])
EOF
