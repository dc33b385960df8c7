#!/usr/bin/env bash
# COCO-Assistant gives a new class the number of another one when it merges files whose numbers have gaps.
#
# Packages: coco-assistant==0.4.0, pycocotools==2.0.11, pandas==3.0.1, seaborn==0.13.2, matplotlib==3.11.2,
#   numpy==2.4.6, tqdm==4.70.1, Pillow==12.3.0, requests==2.34.2
# Input: two COCO files to merge. The first has L3, L4 and L5 with the numbers 3, 4 and 5, the second a sacrum
#   with the number 1, with one box of each.
# Expected: four categories with four numbers, and each box with its own.
# Seen: the sacrum gets the number 4, which L4 has: the number of the first file's categories and one more. Of a
#   number that two categories have pycocotools keeps the last name: the box of L4 is read as a sacrum.
# Why it matters: COCO's own numbers have gaps too, 80 classes up to 90. The merged file has all boxes, and those
#   of one class bear the name of another.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pycocotools==2.0.11 pandas==3.0.1 seaborn==0.13.2 \
  matplotlib==3.11.2 numpy==2.4.6 tqdm==4.70.1 Pillow==12.3.0 requests==2.34.2
venv/bin/pip install --quiet --disable-pip-version-check --no-deps coco-assistant==0.4.0
MPLBACKEND=Agg venv/bin/python - <<'EOF' 2>/dev/null
import json
from pathlib import Path

from coco_assistant import COCO_Assistant
from pycocotools.coco import COCO

FILES = {"lumbar": {3: "l3", 4: "l4", 5: "l5"}, "sacral": {1: "sacrum"}}
Path("annotations").mkdir()
expected = []
for name, categories in FILES.items():
    Path("images", name).mkdir(parents=True)
    expected += categories.values()
    Path("annotations", f"{name}.json").write_text(json.dumps({
        "info": {}, "licenses": [], "images": [{"id": 1, "file_name": f"{name}.png", "width": 100, "height": 100}],
        "categories": [{"id": number, "name": text} for number, text in categories.items()],
        "annotations": [{"id": number, "image_id": 1, "category_id": number, "bbox": [10, 10 * number, 20, 8],
                         "area": 160, "iscrowd": 0} for number in categories]}))
COCO_Assistant(Path("images"), Path("annotations")).merge()
(merged,) = Path().rglob("merged.json")
print("categories", json.loads(merged.read_text())["categories"])
coco = COCO(merged)
seen = [coco.cats[each["category_id"]]["name"] for each in coco.dataset["annotations"]]
print("names expected", expected)
print("names seen    ", seen)
assert seen == ["l3", "sacrum", "l5", "sacrum"]
EOF
