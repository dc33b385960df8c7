#!/usr/bin/env bash
# sahi turns the crowd regions of a COCO file into ordinary objects.
#
# Packages: sahi==0.12.8, shapely==2.2.0, opencv-python-headless==4.14.0.94, Pillow==12.3.0,
#   pycocotools==2.0.11, numpy==2.4.6
# Input: an image with one labelled box and one crowd region (iscrowd 1) around vertebrae that nobody
#   marked one by one; three predictions: the box, and two vertebrae within the region.
# Expected: AP 1.0 before and after sahi has read and written the file: COCO matches a crowd region any
#   number of times and counts it neither as hit nor as miss.
# Seen: AP 0.505: all annotations come back with iscrowd 0, although sahi's own class knows the flag. The
#   region is now an object that is missed, and what lies in it is a false positive.
# Why it matters: slicing of images and renaming of categories go this way too, and the same
#   predictions score worse after it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check shapely==2.2.0 opencv-python-headless==4.14.0.94 Pillow==12.3.0 pycocotools==2.0.11 numpy==2.4.6 tqdm==4.70.1 PyYAML==6.0.4 requests==2.34.2 click==8.5.1
venv/bin/pip install --quiet --disable-pip-version-check --no-deps sahi==0.12.8
venv/bin/python - <<'EOF'
import json
from pathlib import Path

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sahi.utils.coco import Coco
from sahi.utils.file import save_json


def annotation(number, box, crowd):
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}


Path("before.json").write_text(json.dumps({
    "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
    "categories": [{"id": 1, "name": "vertebra"}],
    "annotations": [annotation(1, [10, 60, 30, 20], 0), annotation(2, [10, 0, 30, 50], 1)],
}))
save_json(Coco.from_coco_dict_or_path("before.json").json, "after.json")
predictions = [
    {"image_id": 1, "category_id": 1, "bbox": box, "score": score}
    for box, score in (([10, 60, 30, 20], 0.9), ([10, 5, 30, 15], 0.8), ([10, 30, 30, 15], 0.7))
]


def average_precision(path):
    truth = COCO(path)
    evaluation = COCOeval(truth, truth.loadRes([dict(row) for row in predictions]), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return round(float(evaluation.stats[0]), 3)


flags = [row["iscrowd"] for row in json.loads(Path("after.json").read_text())["annotations"]]
before, after = average_precision("before.json"), average_precision("after.json")
print("iscrowd after", flags, "AP before", before, "AP after", after)
assert flags == [0, 0] and before == 1.0 and after == 0.505
EOF
