"""The three formats against each other, and against the tools that people open them with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spineline.converters.formats.voc import read_voc
from spineline.datasets.boxes import cxcywhn_to_xyxy
from spineline.datasets.coco import boxed_structures
from spineline.datasets.dataset import Dataset, load_dataset
from spineline.datasets.yolo_labels import read_yolo_labels
from spineline.detect.engine.dataset import read_data


@pytest.fixture
def dataset(report_source, run_cli) -> Dataset:
    """Boxes inside, over the left and over the lower edge of the frame."""
    files = report_source("001-000", "002-000")
    for point in files.entries[1]["point"]:
        x, y = point["coord"]
        point["coord"] = [x - 43.25, y + 14.375]
    assert run_cli("convert", "report", *files.save().words(split="train"))[0] == 0
    return load_dataset(files.root / "out")


def wanted(dataset: Dataset) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    boxed = {r.image_id: boxed_structures(r, dataset.labels) for r in dataset.records["train"]}
    return {name: (b.class_index, b.boxes_xyxy) for name, b in boxed.items()}


def test_the_frames_do_cut_boxes(dataset):
    boxes = wanted(dataset)["002-000"][1]
    assert boxes[:, 0].min() == 0
    assert boxes[:, 3].max() == 160


def test_own_readers_agree(dataset):
    names = read_data(dataset.root).names
    assert names == dataset.names
    for record in dataset.records["train"]:
        classes, boxes = wanted(dataset)[record.image_id]
        path = dataset.root / f"labels/train/{record.image_id}.txt"
        yolo = read_yolo_labels(path, classes=11)
        yolo_xyxy = cxcywhn_to_xyxy(yolo.boxes_cxcywhn, record.width, record.height)
        voc = read_voc(dataset.root / f"voc/Annotations/{record.image_id}.xml")
        assert yolo.class_index.tolist() == classes.tolist()
        assert np.abs(yolo_xyxy - boxes).max() < 1e-6
        assert [names.index(o.name) for o in voc.objects] == classes.tolist()
        assert np.abs(np.array([o.box_xyxy for o in voc.objects]) - boxes).max() < 1e-6


def test_pycocotools_opens_coco(dataset, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO(str(dataset.root / "annotations/train.json"))
    for image in coco.loadImgs(coco.getImgIds()):
        classes, boxes = wanted(dataset)[Path(image["file_name"]).stem]
        found = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        xywh = np.array([a["bbox"] for a in found])
        assert np.allclose(np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]), boxes, atol=1e-9)
        assert [a["category_id"] - 1 for a in found] == classes.tolist()
    results = [{**a, "score": 1.0} for a in coco.dataset["annotations"]]
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_supervision_opens_all_three_and_they_agree(dataset):
    supervision = pytest.importorskip("supervision")
    images = str(dataset.root / "images/train")
    opened = [
        supervision.DetectionDataset.from_yolo(
            images, str(dataset.root / "labels/train"), str(dataset.root / "data.yaml")
        ),
        supervision.DetectionDataset.from_pascal_voc(images, str(dataset.root / "voc/Annotations")),
        supervision.DetectionDataset.from_coco(
            images, str(dataset.root / "annotations/train.json")
        ),
    ]
    for found in opened:
        assert len(found) == 2
        for path, _, detections in found:
            classes, boxes = wanted(dataset)[Path(path).stem]
            names = [found.classes[i] for i in detections.class_id]
            assert names == [dataset.names[i] for i in classes]
            assert np.abs(detections.xyxy - boxes).max() < 1e-3


def test_ultralytics_opens_yolo_wherever_the_folder_is(dataset, tmp_path, monkeypatch):
    from spineline.detect.yolo.environment import import_ultralytics

    import_ultralytics()
    from ultralytics.data.utils import check_det_dataset, img2label_paths, verify_image_label

    moved = tmp_path / "moved elsewhere"
    dataset.root.rename(moved)
    monkeypatch.chdir(tmp_path)
    data = check_det_dataset(str(moved / "data.yaml"))
    assert Path(data["train"]) == (moved / "images/train").resolve()
    assert list(data["names"].values()) == list(dataset.names)
    images = [str(moved / str(r.file)) for r in dataset.records["train"]]
    for image, label in zip(images, img2label_paths(images), strict=True):
        result = verify_image_label((image, label, "", False, 11, 0, 0, False))
        classes, boxes = wanted(dataset)[Path(image).stem]
        assert result[5:9] == (0, 1, 0, 0)  # missing, found, empty, corrupt
        assert result[9] == ""
        assert result[1][:, 0].tolist() == classes.tolist()
        assert np.abs(cxcywhn_to_xyxy(result[1][:, 1:], 96, 160) - boxes).max() < 1e-3
