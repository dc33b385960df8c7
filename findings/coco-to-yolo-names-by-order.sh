#!/usr/bin/env bash
# coco-to-yolo names classes by the order of the file and numbers boxes by their id: discs get other names.
#
# Packages: coco-to-yolo==1.2.1, tqdm==4.70.1, PyYAML==6.0.4, Pillow==12.3.0
# Input: a COCO file whose categories stand in the order L5-S1 (id 3), L4-L5 (id 2), L3-L4 (id 1), as when
#   a reader lists discs from below, with one box for each.
# Expected: each box has the name in the YAML file that it had: the COCO format links them by id, and the
#   order of the list means nothing.
# Seen: the disc L5-S1 becomes class 2, whose name is L3-L4, and the other way round: names are numbered as
#   they stand, boxes by their id less one. The text of the command says nothing of it.
# Why it matters: all boxes are there and each has a valid class; a detector learns the levels in reverse.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check --no-deps coco-to-yolo==1.2.1 tqdm==4.70.1 PyYAML==6.0.4 Pillow==12.3.0
cat > labels.py <<'EOF'
import json
from pathlib import Path

from PIL import Image

Path("source/images").mkdir(parents=True)
Path("source/annotations").mkdir()
Image.new("L", (100, 200)).save("source/images/1.png")
names = {3: "L5-S1", 2: "L4-L5", 1: "L3-L4"}
Path("source/annotations/labels.json").write_text(json.dumps({
    "images": [{"id": 1, "file_name": "1.png", "width": 100, "height": 200}],
    "categories": [{"id": number, "name": name} for number, name in names.items()],
    "annotations": [{"id": number, "image_id": 1, "category_id": number, "bbox": [10, 50 * number, 40, 20], "area": 800, "iscrowd": 0}
                    for number in names]}))
EOF
venv/bin/python labels.py
venv/bin/python -m coco_to_yolo.coco_to__yolo source target --test_ratio 0 >/dev/null 2>&1
venv/bin/python - <<'EOF'
from pathlib import Path

import yaml

names = yaml.safe_load(Path("target/converted.yaml").read_text())["names"]
lines = [line.split() for line in Path("target/converted/labels/train/1.txt").read_text().splitlines()]
by_top = {round(float(y) * 200 - 10): names[int(number)] for number, _, y, _, _ in lines}
expected = {50: "L3-L4", 100: "L4-L5", 150: "L5-S1"}
print("expected at each height:", expected)
print("seen at each height:    ", dict(sorted(by_top.items())))
assert by_top == {50: "L5-S1", 100: "L4-L5", 150: "L3-L4"}
EOF
