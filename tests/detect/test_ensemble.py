from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.labels import LEVELS
from spineline.detect import EnsembleDetector, load_detector, load_ensemble
from spineline.detect.checkpoints import save_safetensors
from spineline.detect.ensemble import fuse, load_chosen
from spineline.detect.results import Detections
from spineline.detect.settings import DetectPredict, DetectVal
from spineline.weights import sha256_of

pytestmark = pytest.mark.usefixtures("small_box_heads")

Cli = Callable[..., tuple[int, str, str]]
NAMES = ("healthy", "sick")
SIZE_HW = (80, 120)
IMAGE = np.zeros(SIZE_HW, np.uint8)


def detections(*rows: tuple[float, ...], names: tuple[str, ...] = NAMES) -> Detections:
    """From rows of x1 y1 x2 y2 confidence class."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    boxes, confidence = table[:, :4].astype(np.float32), table[:, 4].astype(np.float32)
    return Detections(boxes, confidence, table[:, 5].astype(np.int64), names)


@dataclass
class Answering:
    """A detector that knows its answer; remembers what it was asked with."""

    answer: Detections
    imgsz: int = 64
    asked: list[dict[str, Any]] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        return self.answer.names

    def detect(self, images: Sequence[Any], **given: Any) -> list[Detections]:
        self.asked.append(given)
        return [self.answer.at_least(given["confidence"])] * len(images)


ONE = detections(
    (10, 10, 40, 30, 0.9, 0), (60, 40, 100, 70, 0.8, 1), (11, 10, 41, 31, 0.3, 1)
)  # fmt: skip
TWO = detections((12, 11, 43, 30, 0.7, 0), (5, 50, 25, 80, 0.6, 1))
NONE = detections()


def library_answer(name: str, found: Sequence[Detections], **given: Any) -> list[np.ndarray]:
    """What the package says of boxes that are normalised here, by hand, in pixels again."""
    import ensemble_boxes

    height, width = SIZE_HW
    native = np.array([width, height, width, height])
    boxes, confidence, classes = getattr(ensemble_boxes, name)(
        [each.boxes_xyxy / native for each in found],
        [each.confidence.tolist() for each in found],
        [each.class_index.tolist() for each in found],
        **given,
    )
    order = np.argsort(-confidence, kind="stable")
    return [(boxes * native)[order], confidence[order], classes[order]]


@pytest.mark.parametrize("weights", [None, (1.0, 3.0)], ids=["alike", "weighted"])
@pytest.mark.parametrize("iou", [0.55, 0.95], ids=["apart-and-together", "apart"])
@pytest.mark.parametrize(
    ("fusion", "name"), [("wbf", "weighted_boxes_fusion"), ("nmw", "non_maximum_weighted")]
)
def test_fused_boxes_are_the_packages(
    fusion: str, name: str, iou: float, weights: tuple[float, ...] | None
) -> None:
    fused = fuse([ONE, TWO], SIZE_HW, fusion=fusion, fusion_iou=iou, model_weights=weights)
    boxes, confidence, classes = library_answer(name, [ONE, TWO], iou_thr=iou, weights=weights)
    np.testing.assert_allclose(fused.boxes_xyxy, boxes, atol=1e-4)
    np.testing.assert_allclose(fused.confidence, confidence, atol=1e-6)
    assert fused.class_index.tolist() == classes.tolist()
    assert len(fused) == (4 if iou == 0.55 else 5)
    assert fused.boxes_xyxy.dtype == fused.confidence.dtype == np.float32


def test_suppression_is_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemble_boxes import ensemble_boxes_nms as module

    monkeypatch.setattr(module, "nms_float_fast", module.nms_float_fast.py_func)  # compiles long
    fused = fuse([ONE, TWO], SIZE_HW, fusion="nms", fusion_iou=0.55)
    boxes, confidence, classes = library_answer("nms", [ONE, TWO], iou_thr=0.55)
    np.testing.assert_allclose(fused.boxes_xyxy, boxes, atol=1e-4)
    np.testing.assert_allclose(fused.confidence, confidence, atol=1e-6)
    assert fused.class_index.tolist() == classes.tolist() == [0, 1, 1, 1]


def test_weighted_fusion_worked_by_hand() -> None:
    fused = fuse([ONE, TWO], SIZE_HW)
    assert fused.confidence.tolist() == pytest.approx([0.8, 0.4, 0.3, 0.15])
    left = (10 * 0.9 + 12 * 0.7) / 1.6
    right = (40 * 0.9 + 43 * 0.7) / 1.6
    top = (10 * 0.9 + 11 * 0.7) / 1.6
    np.testing.assert_allclose(fused.boxes_xyxy[0], [left, top, right, 30], atol=1e-4)
    np.testing.assert_allclose(fused.boxes_xyxy[1], [60, 40, 100, 70], atol=1e-4)


def test_model_weights_are_ratios_and_draw_box_and_confidence() -> None:
    fused = fuse([ONE, TWO], SIZE_HW, model_weights=[1, 3])
    again = fuse([ONE, TWO], SIZE_HW, model_weights=[10, 30])
    np.testing.assert_allclose(fused.boxes_xyxy, again.boxes_xyxy, atol=1e-4)
    np.testing.assert_allclose(fused.confidence, again.confidence, atol=1e-6)
    best = fused.best_of_each_class()
    assert best.confidence[best.class_index == 0][0] == pytest.approx((0.9 + 3 * 0.7) / 4)
    left = (10 * 0.9 + 12 * 2.1) / 3.0
    assert best.boxes_xyxy[best.class_index == 0][0, 0] == pytest.approx(left, abs=1e-4)
    plain = fuse([ONE, TWO], SIZE_HW, fusion="nms", model_weights=[1, 2])
    assert plain.confidence.tolist() == pytest.approx([0.7, 0.6, 0.4, 0.15])


@pytest.mark.parametrize("fusion", ["wbf", "nmw", "nms"])
def test_empty_answers(fusion: str) -> None:
    assert len(fuse([NONE, NONE], SIZE_HW, fusion=fusion)) == 0
    assert fuse([NONE, NONE], SIZE_HW, fusion=fusion).names == NAMES
    for found in ([ONE, NONE], [NONE, ONE]):
        fused = fuse(found, SIZE_HW, fusion=fusion)
        np.testing.assert_allclose(fused.boxes_xyxy, ONE.boxes_xyxy, atol=1e-4)
        share = 0.5 if fusion == "wbf" else 1.0
        np.testing.assert_allclose(fused.confidence, ONE.confidence * share, atol=1e-6)


@pytest.mark.parametrize("fusion", ["wbf", "nmw", "nms"])
@pytest.mark.filterwarnings("error")
def test_boxes_without_area_go_without_a_word(
    fusion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = detections((120, 10, 120, 30, 0.9, 0), (3, 80, 9, 80, 0.9, 1))
    edge = detections((100, 60, 120, 80, 0.8, 0))
    assert len(fuse([flat, flat], SIZE_HW, fusion=fusion)) == 0
    fused = fuse([flat, edge], SIZE_HW, fusion=fusion)
    np.testing.assert_allclose(fused.boxes_xyxy, edge.boxes_xyxy, atol=1e-4)
    assert (fused.boxes_xyxy <= [120, 80, 120, 80]).all()
    assert capsys.readouterr().out == ""


def test_what_one_of_two_finds_counts_half_and_the_threshold_is_that_of_the_mean() -> None:
    strong = detections((10, 10, 40, 30, 0.45, 0), (60, 40, 100, 70, 0.4, 1))
    weak = detections((10, 10, 40, 30, 0.15, 0))
    one, two = Answering(strong, imgsz=64), Answering(weak, imgsz=96)
    ensemble = EnsembleDetector([one, two])
    (found,) = ensemble.detect([IMAGE], confidence=0.25, iou=0.8, batch=7, max_detections=9)
    assert found.class_index.tolist() == [0]
    assert found.confidence.tolist() == pytest.approx([0.3])
    assert (ensemble.names, ensemble.imgsz) == (NAMES, 96)
    wanted = {"confidence": pytest.approx(0.025), "iou": 0.55, "batch": 7, "max_detections": 9}
    assert one.asked == two.asked == [wanted]


def test_the_most_confident_ones_are_kept_and_each_image_has_its_own_size() -> None:
    ensemble = EnsembleDetector([Answering(ONE), Answering(TWO)], fusion="nms")
    small, large = ensemble.detect([IMAGE, np.zeros((200, 200), np.uint8)], max_detections=2)
    assert small.confidence.tolist() == pytest.approx([0.9, 0.8])
    np.testing.assert_allclose(small.boxes_xyxy, large.boxes_xyxy, atol=1e-4)
    assert ensemble.detect([]) == []


def test_fusions_differ() -> None:
    answers = {f: fuse([ONE, TWO], SIZE_HW, fusion=f).confidence.tolist() for f in ("wbf", "nms")}
    assert answers["wbf"] != answers["nms"]
    boxes = {f: fuse([ONE, TWO], SIZE_HW, fusion=f).boxes_xyxy[0].tolist() for f in ("nmw", "nms")}
    assert boxes["nmw"] != boxes["nms"]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"fusion": "mean"}, ConfigError, "fusion=mean: not an allowed value; allowed: wbf"),
        ({"fusion_iou": 1.5}, ConfigError, "fusion_iou=1.5: out of range"),
        ({"fusion_iou": float("nan")}, ConfigError, "fusion_iou=nan: out of range"),
        ({"model_weights": [1]}, ConfigError, "model_weights=1: 1 numbers for 2 detectors"),
        ({"model_weights": [1, 0]}, ConfigError, "wanted finite numbers above 0"),
        ({"model_weights": [1, float("inf")]}, ConfigError, "wanted finite numbers above 0"),
    ],
    ids=["fusion", "iou", "nan", "count", "zero", "infinite"],
)
def test_ensembles_that_cannot_be(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EnsembleDetector([Answering(ONE), Answering(TWO)], **given)


def test_an_ensemble_of_none() -> None:
    with pytest.raises(ConfigError, match="needs detectors"):
        EnsembleDetector([])


def test_classes_in_another_order_are_other_classes() -> None:
    turned = detections(names=NAMES[::-1])
    message = "detector 1 and detector 3: .*found healthy, sick and sick, healthy"
    with pytest.raises(WeightsError, match=message):
        EnsembleDetector([Answering(ONE), Answering(TWO), Answering(turned)])


@pytest.mark.parametrize("fusion", ["wbf", "nmw"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, fusion: str) -> None:
    monkeypatch.setitem(sys.modules, "ensemble_boxes", None)
    with pytest.raises(ConfigError, match=r"spineline\[ensemble\]'.*fusion=nms"):
        EnsembleDetector([Answering(ONE)], fusion=fusion)
    (found,) = EnsembleDetector([Answering(ONE)], fusion="nms").detect([IMAGE])
    assert len(found) == 3


@pytest.fixture(scope="module")
def other_weights(untrained: Any, meta_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second YOLO of the same classes, another network."""
    network = untrained("yolov5nu", seed=1)
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    save_safetensors(network, meta_of(network, model="yolov5n"), path, half=False)
    return path


