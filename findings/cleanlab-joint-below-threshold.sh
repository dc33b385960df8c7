#!/usr/bin/env bash
# cleanlab's confident joint counts a sample for a class whose own threshold it does not reach.
#
# Packages: cleanlab==2.9.0, numpy==2.4.6, scikit-learn==1.9.1
# Input: four samples of three classes; the thresholds (mean probability of a class among its own
#   labels) are 0.70, 0.28 and 0.20. The first sample has 0.45, 0.30 and 0.25.
# Expected: the first sample counted for class 1: of the classes whose threshold it reaches, 1 and
#   2, the more probable one, as Northcutt et al. 2021 (equation 1) define the joint.
# Seen: counted for class 0, whose threshold 0.70 it misses: the most probable of all classes is
#   taken once any two thresholds are reached.
# Why it matters: estimates of label noise are too low where one class dominates, as the normal one
#   does in medical grades.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check cleanlab==2.9.0 numpy==2.4.6 scikit-learn==1.9.1
venv/bin/python - <<'EOF'
import numpy as np
from cleanlab.count import compute_confident_joint

labels = np.array([0, 0, 1, 2])
p = np.array([[0.45, 0.30, 0.25], [0.95, 0.03, 0.02], [0.50, 0.28, 0.22], [0.60, 0.20, 0.20]])
thresholds = np.array([p[labels == k, k].mean() for k in range(3)])
by_definition = np.zeros((3, 3), int)
for label, row in zip(labels, p):
    reached = np.flatnonzero(row >= thresholds - 1e-9)
    if len(reached):
        by_definition[label, reached[row[reached].argmax()]] += 1
seen = compute_confident_joint(labels, p, calibrate=False)
print("thresholds", thresholds, "by definition", by_definition.tolist(), "seen", seen.tolist())
assert by_definition[0].tolist() == [1, 1, 0]
assert seen[0].tolist() == [2, 0, 0]
EOF
