#!/usr/bin/env bash
# yolococo loses the labels of images in folders, or gives one patient those of another.
#
# Packages: yolococo==0.2.1, Pillow==12.3.0
# Input: two patients with an image 1.png each, in images/first and images/second, and labels in
#   labels/first and labels/second, as Ultralytics lays them out; and the COCO file of the same boxes.
# Expected: one box for the first and two for the second: images are searched in folders too, and the option
#   "relative" keeps the folder in their names.
# Seen: to COCO, two images and no box. Labels in one folder, labels/1.txt, go to both patients. To YOLO,
#   there is one file, with the boxes of the second patient; those of the first are gone.
# Why it matters: slices are often numbered anew for each patient; the conversion ends without a word, and
#   a set of images without boxes looks like one of images without findings.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check --no-deps yolococo==0.2.1 Pillow==12.3.0
venv/bin/python - <<'EOF'
from collections import Counter
from pathlib import Path

from PIL import Image
from yolococo.convert import coco_to_yolo_files, yolo_to_coco

lines = {"first": "0 0.5 0.5 0.2 0.1\n", "second": "0 0.5 0.2 0.2 0.1\n1 0.5 0.7 0.2 0.1\n"}
for patient, text in lines.items():
    for folder in ("images", "labels"):
        Path(folder, patient).mkdir(parents=True)
    Image.new("L", (100, 200)).save(f"images/{patient}/1.png")
    Path(f"labels/{patient}/1.txt").write_text(text)


def to_coco():
    coco = yolo_to_coco(Path("images"), Path("labels"), file_name_mode="relative", show_progress=False)
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    boxes = Counter(names[box["image_id"]] for box in coco["annotations"])
    return {name: boxes[name] for name in names.values()}


in_folders = to_coco()
Path("labels/1.txt").write_text(lines["second"])
in_one_folder = to_coco()
coco_to_yolo_files({
    "images": [{"id": 1, "file_name": "first/1.png", "width": 100, "height": 200},
               {"id": 2, "file_name": "second/1.png", "width": 100, "height": 200}],
    "categories": [{"id": 1, "name": "L5"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 40, 20]},
                    {"id": 2, "image_id": 2, "category_id": 1, "bbox": [10, 90, 40, 20]}],
}, Path("yolo"), Path("classes.txt"), show_progress=False)
yolo = {path.name: path.read_text() for path in Path("yolo").rglob("*.txt")}
print("boxes with labels in folders:", in_folders)
print("boxes with labels in one folder:", in_one_folder)
print("files of YOLO:", yolo)
assert in_folders == {"first/1.png": 0, "second/1.png": 0}
assert in_one_folder == {"first/1.png": 2, "second/1.png": 2}
assert yolo == {"1.txt": "0 0.300000 0.500000 0.400000 0.100000"}
EOF
