#!/usr/bin/env bash
# labelformat ignores the rotation of CVAT boxes, so that a turned disc gets a box in another shape.
#
# Packages: labelformat==0.1.17, pydantic-xml==2.22.0, PyYAML==6.0.4, fsspec==2026.9.0, Pillow==12.3.0,
#   opencv-python-headless==4.14.0.94, numpy==2.4.6
# Input: a CVAT file with two boxes of 80 x 20 pixels around one centre, of which the second is turned by 90
#   degrees by the handle that CVAT puts on each box, converted to YOLO.
# Expected: 80 x 20 and 20 x 80 pixels, or an error: CVAT writes "rotation", in degrees, to each box that was
#   turned, and the corners in the file are those before the turn.
# Seen: 80 x 20 pixels twice, and no word: a box of the file has no rotation for labelformat.
# Why it matters: annotators turn boxes to fit tilted vertebrae and discs; the box that is learned from
#   covers other tissue, and the two boxes overlap by a seventh (IoU).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pydantic-xml==2.22.0 PyYAML==6.0.4 fsspec==2026.9.0 Pillow==12.3.0 \
  opencv-python-headless==4.14.0.94 numpy==2.4.6
venv/bin/pip install --quiet --disable-pip-version-check --no-deps labelformat==0.1.17
venv/bin/python - <<'EOF'
from pathlib import Path

from labelformat.formats.cvat import CVATObjectDetectionInput
from labelformat.formats.yolov8 import YOLOv8ObjectDetectionOutput

box = '<box label="L5" source="manual" occluded="0" xtl="60.00" ytl="90.00" xbr="140.00" ybr="110.00"{} z_order="0"></box>'
Path("annotations.xml").write_text(
    "<annotations><version>1.1</version><meta><task><labels><label><name>L5</name></label></labels></task></meta>"
    '<image id="0" name="1.png" width="200" height="200">' + box.format("") + box.format(' rotation="90.00"') + "</image></annotations>")
YOLOv8ObjectDetectionOutput(Path("yolo/data.yaml"), "train").save(CVATObjectDetectionInput(Path("annotations.xml")))
lines = Path("yolo/labels/1.txt").read_text().splitlines()
seen = [tuple(round(200 * float(side)) for side in line.split()[3:]) for line in lines]
print("width and height, expected [(80, 20), (20, 80)], seen", seen)
assert seen == [(80, 20), (80, 20)]
EOF
