#!/usr/bin/env bash
# lesion-metrics gives the false discovery rate once more as the share of lesions found, in all metrics of two files.
#
# Packages: lesion-metrics==0.1.12, pymedio==0.1.9, SimpleITK==2.5.7, nibabel==3.2.2, scikit-image==0.26.0,
#   pydicom==2.4.4, cryptography==42.0.8, numpy==1.26.4
# Input: two NIfTI files with four true lesions of bone and a prediction that finds all four and adds a fifth.
# Expected: of the lesions found 1.0 (LTPR) and of the predicted ones a false 0.2 (LFDR), 4 true and 5 predicted
#   lesions, as the functions ltpr and lfdr say of the same images.
# Seen: Metrics.from_filenames has 0.2 for both and 5 true lesions; the ISBI 2015 score is computed with them. A
#   worse reader gets a better figure: with no true lesion found both are 1.0.
# Why it matters: a table made of these records says that most lesions were missed, or none, and looks like a
#   table of metrics: both rates lie between 0 and 1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check SimpleITK==2.5.7 nibabel==3.2.2 \
  scikit-image==0.26.0 pydicom==2.4.4 cryptography==42.0.8 numpy==1.26.4 setuptools==80.9.0
venv/bin/pip install --quiet --disable-pip-version-check --no-deps lesion-metrics==0.1.12 pymedio==0.1.9
venv/bin/python - <<'EOF'
import numpy as np
import SimpleITK as sitk
from lesion_metrics.helper import Metrics
from lesion_metrics.metrics import isbi15_score, lfdr, ltpr


def cubes(*rows):
    mask = np.zeros((12, 60, 20), np.uint8)
    for row in rows:
        mask[4:8, row:row + 4, 8:12] = 1
    return mask


def written(mask, path):
    sitk.WriteImage(sitk.GetImageFromArray(mask), path)
    return path


truth = cubes(5, 15, 25, 35)
for name, found in (("all found, one more", cubes(5, 15, 25, 35, 50)), ("none found", cubes(50))):
    whole = Metrics.from_filenames(written(found, "found.nii.gz"), written(truth, "truth.nii.gz"))
    alone = {"ltpr": ltpr(found, truth), "lfdr": lfdr(found, truth), "isbi15_score": isbi15_score(found, truth)}
    print(name)
    print("  expected", {key: round(float(each), 3) for key, each in alone.items()}, "true lesions 4")
    print("  seen    ", {key: round(float(getattr(whole, key)), 3) for key in alone}, "true lesions", whole.truth_count)
    assert alone["ltpr"] != alone["lfdr"] == whole.lfdr == whole.ltpr
    assert whole.truth_count == whole.pred_count != 4
EOF
