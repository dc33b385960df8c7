"""The network that reads levels from the straightened spine.

A detector names a vertebra by its appearance and place, and may name a whole spine one vertebra too
high or too low. This network sees the strip along a chain of structures
(`spineline.datasets.straighten`), from well above T12-L1 to well below L5-S1. It classifies each
rank as one of the levels. Ranks above the topmost and below the lowest level are classes of their
own. The network is small: about 150,000 weights.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import WeightsError
from spineline.datasets.labels import LEVELS
from spineline.datasets.networks.tensors import pack_described, read_described
from spineline.datasets.straighten import STRIP_BOUNDS, StripSpec, straighten

RANK_NAMES: tuple[str, ...] = ("above", *LEVELS, "below")
"""The classes of a rank."""

_MODEL = "rungs"
_STAGES = 3  # each halves the strip: rank_px is a multiple of 2 ** _STAGES
_BOUNDS = {"width": (1, 256), "hidden": (1, 1024), **STRIP_BOUNDS}


@dataclass(frozen=True, slots=True)
class LevelReaderConfig:
    """The values needed to build the network and its input.

    Attributes:
        width: channels of the first stage; the others have 2, 3 and 4 times as many.
        hidden: channels of the layers along the spine.
        dropout: dropout rate of channels in training.
        strip: size and range of the strip that it reads.
    """

    width: int = 16
    hidden: int = 64
    dropout: float = 0.3
    strip: StripSpec = field(default_factory=StripSpec)

    def to_json(self) -> str:
        """The description as JSON, for the metadata of a weights file."""
        values = {"task": "name", "model": _MODEL, "names": list(RANK_NAMES), **asdict(self)}
        return json.dumps(values)


class LevelReaderNetwork(nn.Module):
    """Strip (N, 1, K * rank_px, W) in 0 … 1 → logits (N, 13, K) of `RANK_NAMES`."""

    def __init__(self, config: LevelReaderConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden, dropout = config.width, config.hidden, config.dropout
        columns = 2 * config.strip.half_width * config.strip.rank_px // 2**_STAGES
        self.rows = config.strip.rank_px // 2**_STAGES
        layers: list[nn.Module] = []
        for stage in range(_STAGES):
            layers += _block(stage * width or 1, (stage + 1) * width, stride=2)
            last = stage == _STAGES - 1
            layers += _block((stage + 1) * width, (stage + 1 + last) * width, stride=1)
        self.body = nn.Sequential(*layers)
        self.across = nn.Sequential(
            nn.Dropout(dropout),
            nn.Conv2d((_STAGES + 1) * width, hidden, (self.rows, columns), stride=(self.rows, 1)),
            nn.ReLU(),
        )
        self.along = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(dropout),
                nn.Conv1d(hidden, hidden, 3, padding=reach, dilation=reach),
                nn.ReLU(),
            )
            for reach in (1, 2, 4)
        )
        self.head = nn.Conv1d(hidden, len(RANK_NAMES), 1)

    def forward(self, strips: Tensor) -> Tensor:
        """Return logits by rank."""
        features = self.across(self.body((strips - 0.25) * 4))[..., 0]
        for layer in self.along:
            features = features + layer(features)
        logits: Tensor = self.head(features)
        return logits


@dataclass(frozen=True, slots=True)
class TorchLevelReader:
    """The network with its weights loaded; the pipeline's level reader."""

    network: LevelReaderNetwork
    config: LevelReaderConfig
    device: str = "cpu"

    @property
    def strip(self) -> StripSpec:
        """Size and range of the strip that the network reads."""
        return self.config.strip

    def read(
        self, image: npt.NDArray[np.uint8], curve_xy: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Return natural-log probabilities (K, 13) of `RANK_NAMES` for each rank of a curve.

        Args:
            image: (H, W) grey, as detectors see it.
            curve_xy: (K, 2) one point per rank in pixels, as from `prolonged`.
        """
        strip = torch.from_numpy(straighten(image, curve_xy, self.strip))
        with torch.inference_mode():
            logits = self.network(strip[None, None].to(self.device))
        shares = torch.log_softmax(logits[0].T.double(), dim=1)
        return np.asarray(shares.cpu().numpy(), dtype=np.float64)


def build_level_reader(config: LevelReaderConfig, *, seed: int = 0) -> LevelReaderNetwork:
    """Build a network with fresh weights from the seed; global generators are left unchanged."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LevelReaderNetwork(config)


def level_reader_bytes(network: LevelReaderNetwork, config: LevelReaderConfig) -> bytes:
    """Return the content of a weights file: safetensors, with floating point stored as fp16."""
    return pack_described(network.state_dict(), config.to_json(), half=True)


def load_level_reader(weights: Path, *, device: str = "cpu") -> TorchLevelReader:
    """Load a level reader from a weights file.

    Raises:
        WeightsError: the file is missing, damaged or not a level reader.
    """
    found, tensors = read_described(weights)
    tensors = {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}
    config = _config(found, weights)
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise WeightsError(f"{weights}: {broken[0]:.100} holds numbers that are not finite")
    try:
        with torch.device("meta"):  # a description may claim more memory than the file has weights
            network = LevelReaderNetwork(config)
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        message = " ".join(str(error).split())[:1000]
        raise WeightsError(f"{weights}: weights do not fit the network ({message})") from error
    place = device_name(device)
    return TorchLevelReader(network.eval().to(place), config, place)


def _block(inputs: int, outputs: int, *, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def _config(found: Any, weights: Path) -> LevelReaderConfig:
    """Check and return the network's description in a file."""
    try:
        if (found["task"], found["model"], found["names"]) != ("name", _MODEL, list(RANK_NAMES)):
            raise ValueError("another task, model or classes")
        strip = StripSpec(**{spec.name: found["strip"][spec.name] for spec in fields(StripSpec)})
        config = LevelReaderConfig(found["width"], found["hidden"], float(found["dropout"]), strip)
        _check({**asdict(config), **asdict(strip)})
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        msg = (
            f"{weights}: is not a level reader's weights file ({type(error).__name__}: "
            f"{error!s:.300})"
        )
        raise WeightsError(msg) from error
    return config


def _check(values: dict[str, Any]) -> None:
    for name, (low, high) in _BOUNDS.items():
        if type(values[name]) is not int or not low <= values[name] <= high:
            raise ValueError(f"{name}={values[name]!r}, wanted {low} … {high}")
    if values["rank_px"] % 2**_STAGES:
        raise ValueError(f"rank_px={values['rank_px']}, wanted a multiple of {2**_STAGES}")
    if not 0 <= values["dropout"] < 1:
        raise ValueError(f"dropout={values['dropout']}, wanted 0 … 1")
