from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from spineline.datasets.common.errors import (
    AnnotationError,
    ConfigError,
    SpinelineError,
    WeightsError,
)
from spineline.detect import load_detector
from spineline.detect.checkpoints import read_safetensors
from spineline.detect.engine import loop
from spineline.detect.engine.dataset import read_data, read_images
from spineline.detect.engine.loop import detector_learning_rate, seed_of
from spineline.detect.engine.validation import METRICS, Validation
from spineline.detect.settings import DetectTrain, DetectVal
from spineline.detect.train import train
from spineline.detect.val import val

pytestmark = pytest.mark.usefixtures("small_box_heads")

TINY: dict[str, Any] = {
    "model": "fasterrcnn", "backbone": "test_resnet", "imgsz": 64, "epochs": 2, "batch": 3,
    "channels": 1, "plots": False, "rois": 16, "proposals": 40,
}  # fmt: skip

CERVICAL: dict[str, Any] = {**TINY, "plots": True, "hyp": "cervical", "crop": 60}
UNET = {"model": "unet"} | dict.fromkeys(("backbone", "rois", "proposals"))
YOLO = {"model": "yolov8n"} | dict.fromkeys(("channels", "backbone", "rois", "proposals"))


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two epochs with the cervical recipe; not to be changed."""
    out = tmp_path_factory.mktemp("fasterrcnn") / "run"
    return train(DetectTrain(data=dataset, out=out, **CERVICAL))


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_run_folder_is_that_of_every_detector(trained: Any) -> None:
    names = {p.relative_to(trained.out).as_posix() for p in trained.out.rglob("*") if p.is_file()}
    assert names == {
        "run.yaml", "recipe.json", "results.csv", "results.png", "weights/last.pt",
        "weights/last.safetensors", "weights/best.safetensors", "weights/best_map50.safetensors",
        "weights/best_map50_95.safetensors", "weights/best_f1.safetensors",
        "weights/best_precision.safetensors", "weights/best_recall.safetensors",
    }  # fmt: skip
    record = yaml.safe_load((trained.out / "run.yaml").read_text())
    assert record["trained_with"]["backbone"] == "test_resnet"
    assert record["trained_with"]["momentum"] == 0.9
    report = json.loads((trained.out / "recipe.json").read_text())
    status = {v["key"]: v["status"] for v in report["values"]}
    assert status["degrees"] == "applied"
    assert status["imgsz"] == status["crop"] == "overridden"
    assert status["mean"] == status["std"] == "applied"
    assert status["pretrained"] == "not_applicable"
    meta, _ = read_safetensors(trained.weights)
    assert (meta.backend, meta.channels, meta.imgsz, len(meta.names)) == ("fasterrcnn", 1, 64, 11)
    assert (meta.yaml["mean"], meta.yaml["std"]) == (0.15424, 0.169006)
    assert trained.weights == trained.out / "weights" / "best.safetensors"


def test_results_have_a_line_per_epoch(trained: Any) -> None:
    rows = rows_of(trained.out)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        assert all(math.isfinite(float(v)) for v in row.values())
        assert float(row["train/loss_classifier"]) > 0
    validated = ["precision(B)", "recall(B)", "mAP50(B)", "mAP50-95(B)", "F1(B)"]
    assert [name for name in rows[0] if name.startswith("metrics/")] == [
        f"metrics/{name}" for name in validated
    ]


def kill_after(patch: pytest.MonkeyPatch, epoch: int) -> None:
    save = loop.DetectorTrainer.save_checkpoint

    def killed(self: Any, *rest: Any, **more: Any) -> None:
        save(self, *rest, **more)
        if self.done == epoch:
            raise KeyboardInterrupt

    patch.setattr(loop.DetectorTrainer, "save_checkpoint", killed)


@pytest.mark.slow
def test_figures_of_training_are_those_of_the_best_weights(trained: Any, dataset: Path) -> None:
    data = read_data(dataset)
    images = read_images(data.val, data.names, part="val")
    validation = Validation(images, data.names, keep=False)
    for metric in ("map50", "recall"):
        column = METRICS[metric]
        detector = load_detector(trained.out / "weights" / f"best_{metric}.safetensors")
        found = validation.detect(detector, range(len(images)))
        best = max(float(row[column]) for row in rows_of(trained.out))
        assert validation.metrics(found)[column] == pytest.approx(best, abs=0.02)


def test_val_runs_and_agrees_with_the_validation_of_training(
    trained: Any, dataset: Path, tmp_path: Path
) -> None:
    given = {"model": str(trained.weights), "data": dataset, "plots": False, "draws": 0}
    result = val(DetectVal(out=tmp_path / "val", **given))
    best = max(float(row["metrics/mAP50(B)"]) for row in rows_of(trained.out))
    assert result.metrics["coco"]["map50"] == pytest.approx(best, abs=0.02)
    assert not result.failures


def test_predict_takes_the_weights(
    trained: Any, dataset: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    words = (f"model={trained.weights}", f"source={dataset / 'images' / 'val'}", "confidence=0.01")
    code, _, errors = run_cli("detect", "predict", *words, f"out={tmp_path / 'out'}")
    assert code == 0, errors
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert (len(found["images"]), len(found["categories"])) == (2, 11)


def test_a_resumed_run_gives_the_numbers_of_an_unbroken_one(
    trained: Any, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, before = tmp_path / "broken", torch.get_rng_state()
    with monkeypatch.context() as patch:
        kill_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train(DetectTrain(out=out, data=dataset, **CERVICAL))
    resumed = train(DetectTrain(out=out, resume=True))
    assert torch.equal(before, torch.get_rng_state())
    assert resumed.epochs == 2
    assert resumed.last.read_bytes() == trained.last.read_bytes()
    assert rows_of(trained.out) == rows_of(out)
    with pytest.raises(WeightsError, match="the run is finished"):
        train(DetectTrain(out=out, resume=True))


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def losses(network: Any, batch: Any) -> Any:
        calls.append(batch[2])
        found = real(network, batch)
        return (
            {**found, "loss_objectness": found["loss_objectness"] * float("nan")}
            if len(calls) == 4
            else found
        )

    real = loop.network_losses
    monkeypatch.setattr(loop, "network_losses", losses)
    out = tmp_path / "run"
    with pytest.raises(
        SpinelineError, match="epoch 2, batch 2: the loss is not a finite"
    ) as caught:
        train(DetectTrain(out=out, data=dataset, **TINY, val=False))
    for name in calls[-1]:
        assert name in str(caught.value)
    assert "loss_objectness=nan" in str(caught.value)
    assert "last.pt holds epoch 1" in str(caught.value)
    content = torch.load(out / "weights" / "last.pt", weights_only=True)
    assert content["done"] == 1
    assert len(load_detector(out / "weights" / "last.safetensors").names) == 11


def test_without_validation_part_the_last_weights_are_the_result(
    own_dataset: Callable[..., Path], tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    data = own_dataset(train=3, test=1)
    text = (data / "data.yaml").read_text().replace("val: images/val\n", "")
    (data / "data.yaml").write_text(text)
    labels = sorted((data / "labels" / "train").glob("*.txt"))
    labels[0].write_text(labels[0].read_text() + "3 0.5 0.5 0.001 0.2\n")
    result = train(DetectTrain(data=data, out=tmp_path / "run", **{**TINY, "epochs": 1}))
    assert result.weights == result.last
    assert not (tmp_path / "run" / "weights" / "best.safetensors").exists()
    assert "the weights of the last epoch are the result" in said.text
    assert "1 degenerate boxes dropped" in said.text
    assert "metrics/mAP50(B)" not in rows_of(result.out)[0]


@pytest.mark.slow
def test_weights_to_start_from_are_taken_over(trained: Any, dataset: Path, tmp_path: Path) -> None:
    still = {"lr0": 0.0, "weight_decay": 0.0, "val": False, "epochs": 1}
    given = {**TINY, **still, "data": dataset, "weights": str(trained.weights)}
    result = train(DetectTrain(out=tmp_path / "run", **given))
    before, after = read_safetensors(trained.weights)[1], read_safetensors(result.last)[1]
    names = [name for name in before if name.endswith("weight")]
    assert len(names) > 20
    assert all(torch.equal(before[name], after[name]) for name in names)
    with pytest.raises(WeightsError, match="give backbone= and channels= so"):
        train(DetectTrain(out=tmp_path / "x", **{**given, "channels": 3}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mosaic": 1.0}, "mosaic=1.0: model=fasterrcnn has no such key"),
        ({"channels": 2}, "channels=2: allowed: 1, 3"),
        ({"optimizer": "AdamW"}, "supports only SGD"),
        ({"hyp": "report"}, "is a recipe for the YOLO networks"),
        ({"distortion_min": 0.5}, "is more than distortion_max"),
        ({"crop": 5}, "at least 32 pixels"),
        ({"download": True}, "backbone=test_resnet is timm's.*give backbone_weights=FILE"),
        ({"download": True, "weights": "x"}, "weights=… and download=true: give one of them"),
        ({**UNET, "download": True}, "from scratch or weights="),
        ({**UNET, "backbone_weights": Path("x")}, "model=unet has no such key, fasterrcnn has"),
        ({**YOLO, "backbone_weights": Path("x")}, "model=yolov8n has no such key"),
        ({**YOLO, "backbone": "resnet18"}, "has no such key"),
        ({**YOLO, "hyp": "cervical"}, "a recipe for fasterrcnn"),
    ],
)
def test_refusals(dataset: Path, tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(DetectTrain(data=dataset, out=tmp_path / "run", **{**TINY, **given}))
    assert not (tmp_path / "run").exists()


def test_an_image_that_cannot_be_read_is_named_before_training(
    own_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    data = own_dataset()
    (data / "images" / "train" / "s03.png").write_bytes(b"broken")
    with pytest.raises(AnnotationError, match=r"1 of 6 images of the train part .*s03\.png"):
        train(DetectTrain(data=data, out=tmp_path / "run", **TINY))
    assert not (tmp_path / "run").exists()


def test_learning_rate_warms_up_then_falls() -> None:
    values = {"lr0": 0.1, "lrf": 0.5, "warmup_epochs": 1.0, "epochs": 10}
    rates = [detector_learning_rate(values, epochs) for epochs in (0, 0.5, 1, 5, 10)]
    expected = [0.0001, 0.1 * 0.975 * 0.5005, 0.095, 0.075, 0.05]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert detector_learning_rate({**values, "warmup_epochs": 0.0}, 0) == 0.1


def test_seeds_differ_by_every_number() -> None:
    seeds = {seed_of(a, b, c) for a in range(3) for b in range(3) for c in range(3)}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)


COUNT_THREADS = """
import os, sys, threading

