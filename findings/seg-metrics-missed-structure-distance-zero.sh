#!/usr/bin/env bash
# seg-metrics gives a structure that was missed altogether a surface distance of 0 mm, as if it were perfect.
#
# Packages: seg-metrics==1.2.8, SimpleITK==2.5.7, numpy==2.4.6
# Input: a label map with two vertebrae of 6 x 6 x 6 voxels; one prediction has the second 3 voxels off,
#   the other lacks it.
# Expected: a distance for the lacking one that no figure of merit would take for good: not a number,
#   infinite, or an error, as with SimpleITK's own filter.
# Seen: Hausdorff distance, its 95th percentile and the mean surface distance are all 0 mm for the lacking
#   one, and 3 mm or less, but more than 0, for the one that is off.
# Why it matters: the mean distance over vertebrae gets better with each one that a model leaves out, and a
#   table of distances puts the worst model first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check seg-metrics==1.2.8 SimpleITK==2.5.7 numpy==2.4.6
venv/bin/python - <<'EOF'
import numpy as np
import SimpleITK as sitk
from seg_metrics import seg_metrics

truth, off = np.zeros((20, 30, 20), np.uint8), np.zeros((20, 30, 20), np.uint8)
truth[7:13, 3:9, 7:13] = off[7:13, 3:9, 7:13] = 1
truth[7:13, 15:21, 7:13] = 2
off[7:13, 18:24, 7:13] = 2
lacking = np.where(off == 1, 1, 0).astype(np.uint8)


def distances(prediction):
    found = seg_metrics.write_metrics(labels=[2], gdth_img=truth, pred_img=prediction, metrics=["dice", "hd", "hd95", "msd"])
    return {name: round(float(found[0][name][0]), 4) for name in ("dice", "hd", "hd95", "msd")}


def by_simpleitk(prediction):
    distance = sitk.HausdorffDistanceImageFilter()
    try:
        distance.Execute(sitk.GetImageFromArray((truth == 2).astype(np.uint8)),
                         sitk.GetImageFromArray((prediction == 2).astype(np.uint8)))
        return round(distance.GetHausdorffDistance(), 4)
    except RuntimeError:
        return "an error"


for name, prediction in (("off", off), ("lacking", lacking)):
    print(name, distances(prediction), "SimpleITK says", by_simpleitk(prediction))
assert distances(off)["hd"] == by_simpleitk(off) == 3.0 and distances(off)["msd"] > 0
assert by_simpleitk(lacking) == "an error"
assert distances(lacking) == {"dice": 0.0, "hd": 0.0, "hd95": 0.0, "msd": 0.0}
EOF
