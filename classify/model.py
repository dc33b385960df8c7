"""The classifier: trunk, hidden layers, heads, weights files and grading."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spineline.classify.combined import (
    Combination,
    CombinedClassifier,
    combination_from_json,
    equal_shares,
    has_head,
    heads_together,
)
from spineline.classify.grades import Grades
from spineline.classify.recipe import HEADS, MAX_BLOCKS, MAX_MEMBERS, MAX_POOL, Head
from spineline.classify.trunks.blocks import BlockTrunk
from spineline.classify.trunks.folding import fold_norms, multiply_pixels
from spineline.classify.trunks.gradients import GRADIENTS, GradientTrunk
from spineline.classify.trunks.padding import fix_padding
from spineline.classify.trunks.pretrained import Origin, load_trunk
from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import ConfigError, SpinelineError, WeightsError
from spineline.datasets.common.files import write_bytes
from spineline.datasets.common.settings import close_match
from spineline.datasets.crops.grey_range import GreyRange
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import BINARY_NAMES, LEVELS, SEVEN_NAMES, Kind
from spineline.datasets.metrics.kind_masks import allowed_codes
from spineline.datasets.networks.tensors import pack_described, read_described

MIN_TEMPERATURE = 0.05
"""Lowest temperature of a head; the highest is its inverse."""

Outputs = tuple[Tensor | None, Tensor | None]


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
        networks: with equal crop, normalisation and trunk; see [same_measures][].
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


def same_measures(one: NetworkConfig, other: NetworkConfig) -> bool:
    """Whether two networks use identical histograms of gradient orientations."""
    return one.model == GRADIENTS and all(
        getattr(one, name) == getattr(other, name) for name in ("model", "crop", "mean", "std")
    )


def build_network(
    config: NetworkConfig,
    *,
    seed: int = 0,
    pretrained: bool = False,
    trunk_state: Mapping[str, Tensor] | None = None,
) -> Network:
    """Build a network with fresh weights, without changing the global random generators.

    Args:
        config: what to build.
        seed: of the initial weights.
        pretrained: download timm's weights of the trunk.
        trunk_state: weights of the whole timm model, for three channels or those of ``config``.

    Raises:
        ConfigError: timm has no such model, or it does not accept crops of this size.
        SpinelineError: pretrained weights cannot be downloaded.
        WeightsError: ``trunk_state`` does not fit the model.
    """
    check_model_name(config.model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        trunk, features = _build_trunk(config, pretrained, trunk_state)
        return Network(config, trunk, features)


def check_model_name(name: str) -> None:
    """Refuse a name that is neither ``gradients`` nor one of timm's architectures.

    Raises:
        ConfigError: with a close match, if there is one.
    """
    if name == GRADIENTS:
        return
    import timm  # slow to import: only for names that need it

    if not timm.is_model(name) or ":" in name:
        known = [*timm.list_models(), GRADIENTS]
        hint = close_match(name, known)
        if "did you mean" not in hint:
            hint = f"; {len(known)} are known, such as resnet18, resnet50, vgg16_bn"
        raise ConfigError(f"model={name}: timm has no such model{hint}")


def _build_trunk(
    config: NetworkConfig, pretrained: bool, state: Mapping[str, Tensor] | None
) -> tuple[nn.Module, int]:
    """The trunk and its number of features."""
    if config.model == GRADIENTS:
        return _gradient_trunk(config, pretrained), config.components
    trunk, features = _whole_trunk(config, pretrained)
    if state is not None:
        where = config.origin.source if config.origin else "?"
        load_trunk(trunk, state, model=config.model, where=where)
    if not config.keep_blocks:
        return trunk, features
    kept = BlockTrunk(
        trunk,
        blocks=config.keep_blocks,
        pool=config.pool,
        size=config.crop.size,
        channels=config.channels,
        components=config.components,
        name=config.model,
    )
    return kept, config.components


def _whole_trunk(config: NetworkConfig, pretrained: bool) -> tuple[nn.Module, int]:
    """A timm model and its number of features; a fixed input size is set to that of crops."""
    problems: list[Exception] = []
    crops = torch.zeros((1, config.channels, config.crop.size, config.crop.size))
    for more in ({}, {"img_size": config.crop.size}):
        try:
            trunk = _create(config, more)
            features = fix_padding(trunk.eval(), crops)
        except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
            problems.append(error)
            continue
        if features.ndim == 2:
            if pretrained:
                trunk = _fetch(config, more)
                fix_padding(trunk.eval(), crops)
            return trunk.train(), int(features.shape[1])
        problems.append(ValueError(f"its features have shape {tuple(features.shape)}"))
    msg = (
        f"model={config.model}: does not take crops of {config.crop.size} pixels with "
        f"{config.channels} channels ({problems[0]}); choose another size= or model="
    )
    raise ConfigError(msg) from problems[0]


def _gradient_trunk(config: NetworkConfig, pretrained: bool) -> GradientTrunk:
    if config.channels != 1:
        msg = f"channels={config.channels}: model={GRADIENTS} uses grey crops; set channels=1"
        raise ConfigError(msg)
    if pretrained:
        raise ConfigError(f"download=true: model={GRADIENTS} has no pretrained weights to fetch")
    if config.keep_blocks:
        raise ConfigError(f"keep_blocks={config.keep_blocks}: model={GRADIENTS} has no blocks")
    return GradientTrunk(config.crop.size, config.components)


def _create(config: NetworkConfig, more: dict[str, int], *, pretrained: bool = False) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(
        config.model, pretrained=pretrained, num_classes=0, in_chans=config.channels, **more
    )
    return model


def _fetch(config: NetworkConfig, more: dict[str, int]) -> nn.Module:
    try:
        return _create(config, more, pretrained=True)
    except Exception as error:  # the download can raise errors of many kinds
        msg = (
            f"model={config.model}: pretrained weights cannot be fetched ({error}); "
            "leave download=true out, or give weights=FILE"
        )
        raise SpinelineError(msg) from error


def network_metadata(config: NetworkConfig) -> dict[str, Any]:
    """The metadata of a weights file, as plain values.

    Keys that only some networks need are left out for the others.
    """
    more = {
        "components": (config.components, 0),
        "members": (config.members, 1),
        "feature_dropout": (config.feature_dropout, 0.0),
        "temperature": (
            {"seven": config.temperature_seven, "binary": config.temperature_binary},
            {"seven": 1.0, "binary": 1.0},
        ),
        "greys": (None if config.greys is None else asdict(config.greys), None),
        "level_input": (config.level_input, False),
        "keep_blocks": (config.keep_blocks, 0),
        "pool": (config.pool, 1),
        "pretrained": (None if config.origin is None else asdict(config.origin), None),
    }
    return {
        "task": "classify",
        "model": config.model,
        "head": config.head,
        "hidden": config.hidden,
        "dropout": config.dropout,
        "crop": {
            "size": config.crop.size,
            "margin": config.crop.margin,
            "align": config.crop.align,
        },
        "mean": config.mean,
        "std": config.std,
        "channels": config.channels,
        "names": [name for classes in config.outputs().values() for name in classes],
        **{name: value for name, (value, usual) in more.items() if value != usual},
    }


def config_from_metadata(metadata: Any, where: str) -> NetworkConfig:
    """The inverse of [network_metadata][]; ``where`` is named in messages.

    Raises:
        WeightsError: not a classifier's metadata, or classes in an unexpected order.
    """
    if not isinstance(metadata, dict) or metadata.get("task") != "classify":
        task = metadata.get("task") if isinstance(metadata, dict) else None
        found = f"weights for task {task!r:.100}" if task else "no description of a classifier"
        raise WeightsError(f"{where}: holds {found}; wanted weights of spineline classify train")
    try:
        crop = metadata["crop"]
        temperature = metadata.get("temperature", {})
        greys = metadata.get("greys")
        ends = None if greys is None else [tuple(map(float, greys[e])) for e in ("low", "high")]
        config = NetworkConfig(
            model=str(metadata["model"]),
            head=next(head for head in HEADS if head == metadata["head"]),
            hidden=int(metadata["hidden"]),
            dropout=float(metadata["dropout"]),
            channels=int(metadata["channels"]),
            crop=CropSpec(int(crop["size"]), float(crop["margin"]), crop["align"]),
            mean=float(metadata["mean"]),
            std=float(metadata["std"]),
            components=int(metadata.get("components", 0)),
            members=int(metadata.get("members", 1)),
            feature_dropout=float(metadata.get("feature_dropout", 0.0)),
            temperature_seven=float(temperature.get("seven", 1.0)),
            temperature_binary=float(temperature.get("binary", 1.0)),
            greys=None if ends is None else GreyRange(*ends),
            level_input=_yes_or_no(metadata.get("level_input", False)),
            keep_blocks=int(metadata.get("keep_blocks", 0)),
            pool=int(metadata.get("pool", 1)),
            origin=_origin(metadata.get("pretrained")),
        )
        if metadata["names"] != network_metadata(config)["names"]:
            raise ValueError(f"classes {metadata['names']}")
        _check_config(config)
    except (
        KeyError, TypeError, ValueError, AttributeError, OverflowError, StopIteration, ConfigError
    ) as error:  # fmt: skip
        raise WeightsError(f"{where}: its description is damaged ({error!r:.300})") from error
    return config


def _origin(value: Any) -> Origin | None:
    """The source of the trunk's weights; ``weights strip`` removes one that is an address."""
    if value is None:
        return None
    return Origin(str(value.get("source", "unknown")), str(value["licence"]))


