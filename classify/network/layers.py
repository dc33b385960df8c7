"""The layers of a classifier: trunk, hidden layers and heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from spineline.classify.recipe import Head
from spineline.classify.trunks.gradients import GradientTrunk
from spineline.classify.trunks.pretrained import Origin
from spineline.datasets.crops.grey_range import GreyRange
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import BINARY_NAMES, LEVELS, SEVEN_NAMES

MIN_TEMPERATURE = 0.05
"""Lowest temperature of a head; the highest is its inverse."""

Outputs = tuple[Tensor | None, Tensor | None]

CROPS_PER_PASS = 16
"""Crops per forward pass without gradients: maps of many more do not fit a CPU's caches."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Everything needed to build a network and to prepare its input.

    Attributes:
        model: timm architecture, or ``gradients`` (see [spineline.classify.trunks.gradients][]).
        head: ``seven``, ``binary`` or ``both``.
        hidden: units of the hidden layer, 0 for none.
        dropout: after the hidden layer.
        channels: of the input; a grey crop is repeated.
        crop: how crops are cut.
        mean, std: normalisation of the input in 0 … 1.
        components: number of features of ``gradients`` or of the kept blocks; 0 for other trunks.
        members: number of hidden layers with heads in parallel on one trunk; their logits are
            averaged.
        feature_dropout: dropout of the trunk's features, drawn for each member.
        temperature_seven, temperature_binary: divide the logits of the heads, so that probabilities
            are calibrated; the order of the classes is unchanged.
        greys: grey range of the training images; None if it was not stored.
        level_input: whether the level of a crop is added to the trunk's features, as one number per
            level.
        keep_blocks: number of blocks to keep of a network with numbered blocks; 0 for all.
        pool: cells along each side to which the last kept block is averaged.
        origin: of the trunk's initial weights; None if they were random.
    """

    model: str
    head: Head
    hidden: int
    dropout: float
    channels: int
    crop: CropSpec
    mean: float = 0.0
    std: float = 1.0
    components: int = 0
    members: int = 1
    feature_dropout: float = 0.0
    temperature_seven: float = 1.0
    temperature_binary: float = 1.0
    greys: GreyRange | None = None
    level_input: bool = False
    keep_blocks: int = 0
    pool: int = 1
    origin: Origin | None = None

    def outputs(self) -> dict[str, tuple[str, ...]]:
        """Class names of each output, in order."""
        names: dict[str, tuple[str, ...]] = {}
        if self.head != "binary":
            names["seven"] = SEVEN_NAMES
        if self.head != "seven":
            names["binary"] = BINARY_NAMES
        return names


def _hidden(config: NetworkConfig, features: int) -> nn.Sequential:
    """The hidden layer, if any, and its dropout."""
    layer = [nn.Linear(features, config.hidden), nn.ReLU()] if config.hidden else []
    return nn.Sequential(*layer, nn.Dropout(config.dropout))


def _heads(config: NetworkConfig, features: int) -> nn.ModuleDict:
    width = config.hidden or features
    return nn.ModuleDict(
        {name: nn.Linear(width, len(classes)) for name, classes in config.outputs().items()}
    )


class ClassifierMember(nn.Module):
    """One more hidden layer with heads beside the network's own."""

    def __init__(self, config: NetworkConfig, features: int) -> None:
        super().__init__()
        self.hidden = _hidden(config, features)
        self.heads = _heads(config, features)


def _tempered(logits: Sequence[Tensor | None], temperature: float) -> Tensor | None:
    """Mean logits of the members divided by the temperature; None without that head."""
    found = [each for each in logits if each is not None]
    if not found:
        return None
    mean = found[0] if len(found) == 1 else torch.stack(found).mean(dim=0)
    return mean if temperature == 1 else mean / temperature


