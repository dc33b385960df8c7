from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spineline.datasets.common.errors import AnnotationError
from spineline.detect.engine.dataset import (
    label_file,
    read_data,
    read_images,
    warn_of_absent_classes,
)


def test_reads_parts_and_labels(dataset: Path) -> None:
    data = read_data(dataset)
    assert data == read_data(dataset / "data.yaml")
    assert [len(data.train), len(data.val), len(data.names)] == [6, 2, 11]
    images = read_images(data.train, data.names, part="train")
    assert [image.file.stem for image in images] == [f"s{i:02d}" for i in range(6)]
    assert images[0].size_hw == (96, 96)
    assert images[0].class_index.tolist() == list(range(11))
    text = label_file(images[0].file).read_text().split("\n")[3]
    np.testing.assert_allclose([float(w) for w in text.split()[1:]], images[0].box_cxcywhn[3])


def test_reading_writes_nothing(dataset: Path) -> None:
    before = sorted(dataset.rglob("*"))
    data = read_data(dataset)
    read_images(data.train, data.names, part="train")
    assert sorted(dataset.rglob("*")) == before


def test_sizes_are_those_of_images_as_they_are_shown(own_dataset: Callable[..., Path]) -> None:
    data = read_data(own_dataset())
    file = data.train[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(file, exif=exif)
    (image,) = read_images((file,), data.names, part="train")
    assert image.size_hw == (60, 40)


def test_list_of_files_and_numbered_names(own_dataset: Callable[..., Path]) -> None:
    root = own_dataset()
    listed = sorted((root / "images" / "train").glob("*.png"))[:2]
    (root / "few.txt").write_text("".join(f"./images/train/{f.name}\n" for f in listed))
    (root / "data.yaml").write_text("train: few.txt\nnames: [a, b, c, d, e, f, g, h, i, j, k]\n")
    data = read_data(root)
    assert [f.name for f in data.train] == [f.name for f in listed]
    assert data.val == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/none\nnames: [a]\n", "train: .*none does not exist"),
        ("names: [a]\n", "the train part has no image"),
        ("train: images/train\n", "names: wanted the class names"),
        ("train: images/train\nnames: {1: a, 2: b}\n", "numbered from 0"),
        ("train: images/train\nnames: {0: a, x: b}\n", "numbered from 0"),
        ("[1, 2]", "holds no keys"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_bad_data_yaml(own_dataset: Callable[..., Path], text: str, message: str) -> None:
    root = own_dataset()
    (root / "data.yaml").write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read_data(root)


def test_missing_data(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"no data.yaml there.*spineline convert"):
        read_data(tmp_path / "nowhere")


def _truncate(root: Path) -> None:
    file = root / "images" / "train" / "s00.png"
    file.write_bytes(file.read_bytes()[:200])


def _text_as_image(root: Path) -> None:
    (root / "images" / "train" / "s00.png").write_text("not an image")


def _sixteen_bits(root: Path) -> None:
    pixels = np.zeros((96, 96), dtype=np.uint16)
    Image.fromarray(pixels).save(root / "images" / "train" / "s00.png")


def _label(line: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        (root / "labels" / "train" / "s00.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")

    return write


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, r"1 of 6 images of the train part cannot be used.*s00.png: not a whole image"),
        (_text_as_image, "s00.png: not a whole image"),
        (_sixteen_bits, r"I;16 pixels; wanted 8 bits"),
        (_label("11 0.5 0.5 0.1 0.1"), r"s00.txt:2: class 11, allowed 0 … 10"),
    ],
    ids=["truncated", "text", "16-bit", "class"],
)
def test_what_cannot_be_used_is_counted_and_refused(
    own_dataset: Callable[..., Path], damage: Callable[[Path], None], message: str
) -> None:
    root = own_dataset()
    damage(root)
    data = read_data(root)
    with pytest.raises(AnnotationError, match=message):
        read_images(data.train, data.names, part="train")


def test_images_without_any_label_are_refused(own_dataset: Callable[..., Path]) -> None:
    root = own_dataset()
    for file in (root / "labels" / "train").iterdir():
        file.unlink()
    data = read_data(root)
    with pytest.raises(AnnotationError, match="none of the 6 images of the train part has a label"):
        read_images(data.train, data.names, part="train")


def test_an_image_without_label_file_is_background(own_dataset: Callable[..., Path]) -> None:
    root = own_dataset()
    (root / "labels" / "train" / "s02.txt").unlink()
    data = read_data(root)
    images = read_images(data.train, data.names, part="train")
    assert [len(image.class_index) for image in images] == [11, 11, 0, 11, 11, 11]
    assert images[2].box_cxcywhn.shape == (0, 4)


def test_labels_without_an_image_are_told(
    own_dataset: Callable[..., Path], said: pytest.LogCaptureFixture
) -> None:
    root = own_dataset()
    data = read_data(root)
    read_images(data.train, data.names, part="train")
    assert "no image" not in said.text
    data.train[0].unlink()
    left = read_data(root)
    assert len(read_images(left.train, left.names, part="train")) == 5
    assert "train: 1 label files have no image: " in said.text
    assert "s00.txt" in said.text


def test_absent_classes_are_told(said: pytest.LogCaptureFixture) -> None:
    warn_of_absent_classes(("a", "b"), np.array([3, 1]))
    assert said.text == ""
    warn_of_absent_classes(("a", "b", "c"), np.array([0, 1, 0]))
    assert "no training label of class a, c" in said.text


def test_coco_files_stand_in_for_label_files(dataset: Path, tmp_path: Path) -> None:
    """The same boxes from the COCO files as from the label files of one dataset."""
    root = tmp_path / "coco"
    shutil.copytree(dataset / "annotations", root / "annotations")
    shutil.copytree(dataset / "images", root / "images")
    labels, coco = read_data(dataset), read_data(root)
    assert labels.names == coco.names
    for wanted, found in zip(labels.part_images("train"), coco.part_images("train"), strict=True):
        assert found.file.name == wanted.file.name
        assert found.size_hw == wanted.size_hw
        np.testing.assert_array_equal(found.class_index, wanted.class_index)
        np.testing.assert_allclose(found.box_cxcywhn, wanted.box_cxcywhn, atol=1e-6)
