#!/usr/bin/env bash
# ensemble-boxes lowers all scores for equal weights, in the caller's own lists, and again at each call.
#
# Packages: ensemble-boxes==1.0.9, numpy==2.4.6
# Input: boxes of L4 and L5 by two models, joined by nms() without weights, with the weights 1 and 1,
#   and once more with the same arguments.
# Expected: the same scores three times: the docstring has "Default: None, which means weight == 1
#   for each model".
# Seen: 0.9 and 0.8 without weights, 0.45 and 0.4 with them, then 0.225 and 0.2: weights are divided
#   by their sum, and the weighted scores are put into the lists that were passed. soft_nms() does
#   so too; weighted_boxes_fusion() does not.
# Why it matters: a threshold of 0.5 that suited one model drops all levels of two, and an evaluation
#   that tries several values of iou_thr on the same predictions gets worse with each.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check ensemble-boxes==1.0.9 numpy==2.4.6
venv/bin/python - <<'EOF'
import numpy as np
from ensemble_boxes import nms, soft_nms, weighted_boxes_fusion

boxes = [[0.4, 0.1, 0.6, 0.2], [0.4, 0.3, 0.6, 0.4]]
labels = [4, 5]


def three_calls(join):
    """The scores without weights, with equal weights, and with them again; and the lists passed."""
    scores = [[0.9, 0.8], [0.6, 0.5]]
    found = [
        np.sort(join([boxes, boxes], scores, [labels, labels], iou_thr=0.5, weights=weights)[1])
        for weights in (None, [1, 1], [1, 1])
    ]
    print(join.__name__, [each.round(4).tolist() for each in found], "lists afterwards", scores)
    return found, scores


(plain, weighted, again), lists = three_calls(nms)
assert np.allclose(plain, [0.8, 0.9])
assert np.allclose(weighted, plain / 2) and np.allclose(again, plain / 4)
assert np.allclose(lists[0], [0.225, 0.2])
(plain, weighted, again), _ = three_calls(soft_nms)
assert np.allclose(again.max(), plain.max() / 4)
(plain, weighted, again), lists = three_calls(weighted_boxes_fusion)
assert np.allclose(plain, again) and lists == [[0.9, 0.8], [0.6, 0.5]]
EOF
