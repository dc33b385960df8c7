"""Class rows by name, in every backend: weights of one data set begin a training on another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from spineline.datasets.common.errors import WeightsError
from spineline.datasets.labels import LEVELS
from spineline.detect import load_detector
from spineline.detect.checkpoints import read_safetensors
from spineline.detect.engine import loop
from spineline.detect.engine.class_rows import HeadTensor, matched_rows, taken_over
from spineline.detect.engine.dataset import read_data
from spineline.detect.engine.networks import architecture_of
from spineline.detect.engine.scaling import make_meta, save_network
from spineline.detect.fasterrcnn.model import FasterRCNNDescription
from spineline.detect.recipe import resolve_recipe
from spineline.detect.settings import DetectTrain
from spineline.detect.train import train
from spineline.detect.unet.model import UNetDescription

pytestmark = pytest.mark.usefixtures("small_box_heads")

HAS = ("L4", "L4-L5", "L5", "L5-S1")
DESCRIPTIONS: dict[str, Any] = {
    "fasterrcnn": FasterRCNNDescription("test_resnet", 1, 0.25, 0.5),
    "unet": UNetDescription("test_resnet", 1, "onehot", 3.0, 0.25, 0.5),
}
KEYS: dict[str, dict[str, Any]] = {
    "fasterrcnn": {"backbone": "test_resnet", "rois": 16, "proposals": 40},
    "unet": {"encoder": "test_resnet", "heatmap": "onehot"},
}
MODELS = ["fasterrcnn", pytest.param("unet", marks=pytest.mark.slow)]
RENAMED = {name: name for name in HAS}


def random_network(model: str, names: tuple[str, ...] = HAS) -> Any:
    """Not trained; its classes give scores and boxes of their own."""
    network: Any = architecture_of(model).build(DESCRIPTIONS[model], names, 64, seed=1)
    head = (
        network.roi_heads.box_predictor.cls_score
        if model == "fasterrcnn"
        else network.backbone.segmentation_head[0]
    )
    with torch.random.fork_rng():
        torch.manual_seed(2)
        torch.nn.init.normal_(head.weight, std=0.05)
        torch.nn.init.normal_(head.bias, std=0.5)
    if model == "fasterrcnn":
        network.rpn._post_nms_top_n["testing"] = 60
    return network.eval()


@pytest.fixture
def first(
    own_dataset: Callable[..., Path], tmp_path: Path
) -> Callable[[str, tuple[str, ...], tuple[str, ...]], Any]:
    """The detector that a training on classes of these names begins with, from random weights."""

    def make(model: str, wanted: tuple[str, ...], has: tuple[str, ...] = HAS) -> Any:
        data = own_dataset(train=2, val=1)
        content = yaml.safe_load((data / "data.yaml").read_text())
        content["names"] = dict(enumerate(wanted))
        (data / "data.yaml").write_text(yaml.safe_dump(content))
        for file in (data / "labels").rglob("*.txt"):
            lines = file.read_text().splitlines()[: len(wanted)]
            file.write_text("\n".join(lines) + "\n")
        start, description = tmp_path / "start.safetensors", DESCRIPTIONS[model]
        save_network(random_network(model, has), make_meta(description, has, 64), start)
        settings = DetectTrain(
            model=model, data=data, out=tmp_path / "run", weights=str(start), imgsz=64,
            channels=1, mean=0.25, std=0.5, seed=3, **KEYS[model],
        )  # fmt: skip
        values = resolve_recipe(settings).values
        plan = loop.make_plan(settings, values, read_data(data))
        network: Any = loop.first_network(plan).eval()
        if model == "fasterrcnn":
            network.rpn._post_nms_top_n["testing"] = 60
        detector = architecture_of(model).detector(network, make_meta(description, wanted, 64))
        return load_detector(start), detector

    return make


def by_name(detector: Any, image: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores and boxes of each class name, those of every proposal that counts."""
    if hasattr(detector.network, "rpn"):
        detector.network.rpn._post_nms_top_n["testing"] = 60
    (found,) = detector.detect([image], confidence=0.001, iou=1.0, max_detections=100_000)
    return {
        name: (found.confidence[found.class_index == n], found.boxes_xyxy[found.class_index == n])
        for n, name in enumerate(found.names)
    }


