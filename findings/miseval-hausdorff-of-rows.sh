#!/usr/bin/env bash
# MISeval gives a mask that lies 25 rows too low a Hausdorff distance of 0, as if it were perfect.
#
# Packages: miseval==1.3.0, hausdorff==0.2.6, numba==0.68.1, scikit-image==0.26.0, scikit-learn==1.9.1,
#   scipy==1.17.1, numpy==2.4.6
# Input: the mask of a vertebra of 10 x 30 pixels; one prediction is moved 25 rows down, another 2 columns
#   to the right.
# Expected: 25 and 2 pixels, as SciPy says for the pixels of the masks: the package lists "HD" as the
#   Hausdorff distance of two segmentations.
# Seen: 0 and 2. The masks themselves are given to a function for lists of points, so that each row of
#   the image is taken for a point, and two images with the same rows in another order are equal.
# Why it matters: a model that finds the vertebra one level too low gets the best figure there is, and
#   one that is 2 pixels off a worse one.
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
from scipy.spatial.distance import directed_hausdorff


def mask(top, left):
    image = np.zeros((64, 64), np.uint8)
    image[top:top + 10, left:left + 30] = 1
    return image


def by_scipy(first, second):
    first, second = np.argwhere(first), np.argwhere(second)
    return max(directed_hausdorff(first, second)[0], directed_hausdorff(second, first)[0])


truth = mask(20, 10)
predictions = {"25 rows down": mask(45, 10), "2 columns right": mask(20, 12)}
oracle = {name: by_scipy(truth, prediction) for name, prediction in predictions.items()}
seen = {name: float(evaluate(truth, prediction, metric="HD")) for name, prediction in predictions.items()}
for name in predictions:
    print(f"{name}: SciPy {oracle[name]}, MISeval {seen[name]}")
assert oracle == {"25 rows down": 25.0, "2 columns right": 2.0}
assert seen == {"25 rows down": 0.0, "2 columns right": 2.0}
EOF
