from __future__ import annotations

import pytest

from spineline.converters.formats.coco import read_coco, write_coco
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.types import ImageRecord, Structure

DISC = Structure("L4-L5", "disc", (50.5, 100.25), (40, 80, 60, 120.7), ("v2", "v5"))
RECORD = ImageRecord("a", "s", 100, 200, (DISC,), spacing_rc_mm=(0.5, 0.625), file="a.png")


def test_disk_round_trip_with_empty_parts(tmp_path):
    write_coco(tmp_path, {"train": [RECORD], "val": [], "test": []}, "seven")
    assert read_coco(tmp_path / "annotations/train.json") == (RECORD,)
    assert read_coco(tmp_path / "annotations/val.json") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"x\.json:1:2: not valid JSON"),
        ("[]", "holds a list, wanted a COCO object"),
        ("{}", r"x\.json: COCO: cannot be read as records .*categories"),
    ],
    ids=["broken", "list", "empty object"],
)
def test_files_that_are_no_coco(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read_coco(tmp_path / "x.json")
