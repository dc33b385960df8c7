#!/usr/bin/env bash
# cocojson keeps no annotation at all when it merges chosen categories and the last one is not among them.
#
# Packages: cocojson==0.1.1, opencv-python-headless==4.14.0.94, numpy==2.4.6, tqdm==4.70.1, Pillow==12.3.0
# Input: a COCO file with the categories vertebra (1), disc (2) and sacrum (3) and two boxes of each; merge is
#   told to take 1 and 2 from it, as its parameter cids is meant.
# Expected: the four boxes of vertebrae and discs: by its text only the given category ids are merged.
# Seen: the two categories, the image, and no box; nothing is reported. What is looked up for each box is the id
#   of the last category of the list, not the box's own. With sacrum chosen too all six are there.
# Why it matters: the file is valid and its images count as healthy; merged with a second dataset the gap does
#   not show in any total.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check opencv-python-headless==4.14.0.94 numpy==2.4.6 tqdm==4.70.1 Pillow==12.3.0
venv/bin/pip install --quiet --disable-pip-version-check --no-deps cocojson==0.1.1
venv/bin/python - <<'EOF'
import json
from pathlib import Path

from cocojson.tools import merge
from PIL import Image

NAMES = {1: "vertebra", 2: "disc", 3: "sacrum"}
Path("images").mkdir()
Image.new("L", (100, 100)).save("images/spine.png")
Path("labels.json").write_text(json.dumps({
    "images": [{"id": 1, "file_name": "spine.png", "width": 100, "height": 100}],
    "categories": [{"id": number, "name": name} for number, name in NAMES.items()],
    "annotations": [
        {"id": 2 * number + copy, "image_id": 1, "category_id": number, "bbox": [10 * copy, 10 * number, 8, 8],
         "area": 64, "iscrowd": 0} for number in NAMES for copy in (0, 1)]}))
boxes = {}
for chosen in ([1, 2], [1, 2, 3]):
    merge(["labels.json"], ["images"], "out", cids=[chosen])
    merged = json.loads(Path("out/merged.json").read_text())
    boxes[len(chosen)] = len(merged["annotations"])
    print("chosen", chosen, "images", len(merged["images"]), "categories", [each["name"] for each in merged["categories"]],
          "boxes expected", 2 * len(chosen), "seen", boxes[len(chosen)])
assert boxes == {2: 0, 3: 6}
EOF
