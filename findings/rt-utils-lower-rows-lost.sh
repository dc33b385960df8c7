#!/usr/bin/env bash
# rt-utils loses the lower end of a structure set when the images are taller than wide.
#
# Packages: rt-utils==1.2.7, pydicom==3.0.2, opencv-python-headless==4.14.0.94, numpy==2.4.6
# Input: a sagittal MR series of 60 rows and 40 columns, and a mask of that shape with L1 in rows 10
#   to 19, L5 in rows 35 to 44 and S1 in rows 45 to 54. rt-utils writes it as RT Structure Set and
#   reads that again.
# Expected: the mask that went in, as (rows, columns, slices). The contours in the file are right.
# Seen: masks of (columns, rows, slices), 40 × 60, into which rt-utils draws x along the second axis
#   all the same. What lies below row 39 falls out: half of L5 and all of S1. Nothing is reported.
# Why it matters: images of the spine are often taller than wide; its lower levels shrink or come
#   back as empty masks. Square images hide it, wide ones only gain empty rows.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pydicom==3.0.2 opencv-python-headless==4.14.0.94 numpy==2.4.6
venv/bin/pip install --quiet --disable-pip-version-check --no-deps rt-utils==1.2.7
venv/bin/python - <<'EOF'
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from rt_utils import RTStructBuilder

ROWS, COLUMNS, SLICES = 60, 40, 3
uids = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
Path("series").mkdir()
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
    ds.Rows, ds.Columns, ds.PixelSpacing, ds.SliceThickness = ROWS, COLUMNS, [0.5, 0.5], 4
    ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    ds.ImagePositionPatient = [-4 * number, 0, 0]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = np.zeros((ROWS, COLUMNS), np.uint16).tobytes()
    ds.save_as(f"series/{number}.dcm", enforce_file_format=True)

masks = {}
for name, first in (("L1", 10), ("L5", 35), ("S1", 45)):
    masks[name] = np.zeros((ROWS, COLUMNS, SLICES), bool)
    masks[name][first : first + 10, 12:28, 1] = True
written = RTStructBuilder.create_new("series")
for name, mask in masks.items():
    written.add_roi(mask=mask, name=name)
written.save("structures.dcm")
for structure in dcmread("structures.dcm").ROIContourSequence:
    z_mm = structure.ContourSequence[0].ContourData[2::3]
    print("in the file: z from", min(z_mm), "to", max(z_mm), "mm")
read = RTStructBuilder.create_from("series", "structures.dcm")
found = {name: read.get_roi_mask_by_name(name) for name in masks}
for name, mask in masks.items():
    print(name, "in:", mask.shape, int(mask.sum()), "pixels; out:", found[name].shape, int(found[name].sum()))
assert all(mask.shape == (COLUMNS, ROWS, SLICES) for mask in found.values())
assert [int(mask.sum()) for mask in masks.values()] == [160, 160, 160]
assert [int(mask.sum()) for mask in found.values()] == [160, 80, 0]
EOF
