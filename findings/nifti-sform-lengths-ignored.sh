#!/usr/bin/env bash
# NIfTI whose place is given by the sform alone: SimpleITK takes its axes and origin, and other lengths.
#
# Packages: nibabel==5.4.2, SimpleITK==2.5.7, numpy==2.4.6
# Input: a volume with qform_code 0 and sform_code 1. The rows of the sform step 0.8, 0.8 and 4.4 mm;
#   pixdim still holds 1, 1, 1. Method 3 of nifti1.h, which applies to sform_code > 0, computes places
#   from the rows of the sform alone.
# Expected: voxel (10, 20, 5) lies at the place that the sform gives, (8, 16, 22) mm.
# Seen: nibabel's affine puts it there. SimpleITK puts it at (10, 20, 5): its spacing is pixdim, while
#   its origin and directions are those of the sform. A line on stderr speaks of unexpected scales in
#   the sform, and nothing that a program can ask for says so.
# Why it matters: distances between vertebrae, and points for other programs, are wrong by the ratio of
#   both lengths, here 1.25 within a slice and 4.4 across slices.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6
venv/bin/python - <<'EOF'
import nibabel as nib
import numpy as np
import SimpleITK as sitk

affine = np.diag([0.8, 0.8, 4.4, 1])
image = nib.Nifti1Image(np.zeros((32, 32, 8), np.int16), None)
image.header.set_xyzt_units("mm", "sec")
image.header.set_zooms((1, 1, 1))
image.set_sform(affine, code=1)
image.set_qform(None, code=0)
nib.save(image, "v.nii")

stored = nib.load("v.nii")
print("qform_code", int(stored.header["qform_code"]), "sform_code", int(stored.header["sform_code"]),
      "pixdim", stored.header["pixdim"][1:4])
voxel = (10, 20, 5)
theirs = (stored.affine @ (*voxel, 1))[:3]
read = sitk.ReadImage("v.nii")
place = np.array(read.TransformIndexToPhysicalPoint(voxel)) * (-1, -1, 1)  # LPS to RAS
print("nibabel", theirs, "SimpleITK", place, "spacing", read.GetSpacing())
np.testing.assert_allclose(theirs, (8, 16, 22), atol=1e-5)
np.testing.assert_allclose(place, (10, 20, 5), atol=1e-5)
EOF
