"""Whether a sagittal image of a lumbar spine is T2-weighted, judged from its pixels.

The spine is straightened along a chain of structures ([spineline.datasets.straighten][]), and a
small convolutional network reads the strip. It was trained on T2 images, and on the same images
with fluid, discs and fat as bright as in T1 (``benchmarks/weighting_network.py``). Three
convolutions see the canal beside bodies, discs, muscles and fat; their means over the rows and the
columns' positions decide. NumPy runs it: 6,400 weights need neither torch nor another runtime.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence

import numpy as np

from spineline.datasets.common.arrays import Float32Array, PixelArray
from spineline.datasets.straighten import StripSpec, prolonged, straighten
from spineline.pipeline.inference.candidates import DecodedStructure, ranks_by_distance
from spineline.weights import resolve

WEIGHTS = "lumbar-weighting"
"""Registry name of the network's file."""

STRIP = StripSpec(rank_px=8, half_width=4)
"""Size of the strip that the network reads, from the first to the last structure of a chain."""

SEEN = slice(20, 60)
"""Columns of a strip that the network sees: from before the bodies to the spinous processes."""

LAYERS = ("first", "second", "third")
"""Names of the convolutions; their tensors are ``first.weight``, ``first.bias`` and so on."""

_LEAST = 4  # structures of a chain
_BODY = slice(27, 37)  # columns of a strip in the middle of the bodies
_BRIGHTEST = 4.0  # multiples of the bodies' brightness
_DARK = 0.02  # keeps ratios of what is black from saying much


def t2_log_odds(image: PixelArray, chain: Sequence[DecodedStructure]) -> float | None:
    """Log odds that an image is T2-weighted and not T1-weighted; above 0 it is rather T2.

    Args:
        image: uint8 (H, W), upright.
        chain: structures of the spine, top to bottom.

    Returns:
        The log odds, or None if there are fewer than four structures.

    Raises:
        WeightsError: the network's file was altered.
    """
    if len(chain) < _LEAST:
        return None
    ranks = ranks_by_distance(chain)
    curve = prolonged([s.point_xy for s in chain], ranks, ranks[0], ranks[-1])
    return run(_tensors(), relative_to_bodies(straighten(image, curve, STRIP)))


def relative_to_bodies(strip: Float32Array) -> Float32Array:
    """The input of the network: roots of a strip's grey values over the bodies' median.

    Args:
        strip: (R, 64) in 0 … 1, of `STRIP`.

    Returns:
        float32 (R, 40) in 0 … 2, the columns `SEEN`.
    """
    body = np.float32(np.median(strip[:, _BODY]) + _DARK)
    return np.sqrt(np.clip(strip[:, SEEN] / body, 0, _BRIGHTEST)).astype(np.float32)


def run(tensors: Mapping[str, Float32Array], given: Float32Array) -> float:
    """Run the network on one input.

    Args:
        tensors: its weights, by the names of torch's state.
        given: (R, 40), see [relative_to_bodies][]; R at least 4.
    """
    maps = given[None]
    for n, layer in enumerate(LAYERS):
        maps = _halved(maps) if n else maps
        maps = _convolved(maps, tensors[f"{layer}.weight"], tensors[f"{layer}.bias"])
    features = maps.mean(axis=1).ravel()
    return float(tensors["last.weight"][0] @ features + tensors["last.bias"][0])


@functools.cache
def _tensors() -> dict[str, Float32Array]:
    """The network's weights, by name; read here since exported folders run without safetensors."""
    content = resolve(WEIGHTS, task="weighting").path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:start])
    entries.pop("__metadata__")
    found: dict[str, Float32Array] = {}
    for name, entry in entries.items():
        first, end = entry["data_offsets"]
        values = np.frombuffer(content[start + first : start + end], np.float32)
        found[name] = values.reshape(entry["shape"])
    return found


def _convolved(maps: Float32Array, kernels: Float32Array, bias: Float32Array) -> Float32Array:
    """3 x 3 convolutions of (C, H, W) with zeros around it, and their positive part (O, H, W).

    Each row is a product of its own: BLAS would give one large product to several threads, which
    then wait actively for more.
    """
    count, height, width = maps.shape
    around = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(1, 2))
    rows = windows.transpose(1, 0, 3, 4, 2).reshape(height, count * 9, width)
    found = kernels.reshape(len(kernels), -1) @ rows + bias[:, None]
    return np.maximum(found, 0).transpose(1, 0, 2)


def _halved(maps: Float32Array) -> Float32Array:
    """Means of 2 x 2 pixels; the last of an odd number of rows is dropped."""
    count, rows, columns = maps.shape
    even = maps[:, : rows // 2 * 2]
    return even.reshape(count, rows // 2, 2, columns // 2, 2).mean(axis=(2, 4))
