#!/usr/bin/env bash
# SimpleITK and nibabel disagree on front and back in a NIfTI file that states no space.
#
# Packages: nibabel==5.4.2, SimpleITK==2.5.7, numpy==2.4.6
# Input: a volume whose qform_code and sform_code are both 0, which NIfTI allows (method 1 of nifti1.h). Its
#   spacing is 2, 3 and 4 mm.
# Expected: method 1: x = 2 i, y = 3 j, z = 4 k, with +x right, +y anterior and +z superior, or at least one
#   reading that both readers share.
# Seen: index i goes to the left in both; index j goes to the front in nibabel and to the back in SimpleITK.
# Why it matters: a sagittal spine has its spinous processes in front of the vertebral bodies in one of the
#   two, and a file that passes from one to the other is turned without a word.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6
venv/bin/python - <<'EOF'
import struct

import nibabel as nib
import numpy as np
import SimpleITK as sitk

sizes, spacing = (5, 6, 7), (2.0, 3.0, 4.0)
header = bytearray(352)
struct.pack_into("<i", header, 0, 348)
struct.pack_into("<8h", header, 40, 3, *sizes, 1, 1, 1, 1)
struct.pack_into("<2h", header, 70, 4, 16)
struct.pack_into("<8f", header, 76, 1, *spacing, 0, 0, 0, 0)
struct.pack_into("<2f", header, 108, 352, 1)
header[123] = 2
header[344:348] = b"n+1\0"
with open("volume.nii", "wb") as file:
    file.write(bytes(header) + np.zeros(sizes, np.int16).tobytes(order="F"))

volume = nib.load("volume.nii")
assert (int(volume.header["qform_code"]), int(volume.header["sform_code"])) == (0, 0)
image = sitk.ReadImage("volume.nii")


def steps(place):
    """What one step along i, j and k does to a voxel's place, in mm to the right, front and top."""
    start = np.array(place((0, 0, 0)))
    return [np.round(np.array(place(index)) - start, 4).tolist() for index in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]


def by_nibabel(index):
    return nib.affines.apply_affine(volume.affine, index)


def by_simpleitk(index):
    """SimpleITK's space goes to the left and to the back."""
    return np.array(image.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]


method_1 = [[2, 0, 0], [0, 3, 0], [0, 0, 4]]
print("nifti1.h ", method_1)
print("nibabel  ", steps(by_nibabel))
print("SimpleITK", steps(by_simpleitk))
assert steps(by_nibabel) == [[-2, 0, 0], [0, 3, 0], [0, 0, 4]]
assert steps(by_simpleitk) == [[-2, 0, 0], [0, -3, 0], [0, 0, 4]]
EOF
