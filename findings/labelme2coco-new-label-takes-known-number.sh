#!/usr/bin/env bash
# labelme2coco gives a label that is not in the known list of categories the number of one that is.
#
# Packages: labelme2coco==0.2.6, sahi==0.12.8, shapely==2.2.0, opencv-python-headless==4.14.0.94,
#   Pillow==12.3.0, tqdm==4.70.1, PyYAML==6.0.4, requests==2.34.2, click==8.5.1, numpy==2.4.6
# Input: a LabelMe file with boxes of L5-S1, L4-L5 and L3-L4, and a list of categories of an earlier data
#   set: L3-L4 (id 0) and L4-L5 (id 1).
# Expected: the known numbers for the known labels and a free one, such as 2, for L5-S1: the parameter
#   means to start from a list, and the COCO format wants an id of its own for each category.
# Seen: L5-S1 gets 0. Then L3-L4 is no longer found under its number and gets 1, that of L4-L5; the file has
#   four categories with two numbers.
# Why it matters: the guide of the package gives the categories of the training set to the validation set in
#   this way. One label that is new there gives known discs the numbers of their neighbours.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check --no-deps labelme2coco==0.2.6 sahi==0.12.8 shapely==2.2.0 \
  opencv-python-headless==4.14.0.94 Pillow==12.3.0 tqdm==4.70.1 PyYAML==6.0.4 requests==2.34.2 click==8.5.1 numpy==2.4.6
venv/bin/python - <<'EOF'
import json
from pathlib import Path

from labelme2coco.labelme2coco import get_coco_from_labelme_folder

known = [{"id": 0, "name": "L3-L4", "supercategory": "disc"}, {"id": 1, "name": "L4-L5", "supercategory": "disc"}]
tops = {"L5-S1": 60, "L4-L5": 30, "L3-L4": 5}
Path("labelme").mkdir()
Path("labelme/1.json").write_text(json.dumps({
    "imagePath": "1.png", "imageWidth": 100, "imageHeight": 200, "imageData": None, "flags": {}, "shapes": [
        {"label": label, "shape_type": "rectangle", "points": [[10, top], [50, top + 15]], "flags": {}, "group_id": None}
        for label, top in tops.items()]}))
coco = get_coco_from_labelme_folder("labelme", coco_category_list=known).json
categories = [(one["id"], one["name"]) for one in coco["categories"]]
seen = {next(label for label, top in tops.items() if top == box["bbox"][1]): box["category_id"] for box in coco["annotations"]}
print("categories:", categories)
print("numbers of the boxes:", seen)
assert categories == [(0, "L3-L4"), (1, "L4-L5"), (0, "L5-S1"), (1, "L3-L4")]
assert seen == {"L5-S1": 0, "L4-L5": 1, "L3-L4": 1}
EOF