import torch

from spineline.datasets.networks import training
from spineline.pipeline.cli.main import main

counts, close, write = [], training.Trainer._close_epoch, training.write_checkpoint


def note():
    counts.append(len(os.listdir("/proc/self/task")))


def closed(*given):
    torch.rand(2000, 2000).mul_(2)  # OpenMP has its threads
    note()
    return close(*given)


def written(*given):
    if threading.current_thread() is not threading.main_thread():
        note()
    return write(*given)


training.Trainer._close_epoch, training.write_checkpoint = closed, written
code = main(sys.argv[1:])
print("THREADS", *counts)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux does")
def test_what_is_written_beside_training_takes_one_thread(dataset: Path, tmp_path: Path) -> None:
    """OpenMP threads of the writer's own would slow every later step down, as measured."""
    script = tmp_path / "count.py"
    script.write_text(COUNT_THREADS)
    words = ["detect", "train", "model=fasterrcnn", "backbone=test_resnet", "imgsz=64"]
    words += ["rois=16", "proposals=40", "epochs=1", "val=false", "plots=false", f"data={dataset}"]
    done = subprocess.run(
        [sys.executable, str(script), *words, f"out={tmp_path / 'run'}"],
        env={**os.environ, "OMP_NUM_THREADS": "4"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("THREADS"))
    before, beside = (int(word) for word in line.split()[1:])
    assert beside == before + 1
