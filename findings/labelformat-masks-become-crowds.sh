#!/usr/bin/env bash
# labelformat marks every vertebra whose mask it writes to COCO as a crowd, so that evaluations skip it.
#
# Packages: labelformat==0.1.17, opencv-python-headless==4.14.0.94, Pillow==12.3.0, fsspec==2026.9.0,
#   pydantic-xml==2.22.0, PyYAML==6.0.4, pycocotools==2.0.11, numpy==2.4.6
# Input: an image and the PNG mask of its two vertebrae, converted to COCO with segmentation type "rle", and
#   two detections that equal the vertebrae; ids and areas, which the file lacks, are added.
# Expected: iscrowd 0 for each: the COCO format keeps 1 for groups of objects that are not told apart, and
#   a single object may have a run-length mask as well; average precision 1.0.
# Seen: iscrowd is true for both, and average precision is -1, which is how pycocotools says that there
#   is nothing to evaluate.
# Why it matters: trainers leave crowds out too, so that a data set of exact masks has no object at all,
#   while the same masks as polygons have all.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check opencv-python-headless==4.14.0.94 Pillow==12.3.0 fsspec==2026.9.0 \
  pydantic-xml==2.22.0 PyYAML==6.0.4 pycocotools==2.0.11 numpy==2.4.6
venv/bin/pip install --quiet --disable-pip-version-check --no-deps labelformat==0.1.17
venv/bin/python - <<'EOF'
import json
from pathlib import Path

import numpy as np
from labelformat.formats.coco import COCOInstanceSegmentationOutput
from labelformat.formats.maskpair import MaskPairInstanceSegmentationInput
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

mask = np.zeros((64, 64), np.uint8)
mask[5:20, 5:30] = mask[30:45, 5:30] = 255
for folder in ("images", "masks"):
    Path(folder).mkdir()
    Image.fromarray(mask).save(f"{folder}/1.png")
found = [{"image_id": 0, "category_id": 0, "bbox": [5, top, 25, 15], "score": 0.9} for top in (5, 30)]
seen = {}
for kind in ("polygon", "rle"):
    source = MaskPairInstanceSegmentationInput("images/*.png", "masks/*.png", category_names="vertebra", segmentation_type=kind)
    COCOInstanceSegmentationOutput(Path("labels.json")).save(source)
    written = json.loads(Path("labels.json").read_text())
    crowds = [one["iscrowd"] for one in written["annotations"]]
    coco = COCO()
    coco.dataset = {**written, "info": {}, "annotations": [
        {**one, "id": number, "area": one["bbox"][2] * one["bbox"][3]} for number, one in enumerate(written["annotations"], 1)]}
    coco.createIndex()
    run = COCOeval(coco, coco.loadRes(found), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    seen[kind] = (crowds, round(float(run.stats[1]), 6))
for kind, (crowds, precision) in seen.items():
    print(f"{kind}: iscrowd {crowds}, average precision at an overlap of 0.5: {precision}")
assert seen == {"polygon": ([False, False], 1.0), "rle": ([True, True], -1.0)}
EOF
