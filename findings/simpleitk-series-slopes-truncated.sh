#!/usr/bin/env bash
# SimpleITK takes the pixel type of a DICOM series from its first slice and cuts the fractions of all others.
#
# Packages: SimpleITK==2.5.7, pydicom==3.0.2, numpy==2.4.6
# Input: five MR slices, each with a rescale slope of its own (2.0, 1.75, 1.5, 1.25, 1.0), as some
#   scanners scale each slice; every stored value 101.
# Expected: 202, 176.75, 151.5, 126.25 and 101 in a floating-point volume, which a single slice with
#   such a slope does give.
# Seen: uint16, with 202, 176, 151, 126, 101: the first slice in order has a whole slope, so
#   fractions are cut, not rounded. With a fractional slope first the volume is float64 and right.
# Why it matters: the same series is exact or truncated by which end is first; small slopes lose
#   most grey levels.
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


def volume(slopes):
    names = []
    for number, slope in enumerate(slopes):
        names.append(f"{len(slopes)}-{slopes[0]}-{number}.dcm")
        write_slice(names[-1], number + 1, 4.4 * number, 101, RescaleSlope=slope, RescaleIntercept=0)
    return sitk.GetArrayFromImage(sitk.ReadImage(names))


whole_first = volume([2.0, 1.75, 1.5, 1.25, 1.0])
fraction_first = volume([1.75, 2.0, 1.5, 1.25, 1.0])
for found in (whole_first, fraction_first):
    print(found.dtype, found[:, 0, 0].tolist())
assert whole_first.dtype == np.uint16
assert whole_first[:, 0, 0].tolist() == [202, 176, 151, 126, 101]
assert fraction_first.dtype == np.float64
assert fraction_first[:, 0, 0].tolist() == [176.75, 202, 151.5, 126.25, 101]
EOF
