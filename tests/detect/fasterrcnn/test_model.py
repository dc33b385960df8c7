from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spineline.datasets.common.errors import WeightsError
from spineline.datasets.labels import LEVELS
from spineline.detect import load_detector
from spineline.detect.architectures import FASTERRCNN_BACKBONES
from spineline.detect.checkpoints import save_safetensors
from spineline.detect.engine.scaling import make_meta, save_network
from spineline.detect.fasterrcnn.model import (
    FasterRCNNDescription,
    FasterRCNNDetector,
    build_fasterrcnn,
)

pytestmark = pytest.mark.usefixtures("small_box_heads")

NAMES = LEVELS[:3]
PROPOSALS = 60  # of torchvision's 1000, to be quick
SMALL = FasterRCNNDescription("resnet18", 1, 0.25, 0.5)
TINY = FasterRCNNDescription("test_resnet", 1, 0.25, 0.5)


def make_network(
    description: FasterRCNNDescription = SMALL, *, imgsz: int = 64, confident: bool = True
) -> Any:
    """A network with random weights; its classifier is spread so that scores differ."""
    network: Any = build_fasterrcnn(description, len(NAMES), imgsz, seed=1)
    network.rpn._post_nms_top_n["testing"] = PROPOSALS
    with torch.random.fork_rng():
        torch.manual_seed(2)
        predictor = network.roi_heads.box_predictor
        torch.nn.init.normal_(predictor.cls_score.weight, std=0.02)
        torch.nn.init.constant_(predictor.cls_score.bias, 0.0)
        predictor.cls_score.bias.data[0] = 0.0 if confident else 1000.0
        torch.nn.init.normal_(predictor.bbox_pred.weight, std=0.05)
    return network.eval()


