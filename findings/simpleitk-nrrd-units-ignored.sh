#!/usr/bin/env bash
# NRRD in centimetres is read as millimetres by SimpleITK, which does honour the units of NIfTI.
#
# Packages: pynrrd==1.1.3, SimpleITK==2.5.7, numpy==2.4.6
# Input: a NRRD file with `space units: "cm" "cm" "cm"` and axes of 0.05, 0.06 and 0.4.
# Expected: 0.5, 0.6 and 4 mm, as SimpleITK documents spacing in mm and converts the units of NIfTI.
# Seen: 0.05, 0.06 and 0.4, no warning; the origin is not converted either.
# Why it matters: a spine a tenth of its size is not refused: distances, spacing checks and
#   millimetre thresholds are all wrong.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pynrrd==1.1.3 SimpleITK==2.5.7 numpy==2.4.6
venv/bin/python - <<'EOF'
import nrrd
import numpy as np
import SimpleITK as sitk

header = {
    "space": "left-posterior-superior",
    "space units": ["cm", "cm", "cm"],
    "space directions": np.diag([0.05, 0.06, 0.4]),
    "space origin": [1.0, 2.0, 3.0],
}
nrrd.write("v.nrrd", np.zeros((4, 5, 6), np.int16), header)
print([line for line in open("v.nrrd", "rb").read().split(b"\n") if line.startswith(b"space units")])
image = sitk.ReadImage("v.nrrd")
print("spacing", image.GetSpacing(), "origin", image.GetOrigin())
np.testing.assert_allclose(image.GetSpacing(), (0.05, 0.06, 0.4))
np.testing.assert_allclose(image.GetOrigin(), (1.0, 2.0, 3.0))
EOF
