#!/usr/bin/env bash
# Label Studio's import of COCO gives all key points one label, and draws those that are not labelled.
#
# Packages: label-studio-sdk==2.1.2
# Input: a COCO file with one category, spine, whose "keypoints" are L3, L4 and L5; in its one
#   annotation L4 has the visibility 0, so stands at 0, 0.
# Expected: a point labelled L3 and one labelled L5. In COCO "keypoints" of a category names them in
#   order, and 0 means not labelled.
# Seen: three points with the label spine, of which one, hidden, lies in the upper left corner, and a
#   labelling config whose only label is spine. The log says that skeletons are not supported, and
#   nothing of names.
# Why it matters: a set of points that goes to Label Studio to be corrected comes back without its
#   levels, and with marks that nobody made; CVAT and others export points in just this form.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check label-studio-sdk==2.1.2
venv/bin/python - <<'EOF'
import json
import re
from pathlib import Path

from label_studio_sdk.converter.imports.coco import convert_coco_to_ls

points = [50, 20, 2, 0, 0, 0, 52, 60, 2]
spine = {"id": 1, "name": "spine", "keypoints": ["L3", "L4", "L5"], "skeleton": [[1, 2], [2, 3]]}
spot = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": points, "num_keypoints": 2}
Path("coco.json").write_text(json.dumps({
    "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
    "categories": [spine],
    "annotations": [{**spot, "bbox": [40, 10, 20, 60], "area": 1200, "iscrowd": 0}],
}))
convert_coco_to_ls("coco.json", "tasks.json")
(task,) = json.loads(Path("tasks.json").read_text())
found = [
    (value["keypointlabels"], value["x"], value["y"], value.get("hidden", False))
    for value in (item["value"] for item in task["annotations"][0]["result"])
    if "keypointlabels" in value
]
config = re.findall(r'<Label value="([^"]*)"', Path("tasks.label_config.xml").read_text())
print("points (label, x, y, hidden):", found)
print("labels of the config:", sorted(set(config)))
assert found == [
    (["spine"], 50, 20, False),
    (["spine"], 0, 0, True),
    (["spine"], 52, 60, False),
]
assert set(config) == {"spine"}
EOF