def _yes_or_no(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r:.40}, wanted true or false")
    return value


def _check_config(config: NetworkConfig) -> None:
    if not 0 <= config.hidden <= 65536 or not 1 <= config.channels <= 3:
        raise ValueError(f"hidden {config.hidden}, channels {config.channels}")
    if not math.isfinite(config.mean) or not (math.isfinite(config.std) and config.std > 0):
        raise ValueError(f"mean {config.mean}, std {config.std}")
    if not 0 <= config.dropout < 1 or not 0 <= config.feature_dropout < 1:
        raise ValueError(f"dropout {config.dropout}, of features {config.feature_dropout}")
    for temperature in (config.temperature_seven, config.temperature_binary):
        if not MIN_TEMPERATURE <= temperature <= 1 / MIN_TEMPERATURE:
            raise ValueError(f"temperature {temperature}")
    if not 0 <= config.keep_blocks <= MAX_BLOCKS or not 1 <= config.pool <= MAX_POOL:
        raise ValueError(f"keep_blocks {config.keep_blocks}, pool {config.pool}")
    if not 1 <= config.members <= MAX_MEMBERS or config.components < 0:
        raise ValueError(f"members {config.members}, components {config.components}")


def network_state(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the network's tensors on the CPU, in row-major order."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in network.state_dict().items()
    }


