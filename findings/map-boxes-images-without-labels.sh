#!/usr/bin/env bash
# map-boxes leaves out all detections on images without labels, also when it is told to keep them.
#
# Packages: map-boxes==1.0.6, pycocotools==2.0.11, pandas==3.0.1, numpy==2.4.6
# Input: one image with one labelled fracture that is found with a score of 0.8, and three images
#   without a fracture, on each of which one is found with a score of 0.9.
# Expected: 0.25, as by pycocotools, since three false positives rank before the hit; at most
#   exclude_not_in_annotations=True, which is off by default, may leave out images that have no labels.
# Seen: 1.0 in both cases: the parameter changes nothing, and the false positives never count.
# Why it matters: a detector that marks every healthy spine gets the figure of a perfect one. The labels
#   are one row a box, so a healthy image has none, and nothing is reported.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
  map-boxes==1.0.6 pycocotools==2.0.11 pandas==3.0.1 numpy==2.4.6
venv/bin/python - <<'EOF'
from map_boxes import mean_average_precision_for_boxes
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

BOX = [0.1, 0.3, 0.1, 0.3]  # left, right, top, bottom
labels = [["fractured", "fracture", *BOX]]
hit = ["fractured", "fracture", 0.8, *BOX]
wrong = [[f"healthy {n}", "fracture", 0.9, *BOX] for n in range(3)]


def by_map_boxes(**options):
    mean, _ = mean_average_precision_for_boxes(labels, [hit, *wrong], verbose=False, **options)
    return round(float(mean), 4)


def by_coco():
    names = ["fractured", *(row[0] for row in wrong)]
    box = [100, 100, 200, 200]
    coco = COCO()
    coco.dataset = {
        "info": {}, "images": [{"id": n} for n in range(len(names))], "categories": [{"id": 1, "name": "fracture"}],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": box, "area": 40000, "iscrowd": 0}]}
    coco.createIndex()
    found = [
        {"image_id": names.index(row[0]), "category_id": 1, "bbox": box, "score": row[2]} for row in (hit, *wrong)]
    run = COCOeval(coco, coco.loadRes(found), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return round(float(run.stats[1]), 4)


oracle = by_coco()
kept, left_out = by_map_boxes(exclude_not_in_annotations=False), by_map_boxes(exclude_not_in_annotations=True)
print("pycocotools", oracle, "map-boxes", kept, "and, told to leave out images without labels,", left_out)
assert oracle == 0.25 and kept == left_out == 1.0
EOF
