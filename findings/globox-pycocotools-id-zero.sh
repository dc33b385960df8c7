#!/usr/bin/env bash
# The first annotation of a COCO file by globox has id 0, which pycocotools counts as a miss and a false positive.
#
# Packages: globox==2.9.0, pycocotools==2.0.11, numpy==2.4.6
# Input: two images with one box each, saved by globox with auto_ids=True; predictions that are
#   equal to the labels.
# Expected: a perfect score, AP 1.0: COCO does not forbid the id 0, and globox can read its own
#   file.
# Seen: AP 0.25: pycocotools writes the id of the matched label into an array in which 0 means
#   unmatched.
# Why it matters: a data set that is evaluated after such a conversion loses the first hit, which
#   then stands as a false positive before all others of its score.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check globox==2.9.0 pycocotools==2.0.11 numpy==2.4.6
venv/bin/python - <<'EOF'
import json
from pathlib import Path

import globox
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

box = {"iscrowd": 0, "area": 2500, "bbox": [1, 2, 50, 50], "category_id": 1}
images = [{"id": n, "file_name": f"{n}.png", "width": 60, "height": 60} for n in (1, 2)]
Path("coco.json").write_text(json.dumps({
    "images": images,
    "categories": [{"id": 1, "name": "L5"}],
    "annotations": [{"id": 10 + n, "image_id": n, **box} for n in (1, 2)],
}))


def average_precision(path):
    truth = COCO(path)
    found = [{**ann, "score": 0.9} for ann in truth.dataset["annotations"]]
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


globox.AnnotationSet.from_coco("coco.json").save_coco("saved.json", auto_ids=True)
ids = [ann["id"] for ann in json.loads(Path("saved.json").read_text())["annotations"]]
before, after = average_precision("coco.json"), average_precision("saved.json")
print("ids", ids, "AP before", before, "AP after", round(after, 4))
assert ids[0] == 0 and before > 0.999 and round(after, 4) == 0.2525
EOF
