from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spineline.datasets.drawing import HEALTH_COLOURS_RGB
from spineline.detect.engine import loop
from spineline.detect.engine.tensorboard import PICTURE, Board, comparison
from spineline.detect.results import Detections
from spineline.detect.settings import DetectTrain
from spineline.detect.train import train
from spineline.detect.yolo import trainer as trainer_module

pytestmark = pytest.mark.usefixtures("small_box_heads")

MODELS: dict[str, dict[str, Any]] = {
    "fasterrcnn": {
        "model": "fasterrcnn",
        "backbone": "test_resnet",
        "rois": 16,
        "proposals": 40,
        "channels": 1,
    },
    "yolo": {"model": "yolov8n"},
}
TINY: dict[str, Any] = {"imgsz": 64, "batch": 3, "epochs": 3, "plots": False, "val_every": 2}


def read(folder: Path) -> Any:
    """The events as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def same_as_results(out: Path) -> None:
    events = read(out / "tensorboard")
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    columns = [name for name in rows[0] if name != "epoch"]
    assert set(events.Tags()["scalars"]) == set(columns)
    for name in columns:
        wanted = [(int(r["epoch"]), float(r[name])) for r in rows if not math.isnan(float(r[name]))]
        assert len(wanted) in (2, 3)
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in wanted]
        np.testing.assert_allclose([v for _, v in found], [v for _, v in wanted], rtol=1e-5)
    assert events.Tags()["images"] == [PICTURE]
    pictures = events.Images(PICTURE)
    assert [picture.step for picture in pictures] == [1, 2, 3]
    for picture in pictures:
        image = Image.open(io.BytesIO(picture.encoded_image_string))
        assert image.size == (picture.width, picture.height)
        assert picture.width > 2 * 96 * 4  # two frames of 96 pixels, enlarged, beside each other


def test_events_are_those_of_results_csv(dataset: Path, tmp_path: Path) -> None:
    given = {**TINY, "model": "unet", "encoder": "test_resnet"}
    train(DetectTrain(data=dataset, out=tmp_path / "run", tensorboard=True, **given))
    same_as_results(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("model", list(MODELS))
def test_events_are_those_of_results_csv_also_when_a_run_is_resumed(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        # Killed in the third epoch, after its events and before its checkpoint.
        if model == "yolo":
            original: Any = trainer_module.SpineDetectionTrainer.save_model
            patch.setattr(
                trainer_module.SpineDetectionTrainer,
                "save_model",
                lambda self: die() if self.epoch == 2 else original(self),
            )
        else:
            original = loop.DetectorTrainer.save_checkpoint
            patch.setattr(
                loop.DetectorTrainer,
                "save_checkpoint",
                lambda self, *rest: die() if self.done == 3 else original(self, *rest),
            )
        with pytest.raises(KeyboardInterrupt):
            train(DetectTrain(data=dataset, out=out, tensorboard=True, **TINY, **MODELS[model]))
    same_as_results(out)
    train(DetectTrain(out=out, resume=True))
    same_as_results(out)
    files = sorted(path.name for path in (out / "tensorboard").iterdir())
    assert files == [f"events.out.tfevents.000000000{n}.spineline" for n in (0, 2)]
    content = b"".join(path.read_bytes() for path in (out / "tensorboard").iterdir())
    assert str(tmp_path).encode() not in content


def test_same_numbers_same_bytes_and_a_resumption_forgets_what_is_trained_again(
    tmp_path: Path,
) -> None:
    for name in ("a", "b"):
        board = Board(tmp_path / name)
        for epoch in (1, 2, 3):
            board.scalars(epoch, {"x": epoch / 10, "never": math.nan})
    files = [next((tmp_path / name / "tensorboard").iterdir()) for name in ("a", "b")]
    assert files[0].name == files[1].name
    assert files[0].read_bytes() == files[1].read_bytes()
    for value in (7.0, 8.0):  # resumed twice after the same epoch
        Board(tmp_path / "a", done=1).scalars(2, {"x": value})
    events = read(tmp_path / "a" / "tensorboard")
    assert events.Tags()["scalars"] == ["x"]
    assert [(e.step, e.value) for e in events.Scalars("x")] == [(1, pytest.approx(0.1)), (2, 8.0)]


def test_a_board_that_starts_anew_forgets_everything(tmp_path: Path) -> None:
    Board(tmp_path).scalars(1, {"x": 1.0})
    Board(tmp_path, done=1).scalars(2, {"x": 2.0})
    Board(tmp_path).scalars(1, {"x": 3.0})
    events = read(tmp_path / "tensorboard")
    assert [(e.step, e.value) for e in events.Scalars("x")] == [(1, 3.0)]


@pytest.mark.parametrize("model", list(MODELS))
def test_without_the_package_it_is_said_before_anything_is_written(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_cli: Callable[..., tuple[int, str, str]],
    model: str,
) -> None:
    import sys

    for name in [n for n in sys.modules if n.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    words = [f"{k}={v}" for k, v in MODELS[model].items()]
    code, _, errors = run_cli(
        "detect", "train", *words, f"data={dataset}", f"out={tmp_path / 'run'}", "tensorboard=true"
    )
    assert code == 2
    assert "pip install 'spineline[tensorboard]'" in errors
    assert not (tmp_path / "run").exists()


def test_labels_are_left_and_predictions_right_in_the_colours_of_health() -> None:
    image = np.full((100, 80), 90, dtype=np.uint8)
    labels = (np.array([[10.0, 10.0, 30.0, 30.0]]), np.array([0]))
    found = Detections(
        np.array([[10, 60, 30, 80], [40, 60, 60, 80]], np.float32),
        np.array([0.9, 0.1], np.float32),
        np.array([1, 1]),
        ("healthy", "sick"),
    )
    picture = comparison(image, labels, found, title="")
    half = picture.shape[1] // 2

    def coloured(part: np.ndarray, name: str) -> int:
        return int((part == np.array(HEALTH_COLOURS_RGB[name])).all(axis=2).sum())

    body = picture[40:]  # below the legend, which names both
    assert coloured(body[:, :half], "healthy") > 100
    assert coloured(body[:, :half], "sick") == 0
    assert coloured(body[:, half:], "sick") > 100
    assert coloured(body[:, half:], "healthy") == 0
    # The box of little confidence is not drawn.
    assert coloured(comparison(image, labels, found.at_least(0.5), title="")[40:], "sick") == (
        coloured(body, "sick")
    )
