#!/usr/bin/env bash
# MAPIE's top-label calibration error lets a rare class count as much as a common one.
#
# Packages: MAPIE==1.6.0, scikit-learn==1.9.1, scipy==1.17.1, numpy==2.4.6
# Input: one hundred discs, all at a probability of 0.9: 90 are called normal, of which 81 are; 10 are
#   called abnormal, of which 4 are.
# Expected: 0.05: TL-ECE is an expectation over the samples (Gupta and Ramdas 2021, which the function
#   names), here 0.9 of an error of 0, and 0.1 of an error of 0.5.
# Seen: 0.25, the plain mean of the two classes' errors.
# Why it matters: the figure is far from that of other implementations where grades are unbalanced,
#   and a handful of samples of a rare grade decides it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check MAPIE==1.6.0 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
venv/bin/python - <<'EOF'
import numpy as np
from mapie.metrics.calibration import top_label_ece


def by_definition(truth, score, called):
    """One bin for each class and score, weighted by the number of samples in it."""
    error = 0.0
    for name in np.unique(called):
        of_class = called == name
        error += of_class.mean() * abs((truth[of_class] == name).mean() - score[of_class].mean())
    return round(float(error), 6)


score = np.full(100, 0.9)
called = np.repeat([0, 1], [90, 10])
truth = np.repeat([0, 1, 1, 0], [81, 9, 4, 6])
expected = by_definition(truth, score, called)
seen = round(top_label_ece(truth, score, y_score_arg=called), 6)
print("expected", expected, "seen", seen)
assert expected == 0.05 and seen == 0.25
EOF