@pytest.mark.slow
def test_two_of_the_same_give_what_one_gives(weights: Path, images: list[np.ndarray]) -> None:
    from torchvision.ops import batched_nms

    one, two = load_detector(str(weights)), load_ensemble([weights, str(weights)])
    given: dict[str, Any] = {"confidence": 0.5, "max_detections": 40}
    for image, found in zip(images[:2], two.detect(images[:2], **given), strict=True):
        (all_of_it,) = one.detect([image], confidence=0.05, iou=0.55, max_detections=40)
        kept = batched_nms(
            torch.from_numpy(all_of_it.boxes_xyxy), torch.from_numpy(all_of_it.confidence),
            torch.from_numpy(all_of_it.class_index), 0.55,
        )  # fmt: skip
        kept = kept[all_of_it.confidence[kept] >= 0.5]
        assert len(found) == len(kept) > 5
        np.testing.assert_allclose(found.confidence, all_of_it.confidence[kept], atol=1e-5)
        wanted = zip(all_of_it.class_index[kept], all_of_it.boxes_xyxy[kept].round(1), strict=True)
        rows = zip(found.class_index, found.boxes_xyxy.round(1), strict=True)  # equals in any order
        assert sorted((i, *b) for i, b in rows) == sorted((i, *b) for i, b in wanted)


