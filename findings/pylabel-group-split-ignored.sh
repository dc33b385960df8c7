#!/usr/bin/env bash
# pylabel's GroupShuffleSplit ignores its groups and sends the labels of one image to different splits.
#
# Packages: pylabel==0.1.55, pandas==2.3.3, scikit-learn==1.9.1, numpy==2.4.6
# Input: a COCO file with the vertebrae of 12 slices, six a slice; three slices each of four patients, in
#   a folder a patient. Half is for training, a quarter for test and one for validation, split by image,
#   which is the default of group_col, and by folder.
# Expected: all labels of an image in one split, or all of a patient, as in scikit-learn's class of that
#   name, which pylabel calls.
# Seen: the labels of each image, and of each patient, lie in several splits: group_col is passed as the
#   target, and each label is a group of its own. The YOLO export takes the first split of an image, and
#   writes all 12 files to the folder for training.
# Why it matters: a detector is tested on images, and on patients, that it was trained on, and the results
#   come out too good. The YOLO files have no test set at all, though a quarter was asked for.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pandas==2.3.3 numpy==2.4.6 scikit-learn==1.9.1 \
    opencv-python-headless==4.14.0.94 jupyter-bbox-widget==0.7.0 matplotlib==3.11.2 PyYAML==6.0.4 tqdm==4.70.1
venv/bin/pip install --quiet --disable-pip-version-check --no-deps pylabel==0.1.55 bbox-visualizer==1.0.1
export MPLBACKEND=Agg TQDM_DISABLE=1
venv/bin/python -W ignore - <<'EOF'
import json
from collections import Counter, defaultdict
from pathlib import Path

from pylabel import importer
from sklearn.model_selection import GroupShuffleSplit

IMAGES = [(patient, f"{patient}-{number}.png") for patient in "abcd" for number in range(3)]
Path("coco.json").write_text(json.dumps({
    "images": [
        {"id": n, "folder": patient, "file_name": name, "width": 100, "height": 200}
        for n, (patient, name) in enumerate(IMAGES, 1)],
    "categories": [{"id": 0, "name": "vertebra", "supercategory": ""}],
    "annotations": [
        {"id": 10 * n + v, "image_id": n, "category_id": 0, "bbox": [30, 5 + 30 * v, 40, 20], "area": 800, "iscrowd": 0}
        for n in range(1, len(IMAGES) + 1) for v in range(6)],
}))


def in_several(pairs):
    splits = defaultdict(set)
    for group, split in pairs:
        splits[group].add(split)
    return sum(len(of_group) > 1 for of_group in splits.values()), len(splits)


seen, right = {}, {}
for column in ("img_filename", "img_folder"):
    dataset = importer.ImportCoco("coco.json")
    table = dataset.df
    train, _ = next(GroupShuffleSplit(1, train_size=0.5, random_state=0).split(table, groups=table[column]))
    right[column] = in_several((group, row in train) for row, group in enumerate(table[column]))
    dataset.splitter.GroupShuffleSplit(0.5, 0.25, 0.25, group_col=column, random_state=0)
    seen[column] = in_several(zip(dataset.df[column], dataset.df["split"]))
    print(column, "groups in several splits: (these, all) pylabel", seen[column], "scikit-learn", right[column])
dataset.export.ExportToYoloV5("yolo/labels", use_splits=True)
files = Counter(path.parent.name for path in Path("yolo/labels").glob("*/*.txt"))
print("YOLO files, wanted 6 for training, 3 for test and 3 for validation:", dict(files))
assert right == {"img_filename": (0, 12), "img_folder": (0, 4)}
assert seen["img_filename"] == (12, 12) and seen["img_folder"] == (4, 4)
assert files == {"train": 12}
EOF
