#!/usr/bin/env bash
# mean-average-precision counts every difficult object as missed, even one that was found.
#
# Packages: mean-average-precision==2024.1.5.0, pandas==3.1.1, numpy==2.4.6
# Input: four labelled discs, of which two are marked difficult, and four detections that are equal to them.
# Expected: AP 1.0: PASCAL VOC, whose metric the package offers, leaves difficult objects out: they are no
#   positives, and a detection of one is no error.
# Seen: AP 0.5: the detections of difficult objects are left out, but the objects stay in the number of
#   positives, so that recall ends at one half.
# Why it matters: no detector can reach 1.0, and marking doubtful discs as difficult, which should spare a
#   detector, costs it as much as not finding them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check mean-average-precision==2024.1.5.0 pandas==3.1.1 numpy==2.4.6
venv/bin/python - <<'EOF'
import numpy as np
from mean_average_precision import MetricBuilder

boxes = [[10, 10, 50, 30], [10, 50, 50, 70], [10, 90, 50, 110], [10, 130, 50, 150]]
scores = [0.9, 0.8, 0.7, 0.6]


def by_package(difficult):
    metric = MetricBuilder.build_evaluation_metric("map_2d", async_mode=False, num_classes=1)
    truth = np.array([[*box, 0, hard, 0] for box, hard in zip(boxes, difficult)], float)
    metric.add(np.array([[*box, 0, score] for box, score in zip(boxes, scores)], float), truth)
    value = metric.value(iou_thresholds=0.5)
    return round(float(value["mAP"]), 6), round(float(value[0.5][0]["recall"][-1]), 6)


def by_rule_of_voc(difficult):
    """The boxes are equal and apart, so each detection meets the object of its own index."""
    hits = [not hard for _, hard in sorted(zip(scores, difficult), reverse=True) if not hard]
    positives = len(difficult) - sum(difficult)
    precision = [sum(hits[:n]) / n for n in range(1, len(hits) + 1)]
    return round(sum(precision) / positives, 6), round(sum(hits) / positives, 6)


for difficult, wanted in (([0, 0, 0, 0], (1.0, 1.0)), ([0, 0, 1, 1], (0.5, 0.5))):
    print("difficult", difficult, "expected AP and recall", by_rule_of_voc(difficult), "seen", by_package(difficult))
    assert by_rule_of_voc(difficult) == (1.0, 1.0) and by_package(difficult) == wanted
EOF
