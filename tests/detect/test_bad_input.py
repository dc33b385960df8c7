"""Bad data and bad keys from the command line, with both families of networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from spineline.datasets.labels import LEVELS

pytestmark = pytest.mark.usefixtures("small_box_heads")

Cli = Callable[..., tuple[int, str, str]]
TRAIN = ("epochs=1", "batch=2", "plots=false")
YOLO, REGION = "model=yolov8n", ("model=fasterrcnn", "backbone=resnet18")


@pytest.fixture(params=["yolo", "fasterrcnn", "ensemble"])
def detector(request: pytest.FixtureRequest, weights: Path, region_weights: Path) -> str:
    """A detector as a key of ``detect val`` and ``detect predict``."""
    words = {
        "yolo": f"model={weights}",
        "fasterrcnn": f"model={region_weights}",
        "ensemble": f"weights=[{weights},{region_weights}]",
    }
    return words[request.param]


def keep_annotations(root: Path, keep: Callable[[str], bool]) -> None:
    """Take the boxes of other classes out of a dataset, in both of its formats."""
    for path in root.glob("annotations/*.json"):
        content = json.loads(path.read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        content["annotations"] = [
            item for item in content["annotations"] if keep(names[item["category_id"]])
        ]
        path.write_text(json.dumps(content))
    for path in root.glob("labels/*/*.txt"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(n for n in lines if keep(LEVELS[int(n.split()[0])])))


def test_predict_goes_on_after_images_that_are_none(
    run_cli: Cli, dataset: Path, detector: str, tmp_path: Path
) -> None:
    source, out = tmp_path / "images", tmp_path / "out"
    source.mkdir()
    good = (dataset / "images" / "val" / "s06.png").read_bytes()
    bad = {"a.png": b"broken", "b.png": b"", "c.png": good[:200]}
    for name, data in {**bad, "d.png": good}.items():
        (source / name).write_bytes(data)
    cv2.imwrite(str(source / "e.png"), np.arange(4, dtype=np.uint8).reshape(2, 2))
    words = (detector, f"source={source}", f"out={out}", "confidence=0.05")
    code, _, errors = run_cli("detect", "predict", *words)
    assert code == 1
    assert all(name in errors for name in bad)
    content = json.loads((out / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["d.png", "e.png"]


@pytest.mark.parametrize("detector", ["yolo", "fasterrcnn"], indirect=True)
def test_val_counts_an_unreadable_image_as_one_without_detection(
    run_cli: Cli, own_dataset: Callable[..., Path], detector: str, tmp_path: Path
) -> None:
    data, out = own_dataset(), tmp_path / "out"
    (data / "images" / "val" / "s06.png").write_bytes(b"broken")
    words = (detector, f"data={data}", f"out={out}", "plots=false", "draws=20", "confidence=0.3")
    code, _, errors = run_cli("detect", "val", *words)
    assert code == 1
    assert "s06.png: cannot be decoded" in errors
    assert json.loads((out / "metrics.json").read_text())["images"] == 2
    found = json.loads((out / "predictions.json").read_text())
    truth = json.loads((data / "annotations" / "val.json").read_text())
    broken = {i["id"] for i in truth["images"] if i["file_name"].endswith("s06.png")}
    assert not {row["image_id"] for row in found} & broken


@pytest.mark.parametrize("detector", ["yolo", "fasterrcnn"], indirect=True)
@pytest.mark.parametrize("present", [0, 10], ids=["no-box", "one-class-absent"])
def test_val_on_a_dataset_without_boxes_or_without_a_class(
    run_cli: Cli, own_dataset: Callable[..., Path], detector: str, tmp_path: Path, present: int
) -> None:
    data, out = own_dataset(), tmp_path / "out"
    keep_annotations(data, lambda name: name in LEVELS[:present])
    words = (detector, f"data={data}", f"out={out}", "plots=false", "draws=20", "confidence=0.3")
    code, _, errors = run_cli("detect", "val", *words)
    assert code == 0, errors
    coco = json.loads((out / "metrics.json").read_text())["coco"]
    assert (coco["map50"] is None) == (present == 0)
    assert [coco["per_class"][name]["ap50"] is None for name in LEVELS] == [
        n >= present for n in range(11)
    ]


def spoil_nothing(root: Path) -> None:
    """The dataset as it is."""


def spoil_train(root: Path) -> None:
    (root / "images" / "train" / "s03.png").write_bytes(b"broken")


def spoil_val(root: Path) -> None:
    (root / "images" / "val" / "s07.png").write_bytes(b"")


def spoil_boxes(root: Path) -> None:
    keep_annotations(root, lambda _: False)


BOTH = [
    (spoil_train, ["imgsz=64"], 1, "1 of 6 images of the train part cannot be used"),
    (spoil_val, ["imgsz=64"], 1, "1 of 2 images of the val part cannot be used"),
    (spoil_boxes, ["imgsz=64"], 1, "none of the 6 images of the train part has a label"),
    (spoil_nothing, ["imgsz=8"], 2, "imgsz=8: out of range"),
    (spoil_nothing, ["imgsz=64", "lr0=nan"], 2, "lr0=nan: out of range"),
    (spoil_nothing, ["imgsz=64", "lr0=inf"], 2, "lr0=inf: out of range"),
    (spoil_nothing, ["imgsz=64", "warmup_epochs=inf"], 2, "warmup_epochs=inf: out of range"),
]
REGION_ALONE = [
    (["backbone=nonsense"], "backbone=nonsense: no such backbone"),
    (["backbone=../resnet18"], "backbone=../resnet18: no such backbone"),
    (["class_weights=1,2"], "2 weights for 11 classes"),
    (["class_weights=" + ",".join(["1"] * 10 + ["-1"])], "class_weights=-1.0: out of range"),
    (["class_weights=" + ",".join(["1"] * 10 + ["inf"])], "class_weights=inf: out of range"),
    (["class_weights=" + ",".join(["0"] * 11)], "one above 0"),
    (["channels=2"], "channels=2: allowed: 1, 3"),
    (["focal_gamma=inf"], "focal_gamma=inf: out of range"),
    (["crop=4"], "crop=4: wanted 0"),
]


@pytest.mark.parametrize("model", [(YOLO,), REGION], ids=["yolo", "fasterrcnn"])
@pytest.mark.parametrize(("spoil", "words", "status", "message"), BOTH)
def test_training_that_cannot_begin(
    run_cli: Cli, own_dataset: Callable[..., Path], tmp_path: Path, model: tuple[str, ...],
    spoil: Callable[[Path], None], words: list[str], status: int, message: str,
) -> None:  # fmt: skip
    data, out = own_dataset(), tmp_path / "out"
    spoil(data)
    given = (*model, f"data={data}", f"out={out}", *TRAIN, *words)
    code, _, errors = run_cli("detect", "train", *given)
    assert code == status, errors
    assert message in errors
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"), REGION_ALONE, ids=[words[0][:20] for words, _ in REGION_ALONE]
)
def test_keys_of_fasterrcnn_that_do_not_fit(
    run_cli: Cli, dataset: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    out = tmp_path / "out"
    given: dict[str, Any] = {"model": "fasterrcnn", "backbone": "resnet18", "imgsz": 64}
    given |= dict(word.split("=", 1) for word in words)
    keys = [f"{name}={value}" for name, value in given.items()]
    code, _, errors = run_cli("detect", "train", *keys, f"data={dataset}", f"out={out}", *TRAIN)
    assert code == 2, errors
    assert message in errors
    assert not out.exists()
