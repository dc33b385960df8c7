#!/usr/bin/env bash
# DICaugment turns the image by 90 degrees in the xz plane, and gives its boxes a wrong depth or drops them.
#
# Packages: DICaugment==1.0.7, scipy==1.17.1, scikit-image==0.26.0, scikit-learn==1.9.1,
#   opencv-python-headless==4.14.0.94, pydicom==3.0.2, PyYAML==6.0.4, numpy==2.4.6
# Input: a volume of 20 rows, 30 columns and 24 slices with the vertebra L5 filled with ones, and its box;
#   RandomRotate90 with axes="xz", repeated until all four turns came up.
# Expected: after each turn the box that holds the ones of the turned image.
# Seen: half and full turns are right. A quarter turn to one side drops every box with its label, without a word; to
#   the other side the box ends at 17.5 along z, where the ones end at 10, or is dropped as well.
# Why it matters: a detector learns boxes of neighbouring tissue, or that the vertebra is background.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check DICaugment==1.0.7 scipy==1.17.1 scikit-image==0.26.0 scikit-learn==1.9.1 opencv-python-headless==4.14.0.94 pydicom==3.0.2 PyYAML==6.0.4 numpy==2.4.6
venv/bin/python -W ignore - <<'EOF'
import random

import dicaugment
import numpy as np


def turned(box):
    """Every result of the transform: the box of the turned ones, and the boxes and labels it returned."""
    x0, y0, z0, x1, y1, z1 = box
    volume = np.zeros((20, 30, 24), np.uint8)
    volume[y0:y1, x0:x1, z0:z1] = 1
    transform = dicaugment.Compose([dicaugment.RandomRotate90(axes="xz", p=1)],
                                   bbox_params=dicaugment.BboxParams(format="pascal_voc_3d", label_fields=["names"]))
    results = set()
    for seed in range(40):
        random.seed(seed)
        np.random.seed(seed)
        result = transform(image=volume, bboxes=[box], names=["L5"])
        ones = np.argwhere(result["image"])
        (y0, x0, z0), (y1, x1, z1) = ones.min(0).tolist(), (ones.max(0) + 1).tolist()
        seen = tuple(round(float(end), 3) for end in result["bboxes"][0]) if result["bboxes"] else None
        results.add(((x0, y0, z0, x1, y1, z1), seen, tuple(result["names"])))
    return sorted(results, key=str)


wrong = []
for box in ((4, 5, 14, 10, 12, 20), (14, 5, 4, 20, 12, 10)):
    for expected, seen, names in turned(box):
        print(box, "expected", expected, "seen", seen, names)
        if seen != expected:
            wrong.append((expected, seen, names))
assert ((4, 5, 4, 10, 12, 10), (4, 5, 4, 10, 12, 17.5), ("L5",)) in wrong
assert len(wrong) == 4 and sum(seen is None and names == () for _, seen, names in wrong) == 3
EOF
