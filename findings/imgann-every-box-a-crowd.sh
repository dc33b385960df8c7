#!/usr/bin/env bash
# ImgAnn writes "iscrowd" to COCO as the text "0", so that evaluations take every box for a crowd.
#
# Packages: ImgAnn==0.8.1, pandas==2.3.3, Pillow==12.3.0, opencv-python-headless==4.14.0.94,
#   matplotlib==3.11.2, scikit-learn==1.9.1, pycocotools==2.0.11, numpy==2.4.6
# Input: an image and its Pascal VOC file with two discs, converted to COCO with corners (center=False), and
#   two detections that equal the discs.
# Expected: iscrowd 0, a number, as the COCO format defines it, and an average precision of 1.0.
# Seen: iscrowd "0". A text that is not empty counts as true in Python, so pycocotools ignores both discs,
#   and average precision is -1; with the number 0 in its place it is 1.0.
# Why it matters: nothing is wrong to the eye in the file, and no error comes; an evaluation without one
#   labelled object is reported as -1, or left out of a mean.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pandas==2.3.3 scikit-learn==1.9.1 matplotlib==3.11.2 Pillow==12.3.0 \
  opencv-python-headless==4.14.0.94 pycocotools==2.0.11 numpy==2.4.6
venv/bin/pip install --quiet --disable-pip-version-check --no-deps ImgAnn==0.8.1
venv/bin/python - <<'EOF'
import json
from pathlib import Path

from imgann import Convertor
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Path("images").mkdir()
Path("xml").mkdir()
Image.new("L", (100, 200)).save("images/1.png")
Path("xml/1.xml").write_text("<annotation><folder>images</folder><filename>1.png</filename>"
                             "<size><width>100</width><height>200</height><depth>1</depth></size>" + "".join(
    f"<object><name>disc</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
    f"<bndbox><xmin>10</xmin><ymin>{top}</ymin><xmax>50</xmax><ymax>{top + 20}</ymax></bndbox></object>"
    for top in (20, 60)) + "</annotation>")
Convertor.voc2coco("images", "xml", str(Path("labels.json").absolute()), center=False)
written = json.loads(Path("labels.json").read_text())


def precision(annotations):
    coco = COCO()
    coco.dataset = {**written, "info": {}, "annotations": annotations}
    coco.createIndex()
    run = COCOeval(coco, coco.loadRes([
        {"image_id": one["image_id"], "category_id": one["category_id"], "bbox": one["bbox"], "score": 0.9}
        for one in written["annotations"]]), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return round(float(run.stats[1]), 6)


crowds = [one["iscrowd"] for one in written["annotations"]]
seen = precision(written["annotations"])
with_numbers = precision([{**one, "iscrowd": 0, "ignore": 0, "area": float(one["area"])} for one in written["annotations"]])
print("iscrowd", crowds, "average precision", seen, "with numbers", with_numbers)
assert [one["bbox"] for one in written["annotations"]] == [[10, 20, 40, 20], [10, 60, 40, 20]]
assert crowds == ["0", "0"] and seen == -1.0 and with_numbers == 1.0
EOF
