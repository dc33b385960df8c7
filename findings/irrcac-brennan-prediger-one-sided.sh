#!/usr/bin/env bash
# irrCAC gives the Brennan-Prediger coefficient half the p value that its other coefficients get.
#
# Packages: irrCAC==0.4.4, scipy==1.12.0, pandas==2.3.3, numpy==1.26.4
# Input: two readers who grade eleven discs from 1 to 3 and agree on seven; five coefficients of one table.
# Expected: one rule for all: twice the tail of the t distribution beyond coefficient / standard error, as
#   the package does for Fleiss, Gwet, Conger and Krippendorff, and as its interval has two sides.
# Seen: the Brennan-Prediger coefficient gets 0.037, although its interval of 95 % holds zero: its tail is
#   not doubled, and no text says so. Twice the tail is 0.074.
# Why it matters: the coefficient passes for significant and its own interval says the opposite; who
#   compares coefficients by p value prefers it for nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check irrCAC==0.4.4 scipy==1.12.0 pandas==2.3.3 numpy==1.26.4
venv/bin/python - <<'EOF'
import pandas as pd
from irrCAC.raw import CAC
from scipy import stats

first = [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2]
second = [1, 2, 3, 1, 2, 3, 1, 3, 1, 2, 1]
table = CAC(pd.DataFrame({"first": first, "second": second}))
share = {}
for name in ("fleiss", "gwet", "conger", "krippendorff", "bp"):
    found = getattr(table, name)()["est"]
    both_tails = 2 * stats.t.sf(abs(found["z"]), len(first) - 1)
    share[name] = round(float(found["p_value"] / both_tails), 2)
    print(f"{found['coefficient_name']}: {found['coefficient_value']}, interval {found['confidence_interval']},"
          f" p {found['p_value']:.4f}, share of both tails {share[name]}")
assert share == {"fleiss": 1.0, "gwet": 1.0, "conger": 1.0, "krippendorff": 1.0, "bp": 0.5}
assert found["p_value"] < 0.05 and found["confidence_interval"][0] < 0
EOF
