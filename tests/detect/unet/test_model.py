from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from spineline.datasets.common.errors import ConfigError, SpinelineError, WeightsError
from spineline.datasets.labels import LEVELS
from spineline.detect import load_detector
from spineline.detect.architectures import canonical_name
from spineline.detect.checkpoints import save_safetensors
from spineline.detect.engine import loop
from spineline.detect.engine.scaling import make_meta, save_network
from spineline.detect.recipe import resolve_recipe
from spineline.detect.settings import DetectTrain
from spineline.detect.train import train
from spineline.detect.unet.heatmaps import draw_heat
from spineline.detect.unet.model import (
    LOSSES,
    UNetDescription,
    UNetDetector,
    build_unet,
    check_encoder,
)

NAMES = LEVELS[:3]
SMALL = UNetDescription("test_resnet", 1, "gaussian", 2.0, 0.25, 0.5)


class Drawn(torch.nn.Module):
    """Stands for the U-Net itself: gives the maps that it was told, and notes what it was given."""

    def __init__(self, maps: torch.Tensor) -> None:
        super().__init__()
        self.maps = torch.nn.Parameter(maps)
        self.seen = torch.zeros(0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen = images
        return self.maps[None, :, : images.shape[-2], : images.shape[-1]].expand(
            len(images), -1, -1, -1
        )


def told(
    description: UNetDescription, boxes: list[list[float]], classes: list[int], height: float = 1.0
) -> Any:
    """A network of size 64 that draws these boxes perfectly, its bells ``height`` high."""
    network: Any = build_unet(description, len(NAMES), 64)
    corners = torch.tensor(boxes).reshape(-1, 4)
    heat = draw_heat(
        (corners[:, :2] + corners[:, 2:]) / 2,
        torch.tensor(classes, dtype=torch.int64),
        len(NAMES),
        (64, 64),
        heatmap=description.heatmap,
        sigma=description.sigma,
    )
    if description.heatmap == "onehot":
        heat = torch.where(heat > 0, 10.0, -10.0)
    heat = heat * height if description.heatmap == "gaussian" else heat
    size = torch.zeros(2, 64, 64)
    for box in corners:
        x, y = ((box[:2] + box[2:]) / 2).long().tolist()
        log = ((box[2:] - box[:2]) / 64).log()
        size[:, max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5] = log[:, None, None]
    network.backbone = Drawn(torch.cat([heat, size]))
    return network


BOXES = [[10.0, 8.0, 24.0, 18.0], [30.2, 41.6, 44.2, 51.6], [33.0, 10.0, 47.0, 20.0]]


@pytest.mark.parametrize(("kind", "off"), [("gaussian", 0.01), ("onehot", 0.4)])
def test_boxes_are_those_that_the_maps_say(kind: str, off: float) -> None:
    network = told(replace(SMALL, heatmap=kind), BOXES, [0, 1, 2])
    detector = UNetDetector(network, make_meta(SMALL, NAMES, 64))
    image = np.zeros((128, 96), np.uint8)  # native pixels are twice the network's
    (found,) = detector.detect([image], confidence=0.5, iou=0.3)
    order = np.argsort(found.class_index)
    assert found.class_index[order].tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.boxes_xyxy[order], np.array(BOXES) * 2, atol=2 * off)
    assert (found.confidence > 0.9).all()


def test_a_bell_higher_than_one_has_its_point_at_its_top() -> None:
    description = replace(SMALL, heatmap="gaussian")
    network = told(description, BOXES, [0, 1, 2], height=1.3)
    detector = UNetDetector(network, make_meta(description, NAMES, 64))
    (found,) = detector.detect([np.zeros((64, 48), np.uint8)], confidence=0.5, iou=0.3)
    assert len(found) == 3
    order = np.argsort(found.class_index)
    np.testing.assert_allclose(found.boxes_xyxy[order], np.array(BOXES), atol=0.01)
    assert (found.confidence <= 1).all()


def test_input_is_normalised_and_padded_by_the_mean() -> None:
    network = told(SMALL, [], [])
    detector = UNetDetector(network, make_meta(SMALL, NAMES, 64))
    (found,) = detector.detect([np.full((64, 40), 255, np.uint8)])
    assert len(found) == 0
    seen = network.backbone.seen
    assert seen.shape == (1, 1, 64, 64)
    assert torch.allclose(seen[..., :40], torch.tensor(1.5))
    assert not seen[..., 40:].any()