def plain_torchvision(network: Any, size: int, **limits: Any) -> Any:
    """torchvision's own network, which scales images itself, with the same weights."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=torch.nn.BatchNorm2d, trainable_layers=5
    )
    other = FasterRCNN(
        backbone, len(NAMES) + 1, min_size=size, max_size=size, image_mean=[0.25] * 3,
        image_std=[0.5] * 3, **limits,
    )  # fmt: skip
    other.load_state_dict(network.state_dict())
    other.rpn._post_nms_top_n["testing"] = PROPOSALS
    return other.eval()


@pytest.mark.usefixtures("whole_box_heads")
def test_finds_what_torchvision_finds(images: list[np.ndarray]) -> None:
    description = FasterRCNNDescription("resnet18", 3, 0.25, 0.5)
    network = make_network(description, imgsz=96)
    detector = FasterRCNNDetector(network, make_meta(description, NAMES, 96))
    limits = {"box_score_thresh": 0.2, "box_nms_thresh": 0.4, "box_detections_per_img": 40}
    assert network.roi_heads.box_head.fc6.out_features == 1024
    oracle = plain_torchvision(network, 96, **limits)
    image = images[0]
    (found,) = detector.detect([image], confidence=0.2, iou=0.4, max_detections=40)
    with torch.inference_mode():
        colour = torch.from_numpy(image)[None].float().div(255).expand(3, -1, -1)
        wanted = oracle([colour])[0]
    assert len(found) > 3
    assert len(set(found.class_index.tolist())) > 1
    np.testing.assert_allclose(found.boxes_xyxy, wanted["boxes"].numpy(), atol=1e-3)
    np.testing.assert_allclose(found.confidence, wanted["scores"].numpy(), atol=1e-5)
    assert found.class_index.tolist() == (wanted["labels"] - 1).tolist()


def test_results_do_not_depend_on_the_batch_and_lie_in_the_image(images: list[np.ndarray]) -> None:
    detector = FasterRCNNDetector(make_network(), make_meta(SMALL, NAMES, 64))
    together = detector.detect(images, confidence=0.05, batch=3)
    for image, found in zip(images, together, strict=True):
        (alone,) = detector.detect([image], confidence=0.05)
        assert len(found) == len(alone) > 0
        np.testing.assert_allclose(found.boxes_xyxy, alone.boxes_xyxy, atol=1e-2)
        height, width = image.shape
        assert found.boxes_xyxy.min() >= 0
        assert (found.boxes_xyxy.max(axis=0) <= [width, height, width, height]).all()
        assert (np.diff(found.confidence) <= 0).all()


def test_an_image_without_detection() -> None:
    detector = FasterRCNNDetector(make_network(confident=False), make_meta(SMALL, NAMES, 64))
    (found,) = detector.detect([np.zeros((64, 64), np.uint8)], confidence=0.01)
    assert (len(found), found.names) == (0, NAMES)
    with pytest.raises(ValueError, match="wanted a uint8"):
        detector.detect([np.zeros((64, 64), np.float32)])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        ("mobilenet_v3_small", 3),
        ("resnet18", 1),
        pytest.param("mobilenet_v3_large", 1, marks=pytest.mark.slow),
        pytest.param("resnet34", 3, marks=pytest.mark.slow),
        pytest.param("resnet50", 1, marks=pytest.mark.slow),
        pytest.param("resnet101", 3, marks=pytest.mark.slow),
    ],
)
def test_every_backbone_detects_with_grey_and_with_colour(backbone: str, channels: int) -> None:
    assert backbone in FASTERRCNN_BACKBONES
    description = FasterRCNNDescription(backbone, channels, 0.25, 0.5)
    network: Any = build_fasterrcnn(description, 2, 64)
    network.rpn._post_nms_top_n["testing"] = PROPOSALS
    first = next(p for n, p in network.named_parameters() if n.startswith("backbone.body"))
    assert first.shape[1] == channels
    assert not any("Frozen" in type(m).__name__ for m in network.modules())
    assert network.roi_heads.box_predictor.cls_score.out_features == 3
    detector = FasterRCNNDetector(network, make_meta(description, NAMES[:2], 64))
    assert len(detector.detect([np.zeros((64, 40), np.uint8)], confidence=0.01)) == 1


@pytest.mark.slow
def test_building_is_by_seed_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (
        build_fasterrcnn(SMALL, 2, 64, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    name = "backbone.body.conv1.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


def test_weights_files_load_as_they_were(tmp_path: Path, images: list[np.ndarray]) -> None:
    network, meta = make_network(), make_meta(SMALL, NAMES, 64)
    save_safetensors(network, meta, tmp_path / "full.safetensors", half=False)
    save_network(network, meta, tmp_path / "half.safetensors")
    loaded = load_detector(tmp_path / "full.safetensors")
    assert isinstance(loaded, FasterRCNNDetector)
    assert (loaded.names, loaded.imgsz, loaded.meta) == (NAMES, 64, meta)
    loaded.network.rpn._post_nms_top_n["testing"] = PROPOSALS
    wanted = FasterRCNNDetector(network, meta).detect(images)
    for a, b in zip(loaded.detect(images), wanted, strict=True):
        np.testing.assert_array_equal(a.boxes_xyxy, b.boxes_xyxy)
    sizes = [(tmp_path / f"{n}.safetensors").stat().st_size for n in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    assert load_detector(tmp_path / "half.safetensors").names == NAMES


def test_numbers_too_large_for_16_bits_are_kept_in_32(tmp_path: Path) -> None:
    network = make_network()
    network.backbone.body.bn1.running_var.fill_(1e6)
    save_network(network, make_meta(SMALL, NAMES, 64), tmp_path / "w.safetensors")
    loaded: Any = load_detector(tmp_path / "w.safetensors")
    assert float(loaded.network.backbone.body.bn1.running_var.max()) == 1e6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "os"}, "unknown backbone 'os', none of torchvision's or timm's"),
        ({"backbone": "hf-hub:timm/resnet18"}, "unknown backbone 'hf-hub:timm/resnet18'"),
        ({"backbone": "resnet18" * 100_000}, "unknown backbone 'resnet18"),
        ({"backbone": ["resnet18"]}, "its backbone is not a name"),
        ({"backbone": "vit_tiny_patch16_224"}, "do not fit its description"),
        ({"backbone": "convnextv2_large"}, "do not fit its description"),
        ({"channels": -1}, "out of range"),
        ({"mean": 10**400}, "out of range"),
        ({"mean": float("nan")}, "out of range"),
        ({"std": 0.0}, "out of range"),
        ({"channels": 3}, "out of range"),
        ({"more": 1}, "no description of a Faster R-CNN"),
        ({"backbone": "resnet34"}, "do not fit its description"),
    ],
    ids=[
        "backbone",
        "address",
        "huge",
        "list",
        "no-pyramid",
        "too-large",
        "negative",
        "long-mean",
        "mean",
        "std",
        "channels",
        "more",
        "other",
    ],
)
def test_descriptions_that_are_none(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    meta = make_meta(SMALL, NAMES, 64)
    meta.yaml.update(changes)
    save_safetensors(torch.nn.Linear(1, 1), meta, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=message) as caught:
        load_detector(tmp_path / "w.safetensors")
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "text",
    [
        '{"task": "detect", "backend": "fasterrcnn", "names": ["a"], "imgsz": Infinity, '
        '"channels": 1, "model": "fasterrcnn", "yaml": {}}',
        '{"task": "detect", "backend": "fasterrcnn", "names": ["a"], "imgsz": 64, '
        '"channels": -1, "model": "fasterrcnn", "yaml": {}}',
        '{"task": "detect", "backend": "fasterrcnn", "names": [], "imgsz": 64, '
        '"channels": 1, "model": "fasterrcnn", "yaml": {}}',
        "[" * 100_000,
    ],
    ids=["infinite", "negative", "nameless", "deep"],
)
def test_metadata_that_are_none(tmp_path: Path, text: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"spineline": text})
    with pytest.raises(WeightsError, match="description is"):
        load_detector(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "channels"),
    [("test_resnet", 3), ("test_convnext", 1)],
)
def test_timm_backbones_load_as_they_were(
    tmp_path: Path, images: list[np.ndarray], backbone: str, channels: int
) -> None:
    description = FasterRCNNDescription(backbone, channels, 0.25, 0.5)
    network, meta = make_network(description), make_meta(description, NAMES, 64)
    save_safetensors(network, meta, tmp_path / "w.safetensors", half=False)
    loaded: Any = load_detector(tmp_path / "w.safetensors")
    assert loaded.meta == meta
    loaded.network.rpn._post_nms_top_n["testing"] = PROPOSALS
    wanted = FasterRCNNDetector(network, meta).detect(images[:2], confidence=0.1)
    assert sum(len(found) for found in wanted) > 3
    for a, b in zip(loaded.detect(images[:2], confidence=0.1), wanted, strict=True):
        np.testing.assert_array_equal(a.boxes_xyxy, b.boxes_xyxy)
        np.testing.assert_array_equal(a.confidence, b.confidence)


def test_weights_that_do_not_fit_take_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    made: list[str] = []

    def create(name: str, **options: Any) -> Any:
        network = real(name, **options)
        made.append(next(network.parameters()).device.type)
        return network

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    description = FasterRCNNDescription("convnext_tiny", 1, 0.25, 0.5)
    meta = make_meta(description, NAMES, 64)
    save_safetensors(torch.nn.Linear(1, 1), meta, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="do not fit its description"):
        load_detector(tmp_path / "w.safetensors")
    assert set(made) == {"meta"}


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    network = make_network()
    network.backbone.body.conv1.weight.data[0] = float("nan")
    save_safetensors(network, make_meta(SMALL, NAMES, 64), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="not finite numbers"):
        load_detector(tmp_path / "w.safetensors")


def test_proposals_and_rois_of_training_reach_the_network():
    network = build_fasterrcnn(SMALL, 2, 64, proposals=30, rois=16)
    assert network.rpn._post_nms_top_n == {"training": 30, "testing": 1000}
    assert network.roi_heads.fg_bg_sampler.batch_size_per_image == 16
