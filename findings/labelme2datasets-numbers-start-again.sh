#!/usr/bin/env bash
# labelme2datasets numbers COCO annotations anew in each image, so that all of them belong to the last one.
#
# Packages: labelme2datasets==0.0.4, xmltodict==0.13.0, pycocotools==2.0.11, numpy==2.4.6, Pillow==12.3.0
# Input: Pascal VOC files of three patients with a box of L4 and of L5 in each, turned into COCO.
# Expected: six annotations with six ids, which the format wants to be unique; detections equal to the labels
#   have an average precision of 1.
# Seen: the ids are 1 and 2 three times. Looked up by id, pycocotools finds the boxes of the third patient for
#   each of the three images: two boxes are right, four missed; the average precision is 0.11.
# Why it matters: the file has the right number of boxes, each with its image, and opens without a word; training
#   by way of pycocotools draws one patient's vertebrae on all images.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check xmltodict==0.13.0 pycocotools==2.0.11 numpy==2.4.6 Pillow==12.3.0
venv/bin/pip install --quiet --disable-pip-version-check --no-deps labelme2datasets==0.0.4
cat > labels.py <<'EOF'
from pathlib import Path

from PIL import Image

for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
    Path("voc", folder).mkdir(parents=True)
Path("voc/class_names.txt").write_text("_background_\nL4\nL5\n")
Path("voc/ImageSets/Main/train.txt").write_text("1\n2\n3\n")
for patient in (1, 2, 3):
    Image.new("L", (400, 400)).save(f"voc/JPEGImages/{patient}.jpg")
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{100 * patient}</xmin><ymin>{top}</ymin>"
        f"<xmax>{100 * patient + 59}</xmax><ymax>{top + 39}</ymax></bndbox></object>" for name, top in (("L4", 100), ("L5", 200)))
    Path(f"voc/Annotations/{patient}.xml").write_text(
        f"<annotation><filename>{patient}.jpg</filename><size><width>400</width><height>400</height><depth>1</depth></size>"
        f"{objects}</annotation>")
EOF
venv/bin/python labels.py
venv/bin/python -m labelme2datasets.voc2coco --voc_dir voc --coco_dir coco >/dev/null
venv/bin/python - <<'EOF'
import contextlib
import io
import json
from pathlib import Path

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

boxes = json.loads(Path("coco/annotations/train.json").read_text())["annotations"]
with contextlib.redirect_stdout(io.StringIO()):
    coco = COCO("coco/annotations/train.json")
    for each in coco.dataset["annotations"]:
        each["iscrowd"] = 0
    run = COCOeval(coco, coco.loadRes([{key: each[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0} for each in boxes]), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
seen = [coco.loadAnns(coco.getAnnIds(imgIds=number))[0]["bbox"] for number in (1, 2, 3)]
precision = round(float(run.stats[0]), 2)
print("ids", [each["id"] for each in boxes], "of images", [each["image_id"] for each in boxes])
print("L4 expected:", [each["bbox"] for each in boxes[::2]])
print("L4 seen:    ", seen)
print("average precision of detections that equal the labels:", precision)
assert [each["id"] for each in boxes] == [1, 2] * 3
assert seen == [boxes[4]["bbox"]] * 3 and precision < 0.5
EOF
