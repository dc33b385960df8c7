#!/usr/bin/env bash
# calikit's isotonic calibration separates equal scores by their label, and gives the lowest 0 and the highest 1.
#
# Packages: calikit==0.1.0, scikit-learn==1.9.1, scipy==1.17.1, numpy==2.4.6
# Input: 100 discs with the probabilities 0.1, 0.3, 0.5, 0.7 and 0.9, as a reader or a rounded model states them,
#   20 of each; as many are abnormal as stated. fit_isotonic, then apply.
# Expected: the same five values, since the monotone fit of equal scores is their common rate, and as IsotonicRegression
#   of scikit-learn returns them. The docstring names the same method, pool-adjacent-violators.
# Seen: 0, 0.375, 0.625, 0.875 and 1: healthy and abnormal discs of one score fall into different blocks.
# Why it matters: a calibrated model becomes certain at both ends; 2 of the 20 discs that now have the probability 0
#   are abnormal.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check calikit==0.1.0 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
venv/bin/python - <<'EOF'
from calikit import fit_isotonic
from sklearn.isotonic import IsotonicRegression

ABNORMAL = {0.1: 2, 0.3: 6, 0.5: 10, 0.7: 14, 0.9: 18}  # of 20 discs each
stated = [probability for probability in ABNORMAL for _ in range(20)]
truth = [int(number < count) for count in ABNORMAL.values() for number in range(20)]
expected = [round(float(value), 3) for value in IsotonicRegression().fit(stated, truth).predict(list(ABNORMAL))]
seen = fit_isotonic(stated, truth).apply(list(ABNORMAL))
print("rates of abnormal discs:", [count / 20 for count in ABNORMAL.values()])
print("expected", expected)
print("seen    ", seen)
assert expected == list(ABNORMAL)
assert seen == [0, 0.375, 0.625, 0.875, 1]
EOF
