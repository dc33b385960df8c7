"""Bare data sets through the commands that take them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from spineline.converters.check import check
from spineline.converters.settings import DataCheck
from spineline.datasets.commands.crops import crops
from spineline.datasets.commands.settings import DataCrops, DataShow, DataStats
from spineline.datasets.commands.show import show
from spineline.datasets.commands.stats import stats
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.crops.files import load_crops
from spineline.datasets.dataset import load_dataset
from spineline.datasets.labels import LEVELS
from spineline.detect.level_reader.settings import NamingTrain
from spineline.detect.level_reader.train import train as train_level_reader

SPELLINGS = ("L5/S1", "LWK5", "disc L4-5", "L4")
LEVELS_OF_SPELLINGS = ("L5-S1", "L5", "L4-L5", "L4")
BOXES = [(40, 70, 10, 8), (40, 55, 12, 10), (40, 40.5, 10, 8), (40, 26, 12, 10)]
"""Centre and size in pixels of the four structures of an image of 80 x 100."""


def draw(file: Path, grey: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((100, 80), grey, np.uint8)
    pixels[10:20] = 200
    Image.fromarray(pixels).save(file)


def roboflow(root: Path, names: tuple[str, ...] = SPELLINGS) -> Path:
    """Two training images, one to validate; Roboflow's layout and its ``../``."""
    for n, (folder, stem) in enumerate((("train", "a b.rf.1"), ("train", "c"), ("valid", "d"))):
        draw(root / folder / "images" / f"{stem}.png", 40 + n)
        lines = [
            f"{i} {x / 80} {y / 100} {w / 80} {h / 100}" for i, (x, y, w, h) in enumerate(BOXES)
        ]
        file = root / folder / "labels" / f"{stem}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines))
    keys = {"train": "../train/images", "val": "../valid/images", "names": list(names)}
    (root / "data.yaml").write_text(yaml.safe_dump(keys))
    return root


def coco(root: Path, file: str, image: str, **extra: object) -> Path:
    """One image with the four boxes, ids from 5 and Roboflow's group above the categories."""
    draw(root / image, 50)
    content = {
        "images": [{"id": 9, "file_name": Path(image).name, "width": 80, "height": 100}],
        "categories": [
            {"id": 0, "name": "spines", "supercategory": "none"},
            *({"id": n + 5, "name": s, "supercategory": "spines"} for n, s in enumerate(SPELLINGS)),
        ],
        "annotations": [
            {"id": n, "image_id": 9, "category_id": n + 5, "iscrowd": 0,
             "bbox": [x - w / 2, y - h / 2, w, h], **extra}
            for n, (x, y, w, h) in enumerate(BOXES)
        ],
    }  # fmt: skip
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_roboflow_yolo_by_its_spellings(tmp_path):
    dataset = load_dataset(roboflow(tmp_path / "set"))
    assert dataset.labels == "level"
    assert dataset.names == LEVELS
    assert dataset.own_names == SPELLINGS
    assert {part: len(r) for part, r in dataset.records.items()} == {
        "train": 2,
        "val": 1,
        "test": 0,
    }
    first = dataset.records["train"][0]
    assert first.image_id == "a_b.rf.1"
    assert dataset.image_path(first) == tmp_path / "set/train/images/a b.rf.1.png"
    assert [s.level for s in first.structures] == ["L4", "L4-L5", "L5", "L5-S1"]
    assert first.structures[0].point_xy == pytest.approx((40, 26))
    assert first.structures[0].box_xyxy == pytest.approx((34, 21, 46, 31))


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("annotations/instances_val2017.json", "val2017/x.png"),
        ("annotations/instances_val.json", "images/x.png"),
        ("annotations/val.json", "images/val/x.png"),
        ("valid/_annotations.coco.json", "valid/x.png"),
        ("val.json", "data/x.png"),
    ],
)
@pytest.mark.parametrize("named", ["folder", "file"])
def test_coco_layouts(tmp_path, file, image, named):
    path = coco(tmp_path / "set", file, image, keypoints=[41, 30, 2], num_keypoints=1)
    dataset = load_dataset(tmp_path / "set" if named == "folder" else path)
    assert dataset.own_names == SPELLINGS
    (record,) = dataset.records["val"]
    assert dataset.image_path(record) == tmp_path / "set" / image
    assert [s.level for s in record.structures] == ["L4", "L4-L5", "L5", "L5-S1"]
    assert record.structures[0].box_xyxy == (34, 21, 46, 31)
    assert record.structures[0].point_xy == (41, 30)


