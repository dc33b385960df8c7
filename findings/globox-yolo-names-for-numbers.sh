#!/usr/bin/env bash
# globox writes YOLO label lines that begin with the class's name, unless it is given numbers.
#
# Packages: globox==2.9.0, numpy==2.4.6
# Input: a COCO file with the categories 5 = L5 and 9 = T12-L1, and one box of each;
#   AnnotationSet.from_coco, then save_yolo_v5 with its defaults.
# Expected: lines that begin with class numbers, as the format demands, and a list of names.
# Seen: lines that begin with `L5` and `T12-L1`, though the set knows the numbers of the COCO file;
#   no names are written.
# Why it matters: a YOLO trainer drops or refuses every such line, and the numbers must be made up
#   by hand.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check globox==2.9.0 numpy==2.4.6
venv/bin/python - <<'EOF'
import json
from pathlib import Path

import globox

box = {"iscrowd": 0, "area": 80, "image_id": 7}
Path("coco.json").write_text(json.dumps({
    "images": [{"id": 7, "file_name": "b.png", "width": 60, "height": 40}],
    "categories": [{"id": 5, "name": "L5"}, {"id": 9, "name": "T12-L1"}],
    "annotations": [
        {"id": 1, "category_id": 5, "bbox": [1.5, 2.25, 10, 8], **box},
        {"id": 2, "category_id": 9, "bbox": [1.5, 20.25, 10, 8], **box},
    ],
}))
globox.AnnotationSet.from_coco("coco.json").save_yolo_v5("labels")
lines = Path("labels/b.txt").read_text().splitlines()
print(sorted(path.name for path in Path("labels").iterdir()), lines)
assert [line.split()[0] for line in lines] == ["L5", "T12-L1"]
assert sorted(path.name for path in Path("labels").iterdir()) == ["b.txt"]
EOF
