#!/usr/bin/env bash
# mapcalc never looks at the scores: its mean average precision follows the order of the list.
#
# Packages: mapcalc==0.2.2, pycocotools==2.0.11, numpy==2.4.6
# Input: two labelled discs, two detections of them with scores of 0.9 and 0.8, and two false ones with 0.2
#   and 0.1, listed from the best to the worst, and the other way round.
# Expected: the same figure for both, 1.0: the metric of PASCAL VOC 2012, which the package names, ranks
#   by confidence, and the package asks for scores.
# Seen: 1.0, and 0.5 for the same detections listed from the worst to the best.
# Why it matters: a detector that lists its boxes by place, say from the top disc to the lowest, gets a
#   figure that says nothing about its scores, and nothing tells it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check mapcalc==0.2.2 pycocotools==2.0.11 numpy==2.4.6
venv/bin/python - <<'EOF'
from mapcalc import calculate_map
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

truth = [[10, 10, 50, 30], [10, 50, 50, 70]]
found = [(truth[0], 0.9), (truth[1], 0.8), ([60, 10, 90, 30], 0.2), ([60, 50, 90, 70], 0.1)]


def by_mapcalc(detections):
    boxes, scores = zip(*detections)
    result = {"boxes": list(boxes), "labels": [1] * len(boxes), "scores": list(scores)}
    return calculate_map({"boxes": truth, "labels": [1, 1]}, result, 0.5)


def by_coco(detections):
    def coco_box(box):
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    coco = COCO()
    coco.dataset = {"info": {}, "images": [{"id": 1}], "categories": [{"id": 1, "name": "disc"}], "annotations": [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": coco_box(box), "area": 800, "iscrowd": 0}
        for n, box in enumerate(truth, 1)]}
    coco.createIndex()
    run = COCOeval(coco, coco.loadRes([
        {"image_id": 1, "category_id": 1, "bbox": coco_box(box), "score": score} for box, score in detections]), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return float(run.stats[1])


oracle = [round(by_coco(order), 6) for order in (found, found[::-1])]
seen = [round(by_mapcalc(order), 6) for order in (found, found[::-1])]
print("pycocotools", oracle, "mapcalc", seen)
assert oracle == [1.0, 1.0] and seen == [1.0, 0.5]
EOF
