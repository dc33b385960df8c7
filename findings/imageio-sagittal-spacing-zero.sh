#!/usr/bin/env bash
# imageio gives a sagittal or coronal DICOM series a slice spacing of zero.
#
# Packages: imageio==2.38.1, pydicom==3.0.2, numpy==2.4.6
# Input: five parallel slices 4.4 mm apart: once axial, once sagittal.
# Expected: a sampling of 4.4 mm along the stack for both, as the distance along the slice normal.
# Seen: 4.4 for the axial stack, 0.0 for the sagittal one: only the third number of
#   ImagePositionPatient is looked at.
# Why it matters: spines are scanned sagittally; a volume or a resampling made with this spacing is
#   flat.
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

seen = {}
for plane, axes in (("axial", [1, 0, 0, 0, 1, 0]), ("sagittal", [0, 1, 0, 0, 0, -1])):
    Path(plane).mkdir()
    for n in range(5):
        place = [0, 0, 4.4 * n] if plane == "axial" else [4.4 * n, 0, 0]
        write_slice(f"{plane}/{n}.dcm", n + 1, ImageOrientationPatient=axes, ImagePositionPatient=place)
    volume = imageio.volread(plane, "DICOM")
    seen[plane] = tuple(float(mm) for mm in volume.meta["sampling"])
print(seen)
np.testing.assert_allclose(seen["axial"], (4.4, 0.5, 0.6))
np.testing.assert_allclose(seen["sagittal"], (0.0, 0.5, 0.6))
EOF
