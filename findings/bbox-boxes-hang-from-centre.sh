#!/usr/bin/env bash
# bbox compares 3D boxes as if they hung from their centres, so that a small box misses a large one around it.
#
# Packages: bbox==0.9.4, numpy==1.26.4, pyquaternion==0.9.9
# Input: a vertebra of 40 × 40 × 40 mm around the origin and boxes of the same base in and below it, as high or
#   lower, given by their centres, as BBox3D takes them by default.
# Expected: what their corners say: a box that lies in the vertebra has its share of the volume as the overlap.
# Seen: corners lie half the height above and below the centre, but iou_3d reckons the whole height below it: the
#   box on top has an overlap of 0, the one in the lower half is right, and one below the vertebra has some. Boxes
#   of equal height are compared rightly.
# Why it matters: detections of another height than the label, as most have, are missed or counted by the side
#   they are off, and tests with boxes of one size show nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check bbox==0.9.4 numpy==1.26.4 pyquaternion==0.9.9
venv/bin/python - <<'EOF'
from bbox import BBox3D
from bbox.metrics import iou_3d

SIDE = 40


def box(centre, height):
    return BBox3D(0, 0, centre, length=SIDE, width=SIDE, height=height)


def reach(each):
    return float(each.p[:, 2].min()), float(each.p[:, 2].max())


vertebra = box(0, SIDE)
seen = {}
for name, centre, height in (("equal", 10, 40), ("lower half", -10, 20), ("upper half", 10, 20), ("top quarter", 15, 10), ("below", -22, 4)):
    other = box(centre, height)
    (low, high), (bottom, top) = reach(vertebra), reach(other)
    common = max(0, min(high, top) - max(low, bottom))
    expected = round(common / (SIDE + height - common), 3)
    seen[name] = expected, round(float(iou_3d(vertebra, other)), 3)
    print(f"{name:12} from {bottom:5} to {top:5} mm: expected {expected}, seen {seen[name][1]}")
assert seen == {"equal": (0.6, 0.6), "lower half": (0.5, 0.5), "upper half": (0.5, 0.2), "top quarter": (0.25, 0.0), "below": (0.0, 0.1)}
EOF
