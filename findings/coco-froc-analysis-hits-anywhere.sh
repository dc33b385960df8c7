#!/usr/bin/env bash
# coco-froc-analysis counts a detection as a hit wherever it lies, as long as its image has a lesion of its class.
#
# Packages: coco-froc-analysis==0.2.15, numpy==1.26.4
# Input: four images with one labelled disc each; a detector whose boxes are the labels, and one whose
#   boxes all lie in the opposite corner.
# Expected: sensitivity 1 and no false positive for the first, sensitivity 0 and one false positive an
#   image for the second: a lesion is localised if the centre of a box lies in it, says the package.
# Seen: sensitivity 1 and no false positive for both: boxes and lesions are assigned to each other, and
#   the pairs are counted without a look at whether they touch.
# Why it matters: the curve measures how many boxes a detector draws, not where. One that draws the same
#   box on every image gets the sensitivity of a perfect one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check coco-froc-analysis==0.2.15 numpy==1.26.4
export MPLBACKEND=Agg
venv/bin/python - <<'EOF'
import json
from pathlib import Path

from coco_froc_analysis.froc import generate_froc_curve

IMAGES = (1, 2, 3, 4)
DISC, CORNER = [40, 40, 40, 20], [240, 240, 40, 20]
Path("truth.json").write_text(json.dumps({
    "images": [{"id": n, "file_name": f"{n}.png", "width": 320, "height": 320} for n in IMAGES],
    "categories": [{"id": 1, "name": "disc"}],
    "annotations": [
        {"id": n, "image_id": n, "category_id": 1, "bbox": DISC, "area": 800, "iscrowd": 0} for n in IMAGES],
}))


def by_package(box):
    Path("found.json").write_text(json.dumps(
        [{"image_id": n, "category_id": 1, "bbox": box, "score": 0.9} for n in IMAGES]))
    hits, wrong = generate_froc_curve("truth.json", "found.json", n_sample_points=2, plot_title=None, plot_output_path=None)
    return hits[1][0], wrong[1][0]


def by_centres(box):
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    inside = DISC[0] <= x <= DISC[0] + DISC[2] and DISC[1] <= y <= DISC[1] + DISC[3]
    return (1.0, 0.0) if inside else (0.0, 1.0)


for name, box in (("on the discs", DISC), ("in the corner", CORNER)):
    print("boxes", name, "(sensitivity, false positives an image):", by_package(box), "by their centres:", by_centres(box))
assert by_centres(DISC) == by_package(DISC) == (1.0, 0.0)
assert by_centres(CORNER) == (0.0, 1.0) and by_package(CORNER) == (1.0, 0.0)
EOF
