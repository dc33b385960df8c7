"""An exported level reader around a session: what it gives is what the torch one gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spineline.datasets.common.errors import WeightsError
from spineline.datasets.straighten import StripSpec
from spineline.detect.level_reader.exported import ExportedLevelReader
from spineline.detect.level_reader.model import (
    LevelReaderConfig,
    TorchLevelReader,
    build_level_reader,
)


def test_it_reads_what_the_original_reads() -> None:
    config = LevelReaderConfig(width=2, hidden=4)
    network = build_level_reader(config, seed=3).eval()

    def session(strips: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [network(torch.from_numpy(strips)).numpy()]

    curve = np.stack([60 + np.sin(np.arange(25.0)), 5 + 7.0 * np.arange(25)], axis=1)
    image = np.random.default_rng(1).integers(0, 256, (200, 120), dtype=np.uint8)
    wanted = TorchLevelReader(network, config).read(image, curve)
    found = ExportedLevelReader(session, config.strip).read(image, curve)
    assert found.shape == (25, 13)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)


def test_it_is_tried_before_it_is_used() -> None:
    def fits(strips: np.ndarray) -> list[np.ndarray]:
        return [np.zeros((1, 13, strips.shape[2] // 8), np.float32)]

    def broken(strips: np.ndarray) -> list[np.ndarray]:
        raise RuntimeError("x: fails")

    ExportedLevelReader(fits, StripSpec()).check("here")
    with pytest.raises(WeightsError, match=r"here: gives an output of shape \(1, 12, 2\)"):
        ExportedLevelReader(lambda a: [np.zeros((1, 12, 2), np.float32)], StripSpec()).check("here")
    with pytest.raises(WeightsError, match="x: fails; export it again"):
        ExportedLevelReader(broken, StripSpec()).check("here")
