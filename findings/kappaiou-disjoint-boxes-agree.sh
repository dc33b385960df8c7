#!/usr/bin/env bash
# kappaiou gives two readers whose boxes never meet a kappa of 1, and another figure for another order of boxes.
#
# Packages: kappaiou==1.0.0, scipy==1.17.1, numpy==2.4.6
# Input: a disc that two readers box in places far apart, alike, and not at all; and five discs that both
#   box one pixel apart, listed from the top by both, or from the bottom by the second.
# Expected: Cohen's kappa, which the package says it applies to boxes, is 1 for full agreement only and not
#   above it, and reading the same boxes in another order changes nothing, as they are matched first.
# Seen: 1.0 for boxes far apart, as for an image that both leave empty, and 33 million for equal boxes. The
#   adjusted figure is 66.0 for the same order and 4.4 for the opposite one: it scores the first box of
#   each list, then the first two, and so on.
# Why it matters: a limit such as 0.7, which is also the default tolerance of the package, passes readers
#   who agree on nothing, and a tool that lists boxes in its own way changes the verdict.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check kappaiou==1.0.0 scipy==1.17.1 numpy==2.4.6
venv/bin/python - <<'EOF'
from kappaiou.core import calculate_adjusted_kappa_iou, compute_image_kappa_iou

disc, elsewhere = [10, 10, 40, 12], [10, 150, 40, 12]
one = {
    "far apart": compute_image_kappa_iou([disc], [elsewhere]),
    "both empty": compute_image_kappa_iou([], []),
    "alike": compute_image_kappa_iou([disc], [disc]),
}
first = [[10, 30 * number, 40, 12] for number in range(5)]
second = [[11, 30 * number, 40, 12] for number in range(5)]
five = {
    "same order": calculate_adjusted_kappa_iou(first, second),
    "opposite order": calculate_adjusted_kappa_iou(first, second[::-1]),
}
for name, value in (one | five).items():
    print(f"{name}: {value:.6f}")
assert round(one["far apart"], 5) == one["both empty"] == 1
assert one["alike"] > 1e7
assert five["same order"] > 10 * five["opposite order"] > 10
EOF
