#!/usr/bin/env bash
# dicom2jpg stretches each slice to black and white after the window, so one tissue gets many greys in a series.
#
# Packages: dicom2jpg==0.1.10, pydicom==3.0.2, numpy==2.4.6
# Input: three MR slices with the window 0 to 1000 (LINEAR_EXACT), and a disc of 400 in each; the darkest
#   and the brightest pixels are 0 and 1000, 0 and 500, and 300 and 500.
# Expected: the grey 102 of 255 for the disc in each slice, by PS3.3 C.11.2.1.3.2, as the window is the
#   same. The package says that it applies the window, and that files look as in standard viewers.
# Seen: 102, 204 and 127. What the window gives is stretched once more, from the darkest to the brightest
#   pixel of each slice; only a slice with pixels at both ends of the window hides it.
# Why it matters: discs are graded by their brightness. The same disc is twice as bright in one slice as in
#   the next, depending on what else is in the slice, and networks are trained on such files.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pydicom==3.0.2 numpy==2.4.6 opencv-python-headless==4.14.0.94
venv/bin/pip install --quiet --disable-pip-version-check --no-deps dicom2jpg==0.1.10
venv/bin/python - <<'EOF'
import dicom2jpg
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

CENTRE, WIDTH, DISC = 500, 1000, 400
study, series = generate_uid(), generate_uid()


def grey_by_standard(value):
    return int(np.clip((value - CENTRE) / WIDTH + 0.5, 0, 1) * 255)


seen = []
for number, (darkest, brightest) in enumerate(((0, 1000), (0, 500), (300, 500)), 1):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
    ds.PatientName = ds.PatientID = ""
    ds.Modality, ds.InstanceNumber = "MR", number
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = CENTRE, WIDTH, "LINEAR_EXACT"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, 3, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = np.array([darkest, DISC, brightest], np.uint16).tobytes()
    ds.save_as(f"{number}.dcm", enforce_file_format=True)
    greys = dicom2jpg.dicom2img(f"{number}.dcm")[0].tolist()
    right = [grey_by_standard(value) for value in (darkest, DISC, brightest)]
    print("pixels", [darkest, DISC, brightest], "greys of dicom2jpg:", greys, "by the standard:", right)
    seen.append(greys)
    assert right[1] == 102
assert seen == [[0, 102, 255], [0, 204, 255], [0, 127, 255]]
EOF
