#!/usr/bin/env bash
# rocauc-comparison gives labels of unsigned integers another area under the curve than the same labels as integers.
#
# Packages: rocauc-comparison==0.1.1, numpy==1.26.4, scipy==1.11.4
# Input: 60 healthy and 20 stenotic levels, the scores of two models, and the labels 0 and 1 as uint8, as they come
#   from a mask or a table; delong_roc_variance and delong_roc_test.
# Expected: the area of each model as by counting pairs, the same as with the labels as int64.
# Seen: the area is 0.354 in place of 0.889, since the sort by the negative label puts the zeros first: the negative
#   of 1 is 255. The p value of the comparison is 0.57 in place of 0.11.
# Why it matters: the check of the labels accepts them, and 20 healthy levels are compared with all others as if
#   they were the stenotic ones.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check rocauc-comparison==0.1.1 numpy==1.26.4 scipy==1.11.4
venv/bin/python -W ignore - <<'EOF'
import numpy as np
from rocauc_comparison import delong_roc_test, delong_roc_variance

random = np.random.default_rng(1)
stenotic = np.array([0] * 60 + [1] * 20)
first, second = random.normal(size=80) + 1.5 * stenotic, random.normal(size=80) + stenotic
pairs = np.sign(first[stenotic == 1][:, None] - first[stenotic == 0][None])
expected = float((pairs.mean() + 1) / 2)
seen = {}
for kind in (np.int64, np.uint8):
    labels = stenotic.astype(kind)
    area, _ = delong_roc_variance(labels, first)
    seen[kind] = round(float(area), 3), round(float(delong_roc_test(labels, first, second).p_value), 3)
    print(f"{kind.__name__}: area {seen[kind][0]}, by counting pairs {expected:.3f}; p of the comparison {seen[kind][1]}")
assert seen[np.int64][0] == round(expected, 3) == 0.889
assert seen[np.uint8] == (0.354, 0.569)
EOF
