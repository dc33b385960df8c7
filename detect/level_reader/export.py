"""A level reader as ONNX: (1, 1, rows, columns) in, logits (1, 13, ranks) out."""

from __future__ import annotations

from copy import deepcopy

import torch

from spineline.datasets.labels import LEVELS
from spineline.datasets.networks.exporting import to_onnx
from spineline.detect.level_reader.model import TorchLevelReader


def level_reader_to_onnx(reader: TorchLevelReader) -> bytes:
    """The network as ONNX, for any number of ranks.

    Raises:
        ConfigError: the onnx package is not installed.
    """
    return to_onnx(
        deepcopy(reader.network).cpu().eval(),
        _example(reader),
        inputs=["strips"],
        outputs=["logits"],
        axes={"strips": {2: "rows"}, "logits": {2: "ranks"}},
        description=None,
    )


def _example(reader: TorchLevelReader) -> torch.Tensor:
    strip = reader.strip
    ranks = strip.above + len(LEVELS) + strip.below
    return torch.zeros(1, 1, ranks * strip.rank_px, 2 * strip.half_width * strip.rank_px)