def test_a_broken_image_is_named_where_all_are_needed(tmp_path):
    data = roboflow(tmp_path / "set")
    load_dataset(data).check_whole(data)
    (data / "train/images/c.png").write_bytes(b"broken")
    with pytest.raises(AnnotationError, match=r"data=.*set: 1 images cannot be used: c: "):
        load_dataset(data).check_whole(data)
    with pytest.raises(AnnotationError, match="1 images cannot be used"):
        train_level_reader(NamingTrain(data=data, out=tmp_path / "run", epochs=1))
    assert not (tmp_path / "run").exists()


def test_images_of_a_coco_file_elsewhere(tmp_path):
    path = coco(tmp_path / "set", "labels.json", "far/off/x.png")
    with pytest.raises(AnnotationError, match=r"none of its 1 images is in .*images=… names"):
        load_dataset(path)
    dataset = load_dataset(path, tmp_path / "set/far/off")
    assert len(dataset.records["train"]) == 1


@pytest.mark.usefixtures("without_figures")
def test_commands_on_levels(tmp_path):
    data = roboflow(tmp_path / "set")
    result = check(DataCheck(data=data, out=tmp_path / "check"))
    assert result.findings == ()
    counted = stats(DataStats(data=data, out=tmp_path / "stats")).stats["parts"]["all"]
    assert counted["images"] == 3
    assert {k: n for k, n in counted["levels"].items() if n} == dict.fromkeys(
        ("L4", "L4-L5", "L5", "L5-S1"), 3
    )
    assert len(show(DataShow(data=data, out=tmp_path / "show")).images) == 3
    with pytest.raises(AnnotationError, match="none of its boxes has a grade"):
        crops(DataCrops(data=data, out=tmp_path / "crops"))


def test_crops_of_coco_with_grades_as_attributes(tmp_path):
    grades = [{"grade": "v3"}, {"Grade": "degenerative", "by": "x"}, {"pathology": "v2,v5"}, {}]
    path = coco(tmp_path / "set", "instances_train.json", "images/x.png")
    content = json.loads(path.read_text())
    for entry, attributes in zip(content["annotations"], grades, strict=True):
        entry["attributes"] = attributes
    content["annotations"][3]["attributes"] = {"grade": "4 of 5"}  # no word that is known
    path.write_text(json.dumps(content))
    (record,) = load_dataset(path).records["train"]
    assert {s.level: s.pathology for s in record.structures} == {
        "L4": (), "L4-L5": ("v2", "v5"), "L5": ("v2",), "L5-S1": ("v3",),
    }  # fmt: skip
    crops(DataCrops(data=path, out=tmp_path / "crops"))
    table = load_crops(tmp_path / "crops")["train"]
    assert [(row.level, row.pathology) for row in table.rows] == [
        ("L4-L5", ("v2", "v5")), ("L5", ("v2",)), ("L5-S1", ("v3",)),
    ]  # fmt: skip


@pytest.mark.usefixtures("without_figures")
def test_commands_on_classes_of_its_own(tmp_path):
    names = ("lesion", "cord", "Vertebra", "node")
    data = roboflow(tmp_path / "set", names) / "data.yaml"
    assert check(DataCheck(data=data, out=tmp_path / "check")).findings == ()
    counted = stats(DataStats(data=data, out=tmp_path / "stats")).stats
    assert counted["labels"] == "own"
    assert counted["parts"]["train"]["classes"] == {**dict.fromkeys(names, 2), "none": 0}
    assert counted["parts"]["train"]["kinds"] == {"disc": 6, "vertebra": 2}
    assert len(show(DataShow(data=data, out=tmp_path / "show")).images) == 3
    with pytest.raises(AnnotationError, match=r"\(lesion, cord, Vertebra, node\) are none of"):
        crops(DataCrops(data=data, out=tmp_path / "crops"))
    with pytest.raises(AnnotationError, match=r"which this needs; name them so"):
        load_dataset(data)


