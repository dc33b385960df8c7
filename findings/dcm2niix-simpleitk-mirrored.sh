#!/usr/bin/env bash
# A sagittal series that goes to NIfTI by dcm2niix and back to DICOM by SimpleITK changes sides.
#
# Packages: dcm2niix==1.0.20260724, SimpleITK==2.5.7, pydicom==3.0.2, numpy==2.4.6
# Input: a sagittal MR series of five slices; every pixel is the distance of its slice to the left
#   in mm. dcm2niix makes a NIfTI file, SimpleITK reads that as 8 bits and writes one DICOM file.
# Expected: the frame at 10 mm to the left holds tens, in the NIfTI file as in the DICOM file; or an
#   error, as SimpleITK raises for axes that are not orthogonal.
# Seen: the NIfTI file is right, the DICOM file mirrored, with no warning. dcm2niix gives a sagittal
#   image left-handed axes; ITK keeps rows, columns and first position, and turns the third axis
#   into their cross product: the later frames get positions on the other side of the first.
# Why it matters: a mask or a prediction on the NIfTI file reaches the archive with left and right
#   exchanged and moved to the left, and reads back as a right-handed volume that looks sound.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check dcm2niix==1.0.20260724 SimpleITK==2.5.7 pydicom==3.0.2 numpy==2.4.6
mkdir series
venv/bin/python - <<'EOF'
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

uids = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
for number, left_mm in enumerate((0, 5, 10, 15, 20)):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid()
    for name, uid in uids.items():
        setattr(ds, name, uid)
    ds.PatientName = ds.PatientID = ds.Manufacturer = ""
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "MR", 1, number + 1
    ds.Rows, ds.Columns, ds.PixelSpacing, ds.SliceThickness = 6, 4, [0.5, 0.5], 5
    ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    ds.ImagePositionPatient = [left_mm, 0, 0]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = np.full((6, 4), left_mm, np.uint16).tobytes()
    ds.save_as(f"series/{number}.dcm", enforce_file_format=True)
EOF
venv/bin/dcm2niix -b n -z n -f volume -o . series >/dev/null
venv/bin/python - <<'EOF'
import numpy as np
import SimpleITK as sitk
from pydicom import dcmread

volume = sitk.ReadImage("volume.nii", sitk.sitkUInt8)
handed = round(np.linalg.det(np.reshape(volume.GetDirection(), (3, 3))))
nifti = sorted(
    (round(volume.TransformIndexToPhysicalPoint((0, 0, n))[0]), volume[0, 0, n])
    for n in range(volume.GetSize()[2])
)
sitk.WriteImage(volume, "volume.dcm")
written = dcmread("volume.dcm")
pixels = np.frombuffer(written.PixelData, np.uint8).reshape(written.NumberOfFrames, -1)[:, 0]
positions = [
    round(frame.PlanePositionSequence[0].ImagePositionPatient[0])
    for frame in written.PerFrameFunctionalGroupsSequence
]
dicom = sorted(zip(positions, pixels.tolist(), strict=True))
print("(mm to the left by the header, by the pixel); determinant of the axes", handed)
print("NIfTI by dcm2niix ", nifti)
print("DICOM by SimpleITK", dicom)
assert handed == -1
assert nifti == [(0, 0), (5, 5), (10, 10), (15, 15), (20, 20)]
assert dicom == [(20, 20), (25, 15), (30, 10), (35, 5), (40, 0)]
EOF
