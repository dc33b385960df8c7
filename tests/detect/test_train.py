from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
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
    OutputExistsError,
    SpinelineError,
    WeightsError,
)
from spineline.datasets.common.locks import held_folder
from spineline.datasets.networks.tensors import write_checkpoint
from spineline.detect import load_detector
from spineline.detect.checkpoints import load_pickle, read_safetensors
from spineline.detect.defaults import OWN_KEYS
from spineline.detect.settings import DetectTrain
from spineline.detect.train import train
from spineline.detect.yolo.train import trainer_arguments

TINY: dict[str, Any] = {"model": "yolov8n", "imgsz": 64, "epochs": 1, "batch": 3, "plots": False}


@pytest.fixture(scope="module")
def plain(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The result of one epoch; not to be changed."""
    return train(DetectTrain(data=dataset, out=tmp_path_factory.mktemp("plain") / "run", **TINY))


def test_run_folder_holds_weights_curves_plots_and_settings(finished: Any) -> None:
    names = {p.relative_to(finished.out).as_posix() for p in finished.out.rglob("*") if p.is_file()}
    assert names >= {
        "run.yaml", "recipe.json", "args.yaml", "results.csv", "results.png", "labels.jpg",
        "train_batch0.jpg", "BoxPR_curve.png", "confusion_matrix.png", "val_batch0_pred.jpg",
        "weights/last.pt", "weights/last.safetensors", "weights/best.pt",
        "weights/best.safetensors", "weights/best_map50.safetensors",
        "weights/best_map50_95.safetensors",
    }  # fmt: skip
    assert not any("tensorboard" in name for name in names)
    record = yaml.safe_load((finished.out / "run.yaml").read_text())
    assert record["command"] == "spineline detect train"
    assert record["settings"]["model"] == "yolov5nu"
    assert record["settings"]["seed"] == 0
    assert record["trained_with"]["lrf"] == 0.2
    assert record["trained_with"]["label_smoothing"] == 0.1
    assert {"ultralytics", "torch", "python"} <= set(record["versions"])


def test_recipe_report_of_a_run_accounts_for_all_27_values(finished: Any) -> None:
    report = json.loads((finished.out / "recipe.json").read_text())
    assert report["recipe"] == "report"
    beside = [v["key"] for v in report["values"][27:]]
    assert beside == ["optimizer", "close_mosaic", "cos_lr"]
    assert {v["status"] for v in report["values"]} == {"applied", "not_applicable"}


def test_results_have_a_line_per_epoch_and_no_clock(finished: Any) -> None:
    with (finished.out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert "time" not in rows[0]
    assert math.isnan(float(rows[0]["metrics/mAP50(B)"]))  # val_every=2
    assert not math.isnan(float(rows[1]["metrics/mAP50(B)"]))


def test_weights_are_those_of_the_checkpoint_and_load(finished: Any) -> None:
    assert finished.weights == finished.out / "weights" / "best.safetensors"
    meta, tensors = read_safetensors(finished.weights)
    assert (meta.model, meta.imgsz, len(meta.names)) == ("yolov5nu", 64, 11)
    network = load_pickle(finished.out / "weights" / "best.pt", trust=True)["model"]
    assert all(torch.equal(tensors[name], t) for name, t in network.state_dict().items())
    detector = load_detector(finished.weights)
    assert len(detector.detect([np.zeros((64, 64), np.uint8)])) == 1


def test_the_dataset_is_left_as_it_was(finished: Any, dataset: Path) -> None:
    files = sorted(p.suffix for p in dataset.rglob("*") if p.is_file())
    assert set(files) == {".png", ".txt", ".json", ".yaml"}


def test_a_callers_generators_and_flags_are_left_alone(finished: Any) -> None:
    assert not torch.are_deterministic_algorithms_enabled()


def test_arguments_never_leave_the_machine_or_the_recipe() -> None:
    settings = DetectTrain(model="yolov8n", data=Path("d"), out=Path("o"), device="cpu")
    arguments = trainer_arguments(settings, {"lr0": 0.1, **dict.fromkeys(OWN_KEYS, 0.1)})
    assert arguments["pretrained"] is False
    assert arguments["amp"] is False  # the fp16 check downloads a network
    assert not set(OWN_KEYS) & set(arguments)  # the package knows none of them
    assert arguments["lr0"] == 0.1


@pytest.mark.slow
def test_without_validation_part_the_last_weights_are_the_result(
    own_dataset: Callable[..., Path],
    tmp_path: Path,
    said: pytest.LogCaptureFixture,
    small_figures: None,
) -> None:
    data = own_dataset(train=4, test=2)
    out = tmp_path / "run"
    text = (data / "data.yaml").read_text().replace("val: images/val\n", "")
    (data / "data.yaml").write_text(text)
    result = train(DetectTrain(data=data, out=out, **{**TINY, "plots": True}))
    assert result.weights == result.last == out / "weights" / "last.safetensors"
    assert not (out / "weights" / "best.pt").exists()
    assert "the weights of the last epoch are the result" in said.text
    header = (out / "results.csv").read_text().split("\n")[0]
    assert "train/box_loss" in header
    assert "val/" not in header
    assert "metrics/" not in header
    assert (out / "results.png").is_file()


@pytest.mark.slow
def test_another_seed_gives_other_weights(plain: Any, dataset: Path, tmp_path: Path) -> None:
    """That the same seed gives the same weights is seen where a killed run is closed."""
    settings = DetectTrain(out=tmp_path / "run", data=dataset, seed=1, **{**TINY, "val": False})
    assert train(settings).last.read_bytes() != plain.last.read_bytes()


@pytest.mark.slow
def test_weights_to_start_from(dataset: Path, finished: Any, tmp_path: Path) -> None:
    given = {**TINY, "model": "yolov5n", "data": dataset, "val": False}
    frozen = {"lr0": 0.0, "warmup_bias_lr": 0.0, "optimizer": "SGD", "weight_decay": 0.0}
    result = train(
        DetectTrain(out=tmp_path / "run", weights=str(finished.weights), **given, **frozen)
    )
    before, after = read_safetensors(finished.weights)[1], read_safetensors(result.last)[1]
    names = [name for name in before if name.endswith(("conv.weight", "bn.weight"))]
    assert len(names) > 50
    assert all(torch.equal(before[name], after[name]) for name in names)


# Refusals


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["model=yolov8n", "out={out}"], 2, "missing data="),
        (["data={data}", "out={out}"], 2, "missing model="),
        (["model=yolov8z", "data={data}", "out={out}"], 2, "did you mean 'yolov8"),
        (["model=yolov8n", "data={out}/none", "out={out}"], 1, "no data.yaml there"),
        (["model=yolov8n", "data={data}", "out={out}", "hyp=reprot"], 2, "did you mean 'report'"),
        (["model=yolov8n", "data={data}", "out={out}", "lr=1"], 2, "unknown key 'lr'"),
        (["model=yolov8n", "data={data}", "out={out}", "lr0=nan"], 2, "lr0=nan"),
        (["model=yolov8n", "data={data}", "out={out}", "device=7"], 2, "no such CUDA device"),
        (["model=yolov8n", "data={data}", "out={out}", "cache=disk"], 2, "not an allowed value"),
        (["model=yolov8n", "data={data}", "out={out}", "weights=no.pt"], 1, "no.pt"),
        (["model=yolov8n", "data={data}", "out={data}"], 1, "exists already"),
        (
            ["model=yolov8n", "data={data}", "out={data}/images", "overwrite=true"],
            1,
            "is not a run",
        ),
        (["out={out}", "resume=true"], 1, "nothing to resume, no run.yaml there"),
    ],
    ids=lambda value: value[-1].split("=")[0] if isinstance(value, list) else None,
)
def test_refusals_on_the_command_line(
    run_cli: Callable[..., tuple[int, str, str]],
    dataset: Path,
    tmp_path: Path,
    words: list[str],
    code: int,
    message: str,
) -> None:
    out = tmp_path / "out"
    given = [word.format(data=dataset, out=out) for word in words]
    found, _, errors = run_cli("detect", "train", *given)
    assert found == code
    assert message in errors
    assert not out.exists()
    assert (dataset / "data.yaml").is_file()


def test_a_pickle_to_start_from_needs_trust(
    dataset: Path, pickle_weights: Path, tmp_path: Path
) -> None:
    settings = DetectTrain(data=dataset, out=tmp_path / "r", weights=str(pickle_weights), **TINY)
    with pytest.raises(WeightsError, match="trust=true"):
        train(settings)


def test_corrupt_images_are_refused_before_anything_is_written(
    own_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    data = own_dataset()
    for name in ("s00", "s03"):
        (data / "images" / "train" / f"{name}.png").write_bytes(b"broken")
    with pytest.raises(AnnotationError, match=r"2 of 6 images of the train part .*s00\.png.*s03"):
        train(DetectTrain(data=data, out=tmp_path / "run", **TINY))
    assert not (tmp_path / "run").exists()


def test_an_earlier_run_is_not_overwritten_unasked(finished: Any, dataset: Path) -> None:
    with pytest.raises(OutputExistsError, match="overwrite=true or resume=true"):
        train(DetectTrain(data=dataset, out=finished.out, **TINY))


# Resuming


def test_a_finished_run_is_not_resumed(finished: Any) -> None:
    with pytest.raises(WeightsError, match=r"is finished \(2 epochs\).*start another run"):
        train(DetectTrain(out=finished.out, resume=True))


def _killed_copy(finished: Any, folder: Path, epochs: int = 2) -> Path:
    """A run folder as a kill after the first of two epochs leaves it."""
    out = folder / "run"
    shutil.copytree(finished.out, out)
    for name in ("best.pt", "best.safetensors", "last.safetensors", "last.pt"):
        (out / "weights" / name).unlink()
    return out


def test_a_run_killed_before_its_first_checkpoint(finished: Any, tmp_path: Path) -> None:
    out = _killed_copy(finished, tmp_path)
    with pytest.raises(WeightsError, match="no epoch was finished; start from scratch"):
        train(DetectTrain(out=out, resume=True))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 9}, "epochs=9: the run in .* began with epochs=2"),
        ({"lr0": 0.5}, "lr0=0.5: the run in .* began with lr0=0.01"),
        ({"model": "yolov8n"}, "began with model=yolov5nu"),
        ({"seed": 4}, "began with seed=0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_resuming_keeps_what_was_planned(
    finished: Any, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(DetectTrain(out=finished.out, resume=True, **given))


def test_a_truncated_checkpoint_is_said(finished: Any, tmp_path: Path) -> None:
    out = _killed_copy(finished, tmp_path)
    content = (finished.out / "weights" / "last.pt").read_bytes()
    (out / "weights" / "last.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        train(DetectTrain(out=out, resume=True))


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_its_planned_end_with_the_best_weights_of_each_metric(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spineline.detect.yolo import trainer as trainer_module

    trainer = trainer_module.SpineDetectionTrainer
    validate, save_model = trainer.validate, trainer.save_model
    lines = [(0.1, 0.5), (0.4, 0.2), (0.3, 0.3)]
    kept: list[bytes] = []

    def script(self: Any) -> Any:
        found, fitness = validate(self)
        columns = trainer_module.YOLO_METRICS.values()
        return {**found, **dict(zip(columns, lines[self.epoch], strict=True))}, fitness

    def save_then_die(self: Any) -> bool:
        save_model(self)
        network = trainer_module._stripped(self.ema.ema)
        meta = trainer_module.yolo_meta(network, "yolov8n", 64)
        kept.append(trainer_module.packed_safetensors(network.state_dict(), meta))
        if self.epoch == 1:
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr(trainer, "validate", script)
    monkeypatch.setattr(trainer, "save_model", save_then_die)
    out = tmp_path / "run"
    given = {**TINY, "epochs": 3, "label_smoothing": 0.1, "hyp": "report"}
    with pytest.raises(KeyboardInterrupt):
        train(DetectTrain(data=dataset, out=out, **given))
    checkpoint = load_pickle(out / "weights" / "last.pt", trust=True)
    assert int(checkpoint["epoch"]) == 1
    momenta = [entry["momentum_buffer"] for entry in checkpoint["optimizer"]["state"].values()]
    assert {m.dtype for m in momenta} == {torch.float32}  # Adam's squares vanish in 16 bits
    (out / "weights" / ".last.pt.x.partial").write_text("left by a kill")
    result = train(DetectTrain(out=out, resume=True, model="yolov8n"))
    assert result.epochs == 3
    assert not list(out.rglob(".*.partial"))
    with (out / "results.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    assert (out / "weights" / "best_map50.safetensors").read_bytes() == kept[1]
    assert (out / "weights" / "best_map50_95.safetensors").read_bytes() == kept[0]
    with pytest.raises(WeightsError, match="is finished"):
        train(DetectTrain(out=out, resume=True))


@pytest.mark.slow
def test_a_run_killed_after_its_last_epoch_is_closed_and_its_seed_gives_the_same_weights(
    plain: Any, dataset: Path, tmp_path: Path
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    from spineline.detect.yolo import trainer as trainer_module

    out = tmp_path / "killed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module.SpineDetectionTrainer, "final_eval", die)
        with pytest.raises(KeyboardInterrupt):
            train(DetectTrain(data=dataset, out=out, **TINY))
    assert not [file for file in out.rglob("*.safetensors") if "map50" not in file.name]
    closed = train(DetectTrain(out=out, resume=True))
    assert closed.epochs == 1
    for name in ("best", "last"):
        wanted, found = (f / "weights" / f"{name}.safetensors" for f in (plain.out, out))
        assert found.read_bytes() == wanted.read_bytes()
    (out / "weights" / "best.safetensors").unlink()  # killed a moment later
    assert train(DetectTrain(out=out, resume=True)).weights.is_file()
    with pytest.raises(WeightsError, match="is finished"):
        train(DetectTrain(out=out, resume=True))


@pytest.mark.parametrize("mode", ["overwrite", "resume"])
def test_a_folder_that_another_process_trains_into(
    finished: Any, dataset: Path, tmp_path: Path, mode: str
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished.out, out)
    given = {"resume": True} if mode == "resume" else {**TINY, "data": dataset, "overwrite": True}
    with held_folder(out), pytest.raises(SpinelineError, match="another process is training"):
        train(DetectTrain(out=out, **given))
    assert (out / "weights" / "best.safetensors").is_file()


def test_a_training_that_breaks_off_says_so(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("spineline.detect.yolo.trainer.SpineDetectionTrainer.save_metrics", fail)
    settings = DetectTrain(data=dataset, out=tmp_path / "run", **TINY)
    with pytest.raises(SpinelineError, match=r"training stopped \(out of memory\)"):
        train(settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    "nbs", [pytest.param(3, id="step by step"), pytest.param(64, id="accumulated")]
)
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nbs: int
) -> None:
    from spineline.detect.yolo.trainer import SpineDetectionTrainer

    names: list[list[str]] = []

    def note(self: Any, batch: Any) -> Any:
        prepared = original(self, batch)
        names.append(list(self.files))
        if len(names) == 3:  # two batches in an epoch
            prepared["img"] = prepared["img"] * math.nan
        return prepared

    original = SpineDetectionTrainer.preprocess_batch
    monkeypatch.setattr(SpineDetectionTrainer, "preprocess_batch", note)
    out = tmp_path / "run"
    given = {**TINY, "epochs": 2, "val": False, "nbs": nbs}
    with pytest.raises(SpinelineError, match="epoch 2: the loss is not a finite number") as caught:
        train(DetectTrain(data=dataset, out=out, **given))
    assert len(names) == 3
    assert len(names[2]) == 3
    for name in names[2]:
        assert name in str(caught.value)
    assert "last.pt holds epoch 1" in str(caught.value)
    checkpoint = load_pickle(out / "weights" / "last.pt", trust=True)
    assert int(checkpoint["epoch"]) == 0
    weights = checkpoint["ema"].state_dict().values()
    assert all(bool(torch.isfinite(t).all()) for t in weights)
    if nbs == 3:
        assert train(DetectTrain(out=out, resume=True)).epochs == 2


def test_weights_that_are_no_numbers_end_the_run(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spineline.detect.yolo import trainer as trainer_module

    monkeypatch.setattr(trainer_module, "_is_finite", lambda _: False)
    with pytest.raises(SpinelineError, match="no longer finite numbers; lower lr0"):
        train(DetectTrain(data=dataset, out=tmp_path / "run", **TINY))


@pytest.mark.slow
def test_resume_after_kill_9(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["model=yolov8n", f"data={dataset}", f"out={out}", "imgsz=64", "epochs=6", "batch=3"]
    command = [sys.executable, "-m", "spineline.pipeline.cli.main", "detect", "train"]
    process = subprocess.Popen(
        [*command, *words, "plots=false"], cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    last = out / "weights" / "last.pt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = int(load_pickle(last, trust=True)["epoch"]) + 1
    assert 1 <= done < 6
    subprocess.run([*command, f"out={out}", "resume=true"], cwd=tmp_path, check=True)
    with (out / "results.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == [str(n) for n in range(1, 7)]
    assert (out / "weights" / "best.safetensors").is_file()


def test_checkpoint_of_another_dataset_is_refused(
    finished: Any, own_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    out = _killed_copy(finished, tmp_path)
    network = load_pickle(finished.out / "weights" / "last.pt", trust=True)["model"]
    write_checkpoint({"epoch": 0, "ema": network, "optimizer": {}}, out / "weights" / "last.pt")
    data = own_dataset()
    text = (data / "data.yaml").read_text().replace("L5-S1", "S1-S2")
    (data / "data.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"its classes .* are not the run's"):
        train(DetectTrain(out=out, resume=True, data=data))
