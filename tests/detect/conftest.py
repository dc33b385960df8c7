"""A small converted dataset of drawn spines, weights without training, and one short run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from spineline.datasets.boxes import boxes_from_points, xyxy_to_cxcywhn
from spineline.datasets.coco import boxed_structures, coco_from_records
from spineline.datasets.common.log import LOG
from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.datasets.types import ImageRecord, Structure

SIZE = 96
PARTS = {"train": 6, "val": 2, "test": 2}


def spine_record(number: int, rng: np.random.Generator) -> ImageRecord:
    """Eleven structures, one below the other."""
    xs = SIZE / 2 + rng.normal(0, 2, 11)
    ys = np.linspace(12, SIZE - 12, 11) + rng.uniform(-1, 1, 11)
    boxes = boxes_from_points(np.stack([xs, ys], axis=1))
    structures = tuple(
        Structure(
            level=level,
            kind=kind_of_level(level),
            point_xy=(float(x), float(y)),
            box_xyxy=tuple(box.tolist()),
        )
        for level, x, y, box in zip(LEVELS, xs, ys, boxes, strict=True)
    )
    return ImageRecord(
        image_id=f"s{number:02d}",
        study_id=f"s{number:02d}",
        width=SIZE,
        height=SIZE,
        structures=structures,
    )


def draw(record: ImageRecord, rng: np.random.Generator) -> np.ndarray:
    image = rng.integers(0, 40, (SIZE, SIZE), dtype=np.uint8)
    for index, structure in enumerate(record.structures):
        x, y = (round(v) for v in structure.point_xy)
        cv2.ellipse(image, (x, y), (12, 3), 0, 0, 360, 120 + 10 * index, -1)
    return image


def write_dataset(root: Path, parts: dict[str, int] | None = None) -> Path:
    """A dataset in the layout of the converters."""
    rng = np.random.default_rng(0)
    number = 0
    for part, count in (parts or PARTS).items():
        for kind in ("images", "labels"):
            (root / kind / part).mkdir(parents=True, exist_ok=True)
        (root / "annotations").mkdir(exist_ok=True)
        records = []
        for _ in range(count):
            record = spine_record(number, rng)
            number += 1
            records.append(record)
            cv2.imwrite(str(root / "images" / part / f"{record.image_id}.png"), draw(record, rng))
            boxed = boxed_structures(record, "level")
            boxes = xyxy_to_cxcywhn(boxed.boxes_xyxy, SIZE, SIZE)
            lines = [
                f"{index} {' '.join(f'{n:.6f}' for n in box)}"
                for index, box in zip(boxed.class_index, boxes, strict=True)
            ]
            text = "\n".join(lines) + "\n"
            (root / "labels" / part / f"{record.image_id}.txt").write_text(text)
        coco = coco_from_records(records, "level", [f"{r.image_id}.png" for r in records])
        (root / "annotations" / f"{part}.json").write_text(json.dumps(coco))
    names = "\n".join(f"  {i}: {name}" for i, name in enumerate(LEVELS))
    text = f"path: ''\ntrain: images/train\nval: images/val\ntest: images/test\nnames:\n{names}\n"
    (root / "data.yaml").write_text(text)
    return root


@pytest.fixture
def said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """What is said through our log, as ``said.text``."""
    monkeypatch.setattr(LOG, "propagate", True)
    caplog.set_level(logging.INFO, logger="spineline")
    return caplog


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints of every epoch, however short: tests kill runs and look at what they left."""
    monkeypatch.setattr("spineline.datasets.networks.training.CHECKPOINT_SECONDS", 0.0)


BOX_HEAD = 64
"""Width of a Faster R-CNN's box head in tests; torchvision's 1024 take most of their time."""


def make_box_heads_small(patch: pytest.MonkeyPatch) -> None:
    """Let every Faster R-CNN that is built have a narrow box head."""
    from torchvision.models.detection import faster_rcnn

    class Head(faster_rcnn.TwoMLPHead):
        def __init__(self, in_channels: int, _size: int) -> None:
            super().__init__(in_channels, BOX_HEAD)

    class Predictor(faster_rcnn.FastRCNNPredictor):
        def __init__(self, _size: int, num_classes: int) -> None:
            super().__init__(BOX_HEAD, num_classes)

    patch.setattr(faster_rcnn, "TwoMLPHead", Head)
    patch.setattr(faster_rcnn, "FastRCNNPredictor", Predictor)