@pytest.mark.parametrize("model", MODELS)
def test_reordered_classes_find_the_same_under_each_name(
    model: str, first: Callable[..., Any], images: list[np.ndarray], said: pytest.LogCaptureFixture
) -> None:
    wanted = ("L5-S1", "L4", "L5", "L4-L5")
    start, begun = first(model, wanted)
    before, after = by_name(start, images[0]), by_name(begun, images[0])
    assert sum(len(score) for score, _ in before.values()) > 8
    for name in HAS:
        for a, b in zip(before[name], after[name], strict=True):
            np.testing.assert_allclose(np.sort(a, axis=0), np.sort(b, axis=0), atol=1e-3)
    scores = [np.sort(before[name][0])[-1] for name in HAS if len(before[name][0])]
    assert len(set(scores)) == len(scores) > 1  # classes differ: by place this would fail
    assert f"classes matched by name: {', '.join(wanted)}" in said.text


@pytest.mark.parametrize("model", MODELS)
def test_more_classes_keep_the_shared_ones(
    model: str, first: Callable[..., Any], said: pytest.LogCaptureFixture
) -> None:
    wanted = ("T12-L1", "L5", "L5-S1", "S1-S2", "L4")
    start, begun = first(model, wanted)
    heads = architecture_of(model).heads
    has, now = start.network.state_dict(), begun.network.state_dict()
    fresh = architecture_of(model).build(DESCRIPTIONS[model], wanted, 64, seed=3).state_dict()
    for name, head in heads.items():
        for n, row in enumerate((None, 2, 3, None, 0)):
            here = slice(head.first + head.each * n, head.first + head.each * (n + 1))
            expected = fresh[name][here]
            if row is not None:
                at = head.first + head.each * row
                expected = has[name][at : at + head.each]
            assert torch.equal(now[name][here], expected), (name, n)
        assert torch.equal(now[name][: head.first], has[name][: head.first])
    others = [name for name in has if name not in heads and name.endswith("weight")]
    assert others
    assert all(torch.equal(has[name], now[name]) for name in others)
    assert "classes matched by name: L5, L5-S1, L4" in said.text
    assert "new classes, with new weights: T12-L1, S1-S2" in said.text
    assert "classes of the weights that the data does not have: L4-L5" in said.text


def test_sizes_of_a_unet_are_shared_by_all_classes(first: Callable[..., Any]) -> None:
    start, begun = first("unet", ("S1", "L5"))
    has, now = start.network.state_dict(), begun.network.state_dict()
    for name in architecture_of("unet").heads:
        assert torch.equal(now[name][2:], has[name][4:])


@pytest.mark.parametrize("model", MODELS)
def test_without_a_shared_name_the_head_is_fresh(
    model: str, first: Callable[..., Any], said: pytest.LogCaptureFixture
) -> None:
    wanted = ("C2", "C3", "C4", "C5")  # as many as the weights have
    _, begun = first(model, wanted)
    fresh = architecture_of(model).build(DESCRIPTIONS[model], wanted, 64, seed=3).state_dict()
    now = begun.network.state_dict()
    for name, head in architecture_of(model).heads.items():
        rows = slice(head.first, head.first + head.each * len(wanted))
        assert torch.equal(now[name][rows], fresh[name][rows])
    (warning,) = [r for r in said.records if r.levelname == "WARNING" and "no class" in r.message]
    assert "(L4, L4-L5, L5, L5-S1) is one of the data (C2, C3, C4, C5)" in warning.message


def test_numbers_for_names_are_taken_by_place_with_a_warning(
    first: Callable[..., Any], said: pytest.LogCaptureFixture
) -> None:
    start, begun = first("unet", HAS, ("0", "1", "2", "3"))
    for name in architecture_of("unet").heads:
        assert torch.equal(begun.network.state_dict()[name], start.network.state_dict()[name])
    assert "classes have numbers instead of names: the head's rows are taken by place" in said.text


