#!/usr/bin/env bash
# SimpleITK inverts MONOCHROME1 pixels when it reads, and still calls them MONOCHROME1.
#
# Packages: SimpleITK==2.5.7, pydicom==3.0.2, numpy==2.4.6
# Input: one MR slice, 12 bits stored, PhotometricInterpretation MONOCHROME1, every stored value
#   100.
# Expected: stored values (100), as pydicom gives them and as for MONOCHROME2; or else a tag that
#   says MONOCHROME2.
# Seen: 4095 - 100 = 3995 in every pixel, before the rescale slope and intercept are applied, while
#   the tag (0028,0004) of the image still reads MONOCHROME1.
# Why it matters: who inverts MONOCHROME1 himself, as pydicom's users must, inverts twice and feeds
#   a negative to the network; slope and intercept map to wrong units.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check SimpleITK==2.5.7 pydicom==3.0.2 numpy==2.4.6
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


import SimpleITK as sitk

write_slice("a.dcm", PhotometricInterpretation="MONOCHROME1")
write_slice("b.dcm", PhotometricInterpretation="MONOCHROME1", RescaleSlope=2, RescaleIntercept=10)
image, rescaled = sitk.ReadImage("a.dcm"), sitk.ReadImage("b.dcm")
stored = set(pydicom.dcmread("a.dcm").pixel_array.ravel().tolist())
seen = set(sitk.GetArrayFromImage(image).ravel().tolist())
after = set(sitk.GetArrayFromImage(rescaled).ravel().tolist())
print("stored", stored, "SimpleITK", seen, "with slope 2 and intercept 10", after)
print("tag after reading:", image.GetMetaData("0028|0004"))
assert stored == {100} and seen == {3995} and after == {8000}
assert image.GetMetaData("0028|0004").strip() == "MONOCHROME1"
EOF
