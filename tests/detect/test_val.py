from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spineline.datasets.coco import boxed_structures
from spineline.datasets.common.errors import AnnotationError, WeightsError
from spineline.datasets.dataset import load_dataset
from spineline.datasets.labels import LEVELS
from spineline.detect.results import Detections
from spineline.detect.settings import DetectVal
from spineline.detect.val import _report, val


class Oracle:
    """Answers with the labels of a part, in order, moved by some pixels."""

    def __init__(self, data: Path, part: str, shift_xy: tuple[float, float]) -> None:
        dataset = load_dataset(data)
        self.names = LEVELS
        self.imgsz = 96
        self.answers = []
        for record in dataset.records[part]:  # type: ignore[index]
            boxed = boxed_structures(record, "level")
            boxes = (boxed.boxes_xyxy + np.tile(shift_xy, 2)).astype(np.float32)
            confidence = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
            self.answers.append(Detections(boxes, confidence, boxed.class_index, LEVELS))

    def detect(self, images: Sequence[Any], **_: Any) -> list[Detections]:
        return [self.answers.pop(0) for _ in images]


def scored(
    monkeypatch: pytest.MonkeyPatch, data: Path, out: Path, weights: Path, shift: Any, **given: Any
) -> dict[str, Any]:
    oracle = Oracle(data, given.get("split", "val"), shift)
    monkeypatch.setattr("spineline.detect.ensemble.load_detector", lambda *_, **__: oracle)
    val(DetectVal(model=str(weights), data=data, out=out, **{"plots": False, "draws": 20, **given}))
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return metrics


@pytest.mark.parametrize(("shift", "map50", "accuracy"), [((0, 0), 1.0, 1.0), ((40, 0), 0.0, 0.0)])
def test_perfect_and_useless_detections(
    monkeypatch: pytest.MonkeyPatch, dataset: Path, tmp_path: Path, weights: Path,
    shift: tuple[int, int], map50: float, accuracy: float,
) -> None:  # fmt: skip
    metrics = scored(monkeypatch, dataset, tmp_path / "out", weights, shift)
    assert metrics["coco"]["map50"] == pytest.approx(map50)
    assert metrics["coco"]["map50_95"] == pytest.approx(map50)
    assert metrics["level_accuracy_8px"] == {"value": accuracy, "n": 22}
    assert metrics["images"] == 2
    assert list(metrics["coco"]["per_class"]) == list(LEVELS)
    for name in ("precision", "recall", "f1", "average_precision"):
        assert metrics["one_to_one"][name]["value"] == pytest.approx(map50)
        assert metrics["one_to_one"]["class_agnostic"][name]["value"] == pytest.approx(map50)
    assert metrics["one_to_one"]["recall"] == {"value": map50, "ci95": [map50, map50], "n": 22}
    assert metrics["seed"]["precision"]["value"] == map50
    assert metrics["seed"]["average_precision"]["value"] is None
    assert list(metrics["one_to_one"]["per_class"]) == list(LEVELS)