@pytest.mark.parametrize(
    "wrong",
    [{"bbox": [1, None, 3, 4]}, {"bbox": [1, 2, 3]}, {"bbox": "x"}, {"category_id": 99},
     {"image_id": 7}, {"category_id": None}],
    ids=["null", "three", "text", "category", "image", "no category"],
)  # fmt: skip
def test_a_wrong_annotation_of_coco_is_named(tmp_path, wrong):
    path = coco(tmp_path, "labels.json", "images/a.png")
    content = json.loads(path.read_text())
    content["annotations"][2] |= wrong
    path.write_text(json.dumps(content))
    (key, value), *_ = wrong.items()
    with pytest.raises(AnnotationError) as caught:
        load_dataset(path)
    assert "labels.json: annotation 2 has " in str(caught.value)
    assert f"{key} {value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("images", [{"id": 9, "file_name": "a.png"}] * 2, "two images have the same id"),
        (
            "categories",
            [{"id": n, "name": "L4"} for n in range(9)],
            "not named one by one: 'L4, L4",
        ),
        ("images", [{"id": 9}], "cannot be read as COCO .*file_name"),
    ],
    ids=["image twice", "name twice", "no file name"],
)
def test_a_coco_file_that_contradicts_itself_is_refused(tmp_path, key, value, message):
    path = coco(tmp_path, "labels.json", "images/a.png")
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(AnnotationError, match=rf"labels\.json: .*{message}"):
        load_dataset(path)


def test_parts_of_coco_with_other_categories_are_no_data_set(tmp_path):
    coco(tmp_path, "annotations/train.json", "images/a.png")
    other = coco(tmp_path, "annotations/val.json", "images/b.png")
    other.write_text(other.read_text().replace("LWK5", "LWK4"))
    with pytest.raises(AnnotationError, match=r"val\.json: its categories .* not those of the oth"):
        load_dataset(tmp_path)


def test_which_of_several_coco_files_counts(tmp_path):
    """Other JSON and key points beside the boxes do not; two of one part must be told apart."""
    coco(tmp_path, "annotations/instances_val.json", "images/a.png")
    coco(tmp_path, "annotations/person_keypoints_val.json", "images/a.png")
    (tmp_path / "annotations" / "notes.json").write_text("[]")
    (tmp_path / "annotations" / "half.json").write_text("{")
    assert len(load_dataset(tmp_path).records["val"]) == 1
    coco(tmp_path, "annotations/instances_val2.json", "images/a.png")
    with pytest.raises(AnnotationError, match=r"val2?\.json are all of the val part; name"):
        load_dataset(tmp_path)


def test_crowds_are_left_out_and_told_of(tmp_path, caplog):
    path = coco(tmp_path, "labels.json", "images/a.png")
    content = json.loads(path.read_text())
    content["annotations"][1]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    (record,) = load_dataset(path).all_records()
    assert [s.level for s in record.structures] == ["L4", "L4-L5", "L5-S1"]
    assert "labels.json: 1 annotations are crowds (iscrowd) and left out" in caplog.text


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [
        ("b.png", 80, r"b\.png: no such image file"),
        ("c.png", 80, r"c\.png: "),
        ("d.png", 99, r"d\.png: the image is 80x100, its label says 99x100"),
    ],
    ids=["missing", "damaged", "another size"],
)
def test_an_image_of_coco_that_cannot_be_used_is_named(tmp_path, name, width, message):
    path = coco(tmp_path, "labels.json", "images/a.png")
    content = json.loads(path.read_text())
    content["images"].append({"id": 10, "file_name": name, "width": width, "height": 100})
    (tmp_path / "images" / "c.png").write_bytes(b"no picture")
    draw(tmp_path / "images" / "d.png", 60)
    path.write_text(json.dumps(content))
    dataset = load_dataset(path)
    assert len(dataset.all_records()) == 1
    (failure,) = dataset.failures
    assert re.search(message, failure)


