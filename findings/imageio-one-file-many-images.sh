#!/usr/bin/env bash
# imageio.mimread of one DICOM file returns every image in and below its folder, of other series too.
#
# Packages: imageio==2.38.1, pydicom==3.0.2, numpy==2.4.6
# Input: a folder with three slices of one series, and three of another in a folder below; mimread
#   is given the path of one slice.
# Expected: the images of that file: one.
# Seen: six images of both series, while volread and the same plugin keep the series apart.
# Why it matters: a script that walks over files grades each image six times, and mixes series.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check imageio==2.38.1 pydicom==3.0.2 numpy==2.4.6
venv/bin/python - <<'EOF'
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid


def write_slice(path, number=1, x_mm=0.0, value=100, series="1.2.826.0.1.3680043.8.498.1", **tags):
    """A sagittal MR slice of 6 rows and 5 columns, all pixels of one value, at x in the patient."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.2", series
    ds.PatientName = ds.PatientID = ""
    ds.Modality, ds.InstanceNumber = "MR", number
    ds.Rows, ds.Columns, ds.PixelSpacing, ds.SliceThickness = 6, 5, [0.5, 0.6], 4
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [0, 1, 0, 0, 0, -1], [x_mm, 0, 0]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    for name, found in tags.items():
        setattr(ds, name, found)
    ds.PixelData = np.full((6, 5), value, np.uint16).tobytes()
    ds.save_as(path, enforce_file_format=True)


from pathlib import Path

import imageio.v2 as imageio

Path("study/below").mkdir(parents=True)
for n in range(3):
    write_slice(f"study/a{n}.dcm", n + 1, 4.4 * n, 100)
    write_slice(f"study/below/b{n}.dcm", n + 1, 4.4 * n, 200, series="1.2.826.0.1.3680043.8.498.3")
values = [int(image.max()) for image in imageio.mimread("study/a0.dcm", "DICOM")]
print("images of one file:", values)
assert values == [100, 100, 100, 200, 200, 200]
EOF