def test_overlapping_boxes_of_one_detector_are_no_second_opinion() -> None:
    twice = detections((10, 10, 40, 30, 0.9, 0), (11, 10, 41, 30, 0.7, 0))
    (found,) = EnsembleDetector([Answering(twice), Answering(NONE)]).detect([IMAGE])
    assert found.confidence.tolist() == pytest.approx([0.45])
    np.testing.assert_allclose(found.boxes_xyxy, [[10, 10, 40, 30]], atol=1e-4)


def predict_words(weights: str, source: Path, out: Path, *more: str) -> list[str]:
    return ["detect", "predict", f"weights={weights}", f"source={source}", f"out={out}", *more]


@pytest.mark.parametrize(
    "form",
    [
        pytest.param("{},{}", id="plain"),
        pytest.param("[{},{}]", id="list", marks=pytest.mark.slow),
        pytest.param("[{}, {}]", id="spaces", marks=pytest.mark.slow),
    ],
)
def test_backends_together_from_the_command_line(
    run_cli: Cli, dataset: Path, weights: Path, region_weights: Path, tmp_path: Path, form: str
) -> None:
    names, out = form.format(weights, region_weights), tmp_path / "out"
    source = dataset / "images" / "val"
    code, _, errors = run_cli(*predict_words(names, source, out, "confidence=0.3"))
    assert (code, errors) == (0, "")
    content = json.loads((out / "predictions.json").read_text())
    assert len(content["images"]) == 2
    scores = [row["score"] for row in content["predictions"] if row["image_id"] == 1]
    assert scores == sorted(scores, reverse=True)
    assert scores
    assert min(scores) >= 0.3
    record = yaml.safe_load((out / "run.yaml").read_text())
    assert record["weights"] == [
        {"name": path.name, "sha256": sha256_of(path)} for path in (weights, region_weights)
    ]
    assert record["settings"]["weights"] == [str(weights), str(region_weights)]


