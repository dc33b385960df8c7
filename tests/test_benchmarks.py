"""The benchmark scripts: what they compute, and that they run at all."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import against
import cohort_memory
import growth
import harness
import health_folds as health
import history
import label_round_trip as round_trip
import numpy as np
import pytest
import report_rows as rows
import runtimes
import torch
import training_speed as speed

from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.files import write_json

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "pipeline_overhead": ["n=2", "slices=1", "repeats=1"],
    "slices_cost": ["n=2", "repeats=1"],
    "naive_chain": ["n=2", "slices=1", "repeats=1"],
    "convert_speed": ["n=3", "repeats=1"],
    "cohort_memory": ["n=10", "size=128"],
    "start_up": ["repeats=1"],
    "grading_time": ["repeats=1", "classifiers=lumbar-gradients,lumbar-gradients"],
    "runtimes": ["n=1", "formats=onnx", "repeats=1", "cold=false"],
    "label_round_trip": ["n=1"],
    "review_cohort": ["n=2", "slices=1", "repeats=1"],
    "training_speed": ["n=3", "imgsz=64", "batch=2", "epochs=3", "repeats=1"],
    "growth": ["sizes=2,4", "size=128", "engines=local"],
}

NEEDED = {"runtimes": ("onnxruntime",), "review_cohort": ("starlette", "uvicorn")}
"""Packages of extras, without which a script is not run."""


@pytest.fixture
def source(tmp_path: Path) -> list[str]:
    """Keys that name four drawn frames with the report's annotation."""
    from spineline.datasets.commands.phantom import phantom
    from spineline.datasets.commands.settings import DataPhantom

    phantom(DataPhantom(out=tmp_path / "drawn", n=4, format=("png",)))
    labels, frames = next((tmp_path / "drawn").glob("*.json")), tmp_path / "drawn" / "frames"
    return [f"annotations={labels}", f"images={frames}"]


# keys of all scripts


