#!/usr/bin/env bash
# confidenceinterval's report takes the wanted level for F1 alone; precision and recall keep 95 %.
#
# Packages: confidenceinterval==1.0.5, statsmodels==0.14.6, scikit-learn==1.9.1, scipy==1.17.1,
#   pandas==2.3.3, numpy==2.4.6
# Input: a hundred discs, 40 of them abnormal, of which 30 are called so, as are 6 normal ones;
#   classification_report_with_ci with confidence_level=0.99, and again with 0.8.
# Expected: intervals that widen from 0.8 to 0.99, as the text of the argument promises for all, and as
#   recall_score of the same package gives them.
# Seen: recall of 0.75 within 0.598 and 0.858 both times, the interval of 95 %; only F1 of each
#   class follows the argument, and micro and macro averages do not either.
# Why it matters: one row of a table holds intervals of two levels under one heading.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check confidenceinterval==1.0.5 statsmodels==0.14.6 scikit-learn==1.9.1 scipy==1.17.1 pandas==2.3.3 numpy==2.4.6
venv/bin/python - <<'EOF'
from confidenceinterval import classification_report_with_ci, recall_score

truth = [1] * 40 + [0] * 60
called = [1] * 30 + [0] * 10 + [1] * 6 + [0] * 54
seen, expected = {}, {}
for level in (0.8, 0.95, 0.99):
    report = classification_report_with_ci(truth, called, confidence_level=level).set_index("Class")
    seen[level] = [tuple(float(end) for end in report.loc["Class 1", f"{name} CI"]) for name in ("Recall", "F1-Score")]
    _, ends = recall_score(truth, called, confidence_level=level, average="binary", method="wilson")
    expected[level] = tuple(round(float(end), 3) for end in ends)
    print(level, "recall expected", expected[level], "seen", seen[level][0], "F1 seen", seen[level][1])
assert len(set(expected.values())) == 3
assert {recall for recall, _ in seen.values()} == {expected[0.95]}
assert len({f1 for _, f1 in seen.values()}) == 3
EOF
