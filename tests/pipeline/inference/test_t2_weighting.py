"""T2 or T1, from the pixels: the network against torch, drawn spines of both weightings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from spineline.datasets.images import window_to_uint8
from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.datasets.phantoms.phantom import draw_phantom, record_of, sagittal_values
from spineline.pipeline.inference import t2_weighting
from spineline.pipeline.inference.candidates import DecodedStructure
from spineline.pipeline.inference.t2_weighting import (
    LAYERS,
    SEEN,
    WEIGHTS,
    relative_to_bodies,
    run,
    t2_log_odds,
)
from spineline.weights import resolve


@pytest.mark.parametrize("rows", [88, 37])
def test_numpy_runs_the_network_as_torch_does(rows: int) -> None:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(i, o, 3, padding=1) for i, o in ((1, 8), (8, 16), (16, 32))]
    last = nn.Linear(320, 1)
    given = torch.rand(rows, 40)
    maps = given[None, None]
    for n, convolution in enumerate(convolutions):
        maps = torch.relu(convolution(nn.functional.avg_pool2d(maps, 2) if n else maps))
    wanted = last(maps.mean(dim=2).flatten(1)).item()
    modules = dict(zip((*LAYERS, "last"), (*convolutions, last), strict=True))
    tensors = {
        f"{name}.{kind}": getattr(module, kind).detach().numpy()
        for name, module in modules.items()
        for kind in ("weight", "bias")
    }
    assert run(tensors, given.numpy()) == pytest.approx(wanted, abs=1e-5)


def test_input_is_the_root_of_multiples_of_the_bodies() -> None:
    strip = np.zeros((16, 64), np.float32)
    strip[:, 27:37], strip[:, 40:44] = 0.23, 0.46
    given = relative_to_bodies(strip)
    assert given.shape == (16, SEEN.stop - SEEN.start)
    assert given[0, 27 - SEEN.start] == pytest.approx(np.sqrt(0.23 / 0.25))
    assert given[0, 40 - SEEN.start] == pytest.approx(np.sqrt(0.46 / 0.25))
    assert relative_to_bodies(strip * 2).max() == pytest.approx(2 * 0.5**0.5, abs=0.1)


def chain_and_images(seed: int) -> tuple[list[DecodedStructure], np.ndarray, np.ndarray]:
    drawn = draw_phantom(np.random.default_rng(seed), (384, 384))
    points = {s.level: s for s in record_of(drawn, "x").structures}
    chain = [
        DecodedStructure(
            level, kind_of_level(level), points[level].point_xy, points[level].box_xyxy, 0.9
        )
        for level in LEVELS
    ]
    t2, t1 = (window_to_uint8(sagittal_values(drawn, contrast=c)) for c in ("t2", "t1"))
    return chain, t2, t1


@pytest.mark.parametrize("seed", range(1000, 1004))
def test_drawn_spines_of_both_weightings(seed: int) -> None:
    chain, t2, t1 = chain_and_images(seed)
    bright, dark = t2_log_odds(t2, chain), t2_log_odds(t1, chain)
    assert bright is not None
    assert dark is not None
    assert bright > 2 > -2 > dark


def test_a_short_chain_says_nothing() -> None:
    chain, t2, _ = chain_and_images(1000)
    assert t2_log_odds(t2, chain[:3]) is None
    assert t2_log_odds(t2, chain[:4]) is not None


def test_the_file_is_read_as_safetensors_reads_it() -> None:
    own, wanted = t2_weighting._tensors(), load_file(resolve(WEIGHTS, task="weighting").path)
    assert own.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(own[name], values, strict=True)
