#!/usr/bin/env bash
# albumentations moves a key point to another place when it flips before it resizes than after.
#
# Packages: albumentations==2.0.8, albucore==0.0.24, opencv-python-headless==4.12.0.88, numpy==2.2.6, scipy==1.17.1
# Input: a crop of 64 × 64 pixels with one white pixel, a key point on it and a box around it; it is
#   enlarged to 512 × 512 and mirrored, in both orders.
# Expected: the same place in both orders, as the image and the box have; the white pixel becomes a
#   square of eight pixels, whose middle has the index 411.5.
# Seen: the image and the box are equal, but the point is at 415 or at 408, either edge of the
#   square. A flip takes the coordinate as the index of a pixel (width − 1 − x), a change of size
#   as a distance from the edge of the image (8 × x).
# Why it matters: mirrored copies pull a point detector by up to half an enlarged pixel to each side;
#   seven pixels here are as much as a disc is high, and no picture of the labels is clearly wrong.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check albumentations==2.0.8 albucore==0.0.24 opencv-python-headless==4.12.0.88 numpy==2.2.6 scipy==1.17.1
NO_ALBUMENTATIONS_UPDATE=1 venv/bin/python - <<'EOF'
import albumentations as A
import cv2
import numpy as np

image = np.zeros((64, 64), np.uint8)
image[23, 12] = 255


def transformed(*steps):
    """The middle column of the white square, that of the key point and that of the box."""
    found = A.Compose(
        steps,
        keypoint_params=A.KeypointParams(format="xy"),
        bbox_params=A.BboxParams(format="pascal_voc", label_fields=["levels"]),
    )(image=image, keypoints=[(12, 23)], bboxes=[(12, 23, 13, 24)], levels=["L4-L5"])
    white = np.flatnonzero(found["image"].any(axis=0))
    box = found["bboxes"][0]
    return float(white.mean()), float(found["keypoints"][0][0]), float(box[0] + box[2]) / 2


larger = A.Resize(512, 512, interpolation=cv2.INTER_NEAREST, p=1)
mirrored = A.HorizontalFlip(p=1)
resize_first, flip_first = transformed(larger, mirrored), transformed(mirrored, larger)
print("columns of the square, the key point, and the box (counted from the edge)")
print("resized, then mirrored:", resize_first)
print("mirrored, then resized:", flip_first)
assert resize_first[0] == flip_first[0] == 411.5
assert np.allclose([resize_first[2], flip_first[2]], 412, atol=1e-3)
assert (resize_first[1], flip_first[1]) == (415, 408)
EOF
