#!/usr/bin/env bash
# pauc's intervals of a partial area under the curve are those of another area.
#
# Packages: pauc==0.2.2, numpy==2.4.6, scipy==1.17.1, matplotlib==3.11.2
# Input: 60 spines with and 60 without a fracture, with normally distributed scores, more spread where there is
#   a fracture; the partial area over sensitivities from 0.8 to 1, of which at most 0.2 is possible.
# Expected: a bootstrap interval around the area and, like it, between 0 and 0.2; the DeLong interval as well, or
#   an error, since that variance is known for the whole area only.
# Seen: the bootstrap draws areas over specificities from 0.8 to 1, since it forgets which of the two was wanted,
#   and its interval does not hold the area. That of DeLong has the width of the interval of the whole area.
# Why it matters: ruling out fractures is judged at high sensitivity; the paper has the area of one end of the
#   curve and the interval of the other.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pauc==0.2.2 numpy==2.4.6 scipy==1.17.1 matplotlib==3.11.2
MPLBACKEND=Agg venv/bin/python - <<'EOF'
import numpy as np
from pauc import ROC
from pauc.stats import ci_auc
from scipy.stats import norm

places = (np.arange(60) + 0.5) / 60
fractured = np.repeat([0, 1], 60)
scores = np.concatenate([norm.ppf(places), 1 + 2 * norm.ppf(places)])


def interval(curve, method):
    np.random.seed(0)
    return [round(float(each), 3) for each in ci_auc(curve, method=method, n_boot=500)]


whole = ROC(fractured, scores)
over = {focus: ROC(fractured, scores, partial_auc=(0.8, 1.0), partial_auc_focus=focus) for focus in ("sensitivity", "specificity")}
areas = {focus: round(float(curve.auc), 3) for focus, curve in over.items()}
drawn = {focus: interval(curve, "bootstrap") for focus, curve in over.items()}
print("area over sensitivities", areas["sensitivity"], "bootstrap", drawn["sensitivity"], "DeLong", interval(over["sensitivity"], "delong"))
print("area over specificities", areas["specificity"], "bootstrap", drawn["specificity"])
print("whole area", round(float(whole.auc), 3), "DeLong", interval(whole, "delong"))
low, high = drawn["sensitivity"]
assert not low <= areas["sensitivity"] <= high
assert drawn["sensitivity"] == drawn["specificity"]
widths = [np.diff(ci_auc(curve)).item() for curve in (whole, over["sensitivity"])]
assert np.isclose(*widths)
EOF
