#!/usr/bin/env bash
# pyfroc lets the eleventh segment of a 3D Slicer file take the place of the first, which is lost.
#
# Packages: pyfroc==0.3.5, slicerio==1.4.0, pynrrd==1.1.3, numpy==1.26.4
# Input: a .seg.nrrd file by slicerio with twelve findings, one above the other, each named after the
#   reader's confidence, as pyfroc wants it.
# Expected: twelve responses with the confidences 51 to 62, as slicerio reads them: the fields of 3D
#   Slicer are numbered from Segment0_ on, and go on with Segment10_.
# Seen: ten responses: only the last digit of a segment's number is read, so Segment10_ and Segment11_
#   replace Segment0_ and Segment1_. The first two findings are gone.
# Why it matters: a reader who marks more than ten places of a spine loses some, with their ratings, and
#   hits turn into misses in the FROC analysis without a word.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
  pyfroc==0.3.5 slicerio==1.4.0 pynrrd==1.1.3 numpy==1.26.4
venv/bin/python - <<'EOF'
import numpy as np
import slicerio
from pyfroc.loaders.seg_nrrd import SegNRRDLoader

SHAPE = (12, 12, 60)
written = slicerio.create_segmentation(SHAPE, np.eye(4))
for n in range(12):
    mask = np.zeros(SHAPE, bool)
    mask[4:8, 4:8, 5 * n:5 * n + 3] = True
    slicerio.add_segment(written, mask, {"id": f"Segment_{n + 1}", "name": f"confidence {51 + n}"})
slicerio.write_segmentation("reader.seg.nrrd", written)

read = slicerio.read_segmentation("reader.seg.nrrd")
oracle = []
for segment in read["segments"]:
    height = np.argwhere(slicerio.segment_mask(read, segment))[:, 2].mean()
    oracle.append((float(height), int(segment["name"].split()[1])))
responses = SegNRRDLoader.segnrrd2responses(SegNRRDLoader.read_segnrrd("reader.seg.nrrd"))
seen = sorted((round(float(response.coords.z), 3), response.confidence) for response in responses)
print("(mm to the head, confidence)")
print("slicerio", oracle)
print("pyfroc", seen)
assert oracle == [(5.0 * n + 1, 51 + n) for n in range(12)]
assert seen == oracle[2:]
EOF
