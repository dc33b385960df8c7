#!/usr/bin/env bash
# MLstatkit's DeLong test finds two models with exactly the same ranking different, with p = 0.
#
# Packages: MLstatkit==0.1.91, scikit-learn==1.9.1, scipy==1.17.1, numpy==2.4.6
# Input: 80 discs, 40 of them degenerated, with scores of one model, and the same scores after temperature
#   scaling, which changes no rank.
# Expected: equal areas, z = 0 and p = 1: there is no difference to be found; the text of the function says
#   that its p value is two-sided and follows pROC.
# Seen: equal areas and z = 0, but p = 0. The variance of the difference is 0, the test falls back to the
#   bootstrap, and takes twice the smaller of two shares, of which one counts the ties and the other none.
# Why it matters: a report says that calibration changed the area under the curve "significantly" when it
#   cannot have changed it; the same happens when a model is compared with itself.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check MLstatkit==0.1.91 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
venv/bin/python - <<'EOF'
import numpy as np
from MLstatkit import Delong_test

truth = np.repeat([0, 1], 40)
logit = np.random.default_rng(0).normal(truth, 1.2)
score, calibrated, other = (1 / (1 + np.exp(-value)) for value in (logit, logit / 2, logit + np.sin(9 * logit)))
assert np.array_equal(np.argsort(score), np.argsort(calibrated))
seen = {}
for name, second in {"calibrated": calibrated, "itself": score, "another": other}.items():
    z, p, _, _, area, area_of_second, info = Delong_test(truth, score, second, random_state=0)
    seen[name] = (z, p)
    print(f"{name}: areas {area:.4f} and {area_of_second:.4f}, z {z:.3f}, p {p:.3f}, by {info['method']}")
    assert (area == area_of_second) == (name != "another")
assert seen["calibrated"] == seen["itself"] == (0.0, 0.0)
assert 0.05 < seen["another"][1] < 1
EOF
