#!/usr/bin/env bash
# pybboxes rounds boxes to whole pixels between two formats that both hold fractions of the image.
#
# Packages: pybboxes==0.2.0, numpy==2.4.6
# Input: a YOLO box around a disc in an image of 128 x 128 pixels, 25.6 pixels wide and 3.2 high, converted
#   to the format of FiftyOne or of albumentations, and back.
# Expected: the same box: all three formats hold fractions, and the guide of the package says nothing of
#   rounding but that its example is printed with two decimals.
# Seen: 26 x 4 pixels after the first step and after the second; the overlap with the true box is 0.79.
#   Each conversion goes by corners in whole pixels.
# Why it matters: a disc of a small crop grows by a quarter of its height when labels merely change their
#   format, and a metric at an overlap of 0.8 or more pays for it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check --no-deps pybboxes==0.2.0 numpy==2.4.6
venv/bin/python - <<'EOF'
from pybboxes import convert_bbox

SIZE = 128


def corners(box):
    x, y, width, height = (SIZE * value for value in box)
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def overlap(first, second):
    (left, top, right, bottom), (other_left, other_top, other_right, other_bottom) = corners(first), corners(second)
    common = (min(right, other_right) - max(left, other_left)) * (min(bottom, other_bottom) - max(top, other_top))
    return common / (SIZE * SIZE * (first[2] * first[3] + second[2] * second[3]) - common)


disc = (0.5, 65 / SIZE, 25.6 / SIZE, 3.2 / SIZE)
seen = {}
for name in ("fiftyone", "albumentations"):
    there = convert_bbox(disc, from_type="yolo", to_type=name, image_size=(SIZE, SIZE))
    back = convert_bbox(there, from_type=name, to_type="yolo", image_size=(SIZE, SIZE))
    seen[name] = [round(SIZE * float(side), 6) for side in back[2:]], round(float(overlap(disc, back)), 2)
    print(f"{name}: {there}, and back {seen[name][0]} pixels instead of [25.6, 3.2], overlap {seen[name][1]}")
assert seen == {name: ([26.0, 4.0], 0.79) for name in ("fiftyone", "albumentations")}
EOF
