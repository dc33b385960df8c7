#!/usr/bin/env bash
# MAPIE's calibration error with equal bins depends on the order in which the samples stand.
#
# Packages: MAPIE==1.6.0, scikit-learn==1.9.1, scipy==1.17.1, numpy==2.4.6
# Input: one hundred predictions: 50 at a score of 0.6, of which 45 are right, and 50 at 0.9, of
#   which 30 are right; two bins by the strategy "array split", for three orders of the same pairs.
# Expected: 0.3 for each order: bins are made of scores (Naeini et al. 2015, which the function
#   names), both groups miss by 0.3, and the strategy "quantile" says so.
# Seen: 0.3 if the lower scores come first, 0.0 in the opposite or a mixed order: the scores are cut
#   into parts as they stand, unsorted, and the highest of each part becomes the edge of a bin.
# Why it matters: shuffling a data set changes the figure, and a model that is wrong by 0.3 each way
#   passes as perfectly calibrated.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check MAPIE==1.6.0 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
venv/bin/python - <<'EOF'
import numpy as np
from mapie.metrics.calibration import expected_calibration_error

score = np.repeat([0.6, 0.9], 50)
right = np.repeat([1, 0, 1, 0], [45, 5, 30, 20])
orders = {
    "lower first": np.arange(100),
    "higher first": np.arange(100)[::-1],
    "in turn": np.arange(100).reshape(2, 50).T.ravel(),
}
seen = {}
for name, order in orders.items():
    for strategy in ("quantile", "array split"):
        error = expected_calibration_error(right[order], score[order], num_bins=2, split_strategy=strategy)
        seen[strategy, name] = round(error, 6)
        print(f"{strategy}, {name}: {seen[strategy, name]}")
assert [seen["quantile", name] for name in orders] == [0.3, 0.3, 0.3]
assert [seen["array split", name] for name in orders] == [0.3, 0.0, 0.0]
EOF
