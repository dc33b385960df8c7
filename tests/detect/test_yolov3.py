"""YOLOv3, whose layers the other YOLO networks do not have: trained, scored, written, read."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from spineline.datasets.common.errors import WeightsError
from spineline.detect import load_detector
from spineline.detect.architectures import YOLOV3
from spineline.detect.checkpoints import (
    check_description,
    network_from_safetensors,
    read_safetensors,
    save_safetensors,
)
from spineline.detect.export import export
from spineline.detect.predict import predict
from spineline.detect.settings import DetectExport, DetectPredict, DetectTrain, DetectVal
from spineline.detect.train import TrainingResult, train
from spineline.detect.val import val


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """One epoch of the small network, with the smoothing of our loss."""
    out = tmp_path_factory.mktemp("yolov3") / "run"
    return train(
        DetectTrain(
            model="yolov3-tiny", data=dataset, out=out, imgsz=64, epochs=1, batch=3,
            label_smoothing=0.1, plots=False, val=False,
        )
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_says_what_it_trained_and_its_weights_load(trained: TrainingResult) -> None:
    record = yaml.safe_load((trained.out / "run.yaml").read_text())
    assert record["settings"]["model"] == "yolov3-tinyu"
    meta, tensors = read_safetensors(trained.weights)
    assert (meta.backend, meta.model, meta.imgsz) == ("ultralytics", "yolov3-tinyu", 64)
    assert meta.yaml["yaml_file"] == "yolov3-tiny.yaml"
    assert sum(tensor.numel() for tensor in tensors.values()) > 12_000_000  # its known size
    with (trained.out / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["train/cls_loss"]) > 0


@pytest.mark.slow
def test_it_is_scored_and_predicts(trained: TrainingResult, dataset: Path, tmp_path: Path) -> None:
    weights = str(trained.weights)
    result = val(DetectVal(model=weights, data=dataset, out=tmp_path / "val", draws=0, plots=False))
    assert 0 <= result.metrics["coco"]["map50"] <= 1
    images = dataset / "images" / "val"
    predict(
        DetectPredict(
            model=weights, source=images, out=tmp_path / "predict", confidence=0.0, overlays=False
        )
    )
    assert json.loads((tmp_path / "predict" / "predictions.json").read_text())["predictions"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["yolov3-tinyu", "yolov3-sppu"])  # yolov3u has layers of the last
def test_round_trip(
    model: str, tmp_path: Path, untrained: Callable[..., Any], meta_of: Callable[..., Any]
) -> None:
    assert model in YOLOV3
    network = untrained(model, seed=1)
    path = tmp_path / "weights.safetensors"
    save_safetensors(network, meta_of(network, model), path, half=False)
    loaded, meta = network_from_safetensors(path)
    assert meta == meta_of(network, model)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(loaded(image)[0], network(image)[0])
    frames = [np.random.default_rng(0).integers(0, 256, (96, 80), dtype=np.uint8)]
    (found,) = load_detector(path).detect(frames, confidence=0.3)
    assert len(found) > 0


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torchscript", "onnx"])
def test_export_agrees(trained: TrainingResult, tmp_path: Path, form: str) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    out = tmp_path / f"detector.{form}"
    result = export(DetectExport(model=str(trained.weights), out=out, format=form, imgsz=64))
    assert out.is_file()
    assert result.score_error is not None
    assert result.score_error < 1e-4


def test_only_its_own_layers_are_taken_besides(
    untrained: Callable[..., Any], meta_of: Callable[..., Any]
) -> None:
    meta = meta_of(untrained("yolov3-tinyu", seed=1), "yolov3-tinyu")
    used = {layer[2] for layer in (*meta.yaml["backbone"], *meta.yaml["head"])}
    assert {"nn.MaxPool2d", "nn.ZeroPad2d"} <= used
    odd = {**meta.yaml, "backbone": [[-1, 1, "nn.AvgPool2d", [2, 2, 0]]]}
    with pytest.raises(WeightsError, match=r"unknown layer .*nn.AvgPool2d"):
        check_description(odd, "x.safetensors")
