"""Training: what is learnt, what is written, what is refused, and going on after a kill."""

from __future__ import annotations

import csv
import json
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

from spineline.classify import load_classifier
from spineline.classify import train as training
from spineline.classify.data import load_training_data
from spineline.classify.network.weights_file import read_weights
from spineline.classify.recipe import Recipe
from spineline.classify.settings import ClassifyTrain
from spineline.classify.train import ClassifierTrainer, learning_rate, make_optimizer
from spineline.datasets.common.errors import (
    AnnotationError,
    ConfigError,
    SpinelineError,
    WeightsError,
)
from spineline.datasets.common.locks import held_folder
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.networks.training import TrainingResult, read_checkpoint

Cli = Callable[..., tuple[int, str, str]]
Make = Callable[..., Recipe]
Run = Callable[..., TrainingResult]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return read_weights(path)[0]


def same(one: Path, other: Path) -> bool:
    first, second = tensors(one), tensors(other)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_tiny_network_learns(trained: Path) -> None:
    rows = list(csv.DictReader((trained / "results.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert list(rows[0]) == [
        "epoch", "lr", "train_loss", "train_accuracy", "val_loss", "seven_accuracy", "macro_f1",
        "auc_disc", "auc_vertebra", "binary_accuracy", "binary_sensitivity", "binary_specificity",
        "binary_auc", "score",
    ]  # fmt: skip
    assert float(rows[-1]["train_loss"]) < 0.7 * float(rows[0]["train_loss"])
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["abnormal"]["auc_disc"] > 0.75
    assert metrics["selected_by"] == "macro_f1"
    scores = [float(row["macro_f1"]) for row in rows]
    assert metrics["epoch"] == 1 + int(np.argmax(scores))
    assert metrics["seven"]["macro_f1"] == pytest.approx(max(scores), abs=1e-5)


@pytest.mark.parametrize(("epochs", "copies"), [(2, 2), pytest.param(9, 3, marks=pytest.mark.slow)])
def test_no_more_copies_than_epochs(
    epochs: int, copies: int, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run(hyp="lumbar", model="gradients", epochs=epochs, copies=3, components=4, hidden=4)
    made = [text for text in caplog.messages if text.startswith("augmented copies")]
    assert made[-1] == f"augmented copies: {copies} of {copies}"


def test_the_run_folder_is_whole(trained: Path) -> None:
    names = {p.relative_to(trained).as_posix() for p in trained.rglob("*") if p.is_file()}
    assert names == {
        "weights/best.safetensors", "weights/last.safetensors", "checkpoint.pt", "results.csv",
        "curves.png", "confusion.png", "metrics.json", "recipe.json", "run.yaml",
    }  # fmt: skip
    record = yaml.safe_load((trained / "run.yaml").read_text())
    assert record["settings"]["seed"] == 0
    assert record["recipe"] == json.loads((trained / "recipe.json").read_text())
    assert record["recipe"]["model"] == "test_resnet"
    assert record["counts"]["before"] == record["counts"]["after"]
    assert sum(record["counts"]["after"].values()) == 66


def test_the_checkpoint_is_weights_for_those_who_trust_it(trained: Path) -> None:
    with pytest.raises(WeightsError, match="trust=true"):
        load_classifier(trained / "checkpoint.pt")
    classifier = load_classifier(trained / "checkpoint.pt", trust=True)
    crops = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    last = load_classifier(trained / "weights" / "last.safetensors")
    np.testing.assert_array_equal(classifier.grade(crops).seven, last.grade(crops).seven)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(run: Run) -> None:
    values = {"noise": 3.0, "color_jitter": 0.2, "translate": 0.05, "balance": "sampler",
              "plots": True, "epochs": 1}  # fmt: skip
    state = torch.get_rng_state()
    one, two = run("one", **values), run("two", **values)
    three = run("three", seed=1, **{**values, "plots": False})
    assert torch.equal(torch.get_rng_state(), state)
    assert one.last.read_bytes() == two.last.read_bytes()
    assert (one.out / "results.csv").read_bytes() == (two.out / "results.csv").read_bytes()
    assert (one.out / "curves.png").read_bytes() == (two.out / "curves.png").read_bytes()
    assert not same(one.last, three.last)


ABLATIONS: tuple[dict[str, object], ...] = (
    {"normalise": False}, {"balance": "sampler"}, {"optimizer": "sgd"}, {"label_smoothing": 0.1},
    {"align": "spine"},
)  # fmt: skip
"""One of the input, of the order, of the step, of the loss and of the crops."""

MORE_ABLATIONS: tuple[dict[str, object], ...] = (
    {"rotation": 0}, {"color_jitter": 0.3}, {"noise": 5.0}, {"batch": 8}, {"balance": "noise"},
    {"jitter": True}, {"class_weights": "balanced"}, {"margin": 1.4}, {"amp": True},
    {"binary_on": "disc"}, {"dropout": 0.5}, {"fliplr": 1.0}, {"mixup": 1.0},
)  # fmt: skip


@pytest.mark.parametrize(
    "option",
    [*ABLATIONS, *(pytest.param(option, marks=pytest.mark.slow) for option in MORE_ABLATIONS)],
    ids=lambda option: "-".join(f"{k}={v}" for k, v in option.items()),
)
def test_every_ablation_changes_the_outcome(
    run: Run, plain_weights: Path, option: dict[str, object]
) -> None:
    assert not same(run(epochs=1, **option).last, plain_weights)


def test_a_frozen_trunk_stays_as_it_was(run: Run, trained: Path) -> None:
    start = trained / "weights" / "last.safetensors"
    result = run(weights=start, freeze_trunk=True, lr=0.05)
    before, after = tensors(start), tensors(result.last)
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) == name.startswith("trunk."), name


@pytest.mark.parametrize("head", ["seven", "binary"])
def test_one_head_alone(run: Run, head: str) -> None:
    result = run(head=head, epochs=1)
    row = result.history[-1]
    assert (row["macro_f1"] is None) == (head == "binary")
    assert (row["binary_auc"] is None) == (head == "seven")
    assert load_classifier(result.weights).head == head


def test_without_a_seven_class_head_there_is_no_confusion(run: Run) -> None:
    result = run(head="binary", epochs=1, plots=True)
    assert (result.out / "curves.png").is_file()
    assert not (result.out / "confusion.png").exists()


def test_validation_is_as_seldom_as_asked(run: Run) -> None:
    result = run(epochs=3, val_every=2)
    assert [row["val_loss"] is not None for row in result.history] == [False, True, True]


def test_without_val_the_last_epoch_is_kept(
    run: Run, make_dataset: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_dataset(tmp_path / "data", train=range(3), test=range(3, 5))
    result = run(data=folder)
    assert result.best_epoch == 0
    assert result.weights == result.last
    assert not (result.out / "weights" / "best.safetensors").exists()
    assert not (result.out / "metrics.json").exists()


def test_the_test_part_is_not_looked_at(
    run: Run, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_dataset(tmp_path / "data", train=range(3), val=range(3, 4), test=range(4, 5))
    for path in (folder / "images" / "test").iterdir():
        path.write_bytes(b"not to be read")
    assert run(data=folder, epochs=1).best_epoch == 1


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_as_if_it_had_not(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = {"epochs": 3, "noise": 3.0, "scheduler": "cosine", "optimizer": "adamw"}
    whole = run("whole", **values)
    original = ClassifierTrainer.save_checkpoint

    def stop(self: ClassifierTrainer, *arguments: Any) -> None:
        if self.done == 2:  # between the results and the checkpoint
            raise KeyboardInterrupt
        original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierTrainer, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            run("stopped", **values)
    assert len((tmp_path / "stopped" / "results.csv").read_text().splitlines()) == 3
    half = tmp_path / "stopped" / "weights" / ".last.safetensors.abc.partial"
    half.write_text("left by a kill")
    went_on = run("stopped", resume=True, **values)
    assert not half.exists()
    for name in ("weights/last.safetensors", "weights/best.safetensors", "results.csv",
                 "metrics.json"):  # fmt: skip
        assert (went_on.out / name).read_bytes() == (whole.out / name).read_bytes(), name


@pytest.mark.slow
def test_resuming_within_an_epoch_repeats_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("whole")
    original, steps = training.mixed_loss, []

    def stop(*arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "mixed_loss", stop)
        with pytest.raises(KeyboardInterrupt):
            run("stopped")
    assert same(run("stopped", resume=True).last, whole.last)


def test_a_resumed_run_needs_not_repeat_its_keys(
    dataset_folder: Path, run: Run, tmp_path: Path
) -> None:
    first = run(epochs=1, seed=3, val_every=2)
    settings = ClassifyTrain(out=first.out, resume=True)
    before = first.last.read_bytes()
    assert training.train(settings).history == first.history
    assert first.last.read_bytes() == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 0.5}, "lr=0.5: the run in .* began with lr=0.003"),
        ({"epochs": 9}, "epochs=9: .* began with epochs=1"),
        ({"seed": 4}, "seed=4: .* began with seed=0"),
        ({"margin": 2.0}, "margin=2.0: .* began with margin="),
    ],
)
def test_resuming_with_other_keys_is_refused(
    run: Run, plain_weights: Path, values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(plain_weights.parents[1], resume=True, **{"epochs": 1, **values})


def test_resuming_with_other_data_is_refused(
    run: Run, plain_weights: Path, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_dataset(tmp_path / "other", train=range(4), val=range(6, 9))
    with pytest.raises(ConfigError, match="other crops"):
        run(plain_weights.parents[1], epochs=1, resume=True, data=other)


def test_resuming_nothing_is_refused(run: Run) -> None:
    with pytest.raises(WeightsError, match=r"nothing to resume, no run\.yaml there"):
        run(resume=True)


def test_a_damaged_checkpoint_is_refused(run: Run, plain_weights: Path, tmp_path: Path) -> None:
    path = shutil.copytree(plain_weights.parents[1], tmp_path / "run") / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="damaged"):
        run(resume=True, epochs=1)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_epoch(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def explode(recipe: Recipe, moment: float) -> float:
        return 1e-3 if moment < 1 else 1e30

    good = run("good", epochs=1, scheduler="none")
    monkeypatch.setattr(training, "learning_rate", explode)
    with pytest.raises(SpinelineError, match=r"epoch 2.*Try a smaller lr="):
        run("bad", epochs=3)
    monkeypatch.undo()
    kept = read_checkpoint(tmp_path / "bad" / "checkpoint.pt")
    assert kept["done"] == 1
    assert all(torch.isfinite(t).all() for t in kept["network"].values() if t.is_floating_point())
    assert good.best_epoch == 1


@pytest.mark.slow
def test_a_killed_process_leaves_a_whole_state(
    dataset_folder: Path, tmp_path: Path, tiny_words: list[str], run: Run
) -> None:
    out = tmp_path / "killed"
    words = [w for w in tiny_words if not w.startswith("epochs=")]
    command = [sys.executable, "-P", "-m", "spineline.pipeline.cli.main", "classify", "train"]
    command += [f"data={dataset_folder}", f"out={out}", "epochs=12", "threads=1", *words]
    for number in range(2):
        more = ["resume=true"] if number else []
        process = subprocess.Popen(
            [*command, *more], stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        before = (out / "checkpoint.pt").stat().st_mtime_ns if number else 0
        for _ in range(1200):
            path = out / "checkpoint.pt"
            if process.poll() is not None or (path.exists() and path.stat().st_mtime_ns != before):
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert read_checkpoint(out / "checkpoint.pt")["done"] >= 1
    assert not list(out.glob("**/*.safetensors.partial.safetensors"))
    finished = run("killed", epochs=12, resume=True)
    whole = run("whole", epochs=12)
    assert same(finished.last, whole.last)
    assert (finished.out / "results.csv").read_bytes() == (whole.out / "results.csv").read_bytes()


def step_lr(recipe: Recipe) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=recipe.lr)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, recipe.step_size, recipe.gamma)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_the_step_scheduler_is_torchs(make_recipe: Make) -> None:
    recipe = make_recipe(scheduler="step", step_size=5, gamma=0.9, lr=1e-3)
    found = [learning_rate(recipe, float(epoch)) for epoch in range(20)]
    assert found == pytest.approx(step_lr(recipe))
    assert found[5] == pytest.approx(9e-4)


def test_the_cosine_and_the_warm_up_by_hand(make_recipe: Make) -> None:
    recipe = make_recipe(scheduler="cosine", lr=1.0, epochs=10, warmup_epochs=2.0)
    found = [learning_rate(recipe, moment) for moment in (0, 1, 5, 10)]
    wanted = [0, 0.5 * 0.5 * (1 + np.cos(np.pi / 10)), 0.5, 0]
    assert found == pytest.approx(wanted, abs=1e-12)
    assert learning_rate(make_recipe(scheduler="none", lr=0.3), 7.5) == 0.3


@pytest.mark.parametrize(
    ("name", "cls"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_the_optimizer_is_the_one_named(make_recipe: Make, name: str, cls: type) -> None:
    optimizer = make_optimizer(
        torch.nn.Linear(2, 2),  # type: ignore[arg-type]
        make_recipe(optimizer=name, lr=0.02, weight_decay=0.1),
    )
    assert type(optimizer) is cls
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.02, 0.1)


def test_training_data_of_the_report(dataset_folder: Path, make_recipe: Make) -> None:
    recipe = make_recipe(jitter=True, balance="noise")
    data = load_training_data(dataset_folder, recipe, given={}, seed=0)
    counts = data.train.counts()
    assert set(counts.values()) == {5 * max(data.counts_before.values())}
    assert data.val is not None
    assert {row.variant for row in data.val.rows} == {""}
    assert len(data.val) == 33
    assert not set(data.train.study_id) & set(data.val.study_id)
    assert data.train.pixels.shape[1:] == (48, 48)


def test_an_unreadable_training_image_is_an_error(
    make_dataset: Callable[..., Path], tmp_path: Path, run: Run
) -> None:
    folder = make_dataset(tmp_path / "data", train=range(3))
    (folder / "images" / "train" / "001-000.png").write_bytes(b"")
    with pytest.raises(AnnotationError, match="001-000"):
        run(data=folder)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def crops_folder(dataset_folder: Path, tmp_path: Path, run_cli: Cli) -> Path:
    out = tmp_path / "crops"
    words = (f"data={dataset_folder}", f"out={out}", "size=32", "align=spine", "margin=1.2")
    assert run_cli("data", "crops", *words)[0] == 0
    return out


def test_a_crops_folder_trains_as_it_was_cut(run: Run, crops_folder: Path) -> None:
    result = run(data=crops_folder, size=32, epochs=1)
    assert load_classifier(result.last).crop == CropSpec(32, 1.2, "spine")
    recipe = json.loads((result.out / "recipe.json").read_text())
    assert (recipe["margin"], recipe["align"]) == (1.2, "spine")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"margin": 2.0}, "cut with margin=1.2"),
        ({"size": 64}, "cut with size=32"),
        ({"align": "none"}, "cut with align=spine"),
        ({"jitter": True}, "have no surroundings"),
    ],
)
def test_a_crops_folder_cut_otherwise_is_refused(
    run: Run, crops_folder: Path, values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(data=crops_folder, **{"jitter": "none", **values})


def test_a_study_on_both_sides_is_refused(run: Run, crops_folder: Path) -> None:
    table = crops_folder / "crops.csv"
    table.write_text(table.read_text().replace(",006,", ",002,"))  # another image of study 002
    with pytest.raises(AnnotationError, match="study 002 is in train and in val"):
        run(data=crops_folder)


def test_an_empty_train_part_is_refused(
    make_dataset: Callable[..., Path], tmp_path: Path, run_cli: Cli
) -> None:
    folder = make_dataset(tmp_path / "data", test=range(2))
    code, _, stderr = run_cli("classify", "train", f"data={folder}", f"out={tmp_path / 'run'}")
    assert code == 1
    assert "no labelled structure to train on" in stderr
    assert not (tmp_path / "run").exists()


def test_discs_that_are_healthy_or_sick_alone_are_refused_with_the_reason(
    tmp_path: Path, run_cli: Cli
) -> None:
    necks, data = tmp_path / "necks", tmp_path / "data"
    words = ("region=cervical", f"out={necks}", "n=3", "format=png")
    assert run_cli("data", "phantom", *words)[0] == 0
    places = (f"annotations={necks / 'descr'}", f"images={necks / 'frames'}", f"out={data}")
    assert run_cli("convert", "cervical", *places)[0] == 0
    code, _, stderr = run_cli("classify", "train", f"data={data}", f"out={tmp_path / 'run'}")
    assert code == 1
    assert "its discs have no level and are graded healthy or sick alone" in stderr
    assert "use detect train" in stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["model=resnet5o"], 2, "did you mean 'resnet50'"),
        (["hyp=reprot"], 2, "did you mean 'report'"),
        (["head=eight"], 2, "head=eight"),
        (["epoch=3"], 2, "did you mean 'epochs'"),
        (["device=cuda:99"], 2, "no such CUDA device"),
        (["data=/nowhere/at/all"], 1, "no such file or folder"),
        (["weights=/nowhere.safetensors", "model=test_resnet", "epochs=1"], 1, "nowhere"),
    ],
)
def test_bad_words_write_nothing(
    dataset_folder: Path, tmp_path: Path, run_cli: Cli, words: list[str], code: int, message: str
) -> None:
    out = tmp_path / "run"
    given = [] if any(word.startswith("data=") for word in words) else [f"data={dataset_folder}"]
    found, _, stderr = run_cli("classify", "train", *given, f"out={out}", *words)
    assert found == code
    assert message in stderr
    assert not out.exists()


def test_an_earlier_run_is_kept_or_replaced_as_asked(run: Run, tmp_path: Path) -> None:
    first = run(epochs=2)
    (first.out / "notes.txt").write_text("mine")
    with pytest.raises(SpinelineError, match="overwrite=true or resume=true"):
        run(epochs=1)
    for given in ({"overwrite": True}, {"resume": True}):
        with held_folder(first.out), pytest.raises(SpinelineError, match="another process"):
            run(epochs=2, **given)
    assert first.last.is_file()
    assert len(first.history) == 2
    (first.out / "confusion.png").write_text("of the earlier run")
    second = run(epochs=1, overwrite=True)
    assert not (second.out / "confusion.png").exists()
    assert (second.out / "notes.txt").read_text() == "mine"
    shutil.rmtree(second.out)