@pytest.mark.slow
def test_the_record_of_a_run_is_a_settings_file(
    run_cli: Cli, dataset: Path, weights: Path, other_weights: Path, tmp_path: Path
) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    names = f"{weights},{other_weights}"
    words = ("fusion=nmw", "fusion_iou=0.4", "model_weights=1,2", "overlays=false")
    assert run_cli(*predict_words(names, dataset / "images" / "val", out, *words))[0] == 0
    assert run_cli("detect", "predict", f"cfg={out / 'run.yaml'}", f"out={again}")[0] == 0
    first, second = ((folder / "predictions.json").read_bytes() for folder in (out, again))
    assert first == second
    settings = yaml.safe_load((again / "run.yaml").read_text())["settings"]
    assert (settings["fusion"], settings["fusion_iou"]) == ("nmw", 0.4)
    assert settings["model_weights"] == [1.0, 2.0]


@pytest.mark.slow
def test_val_scores_an_ensemble(
    run_cli: Cli, dataset: Path, weights: Path, other_weights: Path, tmp_path: Path
) -> None:
    figures = []
    for number, more in enumerate(([], ["fusion=nms"], ["model_weights=1,9"])):
        out = tmp_path / str(number)
        code, _, errors = run_cli(
            "detect", "val", f"weights=[{weights},{other_weights}]", f"data={dataset}",
            f"out={out}", "confidence=0.3", "plots=false", "draws=20", *more,
        )  # fmt: skip
        assert code == 0, errors
        figures.append(json.loads((out / "predictions.json").read_text()))
    assert figures[0] != figures[1]
    assert figures[0] != figures[2]


