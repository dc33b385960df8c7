"""``spineline kfold``: folds by patient, variants, resuming, failures, tables, pooled figures."""

from __future__ import annotations

import csv
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from safetensors.numpy import load_file

from spineline.converters.formats.coco import write_coco
from spineline.datasets.common.errors import AnnotationError, ConfigError, SpinelineError
from spineline.datasets.dataset import load_dataset
from spineline.datasets.labels import LEVELS, SEVEN_NAMES
from spineline.datasets.predictions import read_predictions
from spineline.datasets.types import ImageRecord
from spineline.detect.engine.dataset import read_data, read_images
from spineline.detect.evaluation.evaluate import MatchingRules, evaluate_detections
from spineline.detect.results import Detections
from spineline.pipeline.evaluation.fold_weights import read_fold_weights
from spineline.pipeline.kfold import jobs as kfold_jobs
from spineline.pipeline.kfold.folds import make_folds
from spineline.pipeline.kfold.jobs import ClassifyJob, FoldJob, run_jobs
from spineline.pipeline.kfold.kfold import kfold_classify
from spineline.pipeline.kfold.out_of_fold import pool_detections
from spineline.pipeline.kfold.settings import (
    CLASSIFY_VARIANTS,
    DETECT_VARIANTS,
    KfoldClassify,
    KfoldDetect,
)
from spineline.pipeline.kfold.table import TableRow, aligned_rows, flat_metrics, rows_csv, rows_png
from spineline.pipeline.kfold.tasks import ClassifyTask, DetectTask, OneStageTask
from spineline.pipeline.kfold.variants import Variant
from spineline.pipeline.training.train import resolved_training

Cli = Callable[..., tuple[int, str, str]]
TINY = "test_resnet"
QUICK = (f"model={TINY}", "epochs=2", "size=16", "batch=64", "head=both", "plots=false",
         "balance=none", "jitter=false", "draws=20", "variants=original")  # fmt: skip


@pytest.fixture(scope="session")
def record_of(make_record) -> Callable[..., ImageRecord]:
    """Build the record of a study of a number; every third study carries Schmorl's nodes."""

    def make(number: int, image: str = "") -> ImageRecord:
        def tags_of(rank: int) -> tuple[str, ...]:
            rare = number % 3 == 0 and rank == 4
            return ("v5",) if rare else (f"v{1 + (number + rank) % 2}",)

        return make_record(f"{number:03}", tags_of, image, study_uid=f"1.2.{number}")

    return make


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, record_of, write_dataset) -> Path:
    """Nine patients in train and val, one of them with two images; two in test."""
    records = [record_of(n) for n in range(11)]
    records.insert(5, record_of(4, "004-001"))
    parts = {f"{n:03}": "train" if n < 6 else "val" if n < 9 else "test" for n in range(11)}
    return write_dataset(tmp_path_factory.mktemp("kfold") / "data", records, parts)


def detect_settings(data: Path, out: Path, **keys: object) -> KfoldDetect:
    return KfoldDetect(data=data, out=out, **({"model": "yolov8n"} | keys))  # type: ignore[arg-type]


def classify_settings(data: Path, out: Path, **keys: object) -> KfoldClassify:
    return KfoldClassify(data=data, out=out, **({"model": TINY} | keys))  # type: ignore[arg-type]


def task_of(settings: KfoldDetect | KfoldClassify) -> OneStageTask:
    return (DetectTask if isinstance(settings, KfoldDetect) else ClassifyTask)(settings)


ORIGINAL = Variant("original", {})

# Folds


@pytest.mark.parametrize("k", [2, 3, 4])
def test_no_patient_is_on_both_sides_and_each_is_validated_once(
    dataset: Path, tmp_path: Path, k: int
) -> None:
    folds = make_folds(detect_settings(dataset, tmp_path / "o", k=k))
    assert len(folds.folders) == k
    validated: Counter[str] = Counter()
    for n, folder in enumerate(folds.folders):
        loaded = load_dataset(folder)
        sides = {part: {r.study_id for r in held} for part, held in loaded.records.items()}
        assert not sides["train"] & sides["val"]
        assert not (sides["train"] | sides["val"]) & sides["test"]
        assert sides["test"] == {"009", "010"}
        assert len(sides["train"] | sides["val"]) == 9
        assert sides["val"] == set(folds.studies(n))
        validated.update(sides["val"])
        assert len(loaded.all_records()) == 12
    assert validated == Counter(f"{n:03}" for n in range(9))
    assert folds.test_studies == 2
    sizes = [len(folds.studies(n)) for n in range(k)]
    assert max(sizes) - min(sizes) <= 1


def test_the_rare_class_is_spread_evenly(dataset: Path, tmp_path: Path) -> None:
    """Studies 0, 3 and 6 have v5: one in each of three folds, whatever the seed."""
    for seed in range(4):
        folds = make_folds(detect_settings(dataset, tmp_path / str(seed), seed=seed))
        rare = [sum(s in ("000", "003", "006") for s in folds.studies(n)) for n in range(3)]
        assert rare == [1, 1, 1]