def test_the_tables_are_straight_whatever_the_class_names(
    monkeypatch: pytest.MonkeyPatch, dataset: Path, tmp_path: Path, weights: Path,
    said: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    metrics = scored(monkeypatch, dataset, tmp_path / "out", weights, (0, 0), draws=0)
    figures = {"ap50": 0.5, "ap50_95": None}
    per_class = metrics["one_to_one"]["per_class"]
    metrics["coco"]["per_class"] = {"vertebra-degenerative": figures, "disc-normal": figures}
    metrics["one_to_one"]["per_class"] = {
        "vertebra-degenerative": per_class["L1"],
        "disc-normal": {**per_class["L1"], "precision": {"value": None}},
    }
    for name in ("level_accuracy_8px", "level_accuracy_8px_by_level"):
        del metrics[name]
    said.clear()
    _report(metrics)
    lines = [record.getMessage() for record in said.records]
    assert [len(line) for line in lines[:3]] == [len(lines[0])] * 3
    assert [len(line) for line in lines[4:8]] == [len(lines[4])] * 4
    assert lines[2].split() == ["disc-normal", "0.500", "-", "-", "1.000", "1.000"]
    assert lines[5].split() == ["one_to_one", "1.000", "1.000", "1.000", "1.000"]
    assert lines[7].split()[0] == "seed"
    assert lines[7].split()[-1] == "-"  # no class is sick here
    assert "8 px" not in said.text


def test_figures_are_those_of_pycocotools_on_the_files_on_disk(
    monkeypatch: pytest.MonkeyPatch, dataset: Path, tmp_path: Path, weights: Path
) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    metrics = scored(
        monkeypatch, dataset, tmp_path / "out", weights, (1.5, 1.0), split="test", draws=0
    )
    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO(str(dataset / "annotations" / "test.json"))
        results = labels.loadRes(str(tmp_path / "out" / "predictions.json"))
        evaluation = COCOeval(labels, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert 0 < metrics["coco"]["map50_95"] < 1
    assert metrics["coco"]["map50_95"] == pytest.approx(evaluation.stats[0])
    assert metrics["coco"]["map50"] == pytest.approx(evaluation.stats[1])


def test_writes_figures_and_repeats_to_the_byte(
    run_cli: Callable[..., tuple[int, str, str]], dataset: Path, weights: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / "a", tmp_path / "b"]
    for out in outs:
        words = (f"model={weights}", f"data={dataset / 'data.yaml'}", f"out={out}", "split=train")
        words += ("draws=20",)
        code, text, errors = run_cli("detect", "val", *words)
        assert code == 0, errors
    assert "mAP50-95" in text
    assert "level accuracy (< 8 px)" in text
    assert "one_to_one: IoU 0.5, confidence 0.5; best F1" in text
    names = ("metrics.json", "predictions.json", "pr_curve.png", "confusion_matrix.png")
    for name in names:
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()


def test_unreadable_image_is_counted_and_fails_the_command(
    run_cli: Callable[..., tuple[int, str, str]],
    own_dataset: Callable[..., Path],
    weights: Path,
    tmp_path: Path,
) -> None:
    data = own_dataset()
    (data / "images" / "val" / "s06.png").write_bytes(b"broken")
    out = tmp_path / "out"
    words = (f"model={weights}", f"data={data}", f"out={out}", "plots=false", "draws=0")
    code, _, errors = run_cli("detect", "val", *words)
    assert code == 1
    assert "s06.png" in errors
    assert json.loads((out / "metrics.json").read_text())["images"] == 2


def test_empty_part(own_dataset: Callable[..., Path], weights: Path, tmp_path: Path) -> None:
    data = own_dataset(train=2, val=0)
    with pytest.raises(AnnotationError, match=r"its val part is empty; split=train"):
        val(DetectVal(model=str(weights), data=data, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_other_classes(
    dataset: Path, network: Any, meta_of: Callable[..., Any], tmp_path: Path
) -> None:
    from spineline.detect.checkpoints import save_safetensors

    path = tmp_path / "other.safetensors"
    names = tuple(f"class {i}" for i in range(11))
    save_safetensors(network, meta_of(network, names=names), path)
    with pytest.raises(WeightsError, match=r"its classes \(class 0.*are not those of"):
        val(DetectVal(model=str(path), data=dataset, out=tmp_path / "out"))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["data={data}", "out={out}"], 2, "missing model="),
        (["model={weights}", "data={out}", "out={out}"], 1, "no such file or folder"),
        (["model=none.safetensors", "data={data}", "out={out}"], 1, "none.safetensors"),
        (["model={weights}", "data={data}", "out={data}"], 1, "exists already"),
        (["model={weights}", "data={data}", "out={out}", "split=all"], 2, "not an allowed value"),
        (
            ["model={weights}", "data={data}", "out={out}", "confidence=0.6"],
            2,
            "match_confidence=0.5: less than confidence=0.6",
        ),
        (["model=[{weights},{weights}]", "data={data}", "out={out}"], 1, "no such weights file"),
        (["model={pickle}", "data={data}", "out={out}"], 1, "trust=true"),
    ],
    ids=[
        "no-model",
        "no-data",
        "no-weights",
        "output",
        "split",
        "confidence",
        "list",
        "pickle",
    ],
)
def test_refusals(
    run_cli: Callable[..., tuple[int, str, str]], dataset: Path, weights: Path,
    pickle_weights: Path, tmp_path: Path, words: list[str], code: int, message: str,
) -> None:  # fmt: skip
    places = {
        "data": dataset, "weights": weights, "pickle": pickle_weights, "out": tmp_path / "out",
    }  # fmt: skip
    found, _, errors = run_cli("detect", "val", *(word.format(**places) for word in words))
    assert found == code
    assert message in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_near_duplicates_across_classes_go_when_asked(
    dataset: Path, weights: Path, tmp_path: Path
) -> None:
    counts = []
    for number, iou in enumerate((None, 0.65)):
        out = tmp_path / str(number)
        val(
            DetectVal(
                model=str(weights), data=dataset, out=out, plots=False, draws=0,
                across_classes_iou=iou,
            )
        )  # fmt: skip
        counts.append(len(json.loads((out / "predictions.json").read_text())))
    assert 0 < counts[1] < counts[0]


def test_bare_data_set_with_classes_of_its_own(
    monkeypatch: pytest.MonkeyPatch, dataset: Path, tmp_path: Path, weights: Path
) -> None:
    """The classes of a detector that was trained on it are scored by its own names."""
    names = tuple("abcdefghijk")
    bare = tmp_path / "bare"
    for folder in ("images", "labels"):
        shutil.copytree(dataset / folder, bare / folder)
    text = (dataset / "data.yaml").read_text().partition("names:")[0]
    (bare / "data.yaml").write_text(f"{text}names: [{', '.join(names)}]\n")
    oracle = Oracle(dataset, "val", (0, 0))
    oracle.names = names
    oracle.answers = [replace(answer, names=names) for answer in oracle.answers]
    monkeypatch.setattr("spineline.detect.ensemble.load_detector", lambda *_, **__: oracle)
    given = {"model": str(weights), "data": bare / "data.yaml", "plots": False, "draws": 0}
    found = val(DetectVal(out=tmp_path / "out", **given))
    assert found.metrics["coco"]["map50"] == pytest.approx(1.0)
    assert list(found.metrics["coco"]["per_class"]) == list(names)
    assert "level_accuracy_8px" not in found.metrics
    oracle.names = LEVELS
    with pytest.raises(WeightsError, match=r"are not those of data=.*\(a, b, c"):
        val(DetectVal(out=tmp_path / "other", **given))
