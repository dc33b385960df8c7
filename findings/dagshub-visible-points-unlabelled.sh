#!/usr/bin/env bash
# dagshub-annotation-converter turns visible key points of YOLO files into unlabelled ones, and keeps only the hidden.
#
# Packages: dagshub-annotation-converter==0.3.0, pillow==12.3.0, numpy==2.4.6
# Input: a YOLO pose file of one vertebra with four corners, three of them visible (2) and one labelled
#   but hidden (1), as CVAT exports them; it is read and written again.
# Expected: four labelled corners, before and after. COCO, where these flags come from, has 0 for not
#   labelled, 1 for labelled but hidden, and 2 for labelled and visible.
# Seen: 0 for the three visible corners, and 1 for the hidden one: only 1 is read as visible, and
#   everything else is written as 0.
# Why it matters: points with 0 are left out of the training, as with Ultralytics, so a model learns
#   nothing from the corners that can be seen; no message says so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
  dagshub-annotation-converter==0.3.0 pillow==12.3.0 numpy==2.4.6
venv/bin/python - <<'EOF'
from pathlib import Path

from dagshub_annotation_converter.converters.yolo import export_to_fs, load_yolo_from_fs
from PIL import Image

LINE = "0 0.5 0.5 0.25 0.125 0.375 0.4375 2 0.625 0.4375 2 0.625 0.5625 1 0.375 0.5625 2"
for folder in ("data/images", "data/labels"):
    Path(folder).mkdir(parents=True)
Image.new("L", (320, 320)).save("data/images/a.png")
Path("data/labels/a.txt").write_text(LINE + "\n")
Path("data.yaml").write_text("path: data\ntrain: images\nval: images\nkpt_shape: [4, 3]\nnames:\n  0: L5\n")

annotations, context = load_yolo_from_fs("pose", "data.yaml")
export_to_fs(context, [each for found in annotations.values() for each in found], "out")
(written,) = Path("out").rglob("a.txt")


def corners(line):
    values = [float(each) for each in line.split()[5:]]
    return [tuple(values[n:n + 3]) for n in range(0, len(values), 3)]


before, after = corners(LINE), corners(written.read_text())
print("before", before)
print("after ", after)
print("labelled corners:", sum(flag > 0 for *_, flag in before), "before,", sum(flag > 0 for *_, flag in after), "after")
assert [place for *place, _ in before] == [place for *place, _ in after]
assert [flag for *_, flag in before] == [2, 2, 1, 2] and [flag for *_, flag in after] == [0, 0, 1, 0]
EOF