def test_folds_follow_from_the_seed_and_are_kept(dataset: Path, tmp_path: Path) -> None:
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 5)):
        make_folds(detect_settings(dataset, tmp_path / name, seed=seed))
        drawn.append((tmp_path / name / "folds.json").read_bytes())
    assert drawn[0] == drawn[1] != drawn[2]
    content = json.loads(drawn[0])
    assert (content["schema"], content["k"], content["seed"]) == ("spineline-folds/1", 3, 0)
    again = make_folds(detect_settings(Path("gone"), tmp_path / "a"))  # what was laid out is used
    assert [list(again.studies(n)) for n in range(3)] == content["folds"]


def test_other_data_than_the_folds_were_drawn_of_is_refused(
    dataset, tmp_path, record_of, write_dataset
) -> None:
    make_folds(detect_settings(dataset, tmp_path / "a"))
    records = [record_of(n) for n in (1, 2, 77)]
    other = write_dataset(tmp_path / "other", records, {"001": "train", "002": "val", "077": "val"})
    with pytest.raises(ConfigError, match="was not drawn of it: study '077' is in no fold"):
        make_folds(detect_settings(other, tmp_path / "a"))


def test_images_are_not_copied_and_both_tasks_read_the_folds(dataset: Path, tmp_path: Path) -> None:
    folder = make_folds(detect_settings(dataset, tmp_path / "o")).folders[0]
    data = read_data(folder)
    assert data.names == LEVELS
    assert len(data.train) + len(data.val) == 10
    assert all(len(image.class_index) == 11 for image in read_images(data.val, data.names, part=""))
    first = data.train[0]
    source = next(dataset.rglob(first.name))
    assert first.stat().st_ino == source.stat().st_ino
    before, after = load_dataset(dataset), load_dataset(folder)
    kept = {r.image_id: replace(r, file=None) for r in before.all_records()}
    assert {r.image_id: replace(r, file=None) for r in after.all_records()} == kept


def test_folds_of_another_run_are_taken(dataset: Path, tmp_path: Path) -> None:
    first = make_folds(detect_settings(dataset, tmp_path / "a", seed=3))
    given = tmp_path / "a" / "folds.json"
    second = make_folds(classify_settings(dataset, tmp_path / "b", folds=given))
    assert [first.studies(n) for n in range(3)] == [second.studies(n) for n in range(3)]


def test_a_folder_of_folds_is_taken_as_it_is(dataset: Path, tmp_path: Path) -> None:
    made = make_folds(detect_settings(dataset, tmp_path / "a", k=2))
    folds = make_folds(detect_settings(tmp_path / "a" / "folds", tmp_path / "b"))
    assert folds.folders == made.folders
    assert not (tmp_path / "b" / "folds").exists()
    assert json.loads((tmp_path / "b" / "folds.json").read_text())["k"] == 2
    with pytest.raises(ConfigError, match=r"k=3: .* holds 2 folds"):
        make_folds(detect_settings(tmp_path / "a" / "folds", tmp_path / "c", k=3))
    make_folds(detect_settings(dataset, tmp_path / "d", k=2, seed=9))
    with pytest.raises(ConfigError, match="are not those of"):
        make_folds(detect_settings(tmp_path / "a" / "folds", tmp_path / "d"))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"000": "vt", "001": "tv", "002": "tt"}, "002 is not in train or val of every fold, and"),
        ({"000": "vv", "001": "tt"}, "000 is validated in fold0 already"),
        ({"000": "vt", "001": "tv", "002": "t-"}, "002 is not in train or val"),
        ({"000": "vt", "001": "vt"}, "wanted studies in train and in val"),
        ({"000": "v t", "001": "t v"}, "fold1 is missing among its 2 folds"),
    ],
    ids=["never", "twice", "missing", "no train", "a fold"],
)
def test_folders_that_are_no_folds(
    tmp_path, record_of, write_dataset, layout: dict[str, str], message: str
) -> None:
    part = {"v": "val", "t": "train"}
    for n in range(len(layout["000"])):
        parts = {study: part[where[n]] for study, where in layout.items() if where[n] in part}
        records = [record_of(int(study)) for study in parts]
        if layout["000"][n] != " ":
            write_dataset(tmp_path / "f" / f"fold{n}", records, parts)
    with pytest.raises(AnnotationError, match=message):
        make_folds(detect_settings(tmp_path / "f", tmp_path / "o"))


def test_folds_keep_the_studies_of_a_patient_together(
    tmp_path, record_of, write_dataset, caplog
) -> None:
    records = [replace(record_of(n), patient_id=f"patient-{n // 2}") for n in range(8)]
    parts = {record.study_id: "train" for record in records}
    root = write_dataset(tmp_path / "d", records, parts)
    folds = make_folds(detect_settings(root, tmp_path / "o", k=3))
    for n in range(3):
        assert {int(study) ^ 1 for study in folds.studies(n)} == set(map(int, folds.studies(n)))
    given = [["000", "002", "003", "004", "005"], ["001", "006", "007"]]
    (tmp_path / "folds.json").write_text(json.dumps({"folds": given}))
    make_folds(detect_settings(root, tmp_path / "p", folds=tmp_path / "folds.json"))
    assert "1 patients have studies in more than one fold, such as 000 and 001" in caplog.text


