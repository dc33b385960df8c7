#!/usr/bin/env bash
# imantics makes the COCO box of a mask one pixel narrower and one pixel lower than the mask.
#
# Packages: imantics==0.1.12, opencv-python-headless==4.14.0.94, lxml==6.1.3, xmljson==0.2.1,
#   pycocotools==2.0.11, numpy==2.4.6
# Input: the mask of a disc, 20 pixels wide and 10 high, exported with style="coco".
# Expected: the box [3, 20, 20, 10], as pycocotools gives it for the same mask; its area is the 200 that
#   imantics writes beside it.
# Seen: [3, 20, 19, 9]: the width is the last column less the first one. The polygon runs through the
#   centres of the outer pixels, and pycocotools fills 171 pixels of it.
# Why it matters: the loss is a row and a column at any size. A label of a thin disc, which is
#   compared with the mask it was made from, overlaps with it by 0.855 only.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check opencv-python-headless==4.14.0.94 lxml==6.1.3 xmljson==0.2.1 pycocotools==2.0.11 numpy==2.4.6
venv/bin/pip install --quiet --disable-pip-version-check --no-deps imantics==0.1.12
venv/bin/python - <<'EOF'
import numpy as np
from imantics import Annotation, Category, Image, Mask
from pycocotools import mask as coco_mask

disc = np.zeros((40, 40), bool)
disc[20:30, 3:23] = True
image = Image(width=40, height=40)
image.id = 1
image.add(Annotation(image=image, category=Category("L4-L5", id=1), mask=Mask(disc)))
exported = image.export(style="coco")["annotations"][0]
box = [int(number) for number in exported["bbox"]]
filled = int(coco_mask.area(coco_mask.frPyObjects(exported["segmentation"], 40, 40))[0])
rle = coco_mask.encode(np.asfortranarray(disc, np.uint8))
expected = [int(number) for number in coco_mask.toBbox(rle)]
overlap = float(coco_mask.iou([box], [expected], [0])[0, 0])
print("expected", expected, "seen", box, "area", int(exported["area"]), "filled", filled, "overlap", overlap)
assert expected == [3, 20, 20, 10] and int(exported["area"]) == 200
assert box == [3, 20, 19, 9] and filled == 171 and overlap < 0.9
EOF