def test_weights_without_class_names_are_refused(dataset: Path, tmp_path: Path) -> None:
    file = tmp_path / "nameless.safetensors"
    save_network(random_network("unet"), make_meta(DESCRIPTIONS["unet"], (), 64), file)
    given = {"model": "unet", "data": dataset, "out": tmp_path / "run", "weights": str(file)}
    with pytest.raises(WeightsError, match=r"out of range \(names"):
        train(DetectTrain(**given, imgsz=64, **KEYS["unet"]))
    assert not (tmp_path / "run").exists()


def test_rows_agree_with_ultralytics(untrained: Callable[..., Any]) -> None:
    """The package matches names itself; it is the independent oracle."""
    from spineline.detect.yolo.start import take_over_yolo

    start, oracle, ours = untrained(), untrained(seed=5), untrained(seed=5)
    wanted = (*LEVELS[::-1][:7], "C2", *LEVELS[:3])
    oracle.names = ours.names = dict(enumerate(wanted))
    oracle.load(start, verbose=False)
    take_over_yolo(ours, start)
    expected, found = oracle.state_dict(), ours.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not torch.equal(start.model[-1].cv3[0][-1].bias, ours.model[-1].cv3[0][-1].bias)


def test_yolo_rows_of_classes_that_share_no_name_start_afresh(
    untrained: Callable[..., Any], said: pytest.LogCaptureFixture
) -> None:
    from spineline.detect.yolo.start import take_over_yolo

    start, network, fresh = untrained(), untrained(seed=5), untrained(seed=5)
    network.names = {n: f"c{n}" for n in range(len(LEVELS))}
    take_over_yolo(network, start)
    for level in range(3):
        now = network.model[-1].cv3[level][-1].weight
        assert torch.equal(now, fresh.model[-1].cv3[level][-1].weight)
        assert not torch.equal(now, start.model[-1].cv3[level][-1].weight)
    assert torch.equal(network.model[0].conv.weight, start.model[0].conv.weight)
    assert "the head's class rows start with new weights" in said.text


@pytest.mark.slow
def test_weights_of_many_classes_begin_a_yolo_that_can_be_read_again(
    dataset: Path, tmp_path: Path, meta_of: Callable[..., Any]
) -> None:
    """80 classes, as COCO has, make the package widen the head of a yolov8n."""
    from spineline.detect.architectures import package_yaml
    from spineline.detect.checkpoints import build_yolo, save_safetensors

    many = tuple(f"thing{n}" for n in range(80))
    network: Any = build_yolo(package_yaml("yolov8n"), classes=80)
    file = tmp_path / "many.safetensors"
    save_safetensors(network, meta_of(network, names=many), file)
    result = train(
        DetectTrain(model="yolov8n", data=dataset, out=tmp_path / "run", weights=str(file),
                    imgsz=64, epochs=1, batch=3, val=False, plots=False)
    )  # fmt: skip
    assert load_detector(result.last).names == LEVELS
    assert read_safetensors(result.last)[1]["model.22.cv3.0.0.conv.weight"].shape[0] == 64


@pytest.mark.parametrize("first_rows", [0, 1, 4])
def test_rows_by_hand(first_rows: int) -> None:
    head = HeadTensor(first_rows, 2)
    start = torch.arange(first_rows + 6 + 1.0)
    own = -torch.arange(first_rows + 4 + 1.0)
    rows = matched_rows(["a", "b", "c"], [" C ", "d"])
    assert rows == (2, None)
    found = taken_over({"w": own}, {"w": start}, {"w": head}, rows)["w"].tolist()
    shared = list(range(first_rows))
    at = first_rows + 4
    fresh = [-(first_rows + 2.0), -(first_rows + 3.0)]
    assert found == [*shared, at, at + 1, *fresh, first_rows + 6]