def test_nothing_is_found_in_the_padding_and_boxes_end_with_the_image() -> None:
    network = told(SMALL, [[44.0, 20.0, 60.0, 30.0], [34.0, 40.0, 46.0, 50.0]], [0, 0])
    detector = UNetDetector(network, make_meta(SMALL, NAMES, 64))
    (found,) = detector.detect([np.zeros((64, 42), np.uint8)], confidence=0.5)
    np.testing.assert_allclose(found.boxes_xyxy, [[34, 40, 42, 50]], atol=0.05)


def test_limits() -> None:
    network = told(SMALL, [[10, 8, 24, 18], [14, 8, 28, 18], [30, 40, 44, 50]], [0, 0, 0])
    detector = UNetDetector(network, make_meta(SMALL, NAMES, 64))
    image = np.zeros((64, 64), np.uint8)
    counts = [
        len(detector.detect([image], confidence=0.5, iou=iou, max_detections=most)[0])
        for iou, most in ((0.8, 300), (0.3, 300), (0.8, 1))
    ]
    assert counts == [3, 2, 1]


def targets(boxes: list[list[float]], classes: list[int]) -> list[dict[str, torch.Tensor]]:
    labels = torch.tensor(classes, dtype=torch.int64) + 1
    return [{"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": labels}]


def losses_of(network: Any, images: Any, wanted: Any) -> dict[str, float]:
    losses = network.train()(images, wanted)
    return {name: float(loss.detach()) for name, loss in losses.items()}


def test_losses_of_a_perfect_drawing_and_of_none() -> None:
    image = [torch.zeros(1, 64, 64)]
    perfect = losses_of(told(SMALL, BOXES, [0, 1, 2]), image, targets(BOXES, [0, 1, 2]))
    assert perfect["loss_heat"] == pytest.approx(0, abs=1e-6)
    assert perfect["loss_size"] == pytest.approx(0, abs=1e-5)
    nothing = losses_of(told(SMALL, [], []), image, targets(BOXES, [0, 1, 2]))
    assert nothing["loss_heat"] == pytest.approx(1)
    wanted = np.abs(np.log([14 / 64, 10 / 64])).mean()
    assert nothing["loss_size"] == pytest.approx(wanted, rel=1e-5)


def test_cross_entropy_of_discs_by_hand() -> None:
    network = told(replace(SMALL, heatmap="onehot", sigma=1.0), [], [])
    losses = losses_of(network, [torch.zeros(1, 64, 64)], targets([[10, 10, 21, 21]], [1]))
    pixels = 3 * 64 * 64
    wanted = ((pixels - 5) * np.log1p(np.exp(-10)) + 5 * np.log1p(np.exp(10))) / 5
    assert losses["loss_heat"] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("kind", ["gaussian", "onehot"])
def test_images_without_a_label_have_losses_to_learn_from(kind: str) -> None:
    network = build_unet(replace(SMALL, heatmap=kind), len(NAMES), 64).train()
    losses = network([torch.rand(1, 64, 40), torch.rand(1, 50, 64)], targets([], []) * 2)
    sum(losses.values()).backward()
    assert float(losses["loss_size"].detach()) == 0
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gaussian", "onehot"])
def test_it_learns_one_image_by_heart(kind: str) -> None:
    torch.manual_seed(0)
    network = build_unet(replace(SMALL, heatmap=kind), len(NAMES), 64, seed=3)
    image = torch.zeros(64, 64)
    for n, (left, top, right, bottom) in enumerate(BOXES):
        image[int(top) : int(bottom), int(left) : int(right)] = 0.3 + 0.3 * n
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003)
    network.train()
    for _ in range(100):
        losses = network([image[None]] * 2, targets(BOXES, [0, 1, 2]) * 2)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    detector = UNetDetector(network, make_meta(SMALL, NAMES, 64))
    pixels = (image * 255).numpy().astype(np.uint8)
    found = detector.detect([pixels], confidence=0.3, iou=0.5)[0].best_of_each_class()
    order = np.argsort(found.class_index)
    centres = (np.array(BOXES)[:, :2] + np.array(BOXES)[:, 2:]) / 2
    np.testing.assert_allclose(found.centres_xy[order], centres, atol=1.5)


