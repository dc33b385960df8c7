#!/usr/bin/env bash
# TPTBox names the vertebrae of a 3D Slicer file by the order of the clicks, not by their labels.
#
# Packages: TPTBox==1.1.0, numpy==2.4.6
# Input: a .mrk.json file as 3D Slicer saves it, with the points L5, L4 and L3, labelled from below; the
#   ids of the points are 1, 2 and 3, as 3D Slicer counts them.
# Expected: L5, L4 and L3, which TPTBox knows by these names. By the schema of 3D Slicer an id tells a
#   point from others of the same markup, and the label is what is shown next to it.
# Seen: C1, C2 and C3: the id is taken for the number of the vertebra, and the label is kept as a text
#   beside it.
# Why it matters: asked for L5, the points have none. Beside a segmentation with TPTBox's numbers the
#   lumbar points belong to cervical vertebrae, and each level is compared with another.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check TPTBox==1.1.0 numpy==2.4.6
venv/bin/python - <<'EOF'
import json
from pathlib import Path

from TPTBox import POI_Global, Vertebra_Instance

SCHEMA = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
PLACES = {"L5": [1.0, 2.0, -30.0], "L4": [1.0, 2.0, 0.0], "L3": [1.0, 2.0, 30.0]}
points = [{
    "id": str(number), "label": label, "description": "", "associatedNodeID": "", "position": place,
    "orientation": [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0],
    "selected": True, "locked": False, "visibility": True, "positionStatus": "defined",
} for number, (label, place) in enumerate(PLACES.items(), 1)]
Path("points.mrk.json").write_text(json.dumps({
    "@schema": SCHEMA + "markups-schema-v1.0.3.json#",
    "markups": [{
        "type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "locked": False,
        "fixedNumberOfControlPoints": False, "labelFormat": "%N-%d", "lastUsedControlPointNumber": 3,
        "controlPoints": points}],
}))

read = POI_Global.load("points.mrk.json")
seen = {Vertebra_Instance(region).name: list(place) for region, _, place in read.items()}
print("3D Slicer", PLACES)
print("TPTBox", seen, "points of L5:", len(read.extract_region(Vertebra_Instance["L5"].value)))
assert seen == dict(zip(("C1", "C2", "C3"), PLACES.values()))
assert len(read.extract_region(Vertebra_Instance["L5"].value)) == 0
EOF
