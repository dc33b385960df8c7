"""The benchmark scripts: what they compute, and that they run at all."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from spineline.datasets.errors import ConfigError, SpinelineError

ROOT = Path(__file__).resolve().parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def speed() -> ModuleType:
    return script("training_speed")


def test_time_of_an_epoch_leaves_out_the_first_and_the_last(speed) -> None:
    assert speed.seconds_per_epoch([100.0, 101.0, 104.0, 204.0]) == 2.0
    with pytest.raises(SpinelineError, match="2 epochs were seen"):
        speed.seconds_per_epoch([1.0, 2.0])


def test_comparison_is_of_medians_and_of_rounds(speed) -> None:
    times = {
        "yolo ours cache=ram": [1.0, 2.0, 9.0],
        "yolo bare cache=ram": [2.0, 2.0, 3.0],
        "yolo ours cache=none": [4.0, 4.0, 4.0],
        "yolo bare cache=none": [2.0, 4.0, 4.0],
    }
    rows = {(r["ours_cache"], r["bare_cache"]): r for r in speed.compare(times)}
    assert set(rows) == {("ram", "ram"), ("ram", "none"), ("none", "none")}
    alike = rows["ram", "ram"]
    assert (alike["ours_s"], alike["bare_s"], alike["ratio"]) == (2.0, 2.0, 1.0)
    assert alike["ratio_range"] == [0.5, 3.0]
    assert rows["ram", "none"]["ratio"] == 0.5
    (first, *_) = speed.table_rows(speed.compare(times))
    assert first == ("YOLO", "in memory", "in memory", "2.000", "2.000", "1.00", "0.50 – 3.00")


@pytest.fixture(scope="module")
def drawn(speed, tmp_path_factory) -> Path:
    return speed.prepare_data(speed.SpeedSettings(n=3), tmp_path_factory.mktemp("drawn"))


def test_the_bare_network_is_ours(speed) -> None:
    """The same tensors by name and shape; normalisation is no part of them."""
    from spineline.detect.fasterrcnn import Description, build_network

    values = {"backbone": "mobilenet_v3_large", "imgsz": 96, "rois": 64, "proposals": 300}
    bare = speed.plain_network(values, 11).state_dict()
    ours = build_network(Description("mobilenet_v3_large", 3, 0.5, 0.2), 11, 96).state_dict()
    assert {k: v.shape for k, v in bare.items()} == {k: v.shape for k, v in ours.items()}


def test_the_bare_dataset_holds_what_ours_trains_on(speed, drawn: Path, tmp_path) -> None:
    from spineline.detect.fasterrcnn_data import read_sample
    from spineline.detect.recipe import resolve
    from spineline.detect.yolo_data import read_data, read_images

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


def test_caches_of_a_dataset_are_not_taken_along(speed, drawn: Path, tmp_path) -> None:
    (drawn / "labels" / "train.cache").write_bytes(b"a pickle")
    copied = speed.prepare_data(speed.SpeedSettings(data=drawn), tmp_path)
    assert not (copied / "labels" / "train.cache").exists()
    assert (copied / "data.yaml").read_text() == (drawn / "data.yaml").read_text()


@pytest.mark.parametrize("words", [["repeat=3"], ["epochs=2"], ["backends=vgg"]])
def test_keys_that_are_none(speed, words: list[str]) -> None:
    with pytest.raises(ConfigError):
        speed.main(words)


@pytest.mark.slow
def test_training_speed_runs_and_writes_its_section(speed, tmp_path: Path) -> None:
    out, page = tmp_path / "speed.json", tmp_path / "page.md"
    page.write_text("# Benchmarks\n\nBy hand.\n")
    sizes = ["n=3", "imgsz=64", "batch=2", "epochs=3", "repeats=1"]
    speed.main([*sizes, f"out={out}", f"page={page}"])
    report = json.loads(out.read_text())
    assert len(report["rows"]) == 6
    assert all(row["ratio"] > 0 for row in report["rows"])
    assert report["images"] == 2
    text = page.read_text()
    assert text.startswith("# Benchmarks\n\nBy hand.\n\n<!-- spineline:training-speed -->\n")
    assert " ".join(sizes[:2]) in text
    assert str(tmp_path) not in text


# health_folds


@pytest.fixture(scope="module")
def health() -> ModuleType:
    return script("health_folds")


def figures(value: float | None) -> dict[str, object]:
    bounds = [None, None] if value is None else [value - 0.1, value + 0.1]
    one = {"value": value, "ci95": bounds, "n": 7}
    return {"precision": one, "recall": one, "f1": one, "average_precision": one}


def test_rows_of_folds_and_of_all_as_one(health) -> None:
    both = {"seed": figures(0.5), "one_to_one": figures(0.25) | {"class_agnostic": figures(None)}}
    metrics = both | {"folds": [{"fold": "fold0", **both}, {"fold": "fold1", **both}]}
    rows = health.rows_of(health.Scored("yolo", (), metrics, ""))
    assert [row[1] for row in rows] == ["fold0", "fold1", "all as one"] * 2 + ["all as one"]
    assert rows[0] == ("YOLOv8n", "fold0", "older project's", *["0.500"] * 4)
    assert rows[5] == ("YOLOv8n", "all as one", "one-to-one", *["0.250 (0.150 – 0.350)"] * 4)
    assert rows[6][3:] == ("not defined",) * 4
    assert all(len(row) == len(health.HEADS) == len(health.PUBLISHED) for row in rows)


def test_small_and_full_sizes(health, tmp_path: Path) -> None:
    from spineline.detect.recipe import resolve

    small, full = (health.HealthSettings(out=tmp_path, full=word) for word in (False, True))
    values = resolve(health.train_keys(small, "fasterrcnn", tmp_path, tmp_path)).values
    names = ("backbone", "channels", "imgsz", "crop", "batch", "epochs")
    assert [values[n] for n in names] == ["mobilenet_v3_large", 1, 384, 330, 4, 40]
    values = resolve(health.train_keys(full, "fasterrcnn", tmp_path, tmp_path)).values
    assert [values[n] for n in names] == ["resnet50", 3, 384, 330, 8, 200]
    values = resolve(health.train_keys(small, "yolo", tmp_path, tmp_path)).values
    assert [values[n] for n in ("imgsz", "epochs", "close_mosaic")] == [320, 60, 24]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing out="),
        (["out=o", "epoch=1"], "unknown key 'epoch'; did you mean 'epochs'"),
        (["out=o"], "wanted annotations=… and images=…, or folds=…"),
    ],
)
def test_health_keys_that_do_not_fit(health, tmp_path, monkeypatch, words, message) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        health.main(words)


@pytest.mark.slow
def test_health_folds_from_the_source_to_the_page(health, tmp_path: Path) -> None:
    from spineline.datasets.phantom import DataPhantom, phantom

    phantom(DataPhantom(out=tmp_path / "drawn", n=4, format=("png",)))
    source = [f"annotations={next((tmp_path / 'drawn').glob('*.json'))}"]
    source += [f"images={tmp_path / 'drawn' / 'frames'}"]
    out, page = tmp_path / "out", tmp_path / "page.md"
    words = [*source, f"out={out}", "k=2", "epochs=1", "imgsz=64", "draws=10", f"page={page}"]
    health.main(words)
    text = page.read_text()
    assert text.startswith("# Results\n\n<!-- spineline:health-discs -->\n\n## Discs, healthy or")
    assert text.count("| Faster R-CNN ") == text.count("| YOLOv8n ") == 7
    assert "`spineline convert report annotations=" in text
    assert (
        "spineline detect train model=fasterrcnn data=fold1 out=fasterrcnn-1 hyp=cervical" in text
    )
    assert "model=[yolo-0/weights/last.safetensors,yolo-1/weights/last.safetensors]" in text
    assert str(tmp_path) not in text
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/weights/last.safetensors")}
    health.main(words)  # what is finished is not trained again
    assert page.read_text() == text
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(before) == 4