@pytest.mark.parametrize("name", SCRIPTS)
def test_keys_of_every_script(name: str, capsys) -> None:
    script = importlib.import_module(name)
    with pytest.raises(ConfigError, match=r"unknown key 'repeat'; did you mean 'repeats'"):
        script.main(["repeat=3"])
    script.main(["help"])
    assert "repeats" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        (speed, ["epochs=2"], "epochs=2"),
        (speed, ["backends=vgg"], "backends=vgg"),
        (health, [], "missing out="),
        (health, ["out=o", "epoch=1"], "unknown key 'epoch'; did you mean 'epochs'"),
        (health, ["out=o"], "wanted annotations=… and images=…, or folds=…"),
        (rows, [], "missing out="),
        (rows, ["out=o", "rows=regions-mixupp"], "rows=regions-mixupp: no such row; did you mean"),
        (rows, ["out=o", "rows=regions,qqq"], "rows=qqq: no such row; allowed: regions, frcnn"),
        (rows, ["out=o", "size=huge"], "size=huge: not an allowed value"),
        (rows, ["out=o", "section=A b"], "section=A b"),
        (rows, ["out=o", "best=none.json"], "best=none.json: not a metrics.json"),
    ],
    ids=lambda value: value.__name__ if hasattr(value, "main") else None,
)
def test_keys_that_do_not_fit(tmp_path, monkeypatch, script, words, message) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        script.main(words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_wrong_key_ends_a_script_as_it_ends_a_command() -> None:
    path = ROOT / "benchmarks" / "review_cohort.py"
    done = subprocess.run(
        [sys.executable, str(path), "sede=3"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "unknown key 'sede'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_runs_and_writes_its_section(tmp_path: Path, name: str) -> None:
    for package in NEEDED.get(name, ()):
        pytest.importorskip(package)
    out, page = tmp_path / "report.json", tmp_path / "page.md"
    page.write_text("# Benchmarks\n\nBy hand.\n")
    script = importlib.import_module(name)
    script.main([*SCRIPTS[name], f"out={out}", f"page={page}"])
    report, text = json.loads(out.read_text()), page.read_text()
    assert report["data"] in text
    section = name.replace("_", "-")
    assert text.startswith(f"# Benchmarks\n\nBy hand.\n\n<!-- spineline:{section} -->\n\n## ")
    assert f"`{report['command']}`" in text
    assert str(tmp_path) not in text
    if name == "training_speed":
        assert len(report["rows"]) == 6
        assert all(row["ratio"] > 0 for row in report["rows"])
        assert report["images"] == 2
        assert 0 < report["whole_training"]["bfloat16"]["value"] < 1


# training_speed


def test_time_of_an_epoch_leaves_out_the_first_and_the_last() -> None:
    assert speed.seconds_per_epoch([100.0, 101.0, 104.0, 204.0]) == 2.0
    with pytest.raises(SpinelineError, match="2 epochs were seen"):
        speed.seconds_per_epoch([1.0, 2.0])


def test_comparison_is_of_medians_and_of_rounds() -> None:
    times = {
        "yolo ours cache=ram": [1.0, 2.0, 9.0],
        "yolo bare cache=ram": [2.0, 2.0, 3.0],
        "yolo ours cache=none": [4.0, 4.0, 4.0],
        "yolo bare cache=none": [2.0, 4.0, 4.0],
    }
    times = {name: [harness.Turn(wall, 0) for wall in walls] for name, walls in times.items()}
    found = {(r["ours_cache"], r["bare_cache"]): r for r in speed.compare(times)}
    assert set(found) == {("ram", "ram"), ("ram", "none"), ("none", "none")}
    alike = found["ram", "ram"]
    assert (alike["ours_s"], alike["bare_s"], alike["ratio"]) == (2.0, 2.0, 1.0)
    assert alike["ratio_range"] == [0.5, 3.0]
    assert found["ram", "none"]["ratio"] == 0.5
    (first, *_) = speed.table_rows(speed.compare(times))
    assert first == ("YOLO", "in memory", "in memory", "2.000", "2.000", "1.00", "0.50 – 3.00")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return speed.prepare_data(speed.SpeedSettings(n=3), tmp_path_factory.mktemp("drawn"))


def test_the_bare_network_is_ours() -> None:
    """The same tensors by name and shape; normalisation is no part of them."""
    from spineline.detect.fasterrcnn.model import FasterRCNNDescription, build_fasterrcnn

    values = {"backbone": "mobilenet_v3_large", "imgsz": 96, "rois": 64, "proposals": 300}
    bare = speed.plain_network(values, 11).state_dict()
    ours = build_fasterrcnn(
        FasterRCNNDescription("mobilenet_v3_large", 3, 0.5, 0.2), 11, 96
    ).state_dict()
    assert {k: v.shape for k, v in bare.items()} == {k: v.shape for k, v in ours.items()}


@pytest.mark.slow
def test_the_bare_dataset_holds_what_ours_trains_on(drawn: Path, tmp_path) -> None:
    from spineline.detect.engine.dataset import read_data, read_images
    from spineline.detect.engine.images import read_sample
    from spineline.detect.recipe import resolve_recipe as resolve

    settings = speed.SpeedSettings(data=drawn, imgsz=160)
    keys = speed.settings_of(speed.ARMS[0], settings, drawn, tmp_path / "run")
    frames = speed.PlainFrames(drawn, resolve(keys).values, cache=True)
    data = read_data(drawn)
    images = read_images(data.train, data.names, part="train")
    assert frames.files == [image.file for image in images]
    for index, image in enumerate(images):
        ours, (pixels, target) = read_sample(image, 160), frames.read(index)
        assert tuple(pixels.shape[-2:]) == ours.pixels.shape
        assert np.abs(pixels[0].numpy().astype(float) - ours.pixels).mean() < 3
        np.testing.assert_allclose(target["boxes"].numpy(), ours.boxes_xyxy, atol=0.75)
        assert target["labels"].tolist() == (ours.class_index + 1).tolist()
    pixels, target = frames[0]
    assert pixels.shape[0] == 3
    assert pixels.dtype == torch.float
    assert 0 <= pixels.min() <= pixels.max() <= 1
    assert len(target["boxes"]) == len(target["labels"])


@pytest.mark.slow
def test_caches_of_a_dataset_are_not_taken_along(drawn: Path, tmp_path) -> None:
    (drawn / "labels" / "train.cache").write_bytes(b"a pickle")
    copied = speed.prepare_data(speed.SpeedSettings(data=drawn), tmp_path)
    assert not (copied / "labels" / "train.cache").exists()
    assert (copied / "data.yaml").read_text() == (drawn / "data.yaml").read_text()


# health_folds


def test_rows_of_folds_and_of_all_as_one() -> None:
    values = {"seed": 0.5, "one_to_one": 0.25, "one_to_one.class_agnostic": None}
    figures = {
        f"{rule}.{name}": kfold_figure(value, value, value)
        for rule, value in values.items()
        for name in health.FIGURES
    }
    cells = health.rows_of(health.Scored("yolo", [3, 4], figures, ""))
    assert [row[1] for row in cells] == ["fold0", "fold1", "all as one"] * 2 + ["all as one"]
    assert cells[0] == ("YOLOv8n", "fold0", "older project's", *["0.500"] * 4)
    assert cells[5] == ("YOLOv8n", "all as one", "one-to-one", *["0.250 (0.230 – 0.280)"] * 4)
    assert cells[6][3:] == ("not defined",) * 4
    assert all(len(row) == len(health.HEADS) == len(health.PUBLISHED) for row in cells)


@pytest.mark.parametrize(
    ("full", "model", "wanted"),
    [
        (False, "fasterrcnn", {"backbone": "mobilenet_v3_large", "channels": 1, "crop": 330,
                               "imgsz": 384, "batch": 4, "epochs": 24}),
        (True, "fasterrcnn", {"backbone": "resnet50", "channels": 3, "crop": 330, "imgsz": 384,
                              "batch": 8, "epochs": 200}),
        (False, "yolo", {"imgsz": 320, "epochs": 60, "close_mosaic": 24}),
    ],
    ids=["small-fasterrcnn", "full-fasterrcnn", "small-yolo"],
)  # fmt: skip
def test_small_and_full_sizes(tmp_path: Path, full, model, wanted) -> None:
    from spineline.detect.recipe import resolve_recipe as resolve

    settings = health.HealthSettings(out=tmp_path, full=full)
    values = resolve(health.kfold_keys(settings, model, tmp_path)).values
    assert {name: values[name] for name in wanted} == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "more", "trained", "wanted"),
    [
        (health, [], 4, {
            "# Results\n\n<!-- spineline:health-discs -->\n\n## Discs, healthy or": 1,
            "| Faster R-CNN ": 7,
            "| YOLOv8n ": 7,
            "`spineline convert report annotations=": 1,
            "`spineline kfold detect model=fasterrcnn data=data out=fasterrcnn hyp=cervi": 1,
        }),
        (rows, ["rows=chain"], 4, {
            "folds=mixup,noise_normalise_rotation": 1,
            "44 | small ": 1,
            "small, 1 epochs, 64 px": 1,
        }),
    ],
    ids=["health", "rows"],
)  # fmt: skip
def test_folds_from_the_source_to_the_page(
    tmp_path: Path, source, script, more, trained, wanted
) -> None:
    """Of the rows it is the chain: its detector, its classifier, and the pipeline over both."""
    out, page = tmp_path / "out", tmp_path / "page.md"
    words = [*source, *more, f"out={out}", f"page={page}", "k=2", "epochs=1", "imgsz=64"]
    script.main([*words, "draws=10"])
    text = page.read_text()
    assert {part: text.count(part) for part in wanted} == wanted
    assert str(tmp_path) not in text
    before = {path: path.stat().st_mtime_ns for path in out.rglob("weights/last.safetensors")}
    assert len(before) == trained
    script.main([*words, "draws=10"])  # what is finished is not trained again
    assert page.read_text() == text
    assert {path: path.stat().st_mtime_ns for path in before} == before


# report_rows


def write_kfold(
    out: Path, size: str, name: str, figures: dict[str, dict[str, object]], **keys: object
) -> Path:
    """What a cross-validation of that name leaves, as far as it is read."""
    from spineline.datasets.common.run_record import write_run_record
    from spineline.datasets.common.settings import parse_settings

    folder = out / size / name
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema": "spineline-kfold/1", "studies": [50, 50, 49], "variants": figures}
    (folder / "kfold.json").write_text(json.dumps(content))
    settings = rows.RowsSettings(out=out, size=size, **keys)
    experiment = rows.AT[name]
    words = rows.experiment_words(settings, experiment, list(figures), str(out))
    cls, _ = rows.RUN[experiment.command]
    record = parse_settings(cls, words)
    write_run_record(folder, experiment.command, record)
    for variant in figures:
        fold = folder / variant / "fold0"
        if not (fold / "run.yaml").exists():  # what is finished is not trained again
            fold.mkdir(parents=True, exist_ok=True)
            write_run_record(fold, "detect train", record)
    return folder


def kfold_figure(pooled: float | None, *folds: float | None) -> dict[str, object]:
    bounds = [None, None] if pooled is None else [pooled - 0.02, pooled + 0.03]
    whole = {"value": pooled, "ci95": bounds, "n": 1639}
    return {"folds": folds, "pooled": whole}


def table_of(text: str) -> dict[str, list[str]]:
    """Cells of the section's table by its first column."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {line[0]: line[1:] for line in cells}


@pytest.mark.parametrize("size", ["small", "full"])
def test_every_command_of_the_rows_is_one_that_works(size: str, tmp_path: Path) -> None:
    """By the very settings and checks of the commands, before any data is read."""
    import shlex

    from spineline.pipeline.cli.main import settings_from_words
    from spineline.pipeline.kfold.tasks import ClassifyTask, DetectTask

    settings = rows.RowsSettings(out=tmp_path / "my rows", size=size, device="0", seed=3)
    lines = rows.commands(settings, rows.chosen_variants(rows.ROWS), str(settings.out))
    names = [name for name, _ in lines]
    assert names == ["data", "data", *(e.name for e in rows.EXPERIMENTS)]
    trained = set()
    for name, text in lines:
        first, task, mode, *words = shlex.split(text)
        assert first == "spineline"
        cls, _ = rows.RUN[f"{task} {mode}"]
        found = settings_from_words(cls, words)
        assert found.seed == 3
        if task == "kfold":
            kfold = (DetectTask if mode == "detect" else ClassifyTask)(found)
            variants = kfold.variants()
            kfold.check(variants)
            trained |= {(name, variant.name) for variant in variants}
            assert found.out == tmp_path / "my rows" / size / name
            assert found.data.parent == tmp_path / "my rows" / "data"
        if task == "pipeline":
            wanted = {(place.parent.name, place.name) for place in found.folds}
            assert wanted == set(rows.NEEDS["chain"])
    kfold_rows = {(r.experiment, r.variant) for r in rows.ROWS if r.experiment != "chain"}
    assert trained == kfold_rows | set(rows.NEEDS["chain"])


def test_the_rows_are_those_of_the_report() -> None:
    published = {row.name: row.published for row in rows.ROWS}
    assert len(published) == len(rows.ROWS) == 25
    wanted = {
        "regions": ["0.849", "0.860", "0.878"],
        "frcnn": ["0.438"],
        "yolov3": ["0.512"],
        "binary": ["0.978", "0.973", "0.998"],
        "seven": ["0.596", "0.607", "0.619", "0.601"],
        "large_batch": ["0.588"],
        "noisy": ["0.658", "0.654"],
        "chain": ["0.667", "0.402", "0.657"],
    }
    found = {group: [r.published for r in rows.ROWS if r.experiment == group] for group in wanted}
    assert found == wanted
    assert published["unet-gaussian"].startswith("0.184")
    assert published["networks-vgg16"] == "worse, not given"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("regions",), ["regions-original", "regions-label_smoothing", "regions-mixup"]),
        (("noisy-noise", "regions-mixup"), ["regions-mixup", "noisy-noise"]),
        (("yolov3",), ["yolov3"]),
        ((), []),
    ],
)
def test_rows_by_name_and_by_group(words: tuple[str, ...], wanted: list[str]) -> None:
    assert [row.name for row in rows.chosen_rows(words)] == wanted


def test_all_rows_at_once() -> None:
    assert rows.chosen_rows(("all",)) == rows.ROWS
    with pytest.raises(ConfigError, match="no such row") as caught:
        rows.chosen_rows(("none",))
    assert str(caught.value).count("yolov3") == 1


def test_the_chain_needs_its_networks_first() -> None:
    chosen = rows.chosen_variants(rows.chosen_rows(["chain-ap", "regions-original"]))
    assert list(chosen.items()) == [
        ("regions", ("original", "mixup")),
        ("heads", ("noise_normalise_rotation",)),
        ("chain", ("",)),
    ]


def test_dry_prints_the_commands_and_writes_nothing(tmp_path, capsys) -> None:
    words = [f"out={tmp_path / 'o'}", f"page={tmp_path / 'p.md'}", "dry=true"]
    assert rows.main([*words, "rows=unet,noisy-noise", "images=frames"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0] == (
        "spineline convert report annotations=LABELS.json images=frames "
        f"out={tmp_path}/o/data/level kfold=3"
    )
    assert " variants=onehot,gaussian" in lines[1]
    assert lines[2].endswith(" head=seven variants=noise")
    assert list(tmp_path.iterdir()) == []


def test_table_of_finished_rows(tmp_path: Path) -> None:
    out, page = tmp_path / "out", tmp_path / "page.md"
    heldout = "| `level_accuracy_8px` | 0.9777 | 0.955 – 0.994 | 539 | 0.878 |\n"
    heldout += "| `report.ap` | 0.6360 |  | 524 | 0.6574 |\n"
    page.write_text(
        f"<!-- spineline:out-of-fold -->\n\n{heldout}\n<!-- /spineline:out-of-fold -->\n"
    )
    accuracy = {
        name: {"level_accuracy_8px": kfold_figure(0.81, 0.8, 0.82, 0.81)}
        for name in ("original", "mixup")
    }
    accuracy["label_smoothing"] = {"level_accuracy_8px": kfold_figure(None, 0.8, None, 0.7)}
    write_kfold(out, "small", "regions", accuracy, seed=4)
    better = {"original": {"level_accuracy_8px": kfold_figure(0.9, 0.9, 0.9, 0.9)}}
    write_kfold(out, "full", "regions", better, device="0")
    chain = {name: {"value": 0.5, "ci95": [0.4, 0.6], "n": 9} for name in ("recall", "precision")}
    chain["ap"] = {"value": None, "ci95": [None, None], "n": 0}
    (out / "small" / "chain").mkdir(parents=True)
    (out / "small" / "chain" / "metrics.json").write_text(json.dumps({"report": chain}))
    rows.write_page(rows.RowsSettings(out=out, page=page))
    text = page.read_text()
    table = table_of(text)
    ours = "0.978 (0.955 – 0.994)"
    figure = "`level_accuracy_8px`"
    assert table["YOLOv5 regions, original"] == [
        figure, "0.849", "0.900 (0.880 – 0.930)", "0.900 / 0.900 / 0.900", "1639",
        "full, 200 epochs, 800 px", ours,
    ]  # fmt: skip
    assert table["YOLOv5 regions, mixup"] == [
        figure, "0.878", "0.810 (0.790 – 0.840)", "0.800 / 0.820 / 0.810", "1639",
        "small, 40 epochs, 256 px", ours,
    ]  # fmt: skip
    assert table["YOLOv5 regions, label smoothing"][2:4] == ["a fold failed", "0.800 / – / 0.700"]
    assert table["The chain, recall"][2:6] == ["0.500 (0.400 – 0.600)", "", "9", "small"]
    assert table["The chain, AP"][2] == "not defined"
    assert table["The chain, AP"][-1] == "0.636"
    assert table["End to end on the seven classes: YOLOv3"] == [
        "`coco.map50`", "0.512", "not run", "", "", "", "–",
    ]  # fmt: skip
    assert len([row for row in table.values() if row[2] == "not run"]) == 25 - 6
    assert "- regions, small, seed 4, folds of 50, 50, 49 studies: `spineline kfold det" in text
    assert "- regions, full, seed 0, folds of 50, 50, 49 studies: `spineline kfold det" in text
    assert "`spineline kfold detect data=OUT/data/seven out=OUT/full/yolov3 model=yolov3 " in text
    assert "device=0" in text
    assert str(tmp_path) not in text
    assert heldout in text
    rows.write_page(rows.RowsSettings(out=out, page=page))
    assert page.read_text() == text


def test_variants_of_a_folder_trained_at_different_sizes(tmp_path: Path) -> None:
    figure = {"seven.accuracy": kfold_figure(0.6, 0.6, 0.6, 0.6)}
    first = {"resize": figure, "rotation": figure}
    write_kfold(tmp_path, "small", "seven", first, epochs=12)
    write_kfold(tmp_path, "small", "seven", {**first, "normalise": figure}, epochs=2)
    text = rows.section_text(rows.RowsSettings(out=tmp_path))
    table = table_of(text)
    sizes = {
        name: table[f"Seven-class head, {name}"][5] for name in ("resize", "rotation", "normalise")
    }
    assert sizes == {
        "resize": "small, 12 epochs",
        "rotation": "small, 12 epochs",
        "normalise": "small, 2 epochs",
    }
    made = [line for line in text.splitlines() if line.startswith("- seven, small")]
    assert len(made) == 2
    assert " epochs=12 " in made[0]
    assert made[0].endswith(" variants=resize,rotation`")
    assert " epochs=2 " in made[1]
    assert made[1].endswith(" variants=normalise`")


def test_the_best_of_ours_may_be_a_file(tmp_path: Path) -> None:
    figure = {"value": 0.7, "ci95": [0.65, 0.75], "n": 5}
    confusion = {"value": [[1]], "ci95": [None, None], "n": 5}
    (tmp_path / "metrics.json").write_text(
        json.dumps({"seven": {"accuracy": figure, "confusion": confusion}, "images": 3})
    )
    settings = rows.RowsSettings(out=tmp_path / "out", best=tmp_path / "metrics.json")
    assert rows.best_figures(settings) == {"seven.accuracy": "0.700 (0.650 – 0.750)"}
    text = rows.section_text(settings)
    assert table_of(text)["Seven-class head, noise"][-1] == "0.700 (0.650 – 0.750)"
    assert "From `metrics.json`." in text


@pytest.fixture
def called(tmp_path: Path, monkeypatch) -> list[tuple[str, object]]:
    """Commands that leave what the real ones do, without training; a list of their settings."""
    calls: list[tuple[str, object]] = []

    def convert(settings) -> None:
        calls.append(("convert", settings))
        for fold in range(settings.kfold):
            (settings.out / f"fold{fold}").mkdir(parents=True)

    def cross_validate(settings) -> SimpleNamespace:
        calls.append(("kfold", settings))
        if settings.out.name == "unet":
            raise SpinelineError("the loss is no number")
        for name in settings.variants:
            for fold in range(3):
                scores = settings.out / name / f"fold{fold}" / "val"
                scores.mkdir(parents=True, exist_ok=True)
                (scores / "metrics.json").write_text("{}")
        figures = {"level_accuracy_8px": kfold_figure(0.5, 0.5, 0.5, 0.5)}
        found = dict.fromkeys(settings.variants, figures)
        write_kfold(tmp_path / "out", "small", settings.out.name, found)
        return SimpleNamespace(failures=())

    for command, function in (("convert report", convert), ("kfold detect", cross_validate)):
        monkeypatch.setitem(rows.RUN, command, (rows.RUN[command][0], function))
    return calls


def test_rows_are_run_once_added_to_and_gone_on_with(tmp_path: Path, called) -> None:
    source = ["annotations=l.json", "images=frames"]
    words = [f"out={tmp_path / 'out'}", f"page={tmp_path / 'page.md'}"]
    with pytest.raises(ConfigError, match="wanted annotations"):
        rows.make_data(rows.RowsSettings(out=tmp_path / "out"), "level")
    assert rows.main([*words, *source, "rows=regions-mixup"]) == 0
    (_, converted), (_, first) = called
    assert (converted.labels, converted.kfold) == ("level", 3)
    assert (first.variants, first.resume, first.model) == (("mixup",), False, "yolov5n")
    page = (tmp_path / "page.md").read_text()
    assert table_of(page)["YOLOv5 regions, mixup"][4:6] == [
        "1639", "small, 40 epochs, 256 px",
    ]  # fmt: skip
    assert rows.main([*words, "rows=regions-mixup"]) == 0
    assert len(called) == 2
    assert rows.main([*words, "rows=regions-original"]) == 0
    (_, second) = called[-1]
    assert (second.variants, second.resume) == (("original", "mixup"), True)
    assert rows.main([*words, "rows="]) == 0
    assert len(called) == 3


def test_a_row_that_fails_does_not_stop_the_others(tmp_path: Path, called, capsys) -> None:
    words = [f"out={tmp_path / 'out'}", "annotations=l.json", "images=frames"]
    assert rows.main([*words, "rows=unet,yolov3"]) == 1
    assert [s.out.name for name, s in called if name == "kfold"] == ["yolov3", "unet"]
    assert "failed: unet: the loss is no number" in capsys.readouterr().err


def test_runtimes_are_told_as_ratios_to_torch() -> None:
    turn, agreement = harness.Turn, runtimes.Agreement(6, 44, 4.57e-5, 3.4e-4)
    loaded = {
        "torch": [turn(0.4, 0.2), turn(0.8, 0.4), turn(0.4, 0.2)],
        "onnx": [turn(0.2, 0.15), turn(0.2, 0.3), turn(0.3, 0.15)],
    }
    cold = {"torch": [turn(6.0, 3.0)] * 3, "onnx": [turn(2.0, 1.0)] * 3}
    measured = runtimes.Measured("8 studies", loaded, cold, {"onnx": agreement}, 2)
    torch, onnx = runtimes.rows_of(measured)
    assert torch[:3] == ("torch", "200.0", "1.00 (1.00 – 1.00)")
    assert onnx == (
        "ONNX Runtime", "100.0", "0.50 (0.25 – 0.75)", "0.75 (0.75 – 0.75)", "2.00",
        "0.33 (0.33 – 0.33)", "5e-05", "0.0003",
    )  # fmt: skip
    without = runtimes.Measured("8 studies", loaded, {}, {"onnx": agreement}, 2)
    assert runtimes.rows_of(without)[1][4:6] == ("", "")
    settings = runtimes.RuntimeSettings(n=8, formats=("onnx",), repeats=3)
    text = harness.section_text("runtimes", settings, runtimes.found_in(settings, measured))
    for word in ("python benchmarks/runtimes.py", "n=8", "formats=onnx", "repeats=3"):
        assert word in text.split("- Command: ")[1].splitlines()[0]
    assert "8 studies; default weights; 3 rounds" in text


# harness, and cohort_memory


def test_arms_take_turns_in_an_order_that_moves_on() -> None:
    run: list[str] = []
    arms = {name: (lambda n=name: run.append(n)) for name in "abc"}
    kept = harness.take_turns(arms, 2)
    assert "".join(run) == "abcbcacab"
    assert {name: len(all_) for name, all_ in kept.items()} == {"a": 2, "b": 2, "c": 2}


def test_ratios_are_of_neighbours() -> None:
    over = [harness.Turn(2.0, 9.0), harness.Turn(6.0, 9.0), harness.Turn(9.0, 9.0)]
    under = [harness.Turn(1.0, 3.0), harness.Turn(2.0, 9.0), harness.Turn(1.0, 1.0)]
    found = harness.ratio(over, under)
    assert (found.value, found.low, found.high) == (3.0, 2.0, 9.0)
    assert str(harness.ratio(over, under, "cpu_s")) == "3.00 (1.00 – 9.00)"
    assert harness.median(over) == 6.0


def test_a_round_that_tells_nothing_is_no_figure(tmp_path: Path) -> None:
    turn = harness.Turn
    # Load on the machine can make a whole cohort quicker than the one study before it.
    under = [turn(1.0, 1.0), turn(1.0, 1.0)]
    over = against.per_study([turn(9.0, 3.0), turn(5.0, 9.0)], [turn(4.0, 4.0), turn(4.0, 4.0)], 2)
    figure = against.Figure("cohort", "ms", over, under, 1.0, "cpu_s")
    assert str(figure.ratio("cpu_s")) == "not told"
    assert str(figure.ratio("wall_s")) == "3.00 (1.00 – 5.00)"
    assert not figure.reached
    assert figure.row()[5:7] == ("not told", "not told")
    write_json(tmp_path / "a.json", figure.to_json())
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["ratio"]["cpu_s"] == {"value": None, "low": None, "high": None}
    assert [one["cpu_s"] for one in written["turns"]["now"]] == [None, 5.0]


def test_processor_time_of_ended_children_counts() -> None:
    code = "sum(n * n for n in range(3_000_000))"
    turn = harness.timed(lambda: subprocess.run([sys.executable, "-c", code], check=True))
    assert turn.cpu_s > 0.05


@pytest.mark.slow
def test_copies_of_studies_are_studies_of_their_own(tmp_path: Path) -> None:
    from spineline.datasets.dicom.study import scan

    words = harness.draw_cohort(tmp_path / "c", 10, seed=0, slices=1, size=128)
    assert words == "10 phantom studies, 3 files each, 128 px, 8 of them distinct"
    studies = scan(tmp_path / "c")
    assert len({study.study_uid for study in studies}) == len(studies) == 10
    slices = [one for study in studies for series in study.series for one in series.slices]
    assert len({one.instance_uid for one in slices}) == len(slices) == 30


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux alone")
def test_memory_is_of_the_whole_tree() -> None:
    code = "import os; os.read(0, 1)"
    before, *_ = cohort_memory.memory_of(os.getpid())
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        assert cohort_memory.memory_of(os.getpid())[0] == before + 1
        count, rss, pss = cohort_memory.memory_of(child.pid)
        assert count == 1
        assert 0 < pss <= rss < 200
        child.communicate(b"x")
    assert cohort_memory.memory_of(child.pid) == (0, 0.0, 0.0)


def test_peak_memory_by_part_of_a_run() -> None:
    looks = [cohort_memory.Look(n, 3, 100.0 + n, 50.0) for n in (0, 4, 5, 10)]
    run = cohort_memory.MemoryRun(10, 1.0, tuple(looks))
    assert run.peak("rss_mb") == 110.0
    assert run.peak("rss_mb", 0.0, 0.5) == 105.0
    assert run.peak("pss_mb", 0.5, 1.0) == 50.0


def test_short_runs_keep_the_share_of_epochs_with_mosaic_and_mixup() -> None:
    settings = rows.RowsSettings(out=Path("o"), epochs=15)
    words = rows.experiment_words(settings, rows.AT["regions"], ["mixup"], "o")
    assert (words["epochs"], words["close_mosaic"]) == ("15", "6")  # 16 of 40


def test_a_variant_is_finished_with_a_score_of_every_fold(tmp_path: Path) -> None:
    for n in range(2):
        (tmp_path / "data" / "level" / f"fold{n}").mkdir(parents=True)
    (tmp_path / "data" / "level" / "folds.json").touch()  # beside the folds, and none of them
    folder = tmp_path / "small" / "regions"
    for variant, folds in (("whole", 2), ("half", 1)):
        for n in range(folds):
            (folder / variant / f"fold{n}" / "val").mkdir(parents=True)
            (folder / variant / f"fold{n}" / "val" / "metrics.json").touch()
    assert rows.finished_variants(folder) == ("whole",)


# label_round_trip


def test_a_loss_counts_what_moved_what_is_gone_and_what_changed() -> None:
    mark = round_trip.Mark((1.0, 2.0), (0.0, 0.0, 4.0, 4.0), ("v1",))
    known = {("a", level): mark for level in ("L1", "L2", "L3")}
    back = {
        ("a", "L1"): round_trip.Mark((4.0, 6.0), (0.0, -3.0, 4.0, 5.0), ("v1",)),
        ("a", "L2"): round_trip.Mark((1.0, 2.0), mark.box_xyxy, ("v2",)),
    }
    found = round_trip.loss(known, back)
    assert found.points_px == (5.0, 0.0)
    assert found.boxes_px == (3.0, 0.0)
    assert found.row() == ("5", "2.5", "3", "1.5", "1", "1")
    assert round_trip.loss(known, known).row() == ("0",) * 6
    boxes = round_trip.loss(known, known, (round_trip.BOX,))
    assert boxes.row() == ("–", "–", "0", "0", "0", "–")
    with pytest.raises(SpinelineError, match="came back that did not go in"):
        round_trip.loss(back, known)


# against, growth, history


def git(folder: Path, *words: str) -> None:
    own = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", "-C", str(folder), *own, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch) -> Path:
    """A repository whose packages hold a command line that says which version it is."""
    root = tmp_path / "repository"
    for package in against.PACKAGES:
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").touch()
    (root / "pipeline" / "cli.py").write_text("open('said', 'a').write('old ')\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "old")
    (root / "pipeline" / "cli.py").write_text("open('said', 'a').write('new ')\n")
    monkeypatch.setattr(against, "HERE", root)
    monkeypatch.chdir(tmp_path)
    return root


def test_two_versions_are_run_by_the_same_command(repository: Path, tmp_path: Path) -> None:
    settings = against.AgainstSettings(base="HEAD")
    with against.checkouts(settings, tmp_path) as both:
        for checkout in both:
            checkout.command("pipeline", "predict")()
        commits = [checkout.commit for checkout in both]
    assert (tmp_path / "said").read_text() == "old new "
    assert commits[1] == f"{commits[0]}+"  # its files differ from the commit
    assert not (tmp_path / "worktree").exists()


@pytest.mark.parametrize("base", ["nothing", "--all", "tmp"])
def test_a_base_that_is_neither_commit_nor_checkout(base: str, repository: Path, tmp_path) -> None:
    (tmp_path / "tmp").mkdir()
    message = "neither a folder nor a commit|no checkout of this project"
    with (
        pytest.raises(ConfigError, match=message),
        against.checkouts(against.AgainstSettings(base=base), tmp_path),
    ):
        pass


def test_the_base_may_stand_alone(monkeypatch) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(harness, "run_bench", lambda words, *_: given.append(words))
    against.main(["bc51b37", "n=3"])
    against.main(["base=bc51b37"])
    against.main(["help"])
    assert given == [["base=bc51b37", "n=3"], ["base=bc51b37"], ["help"]]


def test_studies_of_a_source_stand_in_for_phantoms(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / "own" / name).mkdir(parents=True)
    (tmp_path / "own" / "notes.txt").touch()
    settings = against.AgainstSettings(base="HEAD", source=tmp_path / "own", n=2)
    against.gather_cohort(settings, tmp_path / "cohort")
    found = {each.name: each.resolve() for each in (tmp_path / "cohort").iterdir()}
    assert found == {name: (tmp_path / "own" / name).resolve() for name in ("a", "b")}
    assert against.levels_right(settings, tmp_path, ()) == ""  # no ground truth was given
    with pytest.raises(ConfigError, match=r"own: 3 study folders, n=4 wanted; give n=3"):
        against.gather_cohort(replace(settings, n=4), tmp_path / "more")
    assert not (tmp_path / "more").exists()


def test_a_figure_is_reached_by_the_clock_that_it_names() -> None:
    over, under = [harness.Turn(0.5, 0.9)] * 3, [harness.Turn(1.0, 1.0)] * 3
    by_clock = against.Figure("start", "s", over, under, 0.6)
    by_processor = against.Figure("study", "ms", over, under, 0.6, "cpu_s")
    faster = against.Figure("supervision", "s", under, over, 2.0, at_least=True)
    assert [f.reached for f in (by_clock, by_processor, faster)] == [True, False, True]
    assert by_clock.row()[1:4] == ("1.00", "0.50", "0.50 (0.50 – 0.50)")
    assert by_processor.row()[4:] == ("1000.0", "900.0", "0.90 (0.90 – 0.90)", "≤ 0.6 cpu: no")
    assert len(by_clock.row()) == len(against.HEADS)


def test_results_of_two_versions_are_compared_by_level(tmp_path: Path) -> None:
    for name, levels in (("base", {"L1": [1, 2], "L2": [5, 5]}), ("now", {"L1": [4, 6]})):
        (tmp_path / name / "study").mkdir(parents=True)
        found = [{"level": level, "point_xy": xy} for level, xy in levels.items()]
        file = tmp_path / name / "study" / "result.json"
        file.write_text(json.dumps({"structures": found}))
    words = against.difference(tmp_path / "base", tmp_path / "now")
    assert words == "1 of 2 levels of the base, 5 px apart at most"
    (tmp_path / "now" / "study" / "result.json").unlink()
    assert against.difference(tmp_path / "base", tmp_path / "now").startswith("0 of 2 levels")


def test_files_of_two_versions_are_compared_by_their_bytes(tmp_path: Path) -> None:
    for name, text in (("base", "a"), ("now", "b")):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in" / "same").write_text("same")
        (tmp_path / name / "other").write_text(text)
    (tmp_path / "now" / "more").write_text("more")
    words = against.files_apart(tmp_path / "base", tmp_path / "now")
    assert words == "1 of 2 files the same to the byte; not other"


def test_trainings_are_whole_and_in_rounds_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training_speed as speed

    run: list[tuple[object, ...]] = []
    took = {"best": 3.0, "finetune": 1.0}

    def command(checkout: against.Checkout, *words: object):
        run.append((checkout.name, *words))
        recipe = dict(str(word).split("=", 1) for word in words[2:])["recipe"]
        seconds = took[recipe] * (10 if checkout.name == "base" else 1)
        return lambda: harness.Turn(seconds, seconds)

    def take_turns(arms, rounds, *, warm):
        assert (rounds, warm) == (2, 0)
        return {name: [call() for _ in range(rounds)] for name, call in arms.items()}

    both = [against.Checkout(name, tmp_path, "python", "") for name in ("base", "now")]
    monkeypatch.setattr(against.Checkout, "command", command)
    monkeypatch.setattr(harness, "take_turns", take_turns)
    monkeypatch.setattr(harness, "afresh", lambda _out, call: call)
    monkeypatch.setattr(speed, "prepare_data", lambda *_: tmp_path / "data")
    settings = against.AgainstSettings(base="HEAD", trainings=2)
    scratch, warm = against.training(settings, tmp_path, both)
    assert scratch.ratio("wall_s").value == pytest.approx(0.1)  # 3 s by 30 s
    assert warm.ratio("wall_s").value == pytest.approx(1 / 30)
    assert [figure.reached for figure in (scratch, warm)] == [True, True]
    assert [words[0] for words in run] == ["base", "now", "now"]
    assert all(words[1:3] == ("pipeline", "train") for words in run)
    assert not [words for words in run if "epochs=" in str(words)]


def test_what_a_run_over_a_cohort_was_like(tmp_path: Path) -> None:
    seen = ((0, 1.0, 2.0), (1, 2.0, 3.0), (5, 6.0, 8.0))
    looks = [cohort_memory.Look(n, 3, 100.0, 50.0 + n, *clocks) for n, *clocks in seen]
    (tmp_path / "one").write_bytes(b"123")
    run = growth.grown("local", cohort_memory.MemoryRun(5, 7.5, tuple(looks), 10.0), tmp_path)
    assert (run.first_s, run.last_s, run.study_s) == (2.0, 1.5, 1.0)
    assert (run.first_cpu_s, run.last_cpu_s) == (3.0, 2.0)
    assert (run.pss_mb, run.files, run.bytes, run.cpu_s) == (55.0, 1, 3, 10.0)


def test_large_cohorts_cost_what_one_more_study_does() -> None:
    small = growth.Grown("local", 100, 20.0, 30.0, 9.0, 2.0, 9.0, 1.0, 500.0, 400, 10_000)
    large = growth.Grown("local", 1100, 90.0, 102.0, 9.0, 4.0, 9.0, 2.0, 510.0, 4400, 110_000)
    (row, _) = growth.large_rows(small, large)
    assert row == ("100,000", "2.0", "3.3", "1.7", "1.5", "0.0", "0.40")


def test_the_sizes_stand_in_the_command() -> None:
    settings = growth.GrowthSettings(sizes=(2, 4), engines=("local",))
    wanted = "python benchmarks/growth.py sizes=2,4 engines=local"
    assert harness.command_of("growth", settings) == wanted


@pytest.mark.parametrize("sizes", ["10", "10,5", "5,5"])
def test_cohorts_must_grow(sizes: str) -> None:
    with pytest.raises(ConfigError, match=f"sizes={sizes}: wanted at least two"):
        growth.main([f"sizes={sizes}"])


def kept(folder: Path, commit: str, date: str, seconds: float, **more: object) -> None:
    turn = {"wall_s": 9.0, "cpu_s": seconds}
    entry = {
        "schema": history.SCHEMA,
        "commit": commit,
        "committed": date,
        "machine": history.machine(),
        "reports": {"start_up": {"turns": {"spineline pipeline predict": [turn]}}},
        **more,
    }
    folder.mkdir(exist_ok=True)
    history.file_of(entry, folder).write_text(json.dumps(entry))


def test_what_is_kept_is_drawn_in_the_order_of_commits(tmp_path: Path) -> None:
    kept(tmp_path / "kept", "b" * 12, "2026-02-01T00:00:00+00:00", 1.5)
    kept(tmp_path / "kept", "c" * 12 + "+", "2026-01-01T00:00:00+00:00", 4.0)
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert names == ["2026-01-01-cccccccccccc-changed.json", "2026-02-01-bbbbbbbbbbbb.json"]
    entries = history.read_entries(tmp_path / "kept")
    assert history.points(history.PANELS[0], entries) == [("ccccccc", 4.0), ("bbbbbbb", 1.5)]
    assert history.points(history.PANELS[-1], entries) == []
    picture = tmp_path / "picture.png"
    history.main(["run=false", f"into={tmp_path / 'kept'}", f"picture={picture}"])
    first = picture.read_bytes()
    history.main(["run=false", f"into={tmp_path / 'kept'}", f"picture={picture}"])
    assert first[:4] == b"\x89PNG"
    assert picture.read_bytes() == first


def test_a_folder_that_keeps_nothing_or_something_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is kept there"):
        history.main(["run=false", f"into={tmp_path}"])
    kept(tmp_path, "b" * 12, "2026-02-01T00:00:00+00:00", 1.5, schema="other/1")
    with pytest.raises(SpinelineError, match="no benchmark that was kept"):
        history.main(["run=false", f"into={tmp_path}"])


def test_scripts_of_one_commit_are_kept_together(tmp_path: Path, monkeypatch) -> None:
    reports = {
        "start_up": {"turns": {"spineline pipeline predict": [{"wall_s": 9.0, "cpu_s": 2.0}]}},
        "grading_time": {"turns": {"all as one": [{"wall_s": 9.0, "cpu_s": 4.0}]}},
    }

    def run(_script: Path, *words: object):
        out = Path(str(words[-1]).removeprefix("out="))
        return lambda: out.write_text(json.dumps(reports[out.stem]))

    monkeypatch.setattr(harness, "process", run)
    for name in reports:
        history.main([f"only={name}", f"into={tmp_path / 'k'}", f"picture={tmp_path / 'p.png'}"])
    (entry,) = history.read_entries(tmp_path / "k")
    assert entry["reports"] == reports
    assert [round(history.points(history.PANELS[n], [entry])[0][1]) for n in (0, 5)] == [2, 4000]


@pytest.mark.slow
def test_one_command_runs_and_keeps_them(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(history.RUNS, "grading_time", SCRIPTS["grading_time"])
    picture = tmp_path / "picture.png"
    history.main(["only=grading_time", f"into={tmp_path / 'kept'}", f"picture={picture}"])
    (entry,) = history.read_entries(tmp_path / "kept")
    assert entry["commit"].startswith(against.commit_of().rstrip("+"))
    assert history.points(history.PANELS[5], [entry])[0][1] > 0
    assert picture.is_file()


@pytest.mark.slow
def test_a_version_against_itself(tmp_path: Path) -> None:
    out, page = tmp_path / "a.json", tmp_path / "a.md"
    small = ["n=2", "repeats=1", "frames=3", "supervision=false", "only=start,cohort,convert"]
    against.main([f"base={ROOT}", *small, f"out={out}", f"page={page}"])
    figures = json.loads(out.read_text())["figures"]
    assert len(figures) == 4
    text = page.read_text()
    assert "22 of 22 levels of the base, 0 px apart at most" in text
    assert "files the same to the byte" in text
    assert str(tmp_path) not in text
