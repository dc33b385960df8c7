"""Ultralytics' own functions are the oracle of what a ``data.yaml`` names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from spineline.datasets.bare.data_yaml import (
    YOLO_SUFFIXES,
    find_data_yaml,
    label_file,
    read_data_yaml,
)
from spineline.datasets.common.errors import AnnotationError


def draw(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((24, 32), 90, np.uint8)).save(file)


def write_yaml(file: Path, **keys: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(keys, sort_keys=False))
    return file


@pytest.fixture
def oracle(monkeypatch, tmp_path):
    """The images of a part by Ultralytics, whose folder of data sets is ``tmp_path/sets``."""
    pytest.importorskip("torch")
    from spineline.detect.yolo.environment import import_ultralytics

    import_ultralytics()
    import json

    from ultralytics.data import utils
    from ultralytics.data.base import BaseDataset

    config = tmp_path / "config"
    (config / "Ultralytics").mkdir(parents=True)
    (config / "Ultralytics" / "settings.json").write_text(
        json.dumps({"datasets_dir": str(tmp_path / "sets")})
    )
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(config))
    monkeypatch.setattr(utils, "DATASETS_DIR", tmp_path / "sets")

    class Reader:
        prefix, fraction = "", 1.0

    def files(file: Path, part: str) -> tuple[dict[int, str], list[Path], list[Path]]:
        data = utils.check_det_dataset(str(file), autodownload=False)
        images = BaseDataset.get_img_files(Reader(), data[part])
        labels = [Path(path) for path in utils.img2label_paths(images)]
        return data["names"], [Path(path) for path in images], labels

    return files


def layout_empty_path(root: Path) -> Path:
    draw(
        root / "set/images/train/b.png",
        root / "set/images/train/a.jpg",
        root / "set/images/val/c.png",
    )
    keys = {"path": "", "train": "images/train", "val": "images/val"}
    return write_yaml(root / "set/data.yaml", **keys, names={0: "L1", 1: "L2"})


def layout_roboflow(root: Path) -> Path:
    draw(root / "set/train/images/b.rf.1.jpg", root / "set/valid/images/c.jpg")
    keys = {"train": "../train/images", "val": "../valid/images"}
    return write_yaml(root / "set/data.yaml", **keys, nc=2, names=["L1", "L2"])


def layout_parent_exists(root: Path) -> Path:
    """``../train`` is there: it counts, not the folder beside the file."""
    draw(
        root / "train/images/up.jpg",
        root / "set/train/images/down.jpg",
        root / "valid/images/c.jpg",
    )
    keys = {"train": "../train/images", "val": "../valid/images"}
    return write_yaml(root / "set/data.yaml", **keys, names=["L1"])


def layout_current_folder(root: Path) -> Path:
    draw(
        root / "here/images/t/a.png",
        root / "here/images/v/b.png",
        root / "yamls/here/images/t/no.png",
    )
    keys = {"path": "here", "train": "images/t", "val": "images/v"}
    return write_yaml(root / "yamls/data.yaml", **keys, names=["L1"])


def layout_datasets_folder(root: Path) -> Path:
    draw(root / "sets/spines/images/t/a.png", root / "sets/spines/images/v/b.png")
    keys = {"path": "spines", "train": "images/t", "val": "images/v"}
    return write_yaml(root / "yamls/data.yaml", **keys, names=["L1"])


def layout_lists(root: Path) -> Path:
    """Folders and text files in one list; hidden folders and other files do not count."""
    draw(
        root / "set/images/x/a.png", root / "set/images/y/images/b.PNG",
        root / "set/images/z/c.bmp", root / "set/images/x/.hidden/h.png",
        root / "set/images/x/deep/er/d.png",
    )  # fmt: skip
    (root / "set/images/x/notes.txt").write_text("no image")
    (root / "set/list.txt").write_text(
        f"\ufeff./images/z/c.bmp\n{root}/set/images/y/images/b.PNG\n"
    )
    keys = {"path": str(root / "set"), "train": ["images/x", "list.txt"], "val": "list.txt"}
    return write_yaml(root / "set/other name.yaml", **keys, nc=2)


def layout_validation_key(root: Path) -> Path:
    draw(root / "set/a/images/1.png", root / "set/b/images/2.png", root / "set/images/b/3.png")
    keys = {"train": "a/images", "validation": "b/images", "test": "images"}
    return write_yaml(root / "set/data.yaml", **keys, names={"1": "L2", "0": "L1"})


LAYOUTS = [value for name, value in sorted(globals().items()) if name.startswith("layout_")]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda one: one.__name__[7:])
def test_same_images_labels_and_names_as_ultralytics(layout, oracle, tmp_path, monkeypatch):
    file = layout(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = read_data_yaml(file)
    parts = [part for part, files in found.parts.items() if files]
    assert parts[:2] == ["train", "val"]
    for part in parts:
        names, images, labels = oracle(file, part)
        assert dict(enumerate(found.names)) == names
        assert [image.resolve() for image in found.parts[part]] == images
        assert [label_file(image).resolve() for image in found.parts[part]] == labels


def test_path_beside_the_file_where_ultralytics_finds_nothing(oracle, tmp_path, monkeypatch):
    draw(tmp_path / "far/set/images/t/a.png")
    keys = {"path": "./set", "train": "images/t", "val": "images/t", "names": ["L1"]}
    file = write_yaml(tmp_path / "far/data.yaml", **keys)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        oracle(file, "train")
    assert read_data_yaml(file).parts["train"] == (tmp_path / "far/set/images/t/a.png",)


def test_download_is_never_executed(tmp_path):
    flag = tmp_path / "executed"
    keys = {"train": "images", "val": "images", "names": ["L1"]}
    file = write_yaml(tmp_path / "data.yaml", **keys, download=f"open({str(flag)!r}, 'w')")
    with pytest.raises(AnnotationError, match=r"does not exist; its download: is never executed"):
        read_data_yaml(file)
    assert not flag.exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"names": []}, "names: wanted the class names"),
        ({"names": {0: "a", 2: "b"}}, "names: wanted the class names"),
        ({"names": ["a", "a"]}, "'a' names two classes"),
        ({"names": ["a"], "nc": 2}, "nc is 2, but names are 1"),
        ({"names": ["a"], "train": 3}, "train: is 3, wanted a folder"),
        ({"names": ["a"], "train": "a\0b"}, "names something that cannot be looked up"),
        (
            {"names": ["a"], "path": "a" * 5000, "train": "x"},
            "names something that cannot be looked up",
        ),
        ({"names": ["a"], "kpt_shape": [1, 4]}, r"kpt_shape is \[1, 4\]"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_used_is_told(tmp_path, keys, message):
    with pytest.raises(AnnotationError, match=message):
        read_data_yaml(write_yaml(tmp_path / "data.yaml", **keys))


def test_keys_that_are_none_are_told(tmp_path):
    (tmp_path / "data.yaml").write_text("- images\n")
    with pytest.raises(AnnotationError, match="holds no keys; wanted path, train, val and names"):
        read_data_yaml(tmp_path / "data.yaml")


def test_a_list_is_of_images_beside_it_or_in_the_current_folder(tmp_path, monkeypatch):
    draw(tmp_path / "far/near.png", tmp_path / "here.png")
    (tmp_path / "far/list.txt").write_text("near.png\n\nhere.png\n")
    keys = {"path": ".", "train": "list.txt", "val": "list.txt", "names": ["L1"]}
    file = write_yaml(tmp_path / "far/data.yaml", **keys)
    monkeypatch.chdir(tmp_path)
    wanted = (tmp_path / "far/near.png", tmp_path / "here.png")
    assert read_data_yaml(file).parts["train"] == wanted
    assert label_file(wanted[1]) == tmp_path / "here.txt"
    (tmp_path / "far/list.txt").write_text("near.png\nnotes.doc\n")
    with pytest.raises(AnnotationError, match=r"list\.txt: lists 'notes\.doc', which is not"):
        read_data_yaml(file)


def test_an_absent_test_part_is_empty(tmp_path):
    draw(tmp_path / "images/train/a.png", tmp_path / "images/val/b.png")
    keys = {"train": "images/train", "val": "images/val", "test": "images/test", "names": ["L1"]}
    found = read_data_yaml(write_yaml(tmp_path / "data.yaml", path=".", **keys))
    assert [len(found.parts[part]) for part in ("train", "val", "test")] == [1, 1, 0]


def test_the_file_of_a_folder(tmp_path):
    write_yaml(tmp_path / "run.yaml", command="spineline data phantom")
    write_yaml(tmp_path / "below" / "run.yaml", command="spineline convert tianchi")
    assert find_data_yaml(tmp_path) is None
    other = write_yaml(tmp_path / "below" / "one.yaml", names=["a"])
    assert find_data_yaml(tmp_path) == other
    named = write_yaml(tmp_path / "below" / f"{tmp_path.name}.yaml", names=["a"])
    assert find_data_yaml(tmp_path) == named
    first = write_yaml(tmp_path / "data.yaml", names=["a"])
    assert find_data_yaml(tmp_path) == first
    for name in ("x.yaml", "y.yaml"):
        write_yaml(tmp_path / "two" / name, names=["a"])
    with pytest.raises(AnnotationError, match=r"holds 2 YAML files \(x.yaml, y.yaml …\)"):
        find_data_yaml(tmp_path / "two")


def test_suffixes_are_those_of_ultralytics():
    pytest.importorskip("torch")
    from spineline.detect.yolo.environment import import_ultralytics

    import_ultralytics()
    from ultralytics.data.utils import IMG_FORMATS

    assert {suffix[1:] for suffix in YOLO_SUFFIXES} == IMG_FORMATS
