#!/usr/bin/env bash
# pylabelme2yolo writes a rectangle among polygons as two corners, which YOLO reads as centre and size.
#
# Packages: pylabelme2yolo==0.1.2, typer==0.15.4, click==8.1.8, numpy==2.4.6, Pillow==12.3.0, tqdm==4.70.1,
#   and pybboxes==0.1.6 to read the line
# Input: a LabelMe file of 200 by 200 pixels with one rectangle, from (60, 80) to (140, 120), and output format polygon.
# Expected: the four corners, or the centre and size of the rectangle: the text names no shape that is not converted.
# Seen: a line of the class and four numbers, the corner at the upper left and the one at the lower right. A YOLO line
#   of five numbers is a box: its centre is the upper left corner, and it is 140 by 120 pixels.
# Why it matters: the line is valid, and a detector learns a box three times as high, off to the upper left.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check typer==0.15.4 click==8.1.8 numpy==2.4.6 Pillow==12.3.0 tqdm==4.70.1 pybboxes==0.1.6
venv/bin/pip install --quiet --disable-pip-version-check --no-deps pylabelme2yolo==0.1.2
venv/bin/python - <<'EOF'
import json
from pathlib import Path

from PIL import Image

Path("in").mkdir()
Image.new("RGB", (200, 200)).save("in/spine.jpg")
Path("in/classes.txt").write_text("0: L5\n")
Path("in/spine.json").write_text(json.dumps({
    "imagePath": "spine.jpg", "imageWidth": 200, "imageHeight": 200, "imageData": None,
    "shapes": [{"label": "L5", "shape_type": "rectangle", "points": [[60, 80], [140, 120]]}]}))
EOF
venv/bin/pylabelme2yolo --output_format polygon --json_dir in >/dev/null 2>&1
venv/bin/python - <<'EOF'
from pathlib import Path

from pybboxes import BoundingBox

line = Path("in/data/labels/train/spine.txt").read_text().split()
seen = list(BoundingBox.from_yolo(*map(float, line[1:]), image_size=(200, 200), strict=False).to_voc(return_values=True))
print("line:", *line)
print("box from upper left to lower right: expected", [60, 80, 140, 120], "seen", seen)
assert line == ["0", "0.300000", "0.400000", "0.700000", "0.600000"]
assert seen == [-10, 20, 130, 140]
EOF
