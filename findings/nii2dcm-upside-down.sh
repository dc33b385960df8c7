#!/usr/bin/env bash
# nii2dcm turns a sagittal NIfTI file upside down in the patient and puts it in another place.
#
# Packages: nii2dcm==0.1.6, nibabel==5.4.2, pydicom==2.4.4, dunamai==1.18.0, numpy==2.4.6
# Input: a sagittal NIfTI file as dcm2niix lays it out, in which every voxel holds its own distance
#   to the left, to the back or to the head in mm; nii2dcm makes a DICOM series of it.
# Expected: each pixel of the series lies where its value says. NIfTI counts to the right, the front
#   and the head, PS3.3 C.7.6.2.1.1 to the left, the back and the head: x and y change signs.
# Seen: nii2dcm changes all signs of a direction, that towards the head as well, and none of a
#   position; and the first slice gets the place before the first. Head and feet are exchanged, and
#   left and right; the whole lies elsewhere, here by 18 mm from back to front.
# Why it matters: levels are counted from the wrong end, and no other series of the study fits; the
#   slices, looked at one by one, are right, and nothing is reported.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check nibabel==5.4.2 pydicom==2.4.4 dunamai==1.18.0 numpy==2.4.6
venv/bin/pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python nii2dcm==0.1.6
cat >show.py <<'EOF'
import subprocess
from pathlib import Path

import nibabel
import numpy as np
from pydicom import dcmread

OFFSET = 100  # nii2dcm writes unsigned pixels
SHAPE = (6, 8, 5)  # to the front, to the head, to the right
AFFINE = np.array([[0, 0, 4, -12], [1, 0, 0, -9], [0, 1, 0, 20], [0, 0, 0, 1]], float)


def converted(name, axis):
    """(mm by the header, mm by the pixel) of all pixels, along this axis of DICOM."""
    voxels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    truth = (voxels @ AFFINE[:3, :3].T + AFFINE[:3, 3]) * (-1, -1, 1)
    nibabel.Nifti1Image((truth[..., axis] + OFFSET).astype(np.int16), AFFINE).to_filename(f"{name}.nii")
    Path(name).mkdir()
    subprocess.run(["venv/bin/nii2dcm", f"{name}.nii", name, "-d", "MR"], check=True, capture_output=True)
    found = set()
    for path in Path(name).glob("*.dcm"):
        ds = dcmread(path)
        directions = np.reshape(ds.ImageOrientationPatient, (2, 3)).astype(float)
        for (row, column), value in np.ndenumerate(ds.pixel_array):
            steps = column * ds.PixelSpacing[1], row * ds.PixelSpacing[0]
            place = np.array(ds.ImagePositionPatient, float) + steps @ directions
            found.add((round(place[axis]), int(value) - OFFSET))
    return sorted(found)


left, back, head = (converted(name, axis) for axis, name in enumerate(("left", "back", "head")))
print("(mm by the header, mm by the pixel)")
print("to the left:", left)
print("to the back:", back)
print("to the head:", head)
assert left == [(-16, 12), (-12, 8), (-8, 4), (-4, 0), (0, -4)]
assert all(header - pixel == -18 for header, pixel in back)
assert head == [(20 - n, 20 + n) for n in reversed(range(8))]
EOF
venv/bin/python show.py
