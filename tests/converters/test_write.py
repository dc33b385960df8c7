from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spineline.converters.write import WRITERS, to_8_bit
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.dataset import load_dataset


def test_deep_pixels_are_windowed_and_never_cut_to_8_bits():
    deep = np.linspace(0, 4000, 400, dtype=np.float32).reshape(20, 20)
    assert np.unique(to_8_bit(deep, "percentile")).size > 200
    with pytest.raises(SpinelineError, match="window=percentile"):
        to_8_bit(deep, "none")


def test_folds_share_their_images_on_disk(report_source, run_cli):
    files = report_source("001-000", "002-000")
    run_cli("convert", "report", *files.words(kfold=2))
    paths = sorted((files.root / "out").glob("fold*/images/*/001-000.png"))
    assert len(paths) == 2
    assert paths[0].samefile(paths[1])


def test_a_frame_that_proves_unreadable_leaves_no_trace_in_any_format(report_source, run_cli):
    """Annotations are written beside the images, before it is known that one is unreadable."""
    every = "to=yolo,voc,coco,imagefolder,fasterrcnn,pose,labelstudio"
    files = report_source("001-000", "002-000", "151-000")
    whole = files.images / "151-000.png"
    data = bytearray(whole.read_bytes())
    pixels = data.index(b"IDAT") + 4
    data[pixels : pixels + 9] = b"not zlib!"
    whole.write_bytes(data)
    code, _, err = run_cli("convert", "report", *files.words(split="report"), every)
    assert code == 1
    assert "151-000: left out (unreadable_image)" in err
    files.entries.pop()
    files.save()
    few = files.words(split="report", out=files.root / "few")
    assert run_cli("convert", "report", *few, every)[0] == 0
    assert content(files.root / "out") == content(files.root / "few")


def test_annotations_do_not_depend_on_images_that_are_there_already(report_source, run_cli):
    """Else the result would depend on which of the two threads is faster."""
    files = report_source("001-000")
    assert run_cli("convert", "report", *files.words(split="train"), "to=yolo")[0] == 0
    root = files.root / "out"
    record = load_dataset(root).all_records()[0]
    parts = {"train": [record], "val": [], "test": []}
    for write in WRITERS.values():
        write(root, parts, "level")
    assert [path.parent.name for path in root.rglob("*.png")] == ["train"]


def content(root: Path) -> dict[str, bytes]:
    """All files of a dataset but the records of how it was made."""
    names = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
    made = ("conversion.json", "run.yaml", "split.json")
    return {str(n): path.read_bytes() for n, path in names.items() if n.name not in made}
