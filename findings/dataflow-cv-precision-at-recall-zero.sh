#!/usr/bin/env bash
# dataflow-cv reports the precision at a recall of zero as that of each class, and false positives by it.
#
# Packages: dataflow-cv==3.0.0, pycocotools==2.0.11, numpy==2.4.6
# Input: ten labelled discs; a detector that finds nine of them, with scores from 0.95 to 0.87, and has 27
#   boxes in empty places, with lower scores.
# Expected: 9 true and 27 false positives and a precision of 0.25 beside the recall of 0.9, by counting,
#   and by the package's own compute_pr_f1.
# Seen: in the table of classes no false positive, a precision of 1.0 and an F1 of 0.947, beside 36
#   detections. The recall of COCOeval is one number an IoU, and its position, which is always 0, is
#   looked up in the curve, where 0 is the first point.
# Why it matters: the precision of a class is 1 for any detector whose best box is right, and false
#   positives vanish from a table of results, with the recall of all boxes next to it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    pycocotools==2.0.11 numpy==2.4.6 opencv-python-headless==4.14.0.94 click==8.5.1
venv/bin/pip install --quiet --disable-pip-version-check --no-deps dataflow-cv==3.0.0
venv/bin/python - <<'EOF'
from contextlib import redirect_stdout
from io import StringIO

from dataflow.evaluate import DetectionEvaluator, compute_pr_f1
from dataflow.util.logging import LogConfig

IMAGES = range(1, 11)
DISC = [20, 20, 40, 20]
labels = {
    "images": [{"id": n, "file_name": f"{n}.png", "width": 320, "height": 320} for n in IMAGES],
    "categories": [{"id": 1, "name": "disc"}],
    "annotations": [
        {"id": n, "image_id": n, "category_id": 1, "bbox": DISC, "area": 800, "iscrowd": 0} for n in IMAGES],
}
found = [{"image_id": n, "category_id": 1, "bbox": DISC, "score": 0.96 - n / 100} for n in range(1, 10)]
wrong = [
    {"image_id": n, "category_id": 1, "bbox": [20, 100 + 60 * place, 40, 20], "score": 0.6 - n / 100 - place / 1000}
    for n in range(1, 10) for place in range(3)]
precision, recall = len(found) / len(found + wrong), len(found) / len(IMAGES)

with redirect_stdout(StringIO()):
    table = DetectionEvaluator(log_config=LogConfig(name="evaluate", verbose=True)).evaluate(labels, found + wrong)
    own = compute_pr_f1(labels, found + wrong).per_class[1]
of_class = table.per_class[1]
for name, got in (("table of classes", of_class), ("compute_pr_f1", own)):
    print(name, "true", got.tp, "false", got.fp, "precision", got.precision, "recall", got.recall, "F1", round(got.f1_score, 3))
print("by counting: true", len(found), "false", len(wrong), "precision", precision, "recall", recall)
assert (own.tp, own.fp, own.precision, own.recall) == (len(found), len(wrong), precision, recall) == (9, 27, 0.25, 0.9)
assert of_class.dt_count == 36 and (of_class.tp, of_class.fp) == (9, 0)
assert round(of_class.precision, 6) == 1.0 and round(of_class.recall, 6) == 0.9 and round(of_class.f1_score, 3) == 0.947
EOF