def save_weights(
    path: Path, state: Mapping[str, Tensor], config: NetworkConfig, *, half: bool = False
) -> None:
    """Write a weights file atomically.

    Args:
        path: ``.safetensors`` file.
        state: from [network_state][].
        config: written into its metadata.
        half: store 16-bit floats.

    Raises:
        WeightsError: a number is too large for 16 bits.
    """
    if half:
        _check_half(path, state)
    write_bytes(path, weights_bytes(state, config, half=half))


def _check_half(path: Path, state: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.half()).all():
            raise WeightsError(f"{path}: {name} does not fit 16-bit floats; use half=false")


def weights_bytes(
    state: Mapping[str, Tensor], config: NetworkConfig, *, half: bool = False
) -> bytes:
    """The content of a weights file; see [save_weights][]."""
    return pack_described(state, json.dumps(network_metadata(config)), half=half)


def read_weights(path: Path, *, trust: bool = False) -> tuple[dict[str, Tensor], NetworkConfig]:
    """Tensors (floats as float32) and configuration of a weights file.

    A ``.pt`` file is a run's ``checkpoint.pt``. Even if trusted, it is read without running code.

    Raises:
        WeightsError: missing, damaged, not a classifier's, or a pickle without ``trust``.
    """
    if path.suffix == ".safetensors":
        metadata, state = read_described(path)
    elif not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    elif not trust:
        msg = (
            f"{path}: a pickle, which can run code when it is loaded; use a .safetensors file, or "
            "trust=true if you know where it comes from"
        )
        raise WeightsError(msg)
    else:
        state, metadata = _read_pickle(path)
    if isinstance(metadata, dict) and "combined" in metadata:
        msg = f"{path}: holds several combined classifiers; wanted a single one"
        raise WeightsError(msg)
    metadata, state = _by_our_names(metadata, state)
    config = config_from_metadata(metadata, str(path))
    return {n: t.float() if t.is_floating_point() else t for n, t in state.items()}, config


