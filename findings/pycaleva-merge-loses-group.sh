#!/usr/bin/env bash
# pycaleva's merge_groups leaves out one group, and adds the mean probabilities of those it merges.
#
# Packages: pycaleva==0.8.2, ipython==9.18.1, matplotlib==3.10.9, pandas==2.3.3, scipy==1.17.1, statsmodels==0.14.6,
#   scikit-learn==1.9.1, numpy==2.4.6
# Input: a calibrated model and 400 patients in ten groups; the first four expect too few events for the
#   Hosmer-Lemeshow test, so merge_groups(5) joins them with the fifth.
# Expected: the joined group holds their 200 patients, with the mean of their probabilities.
# Seen: its interval covers all five groups, but it holds the patients of four: 40 of 400 are in no group. Its mean
#   probability is 0.176, the sum of four means, where no patient in it is above 0.124.
# Why it matters: the test and the calibration errors are meant to be read after merging. They lack a tenth of the
#   patients, and compare the events of the others with probabilities that nobody stated.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pycaleva==0.8.2 ipython==9.18.1 matplotlib==3.10.9 pandas==2.3.3 scipy==1.17.1 statsmodels==0.14.6 scikit-learn==1.9.1 numpy==2.4.6
MPLBACKEND=Agg venv/bin/python -W ignore - <<'EOF'
import numpy as np
from pycaleva import CalibrationEvaluator
from scipy.stats import chi2

random = np.random.default_rng(0)
stated = random.beta(1, 6, 400)
event = (random.random(400) < stated).astype(int)
evaluator = CalibrationEvaluator(event, stated, outsample=True, n_groups=10)
evaluator.merge_groups(5)
groups = evaluator.contingency_table
merged, seen_p = groups.iloc[0], evaluator.hosmerlemeshow(verbose=False).pvalue
rank = stated.argsort().argsort() // 40
expected = [np.flatnonzero(rank <= 4), *(np.flatnonzero(rank == number) for number in range(5, 10))]
terms = [(event[group].sum() - stated[group].sum()) ** 2 / (len(group) * stated[group].mean() * (1 - stated[group].mean())) for group in expected]
expected_p = chi2.sf(sum(terms), len(expected))
print(f"patients in groups: {int(groups.total.sum())} of {len(event)}")
print(f"first group {groups.index[0]}: expected {len(expected[0])} patients, mean {stated[expected[0]].mean():.3f}; "
      f"seen {int(merged.total)}, mean {merged.mean_predicted:.3f}, largest probability {stated[expected[0]].max():.3f}")
print(f"p of Hosmer-Lemeshow: expected {expected_p:.3f} seen {seen_p:.3f}")
assert len(groups) == len(expected) and int(groups.total.sum()) == 360 and int(merged.total) == 160
assert merged.mean_predicted > stated[expected[0]].max() and round(float(seen_p), 2) == 0.75
EOF
