#!/usr/bin/env bash
# cvannotate gives every box of a Pascal VOC file the class 0, whatever its name.
#
# Packages: cvannotate==1.0.0, defusedxml==0.7.1
# Input: a Pascal VOC file with a box named L4-L5 and one named L5-S1, converted to YOLO and COCO with the
#   list of classes L4-L5, L5-S1; and the YOLO file of the same boxes, converted to Pascal VOC and back.
# Expected: classes 0 and 1: the development kit of Pascal VOC says that the class stands in "name", and
#   the guide of the package converts such files with a list of classes.
# Seen: class 0 for both, also for the files that cvannotate has written itself. It looks for an element
#   "name_id", which is no part of the format, and takes 0 where there is none.
# Why it matters: all discs become the first of the list, each box is in its place, and a detector learns
#   that every disc is L4-L5.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check --no-deps cvannotate==1.0.0 defusedxml==0.7.1
venv/bin/python - <<'EOF'
import json
from pathlib import Path

from cvannotate.convert import read_annotation, write_annotation

LEVELS = ["L4-L5", "L5-S1"]
Path("1.xml").write_text("<annotation><filename>1.png</filename>"
                         "<size><width>100</width><height>200</height><depth>1</depth></size>" + "".join(
    f"<object><name>{name}</name><bndbox><xmin>10</xmin><ymin>{top}</ymin><xmax>50</xmax><ymax>{top + 20}</ymax></bndbox></object>"
    for name, top in zip(LEVELS, (20, 60))) + "</annotation>")
of_tool = read_annotation(Path("1.xml"), "voc")
write_annotation(of_tool, Path("yolo"), "yolo", LEVELS)
write_annotation(of_tool, Path("coco"), "coco", LEVELS)
yolo = [int(line.split()[0]) for line in next(Path("yolo").iterdir()).read_text().splitlines()]
coco = [box["category_id"] for box in json.loads(Path("coco/annotations.json").read_text())["annotations"]]

Path("2.txt").write_text("0 0.3 0.15 0.4 0.1\n1 0.3 0.35 0.4 0.1\n")
write_annotation(read_annotation(Path("2.txt"), "yolo", 100, 200), Path("voc"), "voc", LEVELS)
own = Path("voc/2.xml")
there_and_back = [box.class_id for box in read_annotation(own, "voc")[0].boxes]
print("classes in YOLO", yolo, "in COCO", coco, "of its own file", there_and_back)
assert all(name in own.read_text() for name in LEVELS)
assert yolo == coco == there_and_back == [0, 0]
EOF
