from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from spineline.datasets.drawing import COLOURS_RGB, HEALTH_COLOURS_RGB
from spineline.datasets.images import read_uint8_image, window_to_uint8
from spineline.datasets.labels import LABEL_SETS, LabelSet
from spineline.detect import load_detector
from spineline.detect.predict import find_sources, marks_of, predict
from spineline.detect.results import Detections
from spineline.detect.settings import DetectPredict

Cli = Callable[..., tuple[int, str, str]]


def test_predictions_overlays_and_text_agree(dataset: Path, weights: Path, tmp_path: Path) -> None:
    source, out = dataset / "images" / "val", tmp_path / "out"
    settings = DetectPredict(
        model=str(weights), source=source, out=out, txt=True, confidence=0.4, iou=0.5
    )
    result = predict(settings)
    assert (result.images, result.failures) == (2, ())
    content = json.loads((out / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["s06.png", "s07.png"]
    detector = load_detector(weights)
    images = [window_to_uint8(read_uint8_image(source / f"{n}.png")) for n in ("s06", "s07")]
    found = detector.detect(images, confidence=0.4, iou=0.5)[0]
    rows = [row for row in content["predictions"] if row["image_id"] == 1]
    assert len(rows) == len(found) > 0
    np.testing.assert_allclose([row["score"] for row in rows], found.confidence)
    assert [row["category"] for row in rows] == [found.names[i] for i in found.class_index]
    left, top, width, height = rows[0]["bbox"]
    np.testing.assert_allclose([left, top, left + width, top + height], found.boxes_xyxy[0])
    first = (out / "labels" / "s06.txt").read_text().split("\n")[0].split()
    assert int(first[0]) == found.class_index[0]
    wanted = [(left + width / 2) / 96, (top + height / 2) / 96, width / 96, height / 96]
    np.testing.assert_allclose([float(word) for word in first[1:5]], wanted, atol=1e-6)
    assert cv2.imread(str(out / "overlays" / "s06.png")) is not None


def test_a_dataset_is_taken_as_windowed_already(
    dataset: Path, weights: Path, tmp_path: Path
) -> None:
    sources, failures = find_sources(dataset / "data.yaml")
    assert len(sources) == 10
    assert not failures
    assert all(source.windowed for source in sources)
    out = tmp_path / "out"
    predict(
        DetectPredict(model=str(weights), source=dataset / "data.yaml", out=out, overlays=False)
    )
    assert not (out / "overlays").exists()


def test_single_image_and_clashing_names(tmp_path: Path) -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for name in ("a.png", "a.jpg", "b.png"):
        cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / "notes.txt").write_text("not an image")
    assert [s.name for s in find_sources(tmp_path)[0]] == ["a.jpg", "a.png", "b"]
    assert [s.name for s in find_sources(tmp_path / "a.png")[0]] == ["a"]


def test_a_batch_goes_on_after_an_unusable_image(
    run_cli: Cli, dataset: Path, weights: Path, tmp_path: Path
) -> None:
    source, out = tmp_path / "images", tmp_path / "out"
    source.mkdir()
    (source / "a.png").write_bytes(b"broken")
    cv2.imwrite(str(source / "b.png"), np.full((32, 32), 9, np.uint8))
    (source / "c.png").write_bytes((dataset / "images" / "val" / "s06.png").read_bytes())
    code, _, errors = run_cli(
        "detect", "predict", f"model={weights}", f"source={source}", f"out={out}"
    )
    assert code == 1
    assert "a.png" in errors
    assert "b.png: every pixel has the same value" in errors
    content = json.loads((out / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["c.png"]


def test_images_of_a_plain_dataset_that_cannot_be_used_are_failures(
    run_cli: Cli, weights: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "images").mkdir(parents=True)
    (data / "labels").mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(data / "images" / f"{name}.png"), np.eye(64, dtype=np.uint8) * 200)
        (data / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (data / "images" / "b.png").write_bytes(b"broken")
    (data / "data.yaml").write_text("train: images\nval: images\nnames: [L5]\n")
    words = ("detect", "predict", f"model={weights}", f"source={data}/data.yaml", f"out={out}")
    code, _, errors = run_cli(*words)
    assert code == 1
    assert errors.count("b: ") == 1
    content = json.loads((out / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["model={weights}", "source={here}/none", "out={out}"], 1, "no such file or folder"),
        (["model={weights}", "source={here}", "out={out}"], 1, "no image in it"),
        (["model={weights}", "source={here}", "out={out}", "conf=0.1"], 2, "unknown key 'conf'"),
        (["model={weights}", "source={here}", "out={out}", "confidence=2"], 2, "out of range"),
        (["model={weights}", "source={here}", "out={out}", "device=tpu"], 2, "not a device"),
        (["source={here}", "out={out}"], 2, "missing model="),
    ],
    ids=["missing", "empty", "key", "range", "device", "no-model"],
)
def test_refusals(
    run_cli: Cli, weights: Path, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    here, out = tmp_path / "here", tmp_path / "out"
    here.mkdir()
    given = [word.format(weights=weights, here=here, out=out) for word in words]
    found, _, errors = run_cli("detect", "predict", *given)
    assert found == code
    assert message in errors
    assert not out.exists()


def test_near_duplicates_across_classes_go_when_asked(
    weights: Path, tmp_path: Path, images: list[np.ndarray]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), images[0])
    rows = []
    for number, given in enumerate(({}, {"across_classes_iou": 0.65})):
        out = tmp_path / str(number)
        predict(
            DetectPredict(
                model=str(weights), source=tmp_path / "a.png", out=out, overlays=False, **given
            )
        )
        rows.append(json.loads((out / "predictions.json").read_text())["predictions"])
    assert 0 < len(rows[1]) < len(rows[0])
    assert all(row in rows[0] for row in rows[1])


@pytest.mark.slow
def test_the_batch_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, weights: Path, tmp_path: Path, images: list[np.ndarray]
) -> None:
    source = tmp_path / "images"
    source.mkdir()
    for number, image in enumerate([*images, images[0][::-1]]):
        cv2.imwrite(str(source / f"{number}.png"), image)
    (source / "0a.png").write_bytes(b"broken")
    asked: list[int] = []

    class Counting:
        def __init__(self) -> None:
            self.detector = load_detector(weights)
            self.names, self.imgsz = self.detector.names, self.detector.imgsz

        def detect(self, given: list[np.ndarray], **more: object) -> list[Detections]:
            assert more["batch"] == batch
            asked.append(len(given))
            # One by one: what a network finds in noise hangs on the last digits.
            return [self.detector.detect([one], **more)[0] for one in given]

    counting = Counting()
    monkeypatch.setattr("spineline.detect.ensemble.load_detector", lambda *_, **__: counting)
    found = []
    for batch in (1, 2, 16):
        out = tmp_path / str(batch)
        settings = DetectPredict(model=str(weights), source=source, out=out, txt=True, batch=batch)
        assert len(predict(settings).failures) == 1
        found.append(json.loads((out / "predictions.json").read_text()))
        assert len(list((out / "overlays").iterdir())) == len(list((out / "labels").iterdir())) == 5
    assert asked == [1, 1, 1, 1, 1, 2, 2, 1, 5]
    for other in found[1:]:
        assert other["images"] == found[0]["images"]
        for row, wanted in zip(other["predictions"], found[0]["predictions"], strict=True):
            assert row["category"] == wanted["category"]
            assert row["bbox"] == pytest.approx(wanted["bbox"], abs=1e-2)
            assert row["score"] == pytest.approx(wanted["score"], abs=1e-5)


def test_progress_is_said(run_cli: Cli, dataset: Path, weights: Path, tmp_path: Path) -> None:
    words = (f"model={weights}", f"source={dataset / 'data.yaml'}", f"out={tmp_path / 'out'}")
    _, out, _ = run_cli("detect", "predict", *words, "overlays=false", "batch=4")
    assert "image: 10 of 10" in out


@pytest.mark.parametrize(
    ("labels", "colours"),
    [
        ("health", [HEALTH_COLOURS_RGB["healthy"], HEALTH_COLOURS_RGB["sick"]]),
        ("binary", [COLOURS_RGB["disc"]] * 2),
        ("seven", [COLOURS_RGB["vertebra"]] * 2 + [COLOURS_RGB["disc"]] * 5),
        ("level", [COLOURS_RGB["disc"], COLOURS_RGB["vertebra"]] * 5 + [COLOURS_RGB["disc"]]),
    ],
)
def test_marks_have_the_colour_of_their_class(labels: LabelSet, colours: list[object]) -> None:
    names = LABEL_SETS[labels]
    count = len(names)
    boxes = np.tile(np.array([1, 2, 11, 8], np.float32), (count, 1))
    found = Detections(boxes, np.full(count, 0.5, np.float32), np.arange(count), names)
    marks = marks_of(found)
    assert [mark.colour for mark in marks] == colours
    assert [mark.label for mark in marks] == [f"{name} 0.50" for name in names]
    assert marks[0].box_xyxy == (1, 2, 11, 8)
    assert marks[0].point_xy == (6, 5)