def test_the_seed_decides_the_weights() -> None:
    first, again, other = (build_unet(SMALL, 3, 64, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_weights_round_trip(tmp_path: Path) -> None:
    network = build_unet(SMALL, len(NAMES), 64, seed=1)
    save_network(network, make_meta(SMALL, NAMES, 64), tmp_path / "u.safetensors")
    loaded = load_detector(tmp_path / "u.safetensors")
    assert isinstance(loaded, UNetDetector)
    assert (loaded.names, loaded.imgsz) == (NAMES, 64)
    assert loaded.network.description == SMALL
    halved = build_unet(SMALL, len(NAMES), 64)
    halved.load_state_dict(
        {k: v.half().float() if v.is_floating_point() else v
         for k, v in network.state_dict().items()}
    )  # fmt: skip
    images = [np.random.default_rng(n).integers(0, 256, (60, 50), np.uint8) for n in (1, 2)]
    wanted = UNetDetector(halved, make_meta(SMALL, NAMES, 64)).detect(images, confidence=0.001)
    for found, other in zip(loaded.detect(images, confidence=0.001), wanted, strict=True):
        np.testing.assert_array_equal(found.boxes_xyxy, other.boxes_xyxy)
        np.testing.assert_array_equal(found.confidence, other.confidence)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "../../etc"}, "no model of timm"),
        ({"encoder": "hf-hub:someone/model"}, "no model of timm"),
        ({"encoder": 5}, "no model of timm"),
        ({"heatmap": "square"}, "heatmap or sigma is out of range"),
        ({"sigma": -1.0}, "heatmap or sigma is out of range"),
        ({"std": 0.0}, "mean or std are out of range"),
        ({"mean": "1"}, "mean or std are out of range"),
        ({"channels": 3}, "its channels, mean or std are out of range"),
        ({"extra": 1}, "no description of a U-Net"),
    ],
)
def test_descriptions_that_are_none(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    network = build_unet(SMALL, len(NAMES), 64)
    meta = make_meta(SMALL, NAMES, 64)
    path = tmp_path / "u.safetensors"
    save_safetensors(network, replace(meta, yaml={**meta.yaml, **change}), path)
    with pytest.raises(WeightsError, match=message):
        load_detector(path)


def test_weights_that_do_not_fit_or_are_no_numbers(tmp_path: Path) -> None:
    network = build_unet(SMALL, len(NAMES), 64)
    path = tmp_path / "u.safetensors"
    save_safetensors(network, make_meta(SMALL, LEVELS, 64), path)
    with pytest.raises(WeightsError, match="do not fit its description"):
        load_detector(path)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    save_safetensors(network, make_meta(SMALL, NAMES, 64), path)
    with pytest.raises(WeightsError, match="not finite numbers"):
        load_detector(path)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("resnet19", r"encoder=resnet19: no model of timm.*did you mean 'resnet\d"),
        ("vit_tiny_patch16_224", "no U-Net can be built on it"),
    ],
)
def test_encoders_that_do_not_fit(encoder: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_encoder(encoder, 1)


def test_the_package_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(SpinelineError, match=r"pip install 'spineline\[unet\]'"):
        build_unet(SMALL, 3, 64)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"optimizer": "auto"}, "optimizer=auto: model=unet has SGD, Adam, AdamW"),
        ({"sigma": 0.0}, "sigma=0.0: wanted more than 0"),
        ({"sigma": 65.0}, "at most imgsz/4 = 64"),
        ({"scale": 1.0}, "scale=1.0: wanted less than 1"),
        ({"channels": 2}, "channels=2: allowed: 1, 3"),
        ({"mosaic": 1.0}, "mosaic=1.0: model=unet has no such key"),
        ({"rois": 5}, "rois=5: model=unet has no such key"),
        ({"hyp": "lumbar"}, "hyp=lumbar: is a recipe for the YOLO networks, not model=unet"),
        ({"hyp": "cervical"}, "hyp=cervical: is a recipe for fasterrcnn, not model=unet"),
    ],
)
def test_keys_that_do_not_fit(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_recipe(DetectTrain(model="unet", out=tmp_path, **keys))


@pytest.mark.parametrize("model", ["yolov8n", "fasterrcnn"])
def test_its_keys_are_refused_for_others(tmp_path: Path, model: str) -> None:
    with pytest.raises(ConfigError, match=r"heatmap=onehot: model=.* has no such key"):
        resolve_recipe(DetectTrain(model=model, out=tmp_path, heatmap="onehot"))


def test_its_name() -> None:
    assert canonical_name("UNet") == "unet"


# Training, by the loop that the Faster R-CNN has too


TINY: dict[str, Any] = {
    "model": "unet", "encoder": "test_resnet", "imgsz": 64, "epochs": 2, "batch": 3, "plots": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two epochs; not to be changed."""
    out = tmp_path_factory.mktemp("unet") / "run"
    return train(DetectTrain(data=dataset, out=out, **TINY))


def test_a_run_leaves_what_every_run_leaves(trained: Any) -> None:
    record = yaml.safe_load((trained.out / "run.yaml").read_text())
    assert record["trained_with"] | {"sigma": 3.0, "heatmap": "gaussian"} == record["trained_with"]
    with (trained.out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(float(row[f"train/{name}"]) > 0 for row in rows for name in LOSSES)
    detector = load_detector(trained.last)
    assert isinstance(detector, UNetDetector)
    assert detector.names == LEVELS


@pytest.mark.slow
def test_a_resumed_run_has_the_numbers_of_an_unbroken_one(
    trained: Any, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = loop.DetectorTrainer.save_checkpoint

    def killed(self: Any, *rest: Any) -> None:
        save(self, *rest)
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop.DetectorTrainer, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            train(DetectTrain(data=dataset, out=out, **TINY))
    resumed = train(DetectTrain(out=out, resume=True))
    assert resumed.last.read_bytes() == trained.last.read_bytes()
    assert (out / "results.csv").read_text() == (trained.out / "results.csv").read_text()


def test_it_is_scored_and_predicts_like_every_detector(
    trained: Any, dataset: Path, tmp_path: Path, run_cli: Any
) -> None:
    weights = f"model={trained.last}"
    words = (weights, f"data={dataset}", f"out={tmp_path / 'v'}", "draws=0", "plots=false")
    code, _, _ = run_cli("detect", "val", *words)
    assert code == 0
    metrics = json.loads((tmp_path / "v" / "metrics.json").read_text())
    assert {"coco", "one_to_one", "seed", "level_accuracy_8px"} <= set(metrics)
    source = f"source={dataset / 'images' / 'val'}"
    code, _, _ = run_cli(
        "detect", "predict", weights, source, f"out={tmp_path / 'p'}", "confidence=0"
    )
    assert code == 0
    assert (tmp_path / "p" / "predictions.json").is_file()


@pytest.mark.slow
def test_it_starts_from_weights_of_the_same_shape(
    trained: Any, dataset: Path, tmp_path: Path
) -> None:
    start = {**TINY, "data": dataset, "weights": str(trained.last), "epochs": 1, "val": False}
    again = train(DetectTrain(out=tmp_path / "a", **{**start, "lr0": 0.0, "weight_decay": 0.0}))
    wanted = load_detector(trained.last).network.state_dict()
    found = load_detector(again.last).network.state_dict()
    weight = "backbone.segmentation_head.0.weight"
    assert torch.equal(found[weight], wanted[weight])
    with pytest.raises(WeightsError, match="a network of encoder=test_resnet channels=1, wanted"):
        train(DetectTrain(out=tmp_path / "b", **{**start, "channels": 3}))


@pytest.mark.slow
def test_export_is_refused_and_strip_takes_its_checkpoint(
    trained: Any, tmp_path: Path, run_cli: Any
) -> None:
    code, _, warned = run_cli(
        "detect", "export", f"model={trained.last}", f"out={tmp_path / 'u.onnx'}"
    )
    assert code == 2
    assert "networks of this backend cannot be exported" in warned
    last = trained.out / "weights" / "last.pt"
    out = tmp_path / "stripped.safetensors"
    assert run_cli("weights", "strip", f"weights={last}", f"out={out}")[0] == 0
    stripped, whole = load_detector(out), load_detector(trained.last)
    images = [np.random.default_rng(1).integers(0, 256, (64, 64), np.uint8)]
    found, wanted = (d.detect(images, confidence=0.001)[0] for d in (stripped, whole))
    np.testing.assert_array_equal(found.boxes_xyxy, wanted.boxes_xyxy)


def test_an_encoder_that_does_not_fit_writes_nothing(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="encoder=resnet19"):
        train(DetectTrain(data=dataset, out=tmp_path / "o", **{**TINY, "encoder": "resnet19"}))
    assert not (tmp_path / "o").exists()
