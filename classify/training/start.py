"""The network that a training starts from: random, pretrained, or an earlier classifier's."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spineline.classify.data import TrainingData
from spineline.classify.network.build import build_network
from spineline.classify.network.layers import CROPS_PER_PASS, Network, NetworkConfig
from spineline.classify.network.weights_file import (
    read_weights,
)
from spineline.classify.recipe import Head, Recipe, overrides_of
from spineline.classify.settings import ClassifyTrain
from spineline.classify.trunks.components import ComponentTrunk
from spineline.classify.trunks.gradients import GRADIENTS
from spineline.classify.trunks.pretrained import (
    IMAGENET,
    Origin,
    PretrainedTrunk,
    fetched_trunk,
    packaged_trunk,
    trunk_of_file,
)
from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.common.log import LOG
from spineline.datasets.crops.grey_range import grey_range
from spineline.datasets.crops.table import CropTable
from spineline.weights import resolve


def _with_fewer_components(data: TrainingData) -> TrainingData:
    """The data with the recipe's components lowered, with a warning, if it has too few crops."""
    recipe, crops = data.recipe, sum(not row.variant for row in data.train.rows)
    most = max(crops // 2 if recipe.whiten else crops - 1, 1)  # whitened noise would drown the rest
    if not recipe.has_components or recipe.components < len(data.train):
        return data
    LOG.warning(
        "components: %d instead of %d, because there are few crops", most, recipe.components
    )
    return replace(data, recipe=replace(recipe, components=most))


def _pretrained_trunk(settings: ClassifyTrain, recipe: Recipe) -> PretrainedTrunk | None:
    """Weights of a timm model to start from, if the settings or the recipe ask for them.

    Raises:
        ConfigError: there are none for the model, or keys contradict each other.
        WeightsError: a file that cannot be read.
    """
    weights = settings.weights
    if settings.download:
        if weights not in (None, IMAGENET):
            raise ConfigError(f"download=true: starts from timm's weights, not weights={weights}")
        if recipe.model == GRADIENTS:
            raise ConfigError(f"download=true: model={GRADIENTS} has no pretrained weights")
        return fetched_trunk(recipe.model)
    if weights == IMAGENET or (weights is None and recipe.pretrained == IMAGENET):
        return packaged_trunk(recipe.model)
    if weights is None or not Path(weights).is_file() or recipe.model == GRADIENTS:
        return None
    return trunk_of_file(Path(weights), recipe.model, trust=settings.trust)


def check_start_weights(settings: ClassifyTrain, recipe: Recipe) -> None:
    """Refuse initial weights that a training would refuse; nothing is downloaded.

    Raises:
        ConfigError: there are none for the model.
        WeightsError: missing, damaged, or for another task.
    """
    if settings.download or settings.weights is None:
        return
    if _pretrained_trunk(settings, recipe) is None:
        resolve(settings.weights, task="classify", trust=settings.trust)


OwnWeights = tuple[dict[str, Tensor], NetworkConfig]
"""Tensors of a classifier's weights file, and its network."""


def _own_weights(settings: ClassifyTrain) -> OwnWeights | None:
    """Weights of an earlier classifier to start from, if requested.

    Raises:
        WeightsError: they cannot be used.
    """
    if settings.weights is None:
        return None
    file = resolve(settings.weights, task="classify", trust=settings.trust)
    return read_weights(file.path, trust=settings.trust)


def _network_config(
    data: TrainingData, trunk: PretrainedTrunk | None, own: OwnWeights | None
) -> NetworkConfig:
    """The network that the recipe describes; pretrained trunks keep their own input settings."""
    recipe = data.recipe
    head: Head = "both"
    if recipe.head in ("seven", "binary"):
        head = "seven" if recipe.head == "seven" else "binary"
    mean, std = mean_and_std(data.train) if recipe.normalise else (0.0, 1.0)
    origin: Origin | None = None
    if trunk is not None:
        mean, std, origin = trunk.mean, trunk.std, trunk.origin
    elif own is not None and own[1].origin is not None:
        mean, std, origin = own[1].mean, own[1].std, own[1].origin
    same_crops = own is not None and own[1].crop == recipe.crop()
    known = own[1].greys if own is not None and same_crops else None
    return NetworkConfig(
        model=recipe.model,
        head=head,
        hidden=recipe.hidden,
        dropout=recipe.dropout,
        channels=recipe.channels,
        crop=recipe.crop(),
        mean=mean,
        std=std,
        components=recipe.components if recipe.has_components else 0,
        members=recipe.members,
        feature_dropout=recipe.feature_dropout,
        greys=grey_range(data.train, known),
        level_input=recipe.level_input,
        keep_blocks=recipe.keep_blocks,
        pool=recipe.pool if recipe.keep_blocks else 1,
        origin=origin,
    )


def mean_and_std(table: CropTable) -> tuple[float, float]:
    """Mean and nonzero standard deviation of all pixels of the windows, in 0 … 1."""
    counts = np.zeros(256, dtype=np.int64)
    for window in table.windows():  # one by one: all of them as floats would be large
        counts += np.bincount(window.ravel(), minlength=256)
    greys = np.arange(256) / 255
    mean = float((counts * greys).sum() / counts.sum())
    variance = float((counts * (greys - mean) ** 2).sum() / counts.sum())
    return mean, max(math.sqrt(variance), 1e-3)


def start_network(settings: ClassifyTrain, data: TrainingData) -> tuple[TrainingData, Network]:
    """The network that a training starts from, with weights as the settings and the recipe say.

    Returns:
        The data, with fewer components in the recipe if there are few crops; and the network.

    Raises:
        ConfigError: keys contradict each other, or the model does not fit the crops.
        WeightsError: the initial weights cannot be used.
    """
    trunk = _pretrained_trunk(settings, data.recipe)
    own = None if trunk is not None else _own_weights(settings)
    if own is not None:
        network = build_network(_network_config(data, trunk, own), seed=settings.seed)
        start_from(network, *own, where=str(settings.weights))
        return data, network
    if "components" not in overrides_of(settings):
        data = _with_fewer_components(data)
    config = _network_config(data, trunk, own)
    if trunk is None:
        network = build_network(config, seed=settings.seed)
    else:
        LOG.info("the trunk starts from %s (%s)", trunk.origin.source, trunk.origin.licence)
        network = build_network(
            config, seed=settings.seed, pretrained=trunk.state is None, trunk_state=trunk.state
        )
    fit_trunk(network, data.train, whiten=data.recipe.whiten)
    return data, network


def fit_trunk(network: Network, train: CropTable, *, whiten: bool = True) -> None:
    """Fit a fixed trunk's principal components to the training crops, in place.

    Any other trunk is left unchanged.

    Raises:
        ConfigError: fewer crops than components.
    """
    trunk = network.trunk
    if not isinstance(trunk, ComponentTrunk):
        return
    windows = train.windows()
    with torch.no_grad():
        found = [
            trunk.measure(network.normalised(torch.tensor(part).unsqueeze(1).float() / 255))
            for part in np.array_split(windows, math.ceil(len(windows) / CROPS_PER_PASS))
        ]
    trunk.fit(torch.cat(found), whiten=whiten)


def start_from(
    network: Network, state: dict[str, Tensor], config: NetworkConfig, *, where: str
) -> None:
    """Copy weights into a network in place: the trunk, and hidden layer and heads if they fit.

    Raises:
        WeightsError: the trunk is of another model or has another number of channels.
    """
    mine = network.config
    if (config.model, config.channels) != (mine.model, mine.channels):
        msg = (
            f"weights={where}: {config.model} with {config.channels} channels, but model="
            f"{mine.model} has {mine.channels}; give weights of the same model and channels"
        )
        raise WeightsError(msg)
    own = network.state_dict()
    fits = {n: t for n, t in state.items() if n in own and own[n].shape == t.shape}
    missing = sorted(name for name in own if name not in fits)
    if any(name.startswith("trunk.") for name in missing):
        raise WeightsError(f"weights={where}: {missing[0]} is missing or of another shape")
    network.load_state_dict({**own, **fits})
    if missing:
        LOG.info("weights=%s: %s start with new weights", where, ", ".join(missing))
