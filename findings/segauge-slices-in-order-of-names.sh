#!/usr/bin/env bash
# segauge takes the order of file names for the order of sagittal slices, and its distances grow fivefold.
#
# Packages: segauge==0.1.0, rt-utils==1.2.7, pydicom==3.0.2, opencv-python-headless==4.14.0.94, numpy==2.4.6
# Input: fifteen sagittal MR slices, 4 mm apart, in files named by a hash, as archives name them, and a
#   structure set with the contours of L5.
# Expected: a slice spacing of 4 mm: the text of the function says that the spacing comes from the positions
#   of the slices, so as not to trust tags.
# Seen: 22 mm here. Slices are sorted by z, which is the same for all sagittal ones, so that they stay in the
#   order of their names, and the step from one to the next is anything.
# Why it matters: Hausdorff and surface distances across slices are multiplied by five, and are right for a
#   copy of the same series with numbered files.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pydicom==3.0.2 opencv-python-headless==4.14.0.94 numpy==2.4.6
venv/bin/pip install --quiet --disable-pip-version-check --no-deps rt-utils==1.2.7 segauge==0.1.0
venv/bin/python - <<'EOF'
from hashlib import sha1
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from rt_utils import RTStructBuilder
from segauge.io import load_rtstruct

SIZE, SLICES, STEP = 32, 15, 4
uids = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
for folder in ("numbered", "hashed"):
    Path(folder).mkdir()
for number in range(SLICES):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid()
    for name, uid in uids.items():
        setattr(ds, name, uid)
    ds.PatientName = ds.PatientID = ds.PatientBirthDate = ds.PatientSex = ""
    ds.StudyDate = ds.StudyTime = ds.StudyID = ds.AccessionNumber = ""
    ds.Modality, ds.InstanceNumber = "MR", number + 1
    ds.Rows, ds.Columns, ds.PixelSpacing, ds.SliceThickness = SIZE, SIZE, [0.5, 0.5], STEP
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [0, 1, 0, 0, 0, -1], [-28 + STEP * number, -100, 200]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = np.zeros((SIZE, SIZE), np.uint16).tobytes()
    ds.save_as(f"numbered/{number:03}.dcm", enforce_file_format=True)
    ds.save_as(f"hashed/{sha1(str(number).encode()).hexdigest()[:8]}.dcm", enforce_file_format=True)
mask = np.zeros((SIZE, SIZE, SLICES), bool)
mask[10:20, 5:25, 3:8] = True
builder = RTStructBuilder.create_new("numbered")
builder.add_roi(mask=mask, name="L5")
builder.save("structures.dcm")
spacing = {folder: load_rtstruct(folder, "structures.dcm", "L5")[1] for folder in ("numbered", "hashed")}
print(f"true slice spacing {STEP} mm, seen:", spacing)
assert spacing["hashed"][:2] == (0.5, 0.5)
assert spacing["hashed"][2] >= 2 * STEP
EOF
