#!/usr/bin/env bash
# dcurves turns a marker into the probability of staying free of the event and then uses it as the risk.
#
# Packages: dcurves==1.1.7, lifelines==0.30.3, statsmodels==0.14.6, scipy==1.17.1, pandas==2.3.3, numpy==2.4.6,
#   matplotlib==3.10.9
# Input: a degeneration score of 400 patients and the time to their operation, partly censored; dca with
#   models_to_prob, time and time_to_outcome_col, which converts the score by a Cox model.
# Expected: patients with high scores, who are operated on sooner, are the ones above a threshold of 50 %, and the
#   net benefit is that of the risk of the same Cox model by lifelines, one minus survival: 0.19.
# Seen: the patients with low scores are above the threshold. The net benefit is -0.29, where operating on all has
#   -0.09. The docstring calls the converted values risk scores.
# Why it matters: a useful score is published as harmful, or a harmful one as useful.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check dcurves==1.1.7 lifelines==0.30.3 statsmodels==0.14.6 scipy==1.17.1 pandas==2.3.3 numpy==2.4.6 matplotlib==3.10.9
MPLBACKEND=Agg venv/bin/python -W ignore - <<'EOF'
import numpy as np
import pandas as pd
from dcurves import dca
from lifelines import CoxPHFitter, KaplanMeierFitter

YEARS, THRESHOLD = 5, 0.5
random = np.random.default_rng(0)
score = random.normal(size=400)
operation, last_visit = random.exponential(10 * np.exp(-1.2 * score)), random.uniform(2, 12, 400)
patients = pd.DataFrame({"score": score, "years": np.minimum(operation, last_visit), "operated": operation <= last_visit})
risk = 1 - CoxPHFitter().fit(patients, "years", "operated").predict_survival_function(patients, times=YEARS).to_numpy()[0]


def net_benefit(chosen):
    curve = KaplanMeierFitter().fit(patients.years[chosen], patients.operated[chosen])
    rate = 1 - float(curve.survival_function_at_times(YEARS).iloc[0])
    return chosen.mean() * (rate - (1 - rate) * THRESHOLD / (1 - THRESHOLD))


table = dca(data=patients, outcome="operated", modelnames=["score"], models_to_prob=["score"], thresholds=[THRESHOLD],
            time=YEARS, time_to_outcome_col="years").set_index("model")
seen, expected, reverse = float(table.net_benefit["score"]), net_benefit(risk > THRESHOLD), net_benefit(1 - risk > THRESHOLD)
print(f"net benefit expected {expected:.3f} seen {seen:.3f}, of operating on all {float(table.net_benefit['all']):.3f}")
print(f"net benefit of operating on those whose risk is below one minus the threshold {reverse:.3f}")
assert np.corrcoef(score, risk)[0, 1] > 0.9 and round(expected, 2) == 0.19
assert abs(seen - reverse) < 1e-9 and seen < float(table.net_benefit["all"])
EOF
