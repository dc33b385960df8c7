"""Networks, their weights files and grading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spineline.classify import Classifier, Grades, load_classifier
from spineline.classify.network.build import build_network
from spineline.classify.network.layers import NetworkConfig
from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.crops.spec import CropSpec


def grey_crops(count: int, size: int = 32) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size), dtype=np.uint8)


def test_grades_are_probabilities(weights: Path) -> None:
    classifier = load_classifier(str(weights))
    assert isinstance(classifier, Classifier)
    assert (classifier.head, classifier.crop) == ("both", CropSpec(32, 1.3, "spine"))
    grades = classifier.grade(grey_crops(5))
    assert isinstance(grades, Grades)
    assert grades.seven is not None
    assert grades.binary is not None
    assert (grades.seven.shape, grades.seven.dtype) == ((5, 7), np.float32)
    assert (grades.binary.shape, grades.binary.dtype) == ((5,), np.float32)
    np.testing.assert_allclose(grades.seven.sum(axis=1), 1, rtol=1e-5)


def test_grades_are_the_networks_in_evaluation_mode(
    network_config: NetworkConfig, weights: Path
) -> None:
    crops = grey_crops(3)
    network = build_network(network_config, seed=7).eval()
    with torch.no_grad():
        seven, binary = network(torch.from_numpy(crops).unsqueeze(1) / 255)
    grades = load_classifier(weights).grade(crops)
    assert grades.seven is not None
    assert grades.binary is not None
    np.testing.assert_allclose(grades.seven, seven.softmax(1).numpy(), rtol=1e-4)
    np.testing.assert_allclose(grades.binary, binary.softmax(1)[:, 1].numpy(), rtol=1e-4)


def test_kinds_rule_out_the_other_kinds_classes(weights: Path) -> None:
    classifier, crops = load_classifier(weights), grey_crops(3)
    free, known = classifier.grade(crops), classifier.grade(crops, ("disc", "vertebra", None))
    assert free.seven is not None
    assert known.seven is not None
    np.testing.assert_array_equal(known.seven[0, :2], 0)
    np.testing.assert_array_equal(known.seven[1, 2:], 0)
    np.testing.assert_allclose(
        known.seven[0, 2:], free.seven[0, 2:] / free.seven[0, 2:].sum(), 1e-5
    )
    np.testing.assert_allclose(
        known.seven[1, :2], free.seven[1, :2] / free.seven[1, :2].sum(), 1e-5
    )
    np.testing.assert_allclose(known.seven[2], free.seven[2])
    assert free.binary is not None
    assert known.binary is not None
    assert known.binary[1] == 0 < free.binary[1]
    np.testing.assert_array_equal(known.binary[[0, 2]], free.binary[[0, 2]])


def test_the_batch_size_does_not_matter(weights: Path) -> None:
    classifier, crops = load_classifier(weights), grey_crops(7)
    whole, parts = classifier.grade(crops), classifier.grade(crops, batch=2)
    np.testing.assert_allclose(whole.seven, parts.seven, rtol=1e-4, atol=1e-6)


def test_no_crops_give_no_grades(weights: Path) -> None:
    grades = load_classifier(weights).grade(grey_crops(0), ())
    assert grades.seven is not None
    assert grades.binary is not None
    assert (grades.seven.shape, grades.binary.shape) == ((0, 7), (0,))


@pytest.mark.parametrize(
    ("crops", "kinds", "message"),
    [
        (grey_crops(2, 16), None, r"wanted \(N, 32, 32\) uint8"),
        (grey_crops(2).astype(np.float32), None, "float32"),
        (grey_crops(2), ("disc",), "2 crops but 1 kinds"),
    ],
)
def test_wrong_crops_are_refused(weights: Path, crops: Any, kinds: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_classifier(weights).grade(crops, kinds)


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:977", "977", ""])
def test_unknown_devices_are_refused(weights: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="device="):
        load_classifier(weights, device=name)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    from spineline.weights import read_metadata, resolve

    bundled = resolve("lumbar-gradients", task="classify").path
    tensors = load_file(bundled)
    name = sorted(name for name, tensor in tensors.items() if tensor.is_floating_point())[0]
    tensors[name].view(-1)[0] = float("nan")
    save_file(
        tensors,
        tmp_path / "w.safetensors",
        metadata={"spineline": json.dumps(read_metadata(bundled))},
    )
    with pytest.raises(WeightsError, match=f"{name} holds numbers that are not finite"):
        load_classifier(tmp_path / "w.safetensors")
