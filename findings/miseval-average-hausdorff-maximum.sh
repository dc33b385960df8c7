#!/usr/bin/env bash
# MISeval's average Hausdorff distance is the largest distance, not an average.
#
# Packages: miseval==1.3.0, hausdorff==0.2.6, numba==0.68.1, scikit-image==0.26.0, scikit-learn==1.9.1,
#   scipy==1.17.1, numpy==2.4.6
# Input: the mask of a vertebra of 20 x 30 pixels and a prediction that equals it, but for one stray pixel
#   25 rows below.
# Expected: 25 / 601 / 2 = 0.02 pixels: the average Hausdorff distance is the mean over all points of the
#   way to the other mask (Taha and Hanbury 2015, which the package cites), and one pixel hardly changes it.
# Seen: 25.0, the same as the Hausdorff distance itself: the largest value is taken at both steps.
# Why it matters: the guide of the package recommends this metric for contours, and one pixel of noise turns
#   a perfect mask into one of the worst.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check miseval==1.3.0 hausdorff==0.2.6 numba==0.68.1 \
  scikit-image==0.26.0 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
venv/bin/python - <<'EOF'
import numpy as np
from miseval import evaluate
from scipy.spatial import cKDTree

truth = np.zeros((80, 80), np.uint8)
truth[10:30, 20:50] = 1
prediction = truth.copy()
prediction[54, 30] = 1
points = [np.argwhere(truth), np.argwhere(prediction)]
ways = [cKDTree(points[1]).query(points[0])[0], cKDTree(points[0]).query(points[1])[0]]
average = sum(way.mean() for way in ways) / 2
largest = max(way.max() for way in ways)
seen = float(evaluate(truth, prediction, metric="AHD"))
print(f"average {average:.4f}, largest {largest}, MISeval's average Hausdorff distance {seen}")
assert round(average, 4) == 0.0208 and largest == 25.0
assert seen == largest
EOF
