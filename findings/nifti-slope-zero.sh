#!/usr/bin/env bash
# NIfTI with scl_slope 0 and an intercept: nibabel ignores both, SimpleITK adds the intercept.
#
# Packages: nibabel==5.4.2, SimpleITK==2.5.7, numpy==2.4.6
# Input: a NIfTI-1 file of zeros and one 7 whose header has scl_slope = 0 and scl_inter = -5.
# Expected: the stored values: the NIfTI-1 standard scales only where scl_slope is not zero.
# Seen: nibabel gives 0 and 7; SimpleITK takes the slope as 1 and gives -5 and 2.
# Why it matters: some writers leave an old intercept behind a slope of zero; grey values, masks and
#   label maps then differ by reader.
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

values = np.zeros((4, 5, 6), np.int16)
values[1, 2, 3] = 7
nib.save(nib.Nifti1Image(values, np.eye(4)), "v.nii")
with open("v.nii", "r+b") as file:
    file.seek(112)  # scl_slope, scl_inter
    file.write(struct.pack("<ff", 0.0, -5.0))
by_nibabel = np.unique(nib.load("v.nii").get_fdata()).tolist()
by_sitk = np.unique(sitk.GetArrayFromImage(sitk.ReadImage("v.nii"))).tolist()
print("nibabel", by_nibabel, "SimpleITK", by_sitk)
assert by_nibabel == [0, 7] and by_sitk == [-5, 2]
EOF
