#!/usr/bin/env bash
# lesion-metrics never sees the part of a prediction that lies outside the bounding box of the true lesion.
#
# Packages: lesion-metrics==0.1.12, scikit-image==0.26.0, numpy==2.4.6
# Input: a metastasis of 8 × 8 × 8 voxels in a vertebra of 40 × 40 × 40, and three predictions: the metastasis
#   itself, twice its height, and the whole vertebra.
# Expected: intersections over unions of 1, 0.5 and 0.008, since the union holds the whole prediction; at a
#   threshold of 0.6 the metastasis is found by the first only.
# Seen: iou_per_lesion has 1.0 for all three, and ltpr with iou_threshold=0.6 finds it each time: the prediction
#   is cut to the box of the lesion first, also for the union.
# Why it matters: the threshold is there to ask for a good outline, and a model that marks entire vertebrae gets
#   full marks.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check scikit-image==0.26.0 numpy==2.4.6
venv/bin/pip install --quiet --disable-pip-version-check --no-deps lesion-metrics==0.1.12
venv/bin/python - <<'EOF'
import numpy as np
from lesion_metrics.metrics import iou_per_lesion, ltpr


def block(low, high, top=None):
    mask = np.zeros((60, 60, 60), bool)
    mask[low:top or high, low:high, low:high] = True
    return mask


lesion = block(20, 28)
predictions = {"itself": block(20, 28), "twice its height": block(20, 28, top=36), "whole vertebra": block(10, 50)}
seen = []
for name, prediction in predictions.items():
    expected = np.sum(lesion & prediction) / np.sum(lesion | prediction)
    (overlap,) = iou_per_lesion(lesion, prediction)
    found = ltpr(prediction, lesion, iou_threshold=0.6)
    seen.append((float(overlap), float(found)))
    print(f"{name}: intersection over union {expected:.3f}, seen {overlap:.3f}; found by a threshold of 0.6: {expected > 0.6}, seen {found == 1}")
assert seen == [(1.0, 1.0)] * 3
EOF
