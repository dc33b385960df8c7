#!/usr/bin/env bash
# pylabel writes the last box of an image to COCO once more for each empty image that follows it.
#
# Packages: pylabel==0.1.55, pandas==2.3.3, numpy==2.4.6
# Input: a COCO file with five images: one with a disc, three with nothing to label, and one with a disc.
# Expected: two annotations after import and export. An image without annotations is valid COCO, and such
#   images teach a detector what is no disc.
# Seen: five annotations: the first disc is there four times, with one and the same id. The list of images
#   is right. A row without a label is written with what the row before it left.
# Why it matters: a detector that finds both discs has found two of five labels, and its recall is 0.4.
#   The more empty images a data set has, the lower all results are, and nothing says so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pandas==2.3.3 numpy==2.4.6 scikit-learn==1.9.1 \
    opencv-python-headless==4.14.0.94 jupyter-bbox-widget==0.7.0 matplotlib==3.11.2 PyYAML==6.0.4 tqdm==4.70.1
venv/bin/pip install --quiet --disable-pip-version-check --no-deps pylabel==0.1.55 bbox-visualizer==1.0.1
export MPLBACKEND=Agg TQDM_DISABLE=1
venv/bin/python -W ignore - <<'EOF'
import json
from collections import Counter
from pathlib import Path

from pylabel import importer

LABELLED = {1: [10, 20, 30, 15], 5: [12, 50, 28, 14]}
Path("before.json").write_text(json.dumps({
    "images": [{"id": n, "file_name": f"{n}.png", "width": 100, "height": 90} for n in range(1, 6)],
    "categories": [{"id": 1, "name": "disc", "supercategory": ""}],
    "annotations": [
        {"id": n, "image_id": n, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for n, box in LABELLED.items()],
}))
importer.ImportCoco("before.json").export.ExportToCoco("after.json")

boxes_of = {}
for name in ("before", "after"):
    coco = json.loads(Path(f"{name}.json").read_text())
    boxes = [(a["image_id"], a["id"], tuple(a["bbox"])) for a in coco["annotations"]]
    boxes_of[name] = Counter((int(image), tuple(map(int, box))) for image, _, box in boxes)
    print(name, "images:", [image["id"] for image in coco["images"]], "annotations (image, id, box):", boxes)
    assert [int(image["id"]) for image in coco["images"]] == [1, 2, 3, 4, 5]
labels = {(image, tuple(box)) for image, box in LABELLED.items()}
print("labels found by a perfect detector:", len(labels), "of", boxes_of["after"].total())
assert boxes_of["before"] == dict.fromkeys(labels, 1)
assert boxes_of["after"] == {(1, (10, 20, 30, 15)): 4, (5, (12, 50, 28, 14)): 1}
EOF
