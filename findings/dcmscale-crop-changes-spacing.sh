#!/usr/bin/env bash
# dcmscale gives a cropped image larger pixels, as if it had been shrunk, and the position of the whole image.
#
# Packages: dcmtk and libdcmtk17 3.6.7 (Debian 12), pydicom==3.0.2, numpy==2.4.6
# Input: a sagittal MR slice of 320 by 320 pixels of 0.5 mm, cropped without scaling by
#   dcmscale --clip-region 100 60 160 80, which are left, top, width and height.
# Expected: the same Pixel Spacing, 0.5 and 0.5, as the pixels are the same. The Image Position moves by
#   50 mm along the rows and 30 mm along the columns, by PS3.3 C.7.6.2.1.1.
# Seen: a Pixel Spacing of 2.0 and 1.0 over unchanged pixels: the spacing is multiplied by the size of the
#   image over that of the crop, also without scaling. The Image Position is that of the whole slice.
# Why it matters: a vertebra 30 mm high measures 120 mm in the crop, and it lies in another place of the
#   patient than in the slice that it was cut from.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pydicom==3.0.2 numpy==2.4.6
apt-get download --quiet=2 -o APT::Sandbox::User=root 'dcmtk=3.6.7*' 'libdcmtk17=3.6.7*'
for package in *.deb; do dpkg-deb --extract "$package" dcmtk; done
LD_LIBRARY_PATH=$(echo dcmtk/usr/lib/*)
DCMDICTPATH=$(echo dcmtk/usr/share/libdcmtk17/dicom.dic)
export LD_LIBRARY_PATH DCMDICTPATH
venv/bin/python - <<'EOF'
import subprocess

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

SIZE, SPACING, LEFT, TOP, WIDTH, HEIGHT = 320, 0.5, 100, 60, 160, 80
pixels = np.random.default_rng(1).integers(0, 4096, (SIZE, SIZE), dtype=np.uint16)
ds = Dataset()
ds.file_meta = FileMetaDataset()
ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid()
ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = generate_uid(), generate_uid(), generate_uid()
ds.PatientName = ds.PatientID = ""
ds.ImageType, ds.Modality, ds.InstanceNumber = ["ORIGINAL", "PRIMARY", "M"], "MR", 1
ds.Rows, ds.Columns, ds.PixelSpacing, ds.SliceThickness = SIZE, SIZE, [SPACING, SPACING], 4
ds.ImageOrientationPatient, ds.ImagePositionPatient = [0, 1, 0, 0, 0, -1], [3, -80, 90]
ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
ds.PixelData = pixels.tobytes()
ds.save_as("slice.dcm", enforce_file_format=True)

crop = [str(number) for number in (LEFT, TOP, WIDTH, HEIGHT)]
run = subprocess.run(
    ["dcmtk/usr/bin/dcmscale", "--clip-region", *crop, "slice.dcm", "crop.dcm"],
    capture_output=True, text=True, check=True)
version = subprocess.run(["dcmtk/usr/bin/dcmscale", "--version"], capture_output=True, text=True, check=True).stdout
print(version.splitlines()[0])
after = dcmread("crop.dcm")
row, column = np.reshape(ds.ImageOrientationPatient, (2, 3)).astype(float)
place = np.array(ds.ImagePositionPatient, float) + LEFT * SPACING * row + TOP * SPACING * column
print("messages:", repr(run.stderr), "size:", after.Rows, "by", after.Columns)
print("spacing", list(map(float, after.PixelSpacing)), "position", list(map(float, after.ImagePositionPatient)))
print("by the standard: spacing", [SPACING, SPACING], "position", place.tolist())
assert run.stderr == "" and (after.pixel_array == pixels[TOP:TOP + HEIGHT, LEFT:LEFT + WIDTH]).all()
assert after.PixelSpacing == [SPACING * SIZE / HEIGHT, SPACING * SIZE / WIDTH] == [2.0, 1.0]
assert after.ImagePositionPatient == ds.ImagePositionPatient and place.tolist() == [3, -30, 60]
EOF
