#!/usr/bin/env bash
# label-convert gives every box of a YOLO data set the class that follows its own.
#
# Packages: label-convert==0.3.0, opencv-python-headless==4.14.0.94, numpy==2.4.6, tqdm==4.70.1, PyYAML==6.0.4,
#   Pillow==12.3.0
# Input: a YOLO data set in the layout of Ultralytics with the classes 0 to 2, L3-L4, L4-L5 and L5-S1, and one
#   box of each in its training image.
# Expected: in COCO each box has the category with the name of its class.
# Seen: categories are numbered from 0, boxes from 1: the disc L3-L4 becomes L4-L5, L4-L5 becomes L5-S1, and
#   L5-S1 has the number 3, which no category has.
# Why it matters: levels are one too low and nothing says so; the lowest disc is not evaluated at all, since
#   pycocotools takes its classes from the list of categories.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
  opencv-python-headless==4.14.0.94 numpy==2.4.6 tqdm==4.70.1 PyYAML==6.0.4 Pillow==12.3.0
venv/bin/pip install --quiet --disable-pip-version-check --no-deps label-convert==0.3.0
venv/bin/python - <<'EOF' 2>/dev/null
import json
from pathlib import Path

import yaml
from label_convert.yolov8_to_coco import YOLOv8ToCOCO
from PIL import Image

NAMES = {0: "L3-L4", 1: "L4-L5", 2: "L5-S1"}
for split in ("train", "val"):
    for kind in ("images", "labels"):
        Path("yolo", kind, split).mkdir(parents=True)
    Image.new("L", (200, 200)).save(f"yolo/images/{split}/spine.jpg")
    Path("yolo/labels", split, "spine.txt").write_text("".join(f"{number} 0.5 {0.25 * number + 0.25} 0.2 0.1\n" for number in NAMES))
Path("data.yaml").write_text(yaml.safe_dump({"path": "yolo", "train": "images/train", "val": "images/val", "names": NAMES}))
YOLOv8ToCOCO("yolo", "coco", yaml_path="data.yaml")()
coco = json.loads(Path("coco/annotations/instances_train2017.json").read_text())
by_number = {each["id"]: each["name"] for each in coco["categories"]}
seen = [by_number.get(each["category_id"], "no category") for each in coco["annotations"]]
print("categories", by_number, "numbers of boxes", [each["category_id"] for each in coco["annotations"]])
print("expected from above:", list(NAMES.values()))
print("seen from above:    ", seen)
assert seen == ["L4-L5", "L5-S1", "no category"]
EOF
