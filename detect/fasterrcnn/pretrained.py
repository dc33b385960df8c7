"""Pretrained weights of a backbone: a state dict of torchvision or timm, adapted to our input.

Such weights expect colour images, each channel normalised by its own mean and deviation. Here an
image is grey, normalised by one mean m and deviation s, in one channel or in three equal ones. The
first convolution is changed so that the network gives the same output as for the colour image of
that grey. A channel's weights w_c become ``w_c s / s_c`` (summed, for one channel). The constant
``Σ w_c (m - m_c) / s_c`` goes into its bias, or into the running mean of the next normalisation.
The output is the same up to rounding, except at the border, where zeros are padded. Without
``mean=`` and ``std=``, the input is normalised by the mean of the channels' values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from spineline.datasets.common.errors import ConfigError, WeightsError, first_line
from spineline.datasets.common.log import LOG
from spineline.detect.fasterrcnn.backbones import TimmBody, build_backbone, timm_name
from spineline.detect.yolo.environment import config_folder

IMAGENET_MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of the channels, pixels in 0 … 1, of torchvision's weights."""

_NESTED = ("state_dict", "model")
_COUNTER = "num_batches_tracked"  # old files lack it, and nothing uses it

Tensors = dict[str, torch.Tensor]


def input_normalisation(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of the three channels that a backbone's weights were trained with.

    >>> input_normalisation("resnet50")
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    """
    name = timm_name(backbone)
    if name is None:
        return IMAGENET_MEAN_STD
    import timm

    config = timm.get_pretrained_cfg(name)
    return IMAGENET_MEAN_STD if config is None else (tuple(config.mean), tuple(config.std))


def grey_normalisation(backbone: str) -> tuple[float, float]:
    """Return one mean and deviation for a grey input: the means of the channels' values.

    >>> grey_normalisation("resnet50")
    (0.449, 0.226)
    """
    mean, std = input_normalisation(backbone)
    return round(fmean(mean), 6), round(fmean(std), 6)


def read_backbone_weights(path: Path, *, trust: bool) -> Tensors:
    """Read the tensors of a state dict; a pickle is read without running code.

    Raises:
        WeightsError: the file is missing or damaged, is a pickle without ``trust``, or holds no
            state dict.
    """
    if not path.is_file():
        raise WeightsError(f"backbone_weights={path}: no such file; check the path")
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    if not trust:
        msg = (
            f"backbone_weights={path}: is a pickle, which can run code; add trust=true if you "
            "trust who made it, or give a .safetensors file"
        )
        raise WeightsError(msg)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises anything
        msg = f"backbone_weights={path}: damaged, or it holds more than tensors"
        raise WeightsError(f"{msg} ({first_line(error, 200)})") from error
    for name in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"backbone_weights={path}: holds no state dict (tensors by name)")
    if not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items()):
        raise WeightsError(f"backbone_weights={path}: holds other things than tensors by name")
    return dict(content)


def _read_safetensors(path: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: Tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"backbone_weights={path}: no whole safetensors ({first_line(error)})"
        ) from error
    return tensors


def download_backbone(backbone: str) -> Path:
    """Download the ImageNet weights of a torchvision backbone, at the user's request.

    Raises:
        ConfigError: the backbone is timm's; those are not downloaded.
        WeightsError: the download fails, or the file is not the one that torchvision names.
    """
    if timm_name(backbone) is not None:
        msg = (
            f"download=true: backbone={backbone} is timm's, and only torchvision's can be "
            f"downloaded"
        )
        raise ConfigError(f"{msg}; give backbone_weights=FILE")
    from torchvision.models import get_model_weights

    url = get_model_weights(backbone).DEFAULT.url  # type: ignore[attr-defined]  # of an enum
    file = config_folder() / "downloads" / url.rpartition("/")[2]
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    LOG.info("fetching %s from torchvision's releases", file.name)
    try:
        digest = file.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(file), hash_prefix=digest, progress=False)
    except (OSError, RuntimeError) as error:
        msg = f"{file.name}: could not be fetched ({first_line(error)}); give backbone_weights=FILE"
        raise WeightsError(msg) from error
    return file


def fitted_backbone(
    tensors: Mapping[str, torch.Tensor],
    backbone: str,
    channels: int,
    *,
    mean: float,
    std: float,
    where: str,
) -> Tensors:
    """Adapt the weights of a backbone's body, by their names in the whole network.

    Args:
        tensors: a state dict, whose classifier is left out.
        backbone: name of the backbone.
        channels: channels of our input, 1 or 3.
        mean: mean that normalises our input, pixels in 0 … 1.
        std: standard deviation that normalises it.
        where: file name for messages.

    Raises:
        WeightsError: the weights are of another network, or are not finite numbers.
    """
    with torch.device("meta"):
        body: nn.Module = build_backbone(backbone, 3).body
    found = _matched(tensors, body, f"{where}: not the weights of backbone={backbone}")
    if not all(bool(torch.isfinite(t).all()) for t in found.values()):
        raise WeightsError(f"{where}: holds weights that are not finite numbers")
    _fold_input(found, body, channels, (mean, std), input_normalisation(backbone))
    return {f"backbone.body.{name}": tensor for name, tensor in found.items()}


def _matched(tensors: Mapping[str, torch.Tensor], body: nn.Module, problem: str) -> Tensors:
    """The tensors by the body's names, in float32."""
    found: Tensors = {}
    used: set[str] = set()
    for name, wanted in body.state_dict().items():
        source = next((n for n in _names_in_file(name, body) if n in tensors), None)
        if source is None:
            if name.endswith(_COUNTER):
                continue
            raise WeightsError(f"{problem}: it has no {name}{_of_shape(wanted)}")
        tensor = tensors[source]
        if tensor.shape != wanted.shape:
            has = _of_shape(tensor)
            raise WeightsError(f"{problem}: its {source} is{has}, wanted{_of_shape(wanted)}")
        used.add(source)
        found[name] = tensor.to(wanted.dtype).clone()
    left = sorted(name for name in tensors if name not in used)
    if left:
        more = f" and {len(left) - 6} more" if len(left) > 6 else ""
        LOG.info("backbone: %d tensors used; left out: %s%s",
                 len(found), ", ".join(left[:6]), more)  # fmt: skip
    return found


def _names_in_file(name: str, body: nn.Module) -> tuple[str, ...]:
    """Names that a tensor of the body may have in a state dict of the whole network."""
    if not isinstance(body, TimmBody):
        return name, f"features.{name}"  # torchvision's ResNets, and its MobileNets
    name = name.removeprefix("features.")
    return name, name.replace("_", ".", 1)  # timm's feature extractors write stages.0 as stages_0


def _of_shape(tensor: torch.Tensor) -> str:
    return f" of shape {tuple(tensor.shape)}"


def _fold_input(
    found: Tensors,
    body: nn.Module,
    channels: int,
    ours: tuple[float, float],
    theirs: tuple[tuple[float, ...], tuple[float, ...]],
) -> None:
    """Adapt the first convolution to our input; see the module."""
    leaves = [(n, m) for n, m in body.named_modules() if not list(m.children())]
    at = next(n for n, (_, m) in enumerate(leaves) if isinstance(m, nn.Conv2d))
    (name, layer), (after, norm) = leaves[at], leaves[at + 1]
    convolution: Any = layer
    weight = found[f"{name}.weight"].double()
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in theirs)
    constant = (weight * (ours[0] - mean) / std).sum(dim=(1, 2, 3)).float()
    scaled = weight * ours[1] / std
    found[f"{name}.weight"] = (scaled.sum(1, keepdim=True) if channels == 1 else scaled).float()
    if convolution.bias is not None:
        found[f"{name}.bias"] += constant
    elif isinstance(norm, nn.BatchNorm2d) and f"{after}.running_mean" in found:
        found[f"{after}.running_mean"] -= constant
    else:
        LOG.info("backbone: the colour channels' own means are not kept: %s has no bias", name)
