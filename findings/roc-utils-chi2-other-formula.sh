#!/usr/bin/env bash
# roc-utils divides and multiplies in another order than its chi-square formula, and picks another threshold.
#
# Packages: roc-utils==0.2.2, numpy==1.26.4, scipy==1.11.4, pandas==2.2.3, matplotlib==3.8.4
# Input: scores from 0 to 9 of 80 healthy and 20 degenerated discs, and the objective chi2.
# Expected: the threshold with the largest chi-square of the table of results and truth, as its text has it: the
#   squared difference of the rates, divided by the product of three terms.
# Seen: only the first term divides, the others multiply, which favours thresholds that few discs exceed. It picks
#   6, where chi-square by SciPy is 34.8; at 4 it is 47.9.
# Why it matters: the threshold is a plausible one, in the middle of the scores, and finds 8 of 20 degenerated
#   discs in place of 19.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check roc-utils==0.2.2 numpy==1.26.4 scipy==1.11.4 pandas==2.2.3 matplotlib==3.8.4
MPLBACKEND=Agg venv/bin/python -W ignore - <<'EOF'
import numpy as np
from roc_utils import compute_roc
from scipy.stats import chi2_contingency

HEALTHY = [20, 20, 14, 8, 6, 4, 8, 0, 0, 0]  # how many have the scores 0 to 9
DEGENERATED = [0, 0, 0, 1, 0, 6, 5, 2, 3, 3]
scores = np.repeat(np.tile(np.arange(10), 2), HEALTHY + DEGENERATED)
truth = np.repeat([False, True], [sum(HEALTHY), sum(DEGENERATED)])


def chi2(threshold):
    table = np.array([[np.sum(truth[scores > threshold] == state), np.sum(truth[scores <= threshold] == state)] for state in (False, True)])
    return chi2_contingency(table, correction=False).statistic if table.sum(0).all() else 0.0


by_table = {threshold: round(float(chi2(threshold)), 1) for threshold in range(10)}
best = max(by_table, key=by_table.get)
found = compute_roc(scores, truth, pos_label=True, objective="chi2").opd["chi2"]
picked = found.opt
print("chi-square by SciPy at the thresholds:", by_table)
for name, threshold in (("expected", best), ("seen", picked)):
    print(name, "threshold", threshold, "finds", int(np.sum(truth & (scores > threshold))), "of", int(truth.sum()))
assert (best, picked) == (4, 6)
EOF