@pytest.fixture(scope="module")
def small_box_heads() -> Iterator[None]:
    """Narrow box heads for all tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        make_box_heads_small(patch)
        yield


@pytest.fixture
def whole_box_heads(small_box_heads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Box heads of torchvision's own width in one test of such a module."""
    from torchvision.models.detection import faster_rcnn

    for name in ("TwoMLPHead", "FastRCNNPredictor"):
        monkeypatch.setattr(faster_rcnn, name, getattr(faster_rcnn, name).__base__)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn spines to train on, two to validate on, two to test on; not to be changed."""
    return write_dataset(tmp_path_factory.mktemp("dataset") / "set")


@pytest.fixture
def own_dataset(tmp_path: Path) -> Callable[..., Path]:
    """A dataset that a test may change."""
    return lambda **parts: write_dataset(tmp_path / "set", parts or None)


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Path]:
    """Writes datasets: ``make_dataset(folder, {"train": 2, "val": 1})``."""
    return write_dataset


def make_untrained(model: str = "yolov8n", seed: int = 0) -> Any:
    """A network with random weights whose scores lie around a half."""
    import torch

    from spineline.detect.architectures import package_yaml
    from spineline.detect.checkpoints import build_yolo

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: Any = build_yolo(package_yaml(model), classes=len(LEVELS))
        for branch in network.model[-1].cv3:
            torch.nn.init.normal_(branch[-1].weight, std=0.5)
            torch.nn.init.normal_(branch[-1].bias, std=0.5)
    network.names = dict(enumerate(LEVELS))
    return network.eval()


def make_meta(network: Any, model: str = "yolov8n", **changes: Any) -> Any:
    from spineline.detect.checkpoints import DetectorMeta, plain_description

    values = {
        "backend": "ultralytics",
        "model": model,
        "names": LEVELS,
        "imgsz": SIZE,
        "channels": 3,
        "yaml": plain_description(network.yaml),
    }
    return DetectorMeta(**{**values, **changes})


@pytest.fixture(scope="session")
def untrained() -> Callable[..., Any]:
    """Makes networks with random weights: ``untrained("yolov5nu", seed=1)``."""
    return make_untrained


@pytest.fixture(scope="session")
def meta_of() -> Callable[..., Any]:
    """Makes the description of a network's weights file: ``meta_of(network, backend="x")``."""
    return make_meta


@pytest.fixture(scope="session")
def network() -> Any:
    """An untrained yolov8n; not to be changed."""
    return make_untrained()


@pytest.fixture(scope="session")
def weights(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights as safetensors, in 32 bits."""
    from spineline.detect.checkpoints import save_safetensors

    path = tmp_path_factory.mktemp("weights") / "detector.safetensors"
    save_safetensors(network, make_meta(network), path, half=False)
    return path


@pytest.fixture(scope="session")
def region_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Faster R-CNN of the same classes, without training."""
    import torch

    from spineline.detect.checkpoints import save_safetensors
    from spineline.detect.engine.scaling import make_meta as describe
    from spineline.detect.fasterrcnn.model import FasterRCNNDescription, build_fasterrcnn

    description = FasterRCNNDescription("test_resnet", 1, 0.25, 0.5)
    with pytest.MonkeyPatch.context() as patch:
        make_box_heads_small(patch)
        network: Any = build_fasterrcnn(description, len(LEVELS), 64, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        torch.nn.init.normal_(network.roi_heads.box_predictor.cls_score.weight, std=0.02)
    path = tmp_path_factory.mktemp("region") / "region.safetensors"
    save_safetensors(network, describe(description, LEVELS, 64), path, half=False)
    return path


@pytest.fixture(scope="session")
def pickle_weights(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network as an Ultralytics checkpoint."""
    from copy import deepcopy

    from spineline.datasets.networks.tensors import write_checkpoint

    path = tmp_path_factory.mktemp("pickle") / "detector.pt"
    content = {"model": deepcopy(network), "train_args": {"imgsz": SIZE, "task": "detect"}}
    write_checkpoint(content, path)
    return path


def save_figures_small(patch: pytest.MonkeyPatch) -> None:
    """Let figures be drawn with few pixels, which takes a part of the time."""
    from matplotlib.figure import Figure

    save = Figure.savefig

    def saved(self: Figure, *where: Any, **options: Any) -> None:
        save(self, *where, **{**options, "dpi": 20})

    patch.setattr(Figure, "savefig", saved)


@pytest.fixture
def small_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn with few pixels in this test."""
    save_figures_small(monkeypatch)


@pytest.fixture(scope="session")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The result of a finished run of two epochs with the report's recipe; not to be changed."""
    from spineline.detect.settings import DetectTrain
    from spineline.detect.train import train

    out = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        save_figures_small(patch)
        return train(
            DetectTrain(
                model="yolov5n", data=dataset, out=out, hyp="report", imgsz=64, epochs=2, batch=3,
                label_smoothing=0.1, val_every=2,
            )
        )  # fmt: skip


@pytest.fixture(scope="session")
def images() -> list[np.ndarray]:
    """Grey frames of three sizes, with structure."""
    rng = np.random.default_rng(1)
    made = []
    for height, width in ((96, 96), (120, 80), (96, 96), (50, 77)):
        image = rng.integers(0, 60, (height, width), dtype=np.uint8)
        for top in range(5, height - 10, 14):
            image[top : top + 7, width // 3 : width // 3 * 2] += 150
        made.append(image)
    return made