def test_images_without_label_files_are_backgrounds(tmp_path):
    data = roboflow(tmp_path / "set")
    (data / "train/labels/c.txt").unlink()
    found = {r.image_id: len(r.structures) for r in load_dataset(data).records["train"]}
    assert found == {"a_b.rf.1": 4, "c": 0}
    for file in data.rglob("*.png"):
        file.unlink()
    with pytest.raises(AnnotationError, match=r"data\.yaml: none of its parts has an image"):
        load_dataset(data)


def test_classes_of_health_and_classes_beside_levels(tmp_path, caplog):
    dataset = load_dataset(roboflow(tmp_path / "one", ("Healthy", "sick", "a", "b")))
    assert dataset.labels == "health"
    tags = [s.pathology for s in dataset.records["val"][0].structures]
    assert sorted(tags) == [(), (), ("healthy",), ("sick",)]
    caplog.clear()
    load_dataset(roboflow(tmp_path / "two", ("L5", "cord", "cyst", "L4")))
    assert "not levels: cord (3 boxes), cyst (3 boxes); their boxes have no level" in caplog.text


@pytest.mark.usefixtures("without_figures")
def test_what_is_wrong_is_found_and_nothing_skipped_in_silence(tmp_path):
    data = roboflow(tmp_path / "set")
    (data / "train/labels/c.txt").write_text("0 0.5 0.5 0.1 0.1\n7 0.5 0.5 0.1 0.1\n")
    (data / "train/labels/gone.txt").write_text("")
    (data / "valid/labels/d.txt").write_text("1 0.5 0.5 0.1 0.1\n1 0.5 0.7 0.1 0.1\n")
    (data / "valid/images/e.jpg").write_bytes(b"no image")
    result = check(DataCheck(data=data, out=tmp_path / "check"))
    found = {(f.image_id, f.finding): f.detail for f in result.findings}
    assert found["c", "label_file"] == "train/labels/c.txt:2: class 7, allowed 0 … 3"
    assert found["gone", "label_without_frame"].startswith("gone.txt has no image of its name")
    assert found["d", "duplicate_level"] == "2 boxes are L5"
    assert ("e", "unreadable_image") in found
    assert {image for image, _ in found} == {"c", "gone", "d", "e"}
    failures = stats(DataStats(data=data, out=tmp_path / "stats")).failures
    assert [text.split(":")[0] for text in failures] == ["c", "e"]


def test_outlines_and_key_points_as_ultralytics_takes_them(tmp_path):
    data = roboflow(tmp_path / "set", ("L4",))
    for stem, text in (
        ("a b.rf.1", "0 0.1 0.2 0.5 0.2 0.5 0.4"),
        ("c", "0 0.1 0.2 0.5 0.4 0.5 0.2"),
    ):
        (data / f"train/labels/{stem}.txt").write_text(text)
    (data / "valid/labels/d.txt").write_text("0 0.3 0.3 0.4 0.2")
    boxes = [r.structures[0].box_xyxy for r in load_dataset(data).all_records()]
    assert boxes == [pytest.approx((8, 20, 40, 40))] * 3
    keys = yaml.safe_load((data / "data.yaml").read_text())
    (data / "data.yaml").write_text(yaml.safe_dump({**keys, "kpt_shape": [1, 3]}))
    for stem in ("train/labels/a b.rf.1", "train/labels/c"):
        (data / f"{stem}.txt").write_text("0 0.3 0.3 0.4 0.2 0.25 0.31 2")
    (data / "valid/labels/d.txt").write_text("0 0.3 0.3 0.4 0.2 0 0 0")
    points = [r.structures[0].point_xy for r in load_dataset(data).all_records()]
    assert points == [pytest.approx(p) for p in ((20, 31), (20, 31), (24, 30))]


def test_same_images_in_two_parts_are_told(tmp_path):
    data = roboflow(tmp_path / "set")
    keys = yaml.safe_load((data / "data.yaml").read_text())
    (data / "data.yaml").write_text(yaml.safe_dump({**keys, "test": "../valid/images"}))
    result = check(DataCheck(data=data, out=tmp_path / "check"))
    assert {f.finding for f in result.findings} == {"study_in_two_parts"}
