#!/usr/bin/env bash
# pydicom-seg puts slices as far apart as they are thick, with an empty one among them.
#
# Packages: pydicom-seg==0.4.1, highdicom==0.22.0, pydicom==2.4.5, SimpleITK==2.5.7, numpy==1.26.4
# Input: a segmentation by highdicom of one vertebra on all of 15 sagittal MR slices, 4 mm thick and
#   4.4 mm from centre to centre, without Spacing Between Slices (0018,0088), which MR images need not
#   have; dciodvfy finds no error in it.
# Expected: 15 slices with a spacing of 4.4 mm, from each frame's Image Position (Patient), which
#   PS3.3 C.7.6.2.1.1 makes the place of a slice; the thickness (0018,0050) says nothing of gaps.
# Seen: 16 slices with a spacing of 4 mm; the sixth is empty, and frames lie up to 1.6 mm from where
#   they belong. No warning is given.
# Why it matters: spine MR is taken with gaps. A vertebra falls into two parts, its volume is 9 % too
#   small, and the mask no longer has the slices of its image.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pydicom-seg==0.4.1 highdicom==0.22.0 pydicom==2.4.5 SimpleITK==2.5.7 numpy==1.26.4
venv/bin/python - <<'EOF'
import highdicom as hd
import numpy as np
import pydicom_seg
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

SLICES, THICKNESS, SPACING = 15, 4.0, 4.4


def mr_slice(number, series=generate_uid(), study=generate_uid(), frame=generate_uid()):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
    ds.PatientName = ds.PatientID = ds.PatientBirthDate = ds.PatientSex = ""
    ds.StudyDate = ds.StudyTime = ds.StudyID = ds.AccessionNumber = ""
    ds.Modality, ds.InstanceNumber = "MR", number + 1
    ds.Rows, ds.Columns, ds.PixelSpacing, ds.SliceThickness = 6, 5, [0.5, 0.5], THICKNESS
    ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    ds.ImagePositionPatient = [round(31.6 - SPACING * number, 1), -20, 30]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = np.zeros((6, 5), np.uint16).tobytes()
    return ds


segment = hd.seg.SegmentDescription(1, "L5", codes.SCT.Vertebra, codes.SCT.Vertebra, "MANUAL")
hd.seg.Segmentation(
    [mr_slice(number) for number in range(SLICES)],
    np.ones((SLICES, 6, 5), np.uint8),
    "BINARY", [segment], generate_uid(), 1, generate_uid(), 1, "maker", "model", "1", "1",
).save_as("seg.dcm")
written = dcmread("seg.dcm")
read = pydicom_seg.SegmentReader().read(written)
image, filled = read.segment_image(1), read.segment_data(1).any(axis=(1, 2))
positions = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in written.PerFrameFunctionalGroupsSequence]
last_mm = min(float(position[0]) for position in positions)
seen_mm = image.TransformIndexToPhysicalPoint((0, 0, image.GetSize()[2] - 1))[0]
print("expected", SLICES, "slices", SPACING, "mm apart, the last at", last_mm)
print("seen", image.GetSize()[2], "slices", image.GetSpacing()[2], "mm apart, the last at", seen_mm)
print("empty slices", np.flatnonzero(~filled).tolist())
assert written.NumberOfFrames == SLICES and last_mm == -30.0
assert image.GetSize()[2] == 16 and image.GetSpacing()[2] == THICKNESS
assert abs(seen_mm + 28.4) < 1e-6 and np.flatnonzero(~filled).tolist() == [5]
EOF
