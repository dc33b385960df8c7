#!/usr/bin/env bash
# research-roc-utils takes a root within the variance of an area, and so finds models different that are not.
#
# Packages: research-roc-utils==0.1.1, scikits.bootstrap==1.1.0, scikit-learn==1.9.1, matplotlib==3.11.2,
#   pandas==2.3.3, scipy==1.17.1, numpy==2.4.6
# Input: two models of nearly the same quality with independent errors, on 500 healthy and 500 stenotic levels; their
#   areas under the curve are 0.863 and 0.841. roc_t_stat with kendalltau, as in the text of the package.
# Expected: a t of 1.3, by the formula of Hanley and McNeil that the package names, and by DeLong's.
# Seen: 3.2. The variance of an area is a root of a sum divided by the product of both numbers of cases, where the
#   formula has no root. roc_z_score does not divide at all, and returns NaN for models with correlated errors.
# Why it matters: the p value is 0.001 in place of 0.2, and the error grows with the number of patients.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check research-roc-utils==0.1.1 scikits.bootstrap==1.1.0 scikit-learn==1.9.1 matplotlib==3.11.2 pandas==2.3.3 scipy==1.17.1 numpy==2.4.6
MPLBACKEND=Agg venv/bin/python -W ignore - <<'EOF'
import numpy as np
from research_roc_utils.roc_utils import roc_t_stat, roc_z_score
from scipy.stats import kendalltau, pearsonr

random = np.random.default_rng(2)
stenotic = np.repeat([0, 1], 500)
first, second = random.normal(size=1000) + 1.5 * stenotic, random.normal(size=1000) + 1.3 * stenotic
areas, parts, variances = [], [], []
for score in (first, second):
    wins = (np.sign(score[stenotic == 1][:, None] - score[stenotic == 0][None]) + 1) / 2
    area = wins.mean()
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    variances.append((area * (1 - area) + 499 * (one - area**2) + 499 * (two - area**2)) / 500**2)
    areas.append(area)
    parts.append((wins.mean(1), wins.mean(0)))
difference = areas[0] - areas[1]
by_hanley = difference / np.sqrt(sum(variances))
by_delong = difference / np.sqrt(sum(np.var(parts[0][side] - parts[1][side], ddof=1) / 500 for side in (0, 1)))
seen = roc_t_stat(stenotic, first, second, kendalltau)
paired = roc_z_score(stenotic, first, first + 0.5 * second, pearsonr)
print(f"areas {areas[0]:.3f} and {areas[1]:.3f}")
print(f"expected t {by_hanley:.2f} by Hanley and McNeil without correlation, {by_delong:.2f} by DeLong; seen {seen:.2f}")
print("roc_z_score of two models with correlated errors:", paired)
assert 1.2 < by_hanley < 1.4 and 1.2 < by_delong < 1.4
assert round(float(seen), 1) == 3.2 and np.isnan(paired)
EOF
