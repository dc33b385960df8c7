from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spineline.datasets.coco import boxed_structures
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.dataset import load_dataset
from spineline.datasets.labels import LEVELS
from spineline.detect.evaluation.folds import fold_folders, fold_settings, model_names
from spineline.detect.results import Detections
from spineline.detect.settings import DetectVal
from spineline.detect.val import val


class Shifted:
    """Answers with the labels of a fold's val part, moved to the right by some pixels."""

    def __init__(self, fold: Path, shift: float) -> None:
        self.names, self.imgsz = LEVELS, 96
        self.answers = []
        for record in load_dataset(fold).records["val"]:
            boxed = boxed_structures(record, "level")
            boxes = (boxed.boxes_xyxy + np.array([shift, 0, shift, 0])).astype(np.float32)
            score = np.linspace(0.9, 0.6, len(boxes), dtype=np.float32)
            self.answers.append(Detections(boxes, score, boxed.class_index, LEVELS))

    def detect(self, images: Sequence[Any], **_: Any) -> list[Detections]:
        return [self.answers.pop(0) for _ in images]


@pytest.fixture(scope="session")
def folds(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """Two folds of four spines: the val part of one is the train part of the other."""
    root = tmp_path_factory.mktemp("folds") / "set"
    make_dataset(root / "fold0", {"val": 2, "train": 2})
    make_dataset(root / "fold1", {"train": 2, "val": 2})
    return root


@pytest.fixture
def models(tmp_path: Path, weights: Path) -> list[Path]:
    """Two weights files in run folders whose records tell the fold."""
    made = []
    for n in range(2):
        folder = tmp_path / f"run{n}" / "weights"
        folder.mkdir(parents=True)
        (folder.parent / "run.yaml").write_text(f"settings:\n  data: somewhere/fold{n}\n")
        made.append(folder / "best.safetensors")
        made[-1].write_bytes(weights.read_bytes())
    return made


def test_pooled_figures_are_those_of_all_images_together(
    monkeypatch: pytest.MonkeyPatch, folds: Path, models: list[Path], tmp_path: Path,
    said: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    shifts = {models[0]: 0.0, models[1]: 60.0}
    monkeypatch.setattr(
        "spineline.detect.ensemble.load_detector",
        lambda path, **_: Shifted(folds / f"fold{models.index(path)}", shifts[path]),
    )
    out = tmp_path / "out"
    names = f"[{models[0]},{models[1]}]"
    result = val(DetectVal(model=names, data=folds, out=out, draws=20))
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == result.metrics
    assert metrics["images"] == metrics["studies"] == 4
    assert metrics["one_to_one"]["recall"]["value"] == 0.5
    assert metrics["one_to_one"]["recall"]["n"] == 44
    assert metrics["level_accuracy_8px"] == {"value": 0.5, "n": 44}
    assert [fold["fold"] for fold in metrics["folds"]] == ["fold0", "fold1"]
    assert [fold["one_to_one"]["recall"]["value"] for fold in metrics["folds"]] == [1.0, 0.0]
    assert [fold["coco"]["map50"] for fold in metrics["folds"]] == pytest.approx([1.0, 0.0])
    assert [fold["weights"]["name"] for fold in metrics["folds"]] == ["best.safetensors"] * 2
    assert "trained on" not in said.text
    assert "fold1: 2 images; mAP50 0.000" in said.text
    # The files stand alone: ids of the predictions are those of the labels beside them.
    truth = json.loads((out / "annotations.json").read_text())
    found = json.loads((out / "predictions.json").read_text())
    assert [image["file_name"] for image in truth["images"]] == [
        "s00.png", "s01.png", "s02.png", "s03.png",
    ]  # fmt: skip
    assert {row["image_id"] for row in found} == {1, 2, 3, 4}
    assert (out / "pr_curve.png").is_file()


def test_weights_in_another_order_are_told(
    folds: Path, models: list[Path], said: pytest.LogCaptureFixture
) -> None:
    names = f"{models[1]},{models[0]}"
    fold_settings(DetectVal(model=names, data=folds, out=Path("out")))
    assert "was trained on fold1 and scores fold0: it may have seen its images" in said.text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a.safetensors", ("a.safetensors",)),
        ("[a,b,c]", ("a", "b", "c")),
        (" a , b ", ("a", "b")),
        ("['a', \"b\"]", ("a", "b")),
    ],
)
def test_names_of_weights(text: str, names: tuple[str, ...]) -> None:
    assert model_names(text) == names


def test_a_file_with_a_comma_in_its_name_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a,b.safetensors"
    path.touch()
    assert model_names(str(path)) == (str(path),)


def test_folds_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        (tmp_path / f"fold{number}").mkdir()
    (tmp_path / "folds.json").touch()
    (tmp_path / "fold1").touch()  # no folder
    assert [path.name for path in fold_folders(tmp_path)] == ["fold0", "fold2", "fold10"]
    (tmp_path / "annotations").mkdir()
    assert fold_folders(tmp_path) == ()
    assert fold_folders(tmp_path / "none") == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "w0"}, r"holds 2 folds, and model= names 1; .*data=.*fold0"),
        ({"model": "[w0,w1,w2]"}, r"holds 2 folds, and model= names 3"),
        ({"weights": ("w0", "w1")}, r"holds 2 folds, and weights= is an ensemble"),
        ({"model": "w0,w1", "split": "test"}, r"split=test: folds are scored on their val parts"),
        ({"model": "w0,w1", "split": "train"}, r"split=train: folds are scored"),
    ],
    ids=["one", "three", "ensemble", "test", "train"],
)
def test_refusals(folds: Path, tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        val(DetectVal(data=folds, out=tmp_path / "out", **given))
    assert not (tmp_path / "out").exists()


def test_missing_weights_and_shared_images_on_the_command_line(
    run_cli: Callable[..., tuple[int, str, str]], models: list[Path], folds: Path, tmp_path: Path,
    make_dataset: Callable[..., Path],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    words = (f"model={models[0]},none.safetensors", f"data={folds}", f"out={out}")
    code, text, errors = run_cli("detect", "val", *words)
    assert code == 1
    assert "none.safetensors" in errors
    assert "batch" not in text  # told before anything is scored
    shared = tmp_path / "shared"
    for name in ("fold0", "fold1"):
        make_dataset(shared / name, {"val": 1})
    words = (f"model=[{models[0]},{models[1]}]", f"data={shared}", f"out={out}")
    code, _, errors = run_cli("detect", "val", *words)
    assert code == 1
    assert "image s00 is in the val parts of two folds" in errors
    assert not out.exists()
