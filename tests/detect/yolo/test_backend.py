from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.detect import load_detector
from spineline.detect.checkpoints import save_safetensors
from spineline.detect.yolo.backend import suppress_by_torch
from spineline.detect.yolo.letterbox import letterbox

SIZES = [(96, 96), (120, 80), (50, 77), (97, 31), (300, 300), (1, 200), (64, 95)]


@pytest.fixture(scope="module")
def detector(weights: Path) -> Any:
    return load_detector(weights)


@pytest.mark.parametrize("size_hw", SIZES, ids=str)
def test_letterbox_is_that_of_the_package(size_hw: tuple[int, int]) -> None:
    from spineline.detect.yolo.environment import import_ultralytics

    import_ultralytics()
    from ultralytics.data.augment import LetterBox
    from ultralytics.utils.ops import scale_boxes

    image = np.random.default_rng(0).integers(0, 256, size_hw, dtype=np.uint8)
    found, fit = letterbox(image, 96)
    colour = np.repeat(image[:, :, None], 3, axis=2)
    wanted = LetterBox(96, auto=True, stride=32)(image=colour)
    np.testing.assert_array_equal(found, wanted[:, :, 0])
    assert fit.size_hw == found.shape
    box = np.array([[3.0, 2.0, 40.0, 30.0]])
    back = scale_boxes(found.shape, box.copy(), size_hw)
    ours = (box - np.tile(fit.pad_xy, 2)) / np.tile(fit.scale_xy, 2)
    clip = np.tile(size_hw[::-1], 2)
    np.testing.assert_allclose(np.clip(ours, 0, clip), back, rtol=1e-6)


@pytest.mark.parametrize("confidence", [0.001, 0.5, 0.8])
@pytest.mark.parametrize("iou", [0.3, 0.7])
def test_suppression_is_that_of_the_package(confidence: float, iou: float) -> None:
    from spineline.detect.yolo.environment import import_ultralytics

    import_ultralytics()
    from ultralytics.utils.nms import non_max_suppression

    generator = torch.Generator().manual_seed(3)
    raw = torch.rand(15, 200, generator=generator)
    raw[:2] *= 100
    raw[2:4] = 10 + 30 * raw[2:4]
    (wanted,) = non_max_suppression(
        raw[None].clone(), confidence, iou, multi_label=True, max_det=300
    )
    found = suppress_by_torch(raw, confidence=confidence, iou=iou, max_detections=300)
    assert len(found) > 0
    torch.testing.assert_close(found, wanted)


def test_suppression_worked_out_by_hand() -> None:
    # Two places with the same box: the second is weaker in class 0 and goes there, but stays in
    # class 1, which the first does not have. A third place lies elsewhere.
    raw = torch.tensor(
        [
            [10.0, 10.0, 50.0],
            [10.0, 10.0, 50.0],
            [4.0, 4.0, 8.0],
            [4.0, 4.0, 8.0],
            [0.9, 0.6, 0.1],
            [0.0, 0.7, 0.2],
        ]
    )
    found = suppress_by_torch(raw, confidence=0.15, iou=0.5, max_detections=10)
    wanted = [[8, 8, 12, 12, 0.9, 0], [8, 8, 12, 12, 0.7, 1], [46, 46, 54, 54, 0.2, 1]]
    torch.testing.assert_close(found, torch.tensor(wanted))
    assert len(suppress_by_torch(raw, confidence=0.15, iou=0.5, max_detections=1)) == 1
    assert suppress_by_torch(raw, confidence=0.95, iou=0.5, max_detections=9).shape == (0, 6)


