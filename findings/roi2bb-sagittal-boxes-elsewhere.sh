#!/usr/bin/env bash
# roi2bb puts boxes of 3D Slicer outside the image if slices are sagittal.
#
# Packages: roi2bb==0.1.0, nibabel==5.4.2, numpy==2.4.6
# Input: a region of 3D Slicer around a vertebra, in a sagittal MR image as dcm2niix writes it, and one in an
#   axial image of the orientation that the package was made for (left, anterior, superior).
# Expected: the place of the region in the array, as a fraction of each axis, which the affine matrix of the
#   NIfTI file gives; the guide of the package names no orientation that it needs.
# Seen: right for the axial image. For the sagittal one the centre is at 3.64, -0.21 and -0.25 of the axes,
#   and sizes are divided by the length of another axis: only the origin of the matrix is used, and the axes
#   of the patient are taken for those of the array.
# Why it matters: sagittal images are the ones that spines are labelled on, and the numbers of the file pass
#   for labels until a training shows boxes where no vertebra is.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check roi2bb==0.1.0 nibabel==5.4.2 numpy==2.4.6
venv/bin/python - <<'EOF'
import json
from pathlib import Path

import nibabel as nib
import numpy as np
from roi2bb import Converter


def converted(name, shape, affine, centre, size):
    """The centre and size by roi2bb and by the affine matrix, in the order of the file: axes 2, 0, 1."""
    Path(name).mkdir()
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), affine), f"{name}.nii.gz")
    x, y, z = (affine @ [*centre, 1])[:3]
    sides = np.abs(affine[:3, :3]) @ size
    Path(name, "case_vertebra.json").write_text(json.dumps({"markups": [{
        "type": "ROI", "roiType": "Box", "coordinateSystem": "LPS", "coordinateUnits": "mm", "center": [-x, -y, z],
        "orientation": [-1, 0, 0, 0, -1, 0, 0, 0, 1], "size": sides.tolist()}]}))
    Converter(f"{name}.nii.gz", name, str(Path(f"{name}.txt").absolute())).run()
    seen = [round(float(value), 2) for value in Path(f"{name}.txt").read_text().split()[1:]]
    true = np.concatenate([(np.array(values) / shape)[[2, 0, 1]] for values in (centre, size)])
    return [round(float(value), 2) for value in true], seen


axial = np.array([[-1, 0, 0, 50], [0, 1, 0, -60], [0, 0, 2, -40], [0, 0, 0, 1.0]])
sagittal = np.array([[0, 0, 4.4, -24], [-0.5, 0, 0, 60], [0, 0.5, 0, -130], [0, 0, 0, 1.0]])
results = {
    "axial": converted("axial", (100, 120, 40), axial, (50, 90, 20), (30, 24, 8)),
    "sagittal": converted("sagittal", (256, 512, 12), sagittal, (128, 384, 6), (60, 48, 6)),
}
for name, (true, seen) in results.items():
    print(f"{name}: expected {true}, seen {seen}")
assert results["axial"][0] == results["axial"][1] == [0.5, 0.5, 0.75, 0.2, 0.3, 0.2]
assert results["sagittal"] == ([0.5, 0.5, 0.75, 0.5, 0.23, 0.09], [3.64, -0.21, -0.25, 0.45, 0.21, 0.12])
EOF
