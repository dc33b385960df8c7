"""``kfold pipeline``: recipes cross-validated as whole pipelines, figures counted by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.types import ImageRecord
from spineline.pipeline.evaluation.fold_weights import read_fold_weights
from spineline.pipeline.kfold.jobs import FoldJob, PipelineJob
from spineline.pipeline.training.settings import PipelineTrain
from spineline.pipeline.training.train import TrainedPipeline, load_bundle_recipe

BLIND = ("001", "004", "005")
"""Studies whose images are dark, so that nothing is found in them."""


@pytest.fixture
def make_data(tmp_path, make_record, write_dataset) -> Callable[..., Path]:
    """Write nine studies in train and val, two in test; spots where the levels are.

    ``{n}`` in the text of further options of a record is its number.
    """

    def pixels(record: ImageRecord) -> np.ndarray:
        image = np.tile(np.arange(64, dtype=np.uint8), (64, 1))  # no spot, yet an image
        if record.study_id not in BLIND:
            image[7:58:5, 30] = 255
        return image

    def make(labels: str = "level", **options: Any) -> Path:
        records = []
        for n in range(11):
            own = {k: v.format(n=n) if isinstance(v, str) else v for k, v in options.items()}
            records.append(make_record(f"{n:03}", lambda rank: ("v1",), **own))
        parts = {f"{n:03}": "train" if n < 5 else "val" if n < 9 else "test" for n in range(11)}
        return write_dataset(tmp_path / "data", records, parts, labels, pixels)

    return make


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "o"


@pytest.fixture
def go(tmp_path, make_data, trained, run_cli, out) -> Callable[..., tuple[int, str, str]]:
    """Cross-validate recipes on nine studies, with trainings that take no time."""
    made: list[Path] = []

    def run(
        *words: str, data: Path | None = None, out: Path = out, draws: int = 2
    ) -> tuple[int, str, str]:
        if data is None and not made:
            made.append(make_data())
        keys = (f"data={data or made[0]}", f"out={out}", f"draws={draws}")
        return run_cli("kfold", "pipeline", *keys, *words)

    return run


@pytest.fixture
def trained(monkeypatch, fake_models) -> list[PipelineTrain]:
    """Trainings that are noted and leave empty weights; the fakes are what is scored."""
    seen: list[PipelineTrain] = []

    def train(settings: PipelineTrain) -> TrainedPipeline:
        seen.append(settings)
        settings.out.mkdir(parents=True, exist_ok=True)
        (settings.out / "run.yaml").write_text("command: x\n")
        tasks = ("detector", "classifier", "namer")
        files = [settings.out / f"{task}.safetensors" for task in tasks]
        for file in files:
            file.write_bytes(str(settings.out).encode())
        return TrainedPipeline(settings.out, *files)

    monkeypatch.setattr("spineline.pipeline.training.train.train", train)
    return seen


def own_recipe(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def rows_of(out: Path, figure: str) -> list[dict[str, str]]:
    with (out / "kfold.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["figure"] == figure]


def test_figures_counted_by_hand(go, out) -> None:
    code, said, warned = go("metric=level_accuracy_8px,report.recall", draws=20)
    assert code == 0, warned
    folds = json.loads((out / "folds.json").read_text())["folds"]
    assert sorted(study for fold in folds for study in fold) == [f"{n:03}" for n in range(9)]
    wanted = [1 - len(set(BLIND) & set(fold)) / len(fold) for fold in folds]
    content = json.loads((out / "kfold.json").read_text())["variants"]["best"]
    figure = content["level_accuracy_8px"]
    assert figure["folds"] == pytest.approx(wanted)
    assert figure["mean"] == pytest.approx(np.mean(wanted))
    assert figure["std"] == pytest.approx(np.std(wanted, ddof=1))
    assert figure["pooled"]["value"] == pytest.approx(6 / 9)
    assert figure["pooled"]["n"] == 99
    low, high = figure["pooled"]["ci95"]
    assert low < 6 / 9 < high
    assert len(rows_of(out, "report.recall")) == 1
    assert {"kfold.md", "kfold.png"} <= {path.name for path in out.iterdir()}
    assert "level_accuracy_8px" in said
    assert "report.recall" in said


@pytest.mark.slow
@pytest.mark.usefixtures("no_picture")
def test_images_converted_from_dicom(go, make_data, out) -> None:
    uids = {f"{what}_uid": f"1.2.{n}.{{n}}" for n, what in enumerate(("study", "instance"))}
    data = make_data(**uids, spacing_rc_mm=(2.0, 2.0))
    code, _, warned = go(data=data)
    assert code == 0, warned
    figures = json.loads((out / "kfold.json").read_text())["variants"]["best"]
    for figure in ("level_accuracy_8px", "level_accuracy_6mm"):
        assert figures[figure]["pooled"]["value"] == pytest.approx(6 / 9)
    for held in read_fold_weights([out / "best"]):
        assert held.study_uids == tuple(f"1.2.0.{int(study)}" for study in held.studies)


@pytest.mark.usefixtures("no_picture")
def test_each_study_is_scored_by_the_fold_that_left_it_out(trained, go, out) -> None:
    assert go("seed=3", "k=2")[0] == 0
    folds = json.loads((out / "folds.json").read_text())["folds"]
    assert len(folds) == 2
    for n, fold in enumerate(folds):
        for study in fold:
            result = out / "best" / "val" / "predictions" / f"{study}-000" / "result.json"
            assert json.loads(result.read_text())["weights"]["name"].startswith(f"fold {n}: ")
    assert len(list((out / "best" / "val" / "predictions").iterdir())) == 9
    for n, held in enumerate(read_fold_weights([out / "best"])):
        assert list(held.studies) == folds[n]
        for task in ("detector", "classifier", "namer"):
            assert held.models[task] == str(out / "best" / f"fold{n}" / f"{task}.safetensors")
    assert [s.data for s in trained] == [out / "folds" / f"fold{n}" for n in range(2)]
    assert {s.seed for s in trained} == {3}
    assert not any(s.resume for s in trained)


@pytest.mark.slow
@pytest.mark.usefixtures("no_picture")
def test_recipes_side_by_side(trained, tmp_path, go, out) -> None:
    longer = own_recipe(tmp_path, "longer.yaml", "detector: {epochs: 7, val: true}")
    assert go(f"recipe=best,{longer}")[0] == 0
    assert [row["variant"] for row in rows_of(out, "seven.accuracy")] == ["best", "longer"]
    assert len(trained) == 6
    for name, detector in (("best", {}), ("longer", {"epochs": 7, "val": True})):
        kept = yaml.safe_load((out / name / "recipe.yaml").read_text())
        assert kept == load_bundle_recipe("best") | {
            "detector": load_bundle_recipe("best")["detector"] | detector
        }
        assert {s.recipe for s in trained if s.out.parent.name == name} == {
            str(out / name / "recipe.yaml")
        }
    assert (
        "\n- Variants: best: detector(model=yolov8n, hyp=lumbar, val=False), "
        "classifier(members=['lumbar', 'lumbar_linear', 'lumbar_efficientnet'], val_every=100); "
        "longer: detector(model=yolov8n, hyp=lumbar, val=True, epochs=7), "
        "classifier(members=['lumbar', 'lumbar_linear', 'lumbar_efficientnet'], val_every=100)\n"
    ) in (out / "kfold.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("no_picture")
def test_a_fold_that_fails_is_told_and_done_alone_later(trained, monkeypatch, go, out) -> None:
    import spineline.pipeline.training.train as module

    whole = module.train

    def broken(settings: PipelineTrain) -> TrainedPipeline:
        made = whole(settings)
        if settings.out.name == "fold1":
            raise SpinelineError("the disk is full")
        return made

    monkeypatch.setattr(module, "train", broken)
    code, said, warned = go()
    assert code == 1
    assert "best, fold 2: the disk is full" in warned
    assert "failed" in said
    assert len(read_fold_weights([out / "best"])) == 2
    assert not (out / "best" / "val").exists()
    trained.clear()
    monkeypatch.setattr(module, "train", whole)
    assert go("resume=true")[0] == 0
    assert [(s.out.name, s.resume) for s in trained] == [("fold1", True)]
    assert json.loads((out / "kfold.json").read_text())["failures"] == []
    assert rows_of(out, "level_accuracy_8px")[0]["pooled"] != ""


@pytest.mark.slow
@pytest.mark.usefixtures("no_picture")
def test_best_is_added_to_a_recipe_of_ones_own(trained, tmp_path, go, out) -> None:
    mine = own_recipe(tmp_path, "mine.yaml", "namer: {epochs: 3}")
    assert go(f"recipe={mine}")[0] == 0
    trained.clear()
    assert go("resume=true")[0] == 0
    assert not trained
    assert go("resume=true", "recipe=best")[0] == 0
    assert {s.out.parent.name for s in trained} == {"best"}
    names = [row["variant"] for row in rows_of(out, "level_accuracy_8px")]
    assert names == ["mine", "best"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_picture")
def test_a_folder_with_a_comma(fake_models, tmp_path, go) -> None:
    out = tmp_path / "a,b"
    assert go(out=out)[0] == 0
    folds = [out / "best" / f"fold{n}" for n in range(3)]
    given = [(p.settings.weights, p.settings.detector, p.settings.namer) for p in fake_models]
    wanted = [
        ("default", str(fold / "detector.safetensors"), str(fold / "namer.safetensors"))
        for fold in folds
    ]
    assert given == wanted * 2  # each fold, then all out of fold


@pytest.mark.slow
@pytest.mark.usefixtures("no_picture")
def test_a_study_that_fails_is_told(go, make_data, out) -> None:
    data = make_data()
    broken = data / "images" / "train" / "000-000.png"
    broken.write_bytes(broken.read_bytes()[:60])
    code, said, warned = go(data=data)
    assert code == 1
    assert "error: best, study 000-000: " in warned
    assert "1 failed; tables in" in said
    content = json.loads((out / "kfold.json").read_text())
    assert [failure["training"] for failure in content["failures"]] == ["best, study 000-000"]
    figure = content["variants"]["best"]["level_accuracy_8px"]
    assert figure["pooled"]["value"] == pytest.approx(5 / 9)


@pytest.mark.slow
@pytest.mark.usefixtures("no_picture")
def test_a_recipe_that_changed_is_refused(trained, tmp_path, go) -> None:
    mine = own_recipe(tmp_path, "mine.yaml", "namer: {epochs: 3}")
    assert go(f"recipe={mine}")[0] == 0
    own_recipe(tmp_path, "mine.yaml", "namer: {epochs: 4}")
    code, _, warned = go("resume=true", f"recipe={mine}")
    assert code == 2
    assert "variant mine: is detector(model=yolov8n, hyp=lumbar, val=False), " in warned
    assert "namer(epochs=4) now, and began in" in warned
    code, _, warned = go("resume=true", "fov_mm=300")
    assert code == 2
    assert "fov_mm=300.0: the run in" in warned
    assert len(trained) == 3


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("bset", "recipe=bset: no such recipe or file; did you mean 'best'?"),
        ("best,best", "best is named twice"),
        ("twin.yaml", None),
        ("best,twin.yaml", "says what best says; leave one out"),
        ("best,default.yaml", "says what best says; leave one out"),
        ("one.yaml,other.yaml", "says what one says; leave one out"),
        ("typo.yaml", "unknown key 'epoch'"),
        ("folds.yaml", "'folds' cannot name a variant"),
        ("wrong.yaml", "wrong.yaml, detector:"),
    ],
)
def test_recipes_that_cannot_be(
    trained, tmp_path, monkeypatch, recipe: str, message: str | None, go, out
) -> None:
    monkeypatch.chdir(tmp_path)
    own_recipe(tmp_path, "twin.yaml", "detector: {model: yolov8n}")
    own_recipe(tmp_path, "default.yaml", "detector: {hyp: lumbar, weight_decay: 0.01}")
    own_recipe(tmp_path, "one.yaml", "detector: {epochs: 3, imgsz: 64}")
    own_recipe(tmp_path, "other.yaml", "detector: {imgsz: 64, epochs: 3}")
    own_recipe(tmp_path, "typo.yaml", "detector: {epoch: 3}")
    own_recipe(tmp_path, "folds.yaml", "namer: {epochs: 3}")
    own_recipe(tmp_path, "wrong.yaml", "detector: {hyp: nothing}")
    code, _, warned = go(f"recipe={recipe}")
    if message is None:
        assert code == 0
        return
    assert code == 2
    assert message in warned
    assert not trained
    assert not out.exists()


def test_other_classes_than_levels_are_refused(go, make_data, out) -> None:
    code, _, warned = go(data=make_data("seven"))
    assert code == 1
    assert "was converted with labels=seven; wanted labels=level" in warned
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["spacing_mm=1", "fov_mm=2"], "give only one"),
        (["metric=level_acuracy_8px"], "did you mean 'level_accuracy_8px'"),
        (["k=10"], "has 9 studies in train and val"),
        (["device=,"], "names none"),
    ],
)
def test_keys_that_cannot_be(trained, more, message: str, go, out) -> None:
    code, _, warned = go(*more)
    assert code == 2
    assert message in warned
    assert not trained
    assert not out.exists()


def test_a_job_is_told_to_another_process(tmp_path, out) -> None:
    train = PipelineTrain(data=tmp_path, out=out, recipe="best", seed=4, device="1")
    scoring: dict[str, Any] = {"spacing_mm": None, "fov_mm": 320.0, "draws": 9, "seed": 4}
    job = PipelineJob("best", 2, train, "last", scoring)
    assert FoldJob.from_json(job.to_json()) == job


@pytest.mark.slow
def test_for_real_with_tiny_trainings(tmp_path, run_cli, out) -> None:
    phantoms, data = tmp_path / "p", tmp_path / "d"
    assert run_cli("data", "phantom", f"out={phantoms}", "n=9")[0] == 0
    labels, frames = phantoms / "report_labels.json", phantoms / "frames"
    converted = ("convert", "report", f"annotations={labels}", f"images={frames}", f"out={data}")
    assert run_cli(*converted)[0] == 0
    tiny = own_recipe(
        tmp_path,
        "tiny.yaml",
        "detector: {epochs: 2, imgsz: 128, batch: 4, close_mosaic: 1, plots: false}\n"
        "classifier: {epochs: 2, components: 30, plots: false}\nnamer: {epochs: 2}\n",
    )
    command = ["kfold", "pipeline", f"data={data}", f"out={out}", f"recipe={tiny}", "draws=20"]
    assert run_cli(*command, "fov_mm=320")[0] == 0
    figure = json.loads((out / "kfold.json").read_text())["variants"]["tiny"]
    assert len(figure["report.recall"]["folds"]) == 3
    assert figure["level_accuracy_6mm"]["pooled"]["n"] == 99
    again = ["pipeline", "val", f"source={frames}", f"annotations={labels}", "draws=20"]
    code, _, warned = run_cli(*again, f"folds={out / 'tiny'}", f"out={tmp_path / 'again'}")
    assert code == 0, warned
    scored = json.loads((tmp_path / "again" / "metrics.json").read_text())
    pooled = figure["level_accuracy_8px"]["pooled"]["value"]
    assert scored["level_accuracy_8px"]["value"] == pytest.approx(pooled, abs=1e-6)
