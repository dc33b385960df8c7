#!/usr/bin/env bash
# datasetsconverter writes COCO annotations whose category_id is a name, so that no category has any.
#
# Packages: datasetsconverter==0.0.1, tqdm==4.70.1, Pillow==12.3.0, pycocotools==2.0.11, numpy==2.4.6
# Input: an image and its Pascal VOC file with a box named L4-L5 and one named L5-S1, converted to COCO.
# Expected: annotations with the number of one of the categories: the COCO format defines category_id as
#   an integer, the id of a category of the file.
# Seen: categories 0 and 1, and annotations of "L4-L5" and "L5-S1". pycocotools reads the file without a
#   word, knows both boxes, and finds none of them in either category.
# Why it matters: an evaluation against these labels has no labelled disc at all, and its figures are -1;
#   a trainer that looks up names by number finds none.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check --no-deps datasetsconverter==0.0.1 tqdm==4.70.1 Pillow==12.3.0 \
  pycocotools==2.0.11 numpy==2.4.6
venv/bin/python - <<'EOF'
import json
from pathlib import Path

from datasetsconverter import pascalvoc_to_coco
from PIL import Image
from pycocotools.coco import COCO

Path("images").mkdir()
Path("xml").mkdir()
Image.new("L", (100, 200)).save("images/1.png")
Path("xml/1.xml").write_text("<annotation><filename>1.png</filename>"
                             "<size><width>100</width><height>200</height><depth>1</depth></size>" + "".join(
    f"<object><name>{name}</name><bndbox><xmin>10</xmin><ymin>{top}</ymin><xmax>50</xmax><ymax>{top + 20}</ymax></bndbox></object>"
    for name, top in (("L4-L5", 20), ("L5-S1", 60))) + "</annotation>")
pascalvoc_to_coco("xml", "coco/labels.json", "images")
written = json.loads(Path("coco/labels.json").read_text())
print("categories:", written["categories"])
print("category_id of the annotations:", [box["category_id"] for box in written["annotations"]])
coco = COCO("coco/labels.json")
per_category = {one["name"]: len(coco.getAnnIds(catIds=[one["id"]])) for one in written["categories"]}
print("pycocotools:", len(coco.getAnnIds()), "annotations, per category", per_category)
assert [one["id"] for one in written["categories"]] == [0, 1]
assert [box["category_id"] for box in written["annotations"]] == ["L4-L5", "L5-S1"]
assert len(coco.getAnnIds()) == 2 and per_category == {"L4-L5": 0, "L5-S1": 0}
EOF