def _by_our_names(metadata: Any, state: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """Bring a head's rows into our class order, if the file has the same classes in another order.

    Rows belong to their classes by name. Everything else is left unchanged, so that
    [config_from_metadata][] can refuse it.
    """
    names = metadata.get("names") if isinstance(metadata, dict) else None
    if not isinstance(names, list):
        return metadata, state
    rows: dict[str, list[int]] = {}
    ours: list[str] = []
    start = 0
    for head, classes in (("seven", SEVEN_NAMES), ("binary", BINARY_NAMES)):
        found = names[start : start + len(classes)]
        if set(map(str, found)) == set(classes):
            rows[head] = [found.index(name) for name in classes]
            ours += classes
            start += len(classes)
    if len(ours) != len(names) or ours == names:
        return metadata, state
    moved = {
        name: tensor[rows[head]]
        for name, tensor in state.items()
        for head in rows
        if f"heads.{head}." in name and len(tensor) == len(rows[head])
    }
    return {**metadata, "names": ours}, {**state, **moved}


def _read_pickle(path: Path) -> tuple[dict[str, Tensor], Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return dict(content["network"]), json.loads(content["metadata"])
    except Exception as error:  # unpickling a damaged or hostile file can raise anything
        msg = f"{path}: not a checkpoint of spineline classify train ({type(error).__name__})"
        raise WeightsError(msg) from error


def load_network(state: dict[str, Tensor], config: NetworkConfig, where: str) -> Network:
    """A network with the given weights.

    Raises:
        WeightsError: the weights do not fit the configuration, or are not finite.
    """
    _check_hidden(state, config, where)
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        msg = f"{where}: {broken[0]:.100} holds numbers that are not finite; train it again"
        raise WeightsError(msg)
    try:
        network = build_network(config)
        network.load_state_dict(state)
    except (ConfigError, RuntimeError) as error:
        msg = f"{where}: its weights do not fit its description ({error!s:.1000})"
        raise WeightsError(msg) from error
    return network


def _check_hidden(state: Mapping[str, Tensor], config: NetworkConfig, where: str) -> None:
    """Refuse hidden layers that the file does not have, before their memory is allocated."""
    for number in range(config.members if config.hidden else 0):
        name = f"others.{number - 1}.hidden.0.weight" if number else "hidden.0.weight"
        shape = tuple(state[name].shape) if name in state else ()
        width = config.components + (len(LEVELS) if config.level_input else 0)
        whole = not config.components or shape[1:] == (width,)
        if shape[:1] != (config.hidden,) or not whole:
            msg = f"{where}: its weights do not fit its description ({name}: {shape or 'missing'})"
            raise WeightsError(msg)


@dataclass(frozen=True)
class Classifier:
    """A trained network, ready to grade crops.

    Attributes:
        network: in evaluation mode, on ``device``.
        device: where it computes.
    """

    network: Network
    device: torch.device

    @property
    def head(self) -> Head:
        """``seven``, ``binary`` or ``both``."""
        return self.network.config.head

    @property
    def crop(self) -> CropSpec:
        """How its crops are cut."""
        return self.network.config.crop

    @property
    def level_input(self) -> bool:
        """Whether grades depend on the given levels."""
        return self.network.config.level_input

    @property
    def greys(self) -> GreyRange | None:
        """Grey range of the training images; None if it was not stored."""
        return self.network.config.greys

    def grade(
        self,
        crops: npt.NDArray[np.uint8],
        kinds: Sequence[Kind | None] | None = None,
        *,
        levels: npt.NDArray[np.int64] | None = None,
        batch: int = 256,
    ) -> Grades:
        """Grade crops.

        Args:
            crops: (N, size, size) uint8.
            kinds: kind of each crop, if known from its level. Classes of the other kind get
                probability zero and the rest add up to one; a vertebra has no v5.
            levels: (N,) index of each crop's level among the eleven, -1 if unknown; ignored by a
                network without ``level_input``.
            batch: crops per forward pass.

        Raises:
            ValueError: crops with an unexpected shape or dtype, or a wrong number of kinds or
                levels.
            WeightsError: the network's output is not a number.
        """
        crops = _checked_crops(crops, self.crop, levels)
        if kinds is not None and len(kinds) != len(crops):
            raise ValueError(f"{len(crops)} crops but {len(kinds)} kinds")
        return _finite_grades(self.logits(crops, levels, batch=batch), kinds)

    def logits(
        self,
        crops: npt.NDArray[np.uint8],
        levels: npt.NDArray[np.int64] | None = None,
        *,
        batch: int = 256,
    ) -> Outputs:
        """Logits of (N, size, size) uint8 crops, on the CPU, float32: (N, 7) and (N, 2) or None."""
        network, heads = self.network, [self.head]
        return _logits(lambda *given: (network(*given),), heads, crops, levels, batch, self.device)[
            0
        ]


@dataclass(frozen=True)
class GradientClassifiers:
    """Classifiers on the same histograms, which are computed once for all of them.

    Attributes:
        network: in evaluation mode, on ``device``.
        device: where it computes.
    """

    network: GradientNetworks
    device: torch.device

    def grades(
        self,
        crops: npt.NDArray[np.uint8],
        *,
        levels: npt.NDArray[np.int64] | None = None,
        batch: int = 256,
    ) -> list[Grades]:
        """The grades of each classifier, without regard to kind; see [Classifier.grade][]."""
        configs = self.network.configs
        crops = _checked_crops(crops, configs[0].crop, levels)
        heads = [config.head for config in configs]
        found = _logits(self.network, heads, crops, levels, batch, self.device)
        return [_finite_grades(logits, None) for logits in found]


def _checked_crops(
    crops: npt.NDArray[np.uint8], spec: CropSpec, levels: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.uint8]:
    size, crops = spec.size, np.asarray(crops)
    if crops.dtype != np.uint8 or crops.shape[1:] != (size, size):
        msg = f"wanted (N, {size}, {size}) uint8 crops, found {crops.shape} {crops.dtype}"
        raise ValueError(msg)
    if levels is not None and np.shape(levels) != (len(crops),):
        raise ValueError(f"{len(crops)} crops but levels of shape {np.shape(levels)}")
    return crops


def _logits(
    network: Callable[[Tensor, Tensor], Sequence[Outputs]],
    heads: Sequence[Head],
    crops: npt.NDArray[np.uint8],
    levels: npt.NDArray[np.int64] | None,
    batch: int,
    device: torch.device,
) -> list[Outputs]:
    """Logits of (N, size, size) crops, on the CPU, float32, one pair for each of ``heads``."""
    places = torch.tensor(np.full(len(crops), -1) if levels is None else levels).float()
    empty = [
        (
            torch.empty((0, len(SEVEN_NAMES))) if has_head(head, "seven") else None,
            torch.empty((0, len(BINARY_NAMES))) if has_head(head, "binary") else None,
        )
        for head in heads
    ]
    parts: list[Sequence[Outputs]] = [empty]
    with torch.inference_mode():
        for start in range(0, len(crops), batch):
            pixels = torch.tensor(crops[start : start + batch], device=device)
            known = places[start : start + batch].to(device)
            parts.append(network(pixels.unsqueeze(1).float() / 255, known))
        return [(_joined([p[n][0] for p in parts]), _joined([p[n][1] for p in parts]))
                for n in range(len(heads))]  # fmt: skip


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    found = [part.float().cpu() for part in parts if part is not None]
    return torch.cat(found) if found else None


def _finite_grades(logits: Outputs, kinds: Sequence[Kind | None] | None) -> Grades:
    if not all(each is None or bool(each.isfinite().all()) for each in logits):
        raise WeightsError("the classifier's answer is not a number: its weights are damaged")
    return grades_of(logits, kinds)


def grades_of(logits: Outputs, kinds: Sequence[Kind | None] | None) -> Grades:
    """Probabilities from logits (N, 7) and (N, 2), given the kinds where they are known."""
    seven, binary = logits
    allowed = None if seven is None else allowed_classes(kinds, len(seven))
    return Grades(
        None if seven is None or allowed is None else seven_probabilities(seven, allowed).numpy(),
        None if binary is None else binary_probability(binary, kinds).numpy(),
    )


def allowed_classes(kinds: Sequence[Kind | None] | None, count: int) -> Tensor:
    """(count, 7) bool: the classes that each crop's kind allows; all if the kind is unknown."""
    return torch.from_numpy(allowed_codes([None] * count if kinds is None else kinds))


def seven_probabilities(logits: Tensor, allowed: Tensor) -> Tensor:
    """(N, 7) softmax over the allowed classes, zero elsewhere."""
    return logits.masked_fill(~allowed, -torch.inf).softmax(dim=1)


def binary_probability(logits: Tensor, kinds: Sequence[Kind | None] | None) -> Tensor:
    """(N,) probability of v5; zero for a known vertebra."""
    probability = logits.softmax(dim=1)[:, 1]
    if kinds is None:
        return probability
    vertebra = torch.tensor([kind == "vertebra" for kind in kinds], dtype=torch.bool)
    return probability.masked_fill(vertebra, 0.0)


def save_combined(
    path: Path,
    members: Sequence[tuple[Mapping[str, Tensor], NetworkConfig]],
    combination: Combination,
    *,
    half: bool = False,
) -> None:
    """Write a weights file of several classifiers and their combination, atomically.

    Args:
        path: ``.safetensors`` file.
        members: state and configuration of each.
        combination: how they are combined.
        half: store 16-bit floats.

    Raises:
        WeightsError: a number is too large for 16 bits.
    """
    known = {name: of for _, config in members for name, of in config.outputs().items()}
    heads = heads_together([config.head for _, config in members])
    description = {
        "task": "classify",
        "model": ", ".join(config.model for _, config in members),
        "names": [name for head in heads for name in known[head]],
        "combined": [network_metadata(config) for _, config in members],
        "combination": combination.to_json(),
    }
    tensors = {
        f"member{n}.{name}": tensor
        for n, (state, _) in enumerate(members)
        for name, tensor in state.items()
    }
    if half:
        _check_half(path, tensors)
    write_bytes(path, pack_described(tensors, json.dumps(description), half=half))


def read_members(
    path: Path, *, trust: bool = False
) -> tuple[list[tuple[dict[str, Tensor], NetworkConfig]], Combination | None]:
    """Tensors and configuration of each classifier of a weights file, and their combination.

    For a file of a single classifier, the combination is None.

    Raises:
        WeightsError: missing, damaged, not a classifier's, or a pickle without ``trust``.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        return [read_weights(path, trust=trust)], None
    metadata, state = read_described(path)
    if not isinstance(metadata, dict) or "combined" not in metadata:
        return [read_weights(path)], None
    described = metadata["combined"]
    described = described if isinstance(described, list) else []
    states: list[dict[str, Tensor]] = [{} for _ in described]
    for name, tensor in state.items():
        member, _, own = name.partition(".")
        number = member.removeprefix("member")
        if not (number.isdecimal() and int(number) < len(states)):
            msg = f"{path}: its description is damaged: {name:.100} is of no member"
            raise WeightsError(msg)
        states[int(number)][own] = tensor.float() if tensor.is_floating_point() else tensor
    members: list[tuple[dict[str, Tensor], NetworkConfig]] = []
    for n, (said, own_state) in enumerate(zip(described, states, strict=True)):
        ours, sorted_state = _by_our_names(said, own_state)
        members.append((sorted_state, config_from_metadata(ours, f"{path}, member {n}")))
    try:
        heads = [config.head for _, config in members]
        return members, combination_from_json(metadata["combination"], heads)
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise WeightsError(f"{path}: its description is damaged ({error!r:.300})") from error


def load_classifier(
    weights: Path | str | Sequence[Path | str], *, device: str = "cpu", trust: bool = False
) -> Classifier | CombinedClassifier:
    """Load a classifier from a weights file, or combine several.

    Args:
        weights: ``.safetensors`` file of one classifier or of a combination, or a run's
            ``checkpoint.pt``; or several files of single classifiers, which get equal shares.
        device: ``cpu``, ``cuda`` or the number of a CUDA device.
        trust: allow a ``.pt`` file, which is a pickle.

    Raises:
        WeightsError: missing, damaged, not a classifier's, or a pickle without ``trust``; or a
            combination among several files.
        ConfigError: no such device, or no file.
    """
    target = torch.device(device_name(device))
    files = [Path(f) for f in ([weights] if isinstance(weights, (Path, str)) else weights)]
    if not files:
        raise ConfigError("no weights file of a classifier is named")
    combination: Combination | None = None
    members: list[Classifier] = []
    for file in files:
        found, combination = read_members(file, trust=trust)
        if combination is not None and len(files) > 1:
            msg = f"{file}: already holds several combined classifiers; give only this file, "
            raise WeightsError(msg + "or name the weights of single classifiers")
        for n, (state, config) in enumerate(found):
            where = str(file) if combination is None else f"{file}, member {n}"
            network = load_network(state, config, where).eval()
            fold_norms(network.trunk)
            multiply_pixels(network.trunk)
            network.to(target).to(memory_format=torch.channels_last)
            members.append(Classifier(network, target))
    if len(files) == 1 and combination is None:
        return members[0]
    if combination is None:
        combination = Combination(equal_shares([member.head for member in members]))
    return CombinedClassifier(tuple(members), combination, _groups(members))


def _groups(
    members: Sequence[Classifier],
) -> tuple[tuple[tuple[int, ...], GradientClassifiers], ...]:
    """Numbers of the members with identical histograms, and the object that computes them once."""
    left, found = list(range(len(members))), []
    while left:
        first = members[left[0]].network.config
        same = [n for n in left if same_measures(first, members[n].network.config)]
        left = [n for n in left[1:] if n not in same]
        if len(same) > 1:
            networks = GradientNetworks([members[n].network for n in same]).eval()
            group = GradientClassifiers(networks, members[same[0]].device)
            found.append((tuple(same), group))
    return tuple(found)
