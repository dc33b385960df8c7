#!/usr/bin/env bash
# iaa-kit returns the weighted kappa under the name of Gwet's AC2.
#
# Packages: iaa-kit==0.1.2, irrCAC==0.4.4, scipy==1.12.0, pandas==2.3.3, numpy==1.26.4
# Input: grades 0 to 3 of 52 levels by two readers, of which 45 are 0 for both; ac2 with quadratic weights.
# Expected: 0.979, as irrCAC computes it and as the formula of Gwet gives it.
# Seen: 0.758, exactly Cohen's kappa with quadratic weights. The text of the package lists Gwet's AC1 and AC2 beside
#   weighted kappa, and its AC1 is right.
# Why it matters: AC2 is taken where most levels are normal, since kappa falls there however well readers agree;
#   the number that was to avoid this is that kappa.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check iaa-kit==0.1.2 irrCAC==0.4.4 scipy==1.12.0 pandas==2.3.3 numpy==1.26.4
venv/bin/python -W ignore - <<'EOF'
import numpy as np
import pandas as pd
from iaa_kit import ac1, ac2, weighted_kappa
from irrCAC.raw import CAC

first = [0] * 40 + [1, 2, 3, 0] + [0] * 4 + [0, 0, 0, 1]
second = [0] * 40 + [2, 1, 3, 1] + [1, 0, 0, 2] + [0, 0, 0, 1]
table = np.zeros((4, 4))
np.add.at(table, (first, second), 1 / len(first))
share = (table.sum(0) + table.sum(1)) / 2
weights = 1 - (np.subtract.outer(range(4), range(4)) / 3) ** 2
by_chance = weights.sum() / 12 * (share * (1 - share)).sum()
by_formula = float(((weights * table).sum() - by_chance) / (1 - by_chance))
readers = pd.DataFrame({"first": first, "second": second})
by_irrcac = float(CAC(readers, weights="quadratic").gwet()["est"]["coefficient_value"])
kappa, seen = weighted_kappa(first, second, "quadratic"), ac2(first, second, "quadratic")
print(f"AC2 expected {by_formula:.3f} by formula, {by_irrcac:.3f} by irrCAC; seen {seen:.3f}, weighted kappa {kappa:.3f}")
print(f"AC1 {ac1(first, second):.3f}, by irrCAC {CAC(readers).gwet()['est']['coefficient_value']:.3f}")
assert abs(by_formula - by_irrcac) < 1e-4 and by_formula > 0.95
assert seen == kappa and seen < 0.8
EOF
