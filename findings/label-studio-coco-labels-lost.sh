#!/usr/bin/env bash
# Label Studio's COCO export loses the labels of rectangles once a project also has key points.
#
# Packages: label-studio-sdk==2.1.2
# Input: one task with rectangles L4 and L5 and a key point of each, exported to COCO; and the same
#   task without its key points.
# Expected: two categories, L4 and L5, and each rectangle in its own, with or without key points;
#   points in the fractions of a pixel that the JSON has.
# Seen: with key points one category, `default`, that both rectangles share; the point at 48.64,
#   39.68 is 49, 40. Without key points the categories are L4 and L5.
# Why it matters: boxes of a project that marks points too come back without their levels, and
#   nothing says so; the JSON export has all of it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check label-studio-sdk==2.1.2
venv/bin/python - <<'EOF'
import json
from pathlib import Path

from label_studio_sdk.converter import Converter

BOXES = """<RectangleLabels name="box" toName="image">
<Label value="L4"/><Label value="L5"/></RectangleLabels>"""
POINTS = """<KeyPointLabels name="point" toName="image">
<Label value="L4" model_index="0"/><Label value="L5" model_index="1"/></KeyPointLabels>"""


def mark(kind, name, label, **value):
    size = {"original_width": 320, "original_height": 320, "image_rotation": 0}
    value = {**value, kind: [label], "rotation": 0}
    names = {"id": kind + label, "type": kind, "from_name": name, "to_name": "image"}
    return {**names, **size, "value": value}


def exported(folder, config, marks):
    annotations = [{"id": 1, "result": marks}]
    task = {"id": 1, "data": {"image": "a.png"}, "annotations": annotations}
    Path("tasks.json").write_text(json.dumps([task]))
    view = f'<View><Image name="image" value="$image"/>{config}</View>'
    Converter(view, ".").convert_to_coco("tasks.json", folder, is_dir=False)
    return json.loads(Path(folder, "result.json").read_text())


boxes = [
    mark("rectanglelabels", "box", "L4", x=10, y=10, width=10, height=5),
    mark("rectanglelabels", "box", "L5", x=10, y=30, width=10, height=5),
]
points = [
    mark("keypointlabels", "point", "L4", x=15.2, y=12.4, width=0.5),
    mark("keypointlabels", "point", "L5", x=15.2, y=32.4, width=0.5),
]
for folder, config, marks in (("both", BOXES + POINTS, boxes + points), ("boxes", BOXES, boxes)):
    found = exported(folder, config, marks)
    names = [category["name"] for category in found["categories"]]
    kept = [(each["category_id"], each["bbox"]) for each in found["annotations"]]
    print(folder, "categories", names, "annotations", kept)
    if folder == "both":
        assert names == ["default"] and {number for number, _ in kept} == {0}
        assert any(each.get("keypoints", [])[:2] == [49, 40] for each in found["annotations"])
    else:
        assert names == ["L4", "L5"] and [number for number, _ in kept] == [0, 1]
EOF
