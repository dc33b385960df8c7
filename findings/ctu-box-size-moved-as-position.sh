#!/usr/bin/env bash
# ctu moves the width and height of a box as if they were positions when it crops or pads an image.
#
# Packages: ctu==0.2.1, opencv-python-headless==4.14.0.94, matplotlib==3.10.9, numpy==2.4.6
# Input: an image of 400 rows and 200 columns with one vertebra, a box of 60 by 40 pixels and the same rectangle as
#   polygon, in COCO; a crop that takes off a tenth on each side, and a border of a quarter, by get_modif_image and
#   get_modif_coco_annotation.
# Expected: the box stays the box around the polygon, as the package promises the same change for image and annotation.
# Seen: the polygon is right. After the crop the box is 40 by 0 pixels, with the border it is 110 by 140.
# Why it matters: detectors are trained on boxes, and the drawing of this package shows boxes made of the polygon.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check ctu==0.2.1 opencv-python-headless==4.14.0.94 matplotlib==3.10.9 numpy==2.4.6
MPLBACKEND=Agg venv/bin/python -W ignore - <<'EOF'
import json
from pathlib import Path

import cv2
import numpy as np
from ctu import get_modif_coco_annotation, get_modif_image

image = np.zeros((400, 200, 3), np.uint8)
image[80:120, 40:100] = 255
cv2.imwrite("spine.png", image)
Path("coco.json").write_text(json.dumps({
    "info": {}, "categories": [{"id": 1, "name": "L5"}],
    "images": [{"id": 1, "file_name": "spine.png", "width": 200, "height": 400}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [40, 80, 60, 40], "area": 2400, "iscrowd": 0,
                     "segmentation": [[40, 80, 100, 80, 100, 120, 40, 120]]}]}))
seen = []
for crop, border in ((((0.1, 0.1), (0.9, 0.9)), None), (None, (0.25, 0.25))):
    steps = {"image_path": "spine.png", "img_name": "spine.png", "aspect_ratio": None, "image_ht_wd": None,
             "padding_ht_wd": border, "padding_color": (0, 0, 0), "crop_pt1_pt2": crop}
    changed = get_modif_image(steps)
    found = get_modif_coco_annotation(changed, "coco.json", steps)["annotations"][0]
    white = np.argwhere(changed[..., 0])
    (top, left), (bottom, right) = white.min(0).tolist(), (white.max(0) + 1).tolist()
    polygon = np.array(found["segmentation"][0]).reshape(-1, 2).round(3)
    expected, box = [left, top, right - left, bottom - top], [round(float(end), 3) for end in found["bbox"]]
    print("crop" if crop else "border", "expected", expected, "seen", box, "polygon", polygon.tolist())
    assert np.allclose([*polygon.min(0), *np.ptp(polygon, axis=0)], expected, atol=1.01) and np.allclose(box[:2], expected[:2], atol=1.01)
    seen.append(box[2:])
assert seen == [[40, 0], [110, 140]]
EOF
