#!/usr/bin/env bash
# roi2bb makes one class of all lumbar vertebrae, because it cuts the digits off their names.
#
# Packages: roi2bb==0.1.0, nibabel==5.4.2, numpy==2.4.6
# Input: an image and the regions of 3D Slicer in L3.json, L4.json and L5.json, and the same
#   with the classes L3, L4 and L5 given.
# Expected: three classes, or a refusal: the guide of the package says that it makes a class of each unique
#   name in the file names, and that a number after an underscore counts regions of one class.
# Seen: one class, "l", for all three. With the classes given none of the files is converted.
# Why it matters: names of vertebrae differ in nothing but their digit, and a detector that learns from this
#   file cannot tell levels apart.
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

nib.save(nib.Nifti1Image(np.zeros((100, 120, 80), np.int16), np.diag([-1.0, 1, 1, 1])), "image.nii.gz")
Path("regions").mkdir()
for number, level in enumerate(("L3", "L4", "L5")):
    Path(f"regions/{level}.json").write_text(json.dumps({"markups": [{
        "type": "ROI", "roiType": "Box", "coordinateSystem": "LPS", "coordinateUnits": "mm",
        "center": [50, -60, 60 - 20 * number], "orientation": [-1, 0, 0, 0, -1, 0, 0, 0, 1], "size": [30, 20, 15]}]}))
automatic = Converter("image.nii.gz", "regions", str(Path("labels.txt").absolute()))
automatic.run()
classes = [line.split()[0] for line in Path("labels.txt").read_text().splitlines()]
try:
    Converter("image.nii.gz", "regions", str(Path("given.txt").absolute()), {"L3": 0, "L4": 1, "L5": 2}).run()
    refused = None
except Exception as error:
    refused = str(error)
print("classes:", automatic.class_mapping, "of the boxes:", classes)
print("with the classes given:", refused)
assert automatic.class_mapping == {"l": 0} and classes == ["0", "0", "0"]
assert "No ROI files could be processed" in refused
EOF
