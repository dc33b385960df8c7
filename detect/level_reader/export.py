"""A level reader as ONNX: (1, 1, rows, columns) in, logits (1, 13, ranks) out."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch

from spineline.datasets.labels import LEVELS
from spineline.datasets.networks.exporting import random_input, to_graph, to_onnx
from spineline.detect.level_reader.model import TorchLevelReader, load_level_reader


def level_reader_graph(weights: Path) -> bytes:
    """Build the graph of a weights file's network; see [spineline.datasets.networks.graphs][].

    Raises:
        ConfigError: the onnx package is not installed.
        WeightsError: the weights cannot be used.
    """
    reader = load_level_reader(weights)
    content = level_reader_to_onnx(reader, fold=False)
    strip = _example(reader)[:, :, reader.strip.rank_px :]
    return to_graph(reader.network, content, weights, str, [random_input(*strip.shape)])


def level_reader_to_onnx(reader: TorchLevelReader, *, fold: bool = True) -> bytes:
    """Export the network as ONNX, for any number of ranks.

    Args:
        reader: the network with its weights.
        fold: as in [spineline.datasets.networks.exporting.to_onnx][].

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
        fold=fold,
    )


def _example(reader: TorchLevelReader) -> torch.Tensor:
    strip = reader.strip
    ranks = strip.above + len(LEVELS) + strip.below
    return torch.zeros(1, 1, ranks * strip.rank_px, 2 * strip.half_width * strip.rank_px)
