#!/usr/bin/env bash
# rt-utils swaps the spacing of rows and columns, so that contours in millimetres lie elsewhere.
#
# Packages: rt-utils==1.2.7, pydicom==3.0.2, opencv-python-headless==4.14.0.94, numpy==2.4.6
# Input: a sagittal MR series whose Pixel Spacing is 0.8\0.5, as some scanners reconstruct it, and a
#   mask of L5 in rows 30 to 39 and columns 5 to 24; its position is 0, 0, 0.
# Expected: PS3.3 10.7.1.3 gives the distance of rows first: the contour goes from 2.5 to 12 mm
#   backwards and from 24 to 31.2 mm down.
# Seen: from 4 to 19.2 mm backwards and from 15 to 19.5 mm down: rt-utils multiplies the direction of
#   a row by the distance between rows. It reads its own contours back as the mask that went in.
# Why it matters: a round trip shows nothing, but other programs draw the vertebra a centimetre away
#   and in another shape, and contours of other programs become wrong masks.
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

SIZE, SLICES = 64, 3
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
    ds.Rows, ds.Columns, ds.PixelSpacing, ds.SliceThickness = SIZE, SIZE, [0.8, 0.5], 4
    ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    ds.ImagePositionPatient = [-4 * number, 0, 0]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = np.zeros((SIZE, SIZE), np.uint16).tobytes()
    ds.save_as(f"series/{number}.dcm", enforce_file_format=True)

mask = np.zeros((SIZE, SIZE, SLICES), bool)
mask[30:40, 5:25, 0] = True
written = RTStructBuilder.create_new("series")
written.add_roi(mask=mask, name="L5")
written.save("structures.dcm")
structure = dcmread("structures.dcm").ROIContourSequence[0]
_, y_mm, z_mm = np.array(structure.ContourSequence[0].ContourData, float).reshape(-1, 3).T
backwards = [round(float(mm), 3) for mm in (y_mm.min(), y_mm.max())]
down = [round(-float(mm), 3) for mm in (z_mm.max(), z_mm.min())]
read = RTStructBuilder.create_from("series", "structures.dcm").get_roi_mask_by_name("L5")
print("expected: backwards", [5 * 0.5, 24 * 0.5], "down", [30 * 0.8, round(39 * 0.8, 3)])
print("seen:     backwards", backwards, "down", down)
print("round trip equal:", np.array_equal(read, mask))
assert backwards == [5 * 0.8, round(24 * 0.8, 3)] and down == [30 * 0.5, 39 * 0.5]
assert np.array_equal(read, mask)
EOF
