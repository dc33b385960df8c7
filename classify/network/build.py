"""Building of a classifier's network, with the trunk that its configuration names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spineline.classify.network.layers import Network, NetworkConfig
from spineline.classify.trunks.blocks import BlockTrunk
from spineline.classify.trunks.gradients import GRADIENTS, GradientTrunk
from spineline.classify.trunks.padding import fix_padding
from spineline.classify.trunks.pretrained import load_trunk
from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.settings import close_match


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
