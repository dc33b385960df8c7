#!/usr/bin/env bash
# cocomltools makes two classes of one when it merges COCO files whose classes are numbered from 0.
#
# Packages: cocomltools==0.1.8, scikit-multilearn==0.2.0, scikit-learn==1.5.2, scipy==1.14.1, numpy==1.26.4,
#   pydantic==2.8.2, rich==13.9.4, Pillow==10.4.0
# Input: the COCO files of two hospitals with the same classes, L4-L5 (id 0) and L5-S1 (id 1), and three boxes each.
# Expected: the same two classes, each with the boxes of both hospitals.
# Seen: three classes. L5-S1 is one, but L4-L5 stands twice, as 0 with the boxes of the first hospital and as 2 with
#   those of the second: the number 0 is taken for a class that was not found.
# Why it matters: a detector learns to tell the hospitals apart, and pycocotools counts the right level with the other
#   number as a false positive.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check cocomltools==0.1.8 scikit-multilearn==0.2.0 scikit-learn==1.5.2 scipy==1.14.1 numpy==1.26.4 pydantic==2.8.2 rich==13.9.4 Pillow==10.4.0
venv/bin/python -W ignore - <<'EOF'
import json
from pathlib import Path

from cocomltools.coco_ops import CocoOps

NAMES = {0: "L4-L5", 1: "L5-S1"}
BOXES = {"north": [(1, 0), (1, 1), (2, 0)], "south": [(1, 0), (1, 1), (2, 1)]}  # image and class
for hospital, boxes in BOXES.items():
    Path(f"{hospital}.json").write_text(json.dumps({
        "images": [{"id": number, "file_name": f"{hospital}{number}.png", "width": 100, "height": 100} for number in (1, 2)],
        "categories": [{"id": number, "name": name} for number, name in NAMES.items()],
        "annotations": [{"id": number, "image_id": image, "category_id": category, "bbox": [10, 10, 40, 20], "area": 800, "iscrowd": 0}
                        for number, (image, category) in enumerate(boxes, 1)]}))
merged = CocoOps.merge(["north.json", "south.json"]).get_coco_dict()
seen = {each["id"]: (each["name"], sum(box["category_id"] == each["id"] for box in merged["annotations"])) for each in merged["categories"]}
expected = {number: (name, sum(category == number for boxes in BOXES.values() for _, category in boxes)) for number, name in NAMES.items()}
print("expected name and boxes of each class", expected)
print("seen                                 ", seen)
assert expected == {0: ("L4-L5", 3), 1: ("L5-S1", 3)}
assert seen == {0: ("L4-L5", 2), 1: ("L5-S1", 3), 2: ("L4-L5", 1)}
EOF
