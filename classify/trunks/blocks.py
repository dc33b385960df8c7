"""Networks of numbered blocks (timm's EfficientNet family): truncated or partly frozen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spineline.classify.trunks.components import ComponentTrunk
from spineline.datasets.common.errors import ConfigError

_AT_ONCE = 16  # crops per pass: the early maps need a hundred times the memory of a crop


class BlockTrunk(ComponentTrunk):
    """The first blocks of a network, unchanged; the other blocks are neither stored nor run.

    The maps of the last block are averaged to ``pool`` × ``pool`` cells. The features are the
    principal components of these numbers on the training crops.

    Args:
        model: with a stem and numbered blocks.
        blocks: number of blocks to keep.
        pool: cells along each side.
        size: of the crops.
        channels: of the input.
        components: number of features.
        name: of the model, for messages.

    Raises:
        ConfigError: the model has no such blocks, or their maps are too small for the cells.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        blocks: int,
        pool: int,
        size: int,
        channels: int,
        components: int,
        name: str,
    ) -> None:
        check_blocks(model, blocks, f"keep_blocks={blocks}", name)
        whole: Any = model
        stem = nn.Sequential(whole.conv_stem, whole.bn1, whole.blocks[:blocks]).eval()
        with torch.no_grad():
            _, maps, side, _ = stem(torch.zeros((1, channels, size, size))).shape
        if side % pool:
            msg = f"pool={pool}: the crops become {side} × {side} places, no multiple of it"
            raise ConfigError(f"{msg}; choose a divisor of {side}, or another size=")
        super().__init__(maps * pool * pool, components, name=name)
        self.conv_stem, self.bn1, self.blocks = whole.conv_stem, whole.bn1, whole.blocks[:blocks]
        self.window = side // pool
        self.requires_grad_(requires_grad=False)

    def measure(self, images: Tensor) -> Tensor:
        """(N, maps · pool · pool): the averaged maps of the last block, one after the other."""
        parts = [images] if torch.jit.is_tracing() else images.split(_AT_ONCE)
        maps = [self.blocks(self.bn1(self.conv_stem(part))) for part in parts]
        return functional.avg_pool2d(torch.cat(maps), self.window).flatten(1)

    def train(self, mode: bool = True) -> BlockTrunk:  # noqa: ARG002
        """Stay in evaluation mode, so that batch norms learn nothing."""
        super().train(False)
        return self


def check_blocks(model: nn.Module, count: int, key: str, name: str) -> None:
    """Refuse a model without a stem and enough numbered blocks.

    Raises:
        ConfigError: there are too few; ``key`` and ``name`` are named in the message.
    """
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential) or not hasattr(model, "conv_stem"):
        msg = f"{key}: model={name} has no stem and numbered blocks; choose one of timm's "
        raise ConfigError(
            f"{msg}efficientnet or mobilenet models, or {key.split('=', maxsplit=1)[0]}=0"
        )
    if count > len(blocks):
        raise ConfigError(f"{key}: model={name} has {len(blocks)} blocks; allowed: 0 … that")


def freeze(trunk: nn.Module, blocks: int, *, norm: bool, name: str) -> list[nn.Module]:
    """Freeze parts of a trunk, in place.

    Args:
        trunk: a whole timm model.
        blocks: number of blocks to freeze, with the stem; 0 for none.
        norm: freeze all batch norms.
        name: of the model, for messages.

    Returns:
        The frozen parts, which must stay in evaluation mode.

    Raises:
        ConfigError: the model has no such blocks.
    """
    found: list[nn.Module] = []
    if blocks:
        check_blocks(trunk, blocks, f"freeze_blocks={blocks}", name)
        whole: Any = trunk
        found += [whole.conv_stem, whole.bn1, whole.blocks[:blocks]]
    if norm:
        kinds = (nn.modules.batchnorm._BatchNorm,)  # base class of all batch norms
        found += [module for module in trunk.modules() if isinstance(module, kinds)]
    for module in found:
        module.requires_grad_(requires_grad=False)
    return found
