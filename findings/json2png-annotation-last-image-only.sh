#!/usr/bin/env bash
# json2png-annotation writes the masks of all images of a VIA file under one name, so that the last one stays.
#
# Packages: json2png-annotation==0.1.0, Pillow==12.3.0
# Input: one file in the form of the package's text and of the VGG Image Annotator, with a polygon in each of three
#   sagittal slices.
# Expected: three masks. The format names an image for each entry, and the call returns one path for each.
# Seen: the three paths are the same, named after the JSON file; the mask has the polygon of the last slice.
# Why it matters: three files are reported, nothing says that two were replaced, and VIA exports a whole project as
#   one file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check json2png-annotation==0.1.0 Pillow==12.3.0
venv/bin/python - <<'EOF'
import json
from pathlib import Path

from json2png_annotation import convert_annotations
from PIL import Image

TOPS = {"slice1.png": 10, "slice2.png": 40, "slice3.png": 70}
Path("in").mkdir()
Path("in/project.json").write_text(json.dumps({
    name: {"regions": {"0": {"shape_attributes": {"all_points_x": [10, 50, 50, 10], "all_points_y": [top, top, top + 9, top + 9]}}}}
    for name, top in TOPS.items()}))
reported = convert_annotations("in", "out", width=100, height=100)
written = sorted(path.name for path in Path("out").iterdir())
box = Image.open("out/project.png").getbbox()
print("expected masks", len(TOPS), "reported", reported, "written", written)
print("rows of the polygon in the mask:", box[1], "to", box[3], "of slices that begin at", list(TOPS.values()))
assert len(reported) == 3 and written == ["project.png"]
assert box == (10, 70, 51, 80)
EOF
