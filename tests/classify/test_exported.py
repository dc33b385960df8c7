"""Exported classifiers around a session; the gradients trunk as ONNX."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spineline.classify.export import ExportNetwork, write_onnx
from spineline.classify.exported import ExportedClassifier
from spineline.classify.model import Classifier
from spineline.classify.network.build import build_network
from spineline.classify.network.layers import NetworkConfig
from spineline.datasets.common.errors import WeightsError
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.networks.runtimes import open_session

CROP = CropSpec(size=32)


def classifier(head: Any, model: str = "gradients") -> Classifier:
    """A network with random weights."""
    config = NetworkConfig(model, head, 8, 0.1, 1, CROP, components=6, members=2)
    network = build_network(config, seed=1).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for tensor in (network.trunk.mean, network.trunk.weight):
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.05)  # type: ignore[operator]
    return Classifier(network, torch.device("cpu"))


def crops(count: int) -> np.ndarray:
    """Random ones, the first three without a gradient at all, or in places."""
    found = np.random.default_rng(0).integers(0, 256, (count, 32, 32), dtype=np.uint8)
    found[:1], found[1:2], found[2:3, :16] = 0, 255, 7
    return found


@pytest.mark.parametrize("head", ["seven", "binary", "both"])
@pytest.mark.parametrize("count", [0, 1, 300], ids=["none", "one", "more than a batch"])
def test_grades_are_those_of_the_original(head: str, count: int) -> None:
    original = classifier(head)
    network = ExportNetwork(original.network)

    def session(images: np.ndarray) -> list[np.ndarray]:
        assert len(images) <= 256
        with torch.inference_mode():
            return [output.numpy() for output in network(torch.from_numpy(images))]

    exported = ExportedClassifier(session, original.head, original.crop)
    exported.check("here")
    wanted, found = original.grade(crops(count)), exported.grade(crops(count))
    for mine, other in ((found.seven, wanted.seven), (found.binary, wanted.binary)):
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            assert mine.shape == other.shape
            np.testing.assert_allclose(mine, other, atol=1e-5)  # other batches, other last digits


def test_a_crop_without_gradient_is_graded_by_onnx_too(tmp_path: Path) -> None:
    """ONNX computes the angle of a gradient by a division, which was 0 / 0 where there is none."""
    pytest.importorskip("onnxruntime")
    original = classifier("both")
    path = tmp_path / "classifier.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_onnx(original.network, path)
    session = open_session([path.read_bytes()], "onnx", "here")
    found = ExportedClassifier(session, "both", CROP).grade(crops(5))
    wanted = original.grade(crops(5))
    assert found.seven is not None
    np.testing.assert_allclose(found.seven, wanted.seven, atol=1e-5)
    np.testing.assert_allclose(found.binary, wanted.binary, atol=1e-5)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([np.zeros((2, 7), np.float32)], r"shapes \[\(2, 7\)\], wanted \[\(2, 7\), \(2,\)\]"),
        ([np.full((2, 7), np.nan, np.float32), np.zeros(2, np.float32)], "not finite"),
        (None, "x: fails; export it again"),
    ],
    ids=["outputs", "nan", "fails"],
)
def test_it_is_tried_before_it_is_used(outputs: Any, message: str) -> None:
    def session(images: np.ndarray) -> list[np.ndarray]:
        if outputs is None:
            raise RuntimeError("x: fails")
        return outputs

    with pytest.raises(WeightsError, match=message):
        ExportedClassifier(session, "both", CROP).check("here")


def test_crops_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wanted \(N, 32, 32\) uint8 crops"):
        ExportedClassifier(lambda a: [], "both", CROP).grade(np.zeros((2, 16, 16), np.uint8))
