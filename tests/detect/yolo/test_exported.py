"""An exported detector around a session: what it gives is what the torch one gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spineline.datasets.common.errors import WeightsError
from spineline.detect import load_detector
from spineline.detect.yolo.exported import ExportedDetector


def noise(*sizes_hw: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes_hw]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """An untrained network is as sure of one box as of the next: last digits decide on the order.

    With one thread they are the same in batches of any size.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def detector(weights: Path) -> Any:
    return load_detector(weights)


GREY = np.zeros((64, 64), np.uint8)


@pytest.fixture(scope="module")
def exported(detector: Any) -> ExportedDetector:
    def session(images: np.ndarray) -> list[np.ndarray]:
        assert images.dtype == np.float32
        with torch.inference_mode():
            return [detector.network(torch.from_numpy(images))[0].numpy()]

    return ExportedDetector(session, detector.names, detector.imgsz, detector.meta.channels)


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_a_detector_finds_what_the_original_finds(
    detector: Any, exported: ExportedDetector, batch: int
) -> None:
    images = [*noise((96, 96), (50, 120), (50, 120), (200, 77)), np.zeros((64, 64), np.uint8)]
    wanted = detector.detect(images, confidence=0.3, iou=0.8)
    found = exported.detect(images, confidence=0.3, iou=0.8, batch=batch)
    assert sum(map(len, wanted)) > 10
    for mine, other in zip(found, wanted, strict=True):
        assert mine.class_index.tolist() == other.class_index.tolist()
        np.testing.assert_allclose(mine.boxes_xyxy, other.boxes_xyxy, atol=1e-3)
        np.testing.assert_allclose(mine.confidence, other.confidence, atol=1e-5)


def test_images_of_another_kind_are_refused(exported: ExportedDetector) -> None:
    with pytest.raises(ValueError, match=r"wanted a uint8 \(H, W\) image"):
        exported.detect([np.zeros((8, 8), np.float32)])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("images", "limits", "error", "message"),
    [
        (GREY, {}, TypeError, r"wanted a list of uint8 .* found ndarray; one image is \[image\]"),
        ("a.png", {}, TypeError, "found str"),
        (["a.png"], {}, TypeError, "found str; read files with .*read_uint8_image"),
        ([GREY], {"confidence": 25}, ValueError, "confidence=25: out of range, allowed 0 … 1"),
        ([GREY], {"iou": -1}, ValueError, "iou=-1: out of range"),
    ],
    ids=["one image", "a path", "paths", "per cent", "iou"],
)
def test_arguments_that_would_find_nothing_are_refused(
    exported: ExportedDetector, images: Any, limits: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        exported.detect(images, **limits)


def broken(array: np.ndarray) -> list[np.ndarray]:
    raise RuntimeError("x: fails")


@pytest.mark.parametrize(
    ("session", "message"),
    [
        (lambda a: [np.zeros((1, 15, 21), np.float32)], None),
        (
            lambda a: [np.zeros((1, 14, 21), np.float32)],
            r"\(1, 14, 21\), wanted \(1, 15, any",
        ),
        (lambda a: [np.full((1, 15, 2), np.nan, np.float32)], "not finite"),
        (broken, "x: fails; export it again"),
    ],
    ids=["fits", "classes", "nan", "fails"],
)
def test_a_detector_is_tried_before_it_is_used(session: Any, message: str | None) -> None:
    detector = ExportedDetector(session, tuple("abcdefghijk"), 320, 3)
    if message is None:
        detector.check("here")
        return
    with pytest.raises(WeightsError, match=message):
        detector.check("here")