def test_top_labels_are_those_of_the_packages_own_predict(
    detector: Any, pickle_weights: Path, images: list[np.ndarray]
) -> None:
    """Without suppression, each place's best class, its score and its box must be among ours."""
    from ultralytics import YOLO

    model = YOLO(str(pickle_weights))
    for image in images:
        colour = np.repeat(image[:, :, None], 3, axis=2)
        (wanted,) = model.predict(
            colour, conf=0.5, iou=1.0, max_det=5000, imgsz=96, verbose=False, save=False
        )
        (found,) = detector.detect([image], confidence=0.5, iou=1.0, max_detections=5000)
        theirs = wanted.boxes.data.numpy()
        assert len(theirs) > 20
        rows = [found.boxes_xyxy, found.confidence[:, None], found.class_index[:, None]]
        ours = np.concatenate(rows, axis=1)
        scale = np.array([1, 1, 1, 1, 100, 100])  # a score counts as much as a hundred pixels
        distance = np.abs((theirs[:, None] - ours[None]) * scale).max(axis=2).min(axis=1)
        assert distance.max() < 5e-3
        best = theirs[theirs[:, 4].argmax()]
        assert found.class_index[0] == best[5]
        assert found.confidence[0] == pytest.approx(best[4], abs=1e-5)


def test_every_class_of_a_place_is_kept(detector: Any, images: list[np.ndarray]) -> None:
    """Without suppression there is a box for every score that is high enough."""
    (found,) = detector.detect(images[:1], confidence=0.5, iou=1.0, max_detections=5000)
    scores = detector.forward(images[0][None])[0, 4:]
    assert len(found) == int((scores > 0.5).sum())
    assert int((scores > 0.5).sum(dim=0).max()) > 1


def test_a_result_does_not_depend_on_its_neighbours(
    detector: Any, images: list[np.ndarray]
) -> None:
    together = detector.detect(images, confidence=0.3)
    for image, found in zip(images, together, strict=True):
        (alone,) = detector.detect([image], confidence=0.3, batch=1)
        assert len(alone) == len(found) > 0
        np.testing.assert_allclose(alone.boxes_xyxy, found.boxes_xyxy, atol=1e-3)
        np.testing.assert_allclose(alone.confidence, found.confidence, atol=1e-5)


def test_results_lie_in_the_image_by_falling_confidence(
    detector: Any, images: list[np.ndarray]
) -> None:
    for image, found in zip(images, detector.detect(images, confidence=0.2), strict=True):
        assert found.boxes_xyxy.dtype == np.float32
        assert found.class_index.dtype == np.int64
        assert found.names == detector.names
        assert (np.diff(found.confidence) <= 0).all()
        assert found.boxes_xyxy.min() >= 0
        assert (found.boxes_xyxy[:, 2] <= image.shape[1]).all()
        assert (found.boxes_xyxy[:, 3] <= image.shape[0]).all()


def test_no_image_no_result(detector: Any) -> None:
    assert detector.detect([]) == []


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint16),
        np.zeros((8, 8), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((0, 8), np.uint8),
    ],
    ids=["16-bit", "float", "colour", "empty"],
)
def test_other_images_are_refused(detector: Any, image: Any) -> None:
    with pytest.raises(ValueError, match=r"wanted a uint8 \(H, W\) image"):
        detector.detect([image])


def test_loading_leaves_the_callers_network_alone(network: Any, weights: Path) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    load_detector(weights).detect([np.zeros((32, 32), np.uint8)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_yolov5_loads_too(
    tmp_path: Path,
    images: list[np.ndarray],
    meta_of: Callable[..., Any],
    untrained: Callable[..., Any],
) -> None:
    other = untrained("yolov5nu")
    path = tmp_path / "five.safetensors"
    save_safetensors(other, meta_of(other, "yolov5nu"), path)
    detector = load_detector(path)
    assert detector.imgsz == 96
    assert len(detector.detect(images, confidence=0.3)[0]) > 0


def test_unknown_backend(network: Any, tmp_path: Path, meta_of: Callable[..., Any]) -> None:
    path = tmp_path / "other.safetensors"
    save_safetensors(network, meta_of(network, backend="other"), path)
    with pytest.raises(WeightsError, match="backend 'other'; known: ultralytics, fasterrcnn"):
        load_detector(path)


@pytest.mark.parametrize("path", ["none.safetensors", "none.pt"])
def test_missing_file(tmp_path: Path, path: str) -> None:
    with pytest.raises(WeightsError, match="no such weights file"):
        load_detector(tmp_path / path, trust=True)


@pytest.mark.parametrize(
    ("device", "message"),
    [("gpu", "not a device; allowed"), ("0,1", "one device"), ("cuda:99", "no such CUDA device")],
)
def test_bad_device(weights: Path, device: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_detector(weights, device=device)
