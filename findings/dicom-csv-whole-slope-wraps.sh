#!/usr/bin/env bash
# dicom-csv lets pixel values wrap around when the slope is a whole number, and rounds slopes that are fractions.
#
# Packages: dicom-csv==0.5.1, pydicom==3.0.2, numpy==2.4.6, pandas==3.1.1
# Input: an MR slice of 13 bits in 16, with pixels of 0, 1000, 2000, 3000 and 4000, unsigned and signed, with a
#   RescaleSlope of 20 and of 0.12345.
# Expected: slope times pixel, as from pydicom: 80000 and 493.8 for the pixel of 4000.
# Seen: 14464 for slope 20, and -5536 for the signed pixel of 3000: the slope is cast to the smallest type that
#   holds it, so that the product stays in 16 bits. The fraction is cast to 16-bit floats: 493.9.
# Why it matters: the brightest tissue becomes dark or negative, without a warning; stack_images, which joins a series, does the same.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check dicom-csv==0.5.1 pydicom==3.0.2 numpy==2.4.6 pandas==3.1.1
venv/bin/python - <<'EOF'
import numpy as np
import pydicom
from dicom_csv import get_image, stack_images
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

PIXELS = [0, 1000, 2000, 3000, 4000]


def mr_slice(signed, slope):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.PatientName = ds.PatientID = ""
    ds.Modality, ds.Rows, ds.Columns = "MR", 1, len(PIXELS)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 13, 12, signed
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = slope, 0, "US"
    ds.PixelData = np.array(PIXELS, np.int16).tobytes()
    ds.save_as("slice.dcm", enforce_file_format=True)
    return pydicom.dcmread("slice.dcm")


seen = {}
for signed in (0, 1):
    for slope in (20, 0.12345):
        ds = mr_slice(signed, slope)
        wanted = [round(slope * pixel, 4) for pixel in PIXELS]
        assert np.round(apply_modality_lut(ds.pixel_array, ds), 4).ravel().tolist() == wanted
        image = get_image(ds)
        assert np.array_equal(stack_images([ds])[..., 0], image)
        seen[signed, slope] = np.round(image.astype(float), 2).ravel().tolist()
        print("signed" if signed else "unsigned", "slope", slope, "expected", wanted, "seen", seen[signed, slope])
assert seen[0, 20] == [0, 20000, 40000, 60000, 14464]
assert seen[1, 20] == [0, 20000, -25536, -5536, 14464]
assert seen[0, 0.12345][-1] == seen[1, 0.12345][-1] != 493.8
EOF
