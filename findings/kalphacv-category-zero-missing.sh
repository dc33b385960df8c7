#!/usr/bin/env bash
# kalphacv takes a box of the category with id 0 for a missing box, and finds perfect agreement where there is none.
#
# Packages: kalphacv==1.5.2, krippendorff==0.9.0, pillow==12.3.0, numpy==2.4.6
# Input: four discs that one reader marked and the other did not, as COCO with the categories numbered
#   from 0 and from 1.
# Expected: the same alpha, below 0, for both: the readers agree on no box, and the number of a
#   category is only a name. The package takes any class id or class name.
# Seen: alpha 1.0 with ids from 0, and -0.75 with ids from 1: the number 0 stands for a missing box too.
# Why it matters: in COCO files that count from 0, as Label Studio's export does, each box of the first
#   category that a reader overlooked raises the agreement instead of lowering it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
  kalphacv==1.5.2 krippendorff==0.9.0 pillow==12.3.0 numpy==2.4.6
venv/bin/python - <<'EOF'
import json
from pathlib import Path

import krippendorff
from kalphacv import calculate_iaa_from_annotations


def by_kalphacv(first):
    """The two readers are two entries of the same image, as the package wants it."""
    Path("readers.json").write_text(json.dumps({
        "images": [{"id": reader, "file_name": "a.png", "width": 100, "height": 100} for reader in (1, 2)],
        "categories": [{"id": first, "name": "disc"}, {"id": first + 1, "name": "vertebra"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": first, "bbox": [10, 10 + 20 * n, 30, 10]} for n in range(4)],
    }))
    return float(calculate_iaa_from_annotations("bbox", "readers.json", silent=True)[0.5])


units = [["disc"] * 4, ["missing"] * 4]
oracle = round(float(krippendorff.alpha(units, value_domain=["disc", "missing"], level_of_measurement="nominal")), 4)
from_zero, from_one = by_kalphacv(0), by_kalphacv(1)
print("krippendorff", oracle, "kalphacv with ids from 1", from_one, "with ids from 0", from_zero)
assert oracle == from_one == -0.75 and from_zero == 1.0
EOF