class Network(nn.Module):
    """Trunk → hidden layer → heads. Input (N, 1, S, S) in 0 … 1, output logits per head.

    With ``level_input``, a second input holds the index of each crop's level among the eleven, -1
    if unknown. Without that input, all levels are unknown.

    With several members, each has its own hidden layer and heads on the trunk's features.
    """

    mean: Tensor
    std: Tensor
    levels: Tensor

    def __init__(self, config: NetworkConfig, trunk: nn.Module, features: int) -> None:
        super().__init__()
        features += len(LEVELS) if config.level_input else 0
        self.config = config
        self.trunk = trunk
        self.thin = nn.Dropout(config.feature_dropout)
        self.hidden = _hidden(config, features)
        self.heads = _heads(config, features)
        self.others = nn.ModuleList(
            ClassifierMember(config, features) for _ in range(config.members - 1)
        )
        self.register_buffer("mean", torch.tensor(config.mean), persistent=False)
        self.register_buffer("std", torch.tensor(config.std), persistent=False)
        self.register_buffer("levels", torch.arange(len(LEVELS)).float(), persistent=False)

    def forward(self, images: Tensor, levels: Tensor | None = None) -> Outputs:
        """Mean logits (N, 7) and (N, 2), divided by the temperature; None without the head."""
        return self.outputs_of_features(self.features(images), levels)

    def outputs_of_features(self, features: Tensor, levels: Tensor | None = None) -> Outputs:
        """The output of [forward][] for features (N, F) of the trunk."""
        members = self.logits_of_features(features, levels)
        return (
            _tempered([seven for seven, _ in members], self.config.temperature_seven),
            _tempered([binary for _, binary in members], self.config.temperature_binary),
        )

    def member_logits(self, images: Tensor, levels: Tensor | None = None) -> list[Outputs]:
        """Logits of each member, in the form of [forward][]."""
        return self.logits_of_features(self.features(images), levels)

    def features(self, images: Tensor) -> Tensor:
        """(N, F): the trunk's features of images (N, 1, S, S) in 0 … 1."""
        features: Tensor = self.trunk(self.normalised(images))
        return features

    def normalised(self, images: Tensor) -> Tensor:
        """(N, C, S, S) normalised input of the trunk, from images (N, 1, S, S) in 0 … 1."""
        images = (images - self.mean) / self.std
        channels = self.config.channels
        return images.expand(-1, channels, -1, -1) if channels > 1 else images

    def with_levels(self, features: Tensor, levels: Tensor | None) -> Tensor:
        """Features (N, F) of the trunk with the levels (N,) appended as one-hot rows."""
        if not self.config.level_input:
            return features
        if levels is None:
            levels = torch.full_like(features[:, 0], -1.0)
        return torch.cat([features, (levels[:, None] == self.levels).to(features.dtype)], dim=1)

    def logits_of_features(self, features: Tensor, levels: Tensor | None = None) -> list[Outputs]:
        """Logits of each member for features (N, F) of the trunk."""
        found: list[Outputs] = []
        for member in (self, *self.others):
            hidden = member.hidden(self.with_levels(self.thin(features), levels))
            seven = member.heads["seven"](hidden) if "seven" in member.heads else None
            binary = member.heads["binary"](hidden) if "binary" in member.heads else None
            found.append((seven, binary))
        return found


class GradientNetworks(nn.Module):
    """Networks on the same histograms of gradient orientations, which are computed once.

    Args:
        networks: with equal crop, normalisation and trunk, as
            [spineline.classify.exported.groups_alike][] groups them.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    @property
    def configs(self) -> list[NetworkConfig]:
        """The configuration of each network."""
        return [network.config for network in self._members()]

    def forward(self, images: Tensor, levels: Tensor | None = None) -> tuple[Outputs, ...]:
        """The output of each network for images (N, 1, S, S) in 0 … 1, see [Network.forward][]."""
        members = self._members()
        measures = _histograms(members[0]).measure(members[0].normalised(images).float())
        return tuple(
            member.outputs_of_features(_histograms(member).project(measures), levels)
            for member in members
        )

    def _members(self) -> list[Network]:
        return [network for network in self.networks if isinstance(network, Network)]


def _histograms(network: Network) -> GradientTrunk:
    return cast(GradientTrunk, network.trunk)