@pytest.mark.parametrize("mode", ["predict", "val"])
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "missing model=FILE (one detector) or weights=FILE,FILE"),
        (["model={a}", "weights={a},{b}"], 2, "give one of the two"),
        (["weights={a}"], 2, "an ensemble needs two files or more, found 1"),
        (["weights=[]"], 2, "an ensemble needs two files or more, found 0"),
        (["model={a}", "fusion=nms"], 2, "fusion=: is for an ensemble"),
        (["model={a}", "model_weights=1"], 2, "model_weights=: is for an ensemble"),
        (["weights={a},{b}", "fusion=mean"], 2, "not an allowed value"),
        (["weights={a},{b}", "fusion_iou=2"], 2, "out of range"),
        (["weights={a},{b}", "model_weights=1"], 2, "1 numbers for 2 detectors"),
        (["weights={a},{b}", "model_weights=1,-1"], 2, "out of range"),
        (["weights={a},{b}", "model_weights=0,0"], 2, "wanted finite numbers above 0"),
        (["weights={a},{here}/none.safetensors"], 1, "none.safetensors"),
        (["weights={a},{health}"], 1, "health.safetensors: an ensemble needs the same classes"),
    ],
    ids=["neither", "both", "one", "none", "fusion-of-one", "weights-of-one", "fusion", "iou",
         "count", "negative", "zero", "missing", "classes"],
)  # fmt: skip
def test_refusals(
    run_cli: Cli, dataset: Path, weights: Path, other_weights: Path, tmp_path: Path, network: Any,
    meta_of: Any, mode: str, words: list[str], code: int, message: str,
) -> None:  # fmt: skip
    health = tmp_path / "health.safetensors"
    if "{health}" in words[0] if words else False:
        names = tuple(name.lower() for name in LEVELS)
        save_safetensors(network, meta_of(network, names=names), health, half=False)
    places = {"a": weights, "b": other_weights, "here": tmp_path, "health": health}
    given = [word.format(**places) for word in words]
    source = f"data={dataset}" if mode == "val" else f"source={dataset / 'images' / 'val'}"
    found, _, errors = run_cli("detect", mode, *given, source, f"out={tmp_path / 'out'}")
    assert found == code, errors
    assert message in errors
    if "same classes" in message:
        assert str(weights) in errors
    assert not (tmp_path / "out").exists()


def test_an_ensemble_is_not_overwritten_by_what_it_finds(
    run_cli: Cli, dataset: Path, weights: Path, other_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    inside = out / "a.safetensors"
    inside.write_bytes(weights.read_bytes())
    names, source = f"[{other_weights},{inside}]", dataset / "images" / "val"
    code, _, errors = run_cli(*predict_words(names, source, out, "overwrite=true"))
    assert code == 2
    assert "which it would replace" in errors
    assert inside.is_file()


def test_settings_from_python(weights: Path, other_weights: Path, tmp_path: Path) -> None:
    both = (str(weights), str(other_weights))
    place = {"out": tmp_path / "out"}
    chosen = load_chosen(DetectPredict(weights=both, source=tmp_path, fusion="nms", **place))
    assert isinstance(chosen.detector, EnsembleDetector)
    assert chosen.detector.fusion == "nms"
    assert isinstance(chosen.record, list)
    chosen = load_chosen(DetectVal(model=both[0], data=tmp_path, **place))
    assert not isinstance(chosen.detector, EnsembleDetector)
    assert chosen.record == {"name": weights.name, "sha256": sha256_of(weights)}
