"""A converted dataset opens in other tools, nothing renamed.

Tools that do not go with our packages (Datumaro, Label Studio's SDK, Hugging Face's datasets,
FiftyOne) run in an interpreter of their own, which ``SPINELINE_TOOLS_PYTHON`` names; without it
this one is asked. What is not installed there is skipped.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spineline.converters.convert import convert_report
from spineline.converters.settings import ConvertReport
from spineline.datasets.coco import boxed_structures
from spineline.datasets.commands.phantom import phantom
from spineline.datasets.commands.settings import DataPhantom
from spineline.datasets.dataset import Dataset, load_dataset
from spineline.datasets.labels import LEVELS
from spineline.datasets.splits import PARTS

PYTHON = os.environ.get("SPINELINE_TOOLS_PYTHON", sys.executable)
OFFLINE = {
    "HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0",
    "ULTRALYTICS_SKIP_REQUIREMENTS_CHECKS": "1", "FIFTYONE_DO_NOT_TRACK": "1",
}  # fmt: skip
_FOUND = "import importlib.util as u, sys; sys.exit(u.find_spec(sys.argv[1]) is None)"

RunTool = Callable[..., Any]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("tools")
    phantom(DataPhantom(out=root / "ph", n=5, format=("png",), size=160))
    convert_report(
        ConvertReport(
            annotations=root / "ph/report_labels.json", images=root / "ph/frames",
            out=root / "out", split="0.6,0.2,0.2",
            to=("yolo", "voc", "coco", "imagefolder", "pose", "labelstudio"),
        )
    )  # fmt: skip
    return load_dataset(root / "out")


@functools.cache
def is_installed(package: str, python: str) -> bool:
    call = [python, "-P", "-c", _FOUND, package]
    return subprocess.run(call, check=False).returncode == 0


@pytest.fixture
def run_tool(tmp_path: Path) -> RunTool:
    """Run a script with a package and the dataset's folder; what it calls ``found`` comes back."""

    def run(package: str, script: str, root: Path, python: str = PYTHON) -> Any:
        call = [python, "-P", "-c"]
        if not is_installed(package, python):
            pytest.skip(f"{package} is not installed in {python}")
        out = tmp_path / "found.json"
        code = f"import json, sys\nroot, out = sys.argv[1:]\n{script}\n"
        code += "json.dump(found, open(out, 'w'))"
        environment = {**os.environ, **OFFLINE, "YOLO_CONFIG_DIR": str(tmp_path / "config")}
        environment |= {"HF_HOME": str(tmp_path / "hf")}
        done = subprocess.run(
            [*call, code, str(root), str(out)], cwd=tmp_path, env=environment, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(out.read_text())

    return run


def boxes_of(dataset: Dataset) -> dict[str, dict[str, list[float]]]:
    """By image and level: box ``xyxy`` on continuous coordinates, then the point."""
    found = {}
    for record in dataset.all_records():
        boxed = boxed_structures(record, "level")
        rows = zip(boxed.structures, boxed.boxes_xyxy.tolist(), strict=True)
        found[record.image_id] = {s.level: [*box, *s.point_xy] for s, box in rows}
    return found


def assert_same(found: dict[str, dict[str, list[float]]], dataset: Dataset, offset: Any) -> None:
    """As many images and levels, and every number as ours plus an offset."""
    wanted = boxes_of(dataset)
    assert found.keys() == wanted.keys()
    for image, levels in wanted.items():
        assert found[image].keys() == levels.keys()
        for level, numbers in levels.items():
            ours = np.array(numbers[: len(offset)]) + offset
            np.testing.assert_allclose(found[image][level], ours, atol=2e-3)


DATUMARO = """
import datumaro
opened = datumaro.Dataset.import_from(root + FOLDER, FORMAT)
labels = opened.categories()[datumaro.AnnotationType.label]
found, parts, shown = {}, {}, True
for item in opened:
    mine = found.setdefault(item.id, {})
    shown &= item.media.data is not None
    parts[item.id] = item.subset
    for kind in ("Bbox", "Points"):
        for one in item.annotations:
            if type(one).__name__ == kind:
                mine.setdefault(labels[one.label].name, []).extend(map(float, one.points))
found = {"boxes": found, "parts": parts, "images": shown}
"""


@pytest.mark.parametrize(
    ("form", "folder", "offset"),
    [
        ("coco", "", (0, 0, 0, 0, 0, 0)),
        ("yolo", "", (0, 0, 0, 0)),
        ("voc", "/voc", (1, 1, 0, 0)),
    ],
)
def test_datumaro(converted, run_tool, form, folder, offset):
    script = DATUMARO.replace("FOLDER", repr(folder)).replace("FORMAT", repr(form))
    found = run_tool("datumaro", script, converted.root)
    assert found["images"]
    assert found["parts"] == {
        record.image_id: part for part, records in converted.records.items() for record in records
    }
    assert_same(found["boxes"], converted, offset)


def test_label_studio_yolo_import(converted, run_tool):
    script = """
from label_studio_sdk.converter.imports.yolo import convert_yolo_to_ls
convert_yolo_to_ls(root + "/labelstudio", "tasks.json")
found = {}
for task in json.load(open("tasks.json")):
    mine = found.setdefault(task["data"]["image"].rpartition("/")[2][:-4], {})
    for row in task["annotations"][0]["result"]:
        v, w, h = row["value"], row["original_width"] / 100, row["original_height"] / 100
        (name,) = v["rectanglelabels"]
        mine[name] = [v["x"] * w, v["y"] * h, (v["x"] + v["width"]) * w, (v["y"] + v["height"]) * h]
"""
    found = run_tool("label_studio_sdk", script, converted.root)
    assert_same(found, converted, (0, 0, 0, 0))


def test_hugging_face_imagefolder(converted, run_tool):
    script = """
from datasets import load_dataset
found = {}
for part, rows in load_dataset("imagefolder", data_dir=root + "/images").items():
    for row in rows:
        o = row["objects"]
        assert row["image"].size == (160, 160)
        found[part + "/" + row["study_id"]] = {
            level: [x, y, x + w, y + h, *point]
            for level, (x, y, w, h), point in zip(o["names"], o["bbox"], o["points"])
        }
"""
    found = run_tool("datasets", script, converted.root)
    parts = {"validation" if k.startswith("val") else k.split("/")[0] for k in found}
    assert parts == {"train", "validation", "test"}
    ids = {record.study_id: record.image_id for record in converted.all_records()}
    found = {ids[key.split("/")[1]]: value for key, value in found.items()}
    assert_same(found, converted, (0, 0, 0, 0, 0, 0))


@pytest.mark.slow
def test_fiftyone_coco_importer(converted, run_tool):
    """The importer itself, which needs no database, in place of a dataset, which does."""
    script = """
from fiftyone.utils.coco import COCODetectionDatasetImporter
found = {}
for part in ("train", "val", "test"):
    importer = COCODetectionDatasetImporter(
        data_path=root + "/images/" + part, labels_path=root + "/annotations/" + part + ".json",
        label_types=["detections", "keypoints"],
    )
    with importer:
        for path, about, labels in importer:
            w, h = about.width, about.height
            mine = found.setdefault(path.replace("\\\\", "/").rpartition("/")[2][:-4], {})
            for one in labels["detections"].detections:
                x, y, bw, bh = one.bounding_box
                mine[one.label] = [x * w, y * h, (x + bw) * w, (y + bh) * h]
            for one in labels["keypoints"].keypoints:
                mine[one.label] += [one.points[0][0] * w, one.points[0][1] * h]
"""
    python = os.environ.get("SPINELINE_FIFTYONE_PYTHON", PYTHON)
    found = run_tool("fiftyone", script, converted.root, python)
    assert_same(found, converted, (0, 0, 0, 0, 0, 0))


@pytest.mark.parametrize("form", ["yolo", "coco", "voc"])
def test_supervision(converted: Dataset, form: str) -> None:
    """Of Pascal VOC it takes one from the left and top, as Detectron2 does."""
    make = pytest.importorskip("supervision").DetectionDataset
    root, found = str(converted.root), {}
    for part in PARTS:
        if form == "yolo":
            folders = (f"{root}/images/{part}", f"{root}/labels/{part}", f"{root}/data.yaml")
            opened = make.from_yolo(*folders)
        elif form == "coco":
            opened = make.from_coco(f"{root}/images/{part}", f"{root}/annotations/{part}.json")
        else:
            opened = make.from_pascal_voc(f"{root}/voc/JPEGImages", f"{root}/voc/Annotations")
        for path, _, boxes in opened:
            rows = zip(boxes.xyxy.tolist(), boxes.class_id.tolist(), strict=True)
            found[Path(path).stem] = {opened.classes[index]: box for box, index in rows}
    assert_same(found, converted, (0, 0, 0, 0))


def test_torchvision_coco(converted: Dataset) -> None:
    torchvision = pytest.importorskip("torchvision.datasets")
    root, found = str(converted.root), {}
    for part in PARTS:
        labels = f"{root}/annotations/{part}.json"
        opened = torchvision.CocoDetection(f"{root}/images/{part}", labels)
        for number, (image, rows) in zip(opened.ids, opened, strict=True):
            assert image.size == (160, 160)
            mine = found[Path(opened.coco.loadImgs(number)[0]["file_name"]).stem] = {}
            for row in rows:
                x, y, w, h = row["bbox"]
                name = opened.coco.cats[row["category_id"]]["name"]
                mine[name] = [x, y, x + w, y + h, *row["keypoints"][:2]]
    assert_same(found, converted, (0, 0, 0, 0, 0, 0))


@pytest.mark.slow
def test_yolo_val_of_the_test_part_and_yolo_pose_train(converted, run_tool):
    script = """
from ultralytics import YOLO
keys = {"imgsz": 96, "plots": False, "workers": 0, "device": "cpu", "amp": False, "verbose": False}
detector = YOLO("yolov8n.yaml")
detector.train(data=root + "/data.yaml", epochs=1, val=False, project=out + ".d", **keys)
scored = detector.val(data=root + "/data.yaml", split="test", project=out + ".v", **keys)
pose = YOLO("yolov8n-pose.yaml")
pose.train(data=root + "/pose/data.yaml", epochs=1, project=out + ".p", **keys)
found = [scored.seen if hasattr(scored, "seen") else 0, list(pose.names.values()), pose.task]
found += [list(pose.model.kpt_shape), len(scored.box.maps)]
"""
    found = run_tool("ultralytics", script, converted.root, sys.executable)
    assert found[1:] == [list(LEVELS), "pose", [1, 3], 11]


def test_a_part_without_images_is_not_named(tmp_path):
    phantom(DataPhantom(out=tmp_path / "ph", n=2, format=("png",), size=128))
    settings = ConvertReport(
        annotations=tmp_path / "ph/report_labels.json", images=tmp_path / "ph/frames",
        out=tmp_path / "out", split="0.5", to=("yolo", "pose"),
    )  # fmt: skip
    convert_report(settings)
    for file in (tmp_path / "out/data.yaml", tmp_path / "out/pose/data.yaml"):
        keys = [line.split(":")[0] for line in file.read_text().splitlines()]
        assert "train" in keys
        assert "val" in keys
        assert "test" not in keys
