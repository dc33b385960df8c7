#!/usr/bin/env bash
# A single MR slice read by SimpleITK is 1 mm thick whatever its SliceThickness says.
#
# Packages: SimpleITK==2.5.7, pydicom==3.0.2, numpy==2.4.6
# Input: one MR slice with SliceThickness 4: without SpacingBetweenSlices, and with 4.4.
# Expected: 4 mm along the slice normal in the first case, the only extent that the file states.
# Seen: 1.0 without, 4.4 with SpacingBetweenSlices.
# Why it matters: a slice that is stored as a volume (NIfTI, MHA) lies in space as a sheet of 1 mm;
#   overlap with the full series, and neighbour distances, are off by four.
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

write_slice("without.dcm")
write_slice("with.dcm", SpacingBetweenSlices=4.4)
seen = [sitk.ReadImage(f"{name}.dcm").GetSpacing()[2] for name in ("without", "with")]
print("SliceThickness", pydicom.dcmread("without.dcm").SliceThickness, "z spacing", seen)
assert seen == [1.0, 4.4]
EOF