def test_a_patient_on_both_sides_is_refused(tmp_path, record_of, write_dataset) -> None:
    """Two images of one patient, the second moved from train to val by hand."""
    records = [record_of(0), record_of(1)]
    torn = [*records, record_of(0, "000-001")]
    for n in range(2):
        root = write_dataset(tmp_path / "f" / f"fold{n}", records, {"000": "train", "001": "val"})
        sides = {"train": [torn[0]], "val": torn[1:], "test": []}
        write_coco(root, sides, "level")  # type: ignore[arg-type]
    with pytest.raises(AnnotationError, match="study 000 is in train and in val"):
        make_folds(detect_settings(tmp_path / "f", tmp_path / "o"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a folds.json"),
        ('{"folds": [["000"], ["000"]]}', "'000' is in more than one fold"),
        ('{"folds": [["000"], []]}', "none of them empty"),
        ('{"folds": [["000"], ["001"]]}', "names no fold for 7 studies, such as '002'"),
        ('{"folds": ["000", "001"]}', "wanted folds as lists of studies"),
        (
            f'{{"folds": [{json.dumps([f"{n:03}" for n in range(9)])}, ["x"]]}}',
            "fold 2 holds no study of data=",
        ),
    ],
)
def test_fold_files_that_are_refused(
    dataset: Path, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        make_folds(detect_settings(dataset, tmp_path / "o", folds=tmp_path / "f.json"))


def test_studies_of_a_fold_file_that_are_not_in_the_data_are_told(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drawn = [[*(f"{n:03}" for n in range(5)), "ghost"], [f"{n:03}" for n in range(5, 9)]]
    (tmp_path / "f.json").write_text(json.dumps({"folds": drawn}))
    folds = make_folds(detect_settings(dataset, tmp_path / "o", folds=tmp_path / "f.json"))
    assert [len(folds.studies(n)) for n in range(2)] == [5, 4]
    assert "1 of its studies are not in data=" in caplog.text
    assert "ghost" in caplog.text


def test_folds_without_some_of_their_images_are_refused(dataset: Path, tmp_path: Path) -> None:
    """They would be scored as if nothing had been found on them."""
    whole = make_folds(detect_settings(dataset, tmp_path / "o"))
    gone = whole.folders[1] / "images" / "val" / f"{whole.records[1][0].image_id}.png"
    gone.unlink()
    for data, out in ((tmp_path / "o" / "folds", tmp_path / "p"), (dataset, tmp_path / "o")):
        with pytest.raises(AnnotationError, match=f"1 of its images are missing.*{gone.name}"):
            make_folds(detect_settings(data, out))


# Variants


def test_the_variants_that_come_with_it() -> None:
    assert DETECT_VARIANTS == {
        "original": {},
        "label_smoothing": {"label_smoothing": 0.1},
        "mixup": {"mixup": 0.2},
        "onehot": {"heatmap": "onehot"},
        "gaussian": {"heatmap": "gaussian"},
    }
    points = detect_settings(
        Path("d"), Path("o"), model="unet", hyp=None, epochs=1, variants=("onehot", "gaussian")
    )
    task_of(points).check(task_of(points).variants())
    settings = classify_settings(Path("d"), Path("o"), variants=tuple(CLASSIFY_VARIANTS))
    variants = task_of(settings).variants()
    assert [variant.name for variant in variants] == list(CLASSIFY_VARIANTS)
    whole = next(v for v in variants if v.name == "noise_normalise_rotation")
    task_of(settings).check([v for v in variants if v != whole])  # known to the trainer, all
    with pytest.raises(ConfigError, match="original,noise_normalise_rotation: train alike"):
        task_of(settings).check([variants[0], whole])  # the report's recipe is that row
    task_of(replace(settings, hyp="lumbar")).check([variants[0], whole])


def test_own_variants_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("small: {imgsz: 320}\nwide: {imgsz: '640', mosaic: 0}\nplain:\n")
    settings = detect_settings(Path("d"), Path("o"), variants=("mixup", str(file)), lr0=0.02)
    variants = task_of(settings).variants()
    assert [v.name for v in variants] == ["mixup", "small", "wide", "plain"]
    wide = task_of(settings).training(variants[2], data=Path("f"), out=Path("r"))
    assert (wide.imgsz, wide.mosaic, wide.lr0, wide.model) == (640, 0, 0.02, "yolov8n")
    assert (wide.data, wide.out, wide.resume, wide.overwrite) == (
        Path("f"),
        Path("r"),
        False,
        False,
    )


def test_hyperparameters_of_ultralytics_in_a_variant(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("few: {yolo.bgr: 0.25}\nmore: {yolo: {bgr: 0.5, dis: 3}}\n")
    settings = detect_settings(Path("d"), Path("o"), variants=(str(file),), yolo={"dis": 5.0})
    kfold = task_of(settings)
    kfold.check(kfold.variants())
    trained = [kfold.training(variant).yolo for variant in kfold.variants()]
    assert trained == [{"dis": 5.0, "bgr": 0.25}, {"dis": 3.0, "bgr": 0.5}]
    file.write_text("wrong: {yolo.bgrr: 0.25}\n")
    with pytest.raises(ConfigError, match=r"variant wrong: .*yolo\.bgrr: .* did you mean 'bgr'"):
        kfold.check(kfold.variants())


@pytest.mark.parametrize(
    ("word", "content", "message"),
    [
        ("mixxup", "", "no such variant; did you mean 'mixup'"),
        ("mixup,mixup", "", "mixup is named twice"),
        ("{file}", "a: {mixupp: 1}", r"a: unknown key 'mixupp'; did you mean 'mixup'"),
        ("{file}", "a: {mixup: lots}", "mixup=lots"),
        ("{file}", "a: {out: x}", "out is the same for all variants"),
        ("{file}", "a: {trust: true}", "trust is the same for all variants"),
        ("{file}", "../a: {}", "cannot name a variant"),
        ("{file}", "folds: {}", "cannot name a variant"),
        ("{file}", "a: 3", "found 3"),
        ("{file}", "[1]", "wanted variants as NAME"),
        ("{file}", "mixup: {}\noriginal: {}", "train alike"),
        ("{file}gone.yaml", "", "cannot be read as YAML (No such file or directory)"),
    ],
)
def test_variants_that_are_refused_before_anything_runs(
    dataset: Path, tmp_path: Path, run_cli: Cli, word: str, content: str, message: str
) -> None:
    (tmp_path / "v.yaml").write_text(content)
    word = word.replace("{file}", str(tmp_path / "v.yaml"))
    code, _, warned = run_cli(
        "kfold", "detect", f"data={dataset}", f"out={tmp_path / 'o'}", "model=yolov8n",
        f"variants={word}",
    )  # fmt: skip
    assert code == 2, warned
    assert message in warned.replace("\n", " ")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hyp=report"], "variants=original,mixup: train alike"),
        ([], "missing model="),
        (["model=yolov8n", "checkpoint=best"], "checkpoint=best: needs val=true"),
        (["model=yolov8n", "metric=map50"], "metric=map50: not an allowed value"),
        (["model=yolov8n", "k=1"], "k=1"),
        (["model=yolov8n", "k=10"], "k=10: data="),
        (["model=yolov8n", "device=,"], "names none"),
        (["model=yolov8n", "device=cpu,tpu"], "device=tpu"),
        (["model=yolov8n", "resume=true"], "nothing to resume"),
        (["model=yolov8n", "data=gone"], "no such file or folder"),
        (["model=yolov8n", "weights=gone.pt"], "variant original: gone.pt: no such weights file"),
        (["model=yolov8n", "folds=gone.json"], "convert … kfold= (No such file or directory)"),
    ],
)
def test_what_the_command_refuses(
    dataset: Path, tmp_path: Path, run_cli: Cli, words: list[str], message: str
) -> None:
    given = {"data": str(dataset), "out": str(tmp_path / "o")}
    given |= dict(word.split("=", 1) for word in words)
    given = {"model": "yolov8n", **given} if "hyp" in given else given
    code, _, warned = run_cli("kfold", "detect", *(f"{k}={v}" for k, v in given.items()))
    assert code in (1, 2)
    assert message in warned
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", ["detect", "classify"])
def test_damaged_initial_weights_are_refused_before_a_fold_is_trained(
    dataset: Path, tmp_path: Path, run_cli: Cli, command: str
) -> None:
    weights, out = tmp_path / "w.safetensors", tmp_path / "o"
    weights.write_bytes(b"cut off")
    words = [f"data={dataset}", f"weights={weights}"]
    words += ["model=yolov8n"] if command == "detect" else []
    code, _, warned = run_cli("kfold", command, *words, f"out={out}")
    assert code == 2
    assert f"variant original: {weights}: " in warned
    assert "safetensors file" in warned
    assert not out.exists()


def test_weights_for_another_task_are_refused_with_the_variant(tmp_path: Path) -> None:
    settings = classify_settings(tmp_path, tmp_path / "o", weights="lumbar-yolov8n")
    with pytest.raises(ConfigError, match=r"^variant original: lumbar-yolov8n: these weights are"):
        task_of(settings).check(task_of(settings).variants())


@pytest.mark.parametrize(
    ("keys", "alike"),
    [
        ({"epochs": 10}, True),
        ({"rect": True}, True),
        ({"epochs": 11}, False),
        ({"epochs": 10, "close_mosaic": 0}, False),
    ],
    ids=["no epoch left", "rect", "one epoch left", "never closed"],
)
def test_variants_whose_key_has_no_effect_are_told(
    keys: dict[str, object], alike: bool, caplog: pytest.LogCaptureFixture
) -> None:
    settings = detect_settings(Path("d"), Path("o"), **keys)
    task_of(settings).check(task_of(settings).variants())
    told = "variants original and mixup: will train alike" in caplog.text
    assert told == alike
    assert "label_smoothing: will train alike" not in caplog.text


def test_mixup_differs_from_the_reports_recipe_without_it(caplog) -> None:
    """The recipe's own mixup is the variant's, so that without a key for all both train alike."""
    kfold = task_of(detect_settings(Path("d"), Path("o"), hyp="report", mixup=0.0))
    variants = kfold.variants()
    kfold.check(variants)
    assert "train alike" not in caplog.text
    trained = {v.name: resolved_training(kfold.training(v))["mixup"] for v in variants}
    assert trained == {"original": 0.0, "label_smoothing": 0.0, "mixup": 0.2}


# The command, with a training that takes no time


class Fake:
    """Writes what a training and its scoring leave; fails or stops where it is told to."""

    def __init__(self) -> None:
        self.trained: list[tuple[str, int, str]] = []
        self.fail: set[tuple[str, int]] = set()
        self.stop: tuple[str, int] | None = None

    def train(self, job: FoldJob) -> None:
        self.trained.append((job.variant, job.fold, job.train.device))
        if (job.variant, job.fold) == self.stop:
            raise KeyboardInterrupt
        if (job.variant, job.fold) in self.fail:
            raise SpinelineError("the loss is\nnot a number")
        job.weights.parent.mkdir(parents=True, exist_ok=True)
        job.weights.touch()

    def score(self, job: FoldJob) -> None:
        assert job.train.data is not None
        job.scores.mkdir(parents=True)
        records = load_dataset(job.train.data).records["val"]
        heads = ["image", "study", "level", "seven", "binary"]
        heads += [f"p_{name}" for name in SEVEN_NAMES]
        rows = [[r.image_id, r.study_id, "L1", n % 2, 0, 0.6, 0.4, 0, 0, 0, 0, 0, ""]
                for n, r in enumerate(records)]  # fmt: skip
        with (job.scores / "predictions.csv").open("w", newline="") as file:
            csv.writer(file).writerows([[*heads, "p_v5"], *rows])
        accuracy = 0.5 + 0.1 * job.fold
        metrics = {"split": "val", "n": 3, "seven": {"accuracy": accuracy, "confusion": [[1]]}}
        (job.scores / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    monkeypatch.setattr(ClassifyJob, "fit", lambda job: made.train(job))  # noqa: PLW0108 (binds)
    monkeypatch.setattr(ClassifyJob, "score", lambda job: made.score(job))  # noqa: PLW0108 (binds)
    return made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "o"


@pytest.fixture
def go(dataset: Path, out: Path, fake: Fake, run_cli: Cli) -> Cli:
    """Cross-validate two variants of a classifier, with the trainings of the fake."""

    def run(
        *words: str,
        data: Path = dataset,
        out: Path = out,
        variants: str = "original,label_smoothing",
    ) -> tuple[int, str, str]:
        keys = (f"data={data}", f"out={out}", f"model={TINY}", "draws=20", f"variants={variants}")
        return run_cli("kfold", "classify", *keys, *words)

    return run


def test_table_and_files(go, out, tmp_path, fake) -> None:
    code, said, warned = go()
    assert (code, warned) == (0, "")
    assert fake.trained == [
        (name, n, "cpu") for name in ("original", "label_smoothing") for n in range(3)
    ]
    line = next(line for line in said.splitlines() if line.startswith("label_smoothing  "))
    assert line.split()[1:6] == ["0.500", "0.600", "0.700", "0.600", "0.100"]
    page = (out / "kfold.md").read_text()
    said_of = (
        "- Variants: original: as given by the common keys; label_smoothing: label_smoothing=0.1"
    )
    assert said_of in page
    assert "| variant         | fold 1 | fold 2 | fold 3 | mean  | std   |" in page
    assert f"spineline kfold classify data=data out=o model={TINY}" in page
    assert str(tmp_path) not in page
    assert (out / "kfold.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((out / "kfold.json").read_text())
    figure = content["variants"]["original"]["seven.accuracy"]
    assert (figure["folds"], figure["mean"], figure["std"]) == ([0.5, 0.6, 0.7], 0.6, 0.1)
    low, high = scipy.stats.t.interval(0.95, 2, 0.6, 0.1 / np.sqrt(3))
    assert figure["ci95_t"] == pytest.approx([low, high], abs=1e-6)
    drawn = json.loads((out / "folds.json").read_text())["folds"]
    rows = list(csv.DictReader((out / "original" / "predictions.csv").open()))
    assert len(rows) == 10
    assert {(row["study"], row["fold"]) for row in rows} == {
        (study, str(n)) for n, fold in enumerate(drawn) for study in fold
    }
    assert figure["pooled"]["value"] == np.mean([row["seven"] == "0" for row in rows]).round(6)
    assert figure["pooled"]["n"] == 10


@pytest.mark.usefixtures("no_picture")
def test_fold_weights_are_what_pipeline_val_reads(go, out) -> None:
    go()
    folds = read_fold_weights([out / "original"])
    drawn = json.loads((out / "folds.json").read_text())["folds"]
    assert [list(fold.studies) for fold in folds] == drawn
    assert [fold.models["classifier"] for fold in folds] == [
        str(out / "original" / f"fold{n}" / "weights" / "last.safetensors") for n in range(3)
    ]
    assert folds[0].study_uids == tuple(f"1.2.{int(study)}" for study in folds[0].studies)


@pytest.mark.usefixtures("no_picture")
def test_it_goes_on_where_it_was_stopped(go, out, dataset, tmp_path, fake, run_cli) -> None:
    fake.stop = ("original", 2)
    assert go()[0] == 130
    assert not (out / "kfold.md").exists()
    fake.stop, done = None, len(fake.trained)
    code, _, warned = go()
    assert (code, len(fake.trained)) == (1, done)
    assert "resume=true continues it" in warned
    assert go("resume=true")[0] == 0
    assert [job[:2] for job in fake.trained[done:]] == [
        ("original", 2), *(("label_smoothing", n) for n in range(3))
    ]  # fmt: skip
    first = {p: p.read_bytes() for p in sorted(out.glob("kfold.*"))}
    assert len(first) == 4
    assert run_cli("kfold", "classify", f"data={dataset}", f"out={out}", "resume=true")[0] == 0
    assert len(fake.trained) == done + 4  # nothing is left to train
    assert {p: p.read_bytes() for p in first} == first
    whole = tmp_path / "whole" / "o"
    go(out=whole)
    assert (whole / "kfold.json").read_bytes() == (out / "kfold.json").read_bytes()


@pytest.mark.usefixtures("no_picture")
def test_what_changes_is_refused_and_not_remembered(go, out, fake, tmp_path) -> None:
    go()
    drawn = tmp_path / "f.json"
    drawn.write_text(json.dumps({"folds": [["000"], [f"{n:03}" for n in range(1, 9)]]}))
    record = (out / "run.yaml").read_bytes()
    for more, message in (
        ("lr=0.5", "lr=0.5: the run in"),
        ("seed=4", "seed=4: the run in"),
        ("checkpoint=best", "checkpoint=best: the run in"),
        ("k=2", "holds 3 folds"),
        (f"folds={drawn}", "leave "),
    ):
        code, _, warned = go("resume=true", more)
        assert (code, message in warned) == (2, True), warned
        assert (out / "kfold.md").exists()
        assert (out / "run.yaml").read_bytes() == record
    assert go("resume=true")[0] == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.json", "garbage", "cannot be read"),
        ("metrics.json", "[1]", "cannot be read (holds list, wanted dict)"),
        ("predictions.csv", "", "found no line"),
    ],
)
@pytest.mark.usefixtures("no_picture")
def test_scores_that_cannot_be_read_say_what_to_do(
    go, out, name: str, text: str, message: str
) -> None:
    go()
    (out / "original" / "fold1" / "val" / name).write_text(text)
    code, _, warned = go("resume=true")
    assert code == 1
    assert f"fold1/val/{name}: " in warned
    assert message in warned
    assert "run with resume=true" in warned


@pytest.mark.usefixtures("no_picture")
def test_variants_may_be_added_but_not_changed(go, out, tmp_path, fake) -> None:
    file = tmp_path / "v.yaml"
    file.write_text("mine: {lr: 0.5}")
    go(variants=str(file))
    assert go("resume=true", variants=f"original,{file}")[0] == 0
    assert [job[:2] for job in fake.trained[3:]] == [("original", n) for n in range(3)]
    assert list(json.loads((out / "kfold.json").read_text())["variants"]) == ["original", "mine"]
    file.write_text("mine: {lr: 0.25}")
    code, _, warned = go("resume=true", variants=str(file))
    assert code == 2
    assert "variant mine: is lr=0.25 now, and began in" in warned
    assert go("resume=true", variants="mixup")[0] == 0
    told = json.loads((out / "kfold.json").read_text())["variants"]
    assert list(told) == ["mine", "original", "mixup"]  # those of before stay in the table
    assert told["mine"]["seven.accuracy"]["mean"] is not None


@pytest.mark.usefixtures("no_picture")
def test_a_failing_fold_does_not_lose_the_others(go, out, fake) -> None:
    fake.fail = {("original", 1)}
    code, said, warned = go()
    assert code == 1
    assert "error: original, fold 2: the loss is not a number" in warned
    assert len(fake.trained) == 6
    line = next(line for line in said.splitlines() if line.startswith("original  "))
    assert line.split()[1:6] == ["0.500", "failed", "0.700", "-", "-"]
    content = json.loads((out / "kfold.json").read_text())
    assert content["failures"] == [
        {"training": "original, fold 2", "reason": "the loss is not a number"}
    ]
    assert content["variants"]["original"]["seven.accuracy"]["pooled"] is None
    assert content["variants"]["label_smoothing"]["seven.accuracy"]["mean"] == 0.6
    assert len(read_fold_weights([out / "original"])) == 2
    fake.fail = set()
    assert go("resume=true")[0] == 0
    assert len(fake.trained) == 7


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
@pytest.mark.usefixtures("no_picture")
def test_overwriting_replaces_a_cross_validation_and_nothing_else(go, out, tmp_path) -> None:
    go()
    (out / "old").touch()
    assert go("overwrite=true")[0] == 0
    assert not (out / "old").exists()
    before = tree(out)
    assert go("overwrite=true", data=tmp_path / "nowhere")[0] == 1
    assert tree(out) == before  # data that cannot be read costs nothing
    assert [path.name for path in tmp_path.iterdir()] == ["o"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    code, _, warned = go("overwrite=true", out=tmp_path / "mine")
    assert code == 1
    assert "is not a folder of spineline kfold" in warned
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_two_devices_work_side_by_side(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both jobs are under way at once, each on its device: the barrier lets neither by alone."""
    barrier = threading.Barrier(2, timeout=200)
    seen: list[str] = []

    def work(job: FoldJob, environment: dict[str, str], started: object) -> None:
        seen.append(job.train.device)
        barrier.wait()

    monkeypatch.setattr(kfold_jobs, "_in_process", work)
    settings = classify_settings(dataset, tmp_path)
    jobs = [task_of(settings).job(ORIGINAL, n, dataset) for n in range(4)]
    assert run_jobs(jobs, ["cuda:0", "cuda:1"]) == ()
    assert sorted(seen) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]


def test_a_job_comes_through_the_pipe_as_it_was(dataset: Path, tmp_path: Path) -> None:
    for settings in (
        detect_settings(dataset, tmp_path, imgsz=64, class_weights=(1.0, 2.0)),
        classify_settings(dataset, tmp_path, normalise=False),
    ):
        job = replace(task_of(settings).job(ORIGINAL, 1, dataset), checkpoint="best")
        assert FoldJob.from_json(job.to_json()) == job


# The command, with true trainings of a tiny network


@pytest.mark.slow
@pytest.mark.usefixtures("no_picture")
def test_a_stopped_training_goes_on_to_the_same_weights(
    dataset: Path, tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spineline.classify.train import ClassifierTrainer

    begin = ["kfold", "classify", f"data={dataset}", "k=2", *QUICK]
    assert run_cli(*begin, f"out={tmp_path / 'whole'}")[0] == 0
    save, count = ClassifierTrainer.save_checkpoint, 0

    def stop_after_three(self: ClassifierTrainer, *arguments: object) -> None:
        nonlocal count
        save(self, *arguments)
        count += 1
        if count == 3:  # the first of two epochs of the second fold
            raise KeyboardInterrupt

    monkeypatch.setattr("spineline.datasets.networks.training.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(ClassifierTrainer, "save_checkpoint", stop_after_three)
    assert run_cli(*begin, f"out={tmp_path / 'o'}")[0] == 130
    monkeypatch.undo()
    code, said, _ = run_cli(*begin, f"out={tmp_path / 'o'}", "resume=true")
    assert code == 0
    assert "resuming after epoch 1 of 2" in said
    for n in range(2):
        wanted, found = (
            load_file(tmp_path / run / "original" / f"fold{n}" / "weights" / "last.safetensors")
            for run in ("whole", "o")
        )
        assert all(np.array_equal(wanted[name], found[name]) for name in wanted)
    wanted, found = (json.loads((tmp_path / r / "kfold.json").read_text()) for r in ("whole", "o"))
    assert wanted == found
    figures = found["variants"]["original"]
    assert set(figures) == {
        "seven.accuracy", "seven.macro_f1", "seven.ece", "abnormal.auc_disc",
        "abnormal.auc_vertebra", "binary.accuracy", "binary.sensitivity", "binary.specificity",
        "binary.auc", "binary.ece",
    }  # fmt: skip
    assert all(figure["pooled"] is not None for figure in figures.values())


@pytest.mark.slow
def test_folds_on_two_workers_give_the_figures_of_one(
    dataset: Path, tmp_path: Path, run_cli: Cli
) -> None:
    begin = ["kfold", "classify", f"data={dataset}", "k=2", *QUICK, "threads=1"]
    assert run_cli(*begin, f"out={tmp_path / 'one'}")[0] == 0
    assert run_cli(*begin, f"out={tmp_path / 'two'}", "device=cpu,cpu")[0] == 0
    one, two = ((tmp_path / name / "kfold.json").read_bytes() for name in ("one", "two"))
    assert one == two
    log = (tmp_path / "two" / "original" / "fold1-log.txt").read_text()
    assert "epoch 2/2" in log


@pytest.mark.slow
def test_a_worker_that_fails_says_why(dataset: Path, tmp_path: Path) -> None:
    settings = classify_settings(dataset, tmp_path, weights="no-such-weights")
    jobs = [task_of(settings).job(ORIGINAL, n, dataset) for n in range(2)]
    failures = run_jobs(jobs, ["cpu", "cpu"])
    assert [failure.name for failure in failures] == ["original, fold 1", "original, fold 2"]
    assert "no-such-weights" in failures[0].reason


@pytest.mark.slow
def test_a_detector_is_cross_validated(dataset: Path, tmp_path: Path, run_cli: Cli) -> None:
    out = tmp_path / "o"
    begin = ["kfold", "detect", f"data={dataset}", f"out={out}", "k=2", "model=yolov8n", "epochs=1",
             "imgsz=64", "batch=4", "plots=false", "draws=20"]  # fmt: skip
    assert run_cli(*begin, "variants=original,mixup")[0] == 0
    content = json.loads((out / "kfold.json").read_text())
    figure = content["variants"]["mixup"]["level_accuracy_8px"]
    assert figure["pooled"]["n"] == 110
    assert len(read_predictions(out / "mixup" / "predictions.json")) == 10
    for n in range(2):  # killed after the training, before its scores were written
        (out / "mixup" / f"fold{n}" / "val" / "metrics.json").unlink()
    code, said, _ = run_cli(*begin, "resume=true")
    assert code == 0
    assert "mixup, fold 1: trained already" in said
    assert json.loads((out / "kfold.json").read_text()) == content


# Pooled figures


def test_pooled_detections_are_scored_as_one(dataset: Path, tmp_path: Path) -> None:
    """Every label is found, in fold 1 by boxes 9 px aside and in the wrong order of confidence."""
    folds = make_folds(detect_settings(dataset, tmp_path / "o", k=2))
    scores, records, detections = [], [], []
    for n, held in enumerate(folds.records):
        rows = []
        for number, record in enumerate(held, 1):
            aside = np.array([9 * n, 0, 9 * n, 0])
            boxes = np.array([s.box_xyxy for s in record.structures]) + aside
            confidence = np.linspace(0.9, 0.3, 11).astype(np.float32)
            records.append(record)
            detections.append(
                Detections(boxes.astype(np.float32), confidence, np.arange(11), LEVELS)
            )
            for category, (box, sure) in enumerate(zip(boxes, confidence, strict=True), 1):
                xywh = [*box[:2], *(box[2:] - box[:2])]
                rows.append({"image_id": number, "category_id": category,
                             "bbox": [float(v) for v in xywh], "score": float(sure)})  # fmt: skip
        scores.append(tmp_path / str(n))
        scores[-1].mkdir()
        (scores[-1] / "predictions.json").write_text(json.dumps(rows))
    figures = pool_detections(scores, folds, tmp_path, draws=200, seed=0)
    near = len(folds.records[0]) / 10
    assert figures["level_accuracy_8px"]["value"] == pytest.approx(near)
    assert figures["level_accuracy_8px"]["n"] == 110
    low, high = figures["level_accuracy_8px"]["ci95"]
    assert low < near < high
    rules = MatchingRules(draws=200, seed=0)
    wanted = flat_metrics(evaluate_detections(records, detections, "level", rules).metrics)
    for name, metric in wanted.items():
        assert figures[name]["value"] == pytest.approx(metric["value"], abs=1e-6), name
    assert figures["coco.map50"]["ci95"][0] is not None
    stored = read_predictions(tmp_path / "predictions.json")
    assert sorted(stored) == sorted(f"{record.image_id}.png" for record in records)
    assert all(len(boxes) == 11 for boxes in stored.values())
    images = json.loads((tmp_path / "predictions.json").read_text())["images"]
    assert {image["file_name"]: image["fold"] for image in images} == {
        f"{r.image_id}.png": n for n, held in enumerate(folds.records) for r in held
    }


# The table


def test_the_reports_rows_by_hand() -> None:
    """Folds 0.8, 0.9, 1.0: mean 0.9, deviation 0.1; t(2) = 4.3027, so ± 0.2484."""
    pooled = {"value": 0.9, "ci95": [0.85, 0.94], "n": 7}
    row = TableRow("a", "x", (0.8, 0.9, 1.0), pooled, (False,) * 3)
    assert (row.mean, row.std) == (pytest.approx(0.9), pytest.approx(0.1))
    assert row.ci95 == (pytest.approx(0.6516, abs=1e-4), pytest.approx(1.1484, abs=1e-4))
    assert aligned_rows([row]).splitlines()[1].split() == [
        "a", "0.800", "0.900", "1.000", "0.900", "0.100", "0.652", "–", "1.148", "0.900", "0.850",
        "–", "0.940",
    ]  # fmt: skip
    assert rows_csv([row]).splitlines()[1] == (
        "a,x,0.8,0.9,1,0.9,0.1,0.651586,1.14841,0.9,0.85,0.94,7"
    )


def test_a_fold_without_a_value_leaves_the_mean_open() -> None:
    row = TableRow("a", "x", (0.8, None), None, (False, True))
    assert (row.mean, row.std, row.ci95) == (None, None, (None, None))
    assert aligned_rows([row]).splitlines()[1].split() == ["a", "0.800", "failed", *"-----"]
    assert rows_csv([row]).splitlines()[1] == "a,x,0.8,,,,,,,,,"
    assert rows_png([row], ["x"]) == rows_png([row], ["x"])


def test_figures_are_told_from_counts_and_rules() -> None:
    metrics = {
        "split": "val", "images": 4, "coco": {"map50": 0.5, "per_class": {"L1": {"ap50": None}}},
        "one_to_one": {"iou": 0.5, "precision": {"value": 0.25, "ci95": [0, 1], "n": 4}},
        "seven": {"confusion": {"value": [[1]], "n": 1}},
    }  # fmt: skip
    no_interval = {"ci95": [None, None], "n": None}
    assert flat_metrics(metrics) == {
        "coco.map50": {"value": 0.5, **no_interval},
        "coco.per_class.L1.ap50": {"value": None, **no_interval},
        "one_to_one.precision": {"value": 0.25, "ci95": [0, 1], "n": 4},
    }


def test_it_can_be_called_from_python(dataset: Path, tmp_path: Path, fake: Fake) -> None:
    result = kfold_classify(classify_settings(dataset, tmp_path / "o", k=2, draws=5))
    assert result.failures == ()
    assert {row.metric for row in result.rows} == {"seven.accuracy"}
    assert result.rows[0].mean == pytest.approx(0.55)
