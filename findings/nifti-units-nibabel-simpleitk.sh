#!/usr/bin/env bash
# NIfTI in micrometres or metres: SimpleITK converts to millimetres, nibabel does not.
#
# Packages: nibabel==5.4.2, SimpleITK==2.5.7, numpy==2.4.6
# Input: the same volume, voxels of 0.5 x 0.6 x 4 mm, written in mm, micron and meter (xyzt_units),
#   with sform and qform.
# Expected: both readers give one geometry, or both give the numbers of the file.
# Seen: SimpleITK gives 0.5, 0.6, 4.0 each time; nibabel's zooms and affine are 500, 600, 4000 and
#   0.0005, 0.0006, 0.004, and only the header says in which unit.
# Why it matters: a pipeline that reads with one and writes points with the other is a factor of a
#   thousand off, without a word.
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

for unit, factor in (("mm", 1.0), ("micron", 1000.0), ("meter", 0.001)):
    affine = np.diag([0.5 * factor, 0.6 * factor, 4 * factor, 1])
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), affine)
    image.header.set_xyzt_units(unit, "sec")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, "v.nii.gz")
    zooms, spacing = nib.load("v.nii.gz").header.get_zooms(), sitk.ReadImage("v.nii.gz").GetSpacing()
    print(unit, "nibabel", [float(z) for z in zooms], "SimpleITK", spacing)
    np.testing.assert_allclose(spacing, (0.5, 0.6, 4.0), rtol=1e-5)
    np.testing.assert_allclose(zooms, np.array((0.5, 0.6, 4.0)) * factor, rtol=1e-5)
EOF
