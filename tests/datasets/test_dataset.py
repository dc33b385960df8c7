from __future__ import annotations

import json
from pathlib import Path

import pytest

from spineline.datasets.coco import coco_from_records, coco_text
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.dataset import load_dataset
from spineline.datasets.labels import LEVELS
from spineline.datasets.types import ImageRecord, Structure


def record(name: str) -> ImageRecord:
    disc = Structure("L4-L5", "disc", (5, 5), (1, 1, 9, 9), ("v1",))
    return ImageRecord(name, name, 10, 10, (disc,))


def write(root: Path, part: str, *names: str, labels: str = "level") -> None:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    coco = coco_from_records([record(n) for n in names], labels, [f"{n}.png" for n in names])
    (root / "annotations" / f"{part}.json").write_text(coco_text(coco))


@pytest.mark.parametrize("as_yaml", [False, True], ids=["folder", "data.yaml"])
def test_parts_and_paths(tmp_path, as_yaml):
    write(tmp_path, "train", "a", "b")
    write(tmp_path, "test", "c")
    (tmp_path / "data.yaml").touch()
    dataset = load_dataset(tmp_path / "data.yaml" if as_yaml else str(tmp_path))
    assert dataset.names == LEVELS
    assert {part: len(r) for part, r in dataset.records.items()} == {
        "train": 2,
        "val": 0,
        "test": 1,
    }
    assert [r.image_id for r in dataset.all_records()] == ["a", "b", "c"]
    assert dataset.image_path(dataset.records["test"][0]) == tmp_path / "images/test/c.png"


def test_folds_are_pointed_out(tmp_path):
    write(tmp_path / "fold0", "train", "a")
    with pytest.raises(AnnotationError, match=r"holds folds; name one of them.*fold0"):
        load_dataset(tmp_path)


def test_label_sets_must_agree(tmp_path):
    write(tmp_path, "train", "a")
    write(tmp_path, "val", "b", labels="health")
    with pytest.raises(AnnotationError, match="different label sets, health, level"):
        load_dataset(tmp_path)


def test_image_belongs_to_one_part(tmp_path):
    write(tmp_path, "train", "a")
    write(tmp_path, "val", "a")
    with pytest.raises(AnnotationError, match="image a is in val and in train"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "sub/a.png", "..", "a\\b.png"])
def test_file_names_stay_inside_the_dataset(tmp_path, name):
    write(tmp_path, "train", "a")
    path = tmp_path / "annotations/train.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match="not a plain file name in images/train"):
        load_dataset(tmp_path)


def test_what_is_no_dataset(tmp_path):
    with pytest.raises(AnnotationError, match="no such file or folder"):
        load_dataset(tmp_path / "nowhere")
    with pytest.raises(AnnotationError, match=r"no converted dataset.*spineline convert"):
        load_dataset(tmp_path)
    write(tmp_path, "train", "a")
    (tmp_path / "annotations/train.json").write_text('{"a": ')
    with pytest.raises(AnnotationError, match=r"train\.json:1:7: not valid JSON"):
        load_dataset(tmp_path)
