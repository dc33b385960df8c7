"""Augmentation of whole batches of crops.

All randomness comes from the given generator. Each batch draws the same numbers whichever options
are on, so switching one on does not change the draws of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spineline.classify.recipe import Recipe
from spineline.datasets.scanner_looks import scanner_look


@dataclass(frozen=True, slots=True)
class Draw:
    """The random draws for a batch of B crops; each (B,).

    Attributes:
        angle: in degrees; positive rotates the image anticlockwise.
        shift_x, shift_y: of the image, as a fraction of the crop.
        zoom: above 1 enlarges the image.
        mirror: -1 where the image is mirrored left to right, else 1.
        brightness, contrast: factors.
        looks: seed for simulating other scanners, derived from the other draws.
    """

    angle: Tensor
    shift_x: Tensor
    shift_y: Tensor
    zoom: Tensor
    mirror: Tensor
    brightness: Tensor
    contrast: Tensor
    looks: int = 0


def draw(recipe: Recipe, count: int, generator: torch.Generator) -> Draw:
    """Draw the augmentation of ``count`` crops."""
    unit = torch.rand((7, count), generator=generator)
    sign = unit * 2 - 1
    return Draw(
        angle=sign[0] * recipe.rotation,
        shift_x=sign[1] * recipe.translate,
        shift_y=sign[2] * recipe.translate,
        zoom=1 + sign[3] * recipe.scale,
        mirror=torch.where(unit[4] < recipe.fliplr, -1.0, 1.0),
        brightness=1 + sign[5] * recipe.color_jitter,
        contrast=1 + sign[6] * recipe.color_jitter,
        looks=int(unit.view(torch.int32).sum(dtype=torch.int64)),
    )


def augment(
    pixels: Tensor, recipe: Recipe, generator: torch.Generator, device: torch.device | None = None
) -> Tensor:
    """Augment a batch of training crops.

    Args:
        pixels: (B, P, P) uint8, P >= ``recipe.size``: the window with a margin on each side.
        recipe: of its keys, scanner_looks, rotation, translate, scale, fliplr, color_jitter and
            noise are used.
        generator: on the CPU; the only source of randomness.
        device: where to compute; default: where the pixels are.

    Returns:
        (B, 1, size, size) float32 in 0 … 1.
    """
    drawn = draw(recipe, len(pixels), generator)
    if recipe.scanner_looks:
        pixels = as_other_scanners(pixels, recipe.scanner_looks, drawn.looks)
    images = to_float(pixels.to(device) if device is not None else pixels)
    if recipe.rotation or recipe.translate or recipe.scale or recipe.fliplr:
        images = move(images, drawn, recipe.size)
    else:
        images = centre(images, recipe.size)
    if recipe.color_jitter:
        images = recolour(images, drawn)
    if recipe.noise:
        noise = torch.randn(images.shape, generator=generator).to(images.device)
        images = (images + noise * (recipe.noise / 255)).clamp(0, 1)
    return images


def as_other_scanners(pixels: Tensor, chance: float, seed: int) -> Tensor:
    """Simulate another scanner for some of the crops (B, P, P) uint8."""
    rng = np.random.default_rng(seed)
    shown = [
        scanner_look(crop, rng) if rng.random() < chance else crop for crop in pixels.cpu().numpy()
    ]
    return torch.from_numpy(np.stack(shown))


@dataclass(frozen=True, slots=True)
class Mix:
    """How crops are mixed: ``share`` of each crop, and the rest of its ``partner``."""

    partner: Tensor
    share: float

    def images(self, images: Tensor) -> Tensor:
        """Mix each of (B, …) with its partner."""
        return self.share * images + (1 - self.share) * images[self.partner.to(images.device)]


def draw_mix(alpha: float, count: int, generator: torch.Generator) -> Mix | None:
    """Draw a mixup of pairs with shares from Beta(alpha, alpha); None if alpha is 0.

    Source: Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018.
    """
    if not alpha:
        return None
    seed = int(torch.randint(2**31, (1,), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    return Mix(torch.randperm(count, generator=generator), share)


def to_float(pixels: Tensor) -> Tensor:
    """(B, P, P) uint8 to (B, 1, P, P) float32 in 0 … 1."""
    return pixels.unsqueeze(1).float() / 255


def centre(images: Tensor, size: int) -> Tensor:
    """The central (size, size) part of the last two axes."""
    pad = (images.shape[-1] - size) // 2
    return images[..., pad : pad + size, pad : pad + size]


def move(images: Tensor, drawn: Draw, size: int) -> Tensor:
    """Rotate, zoom, mirror and shift the images, and cut their central window of ``size``.

    One bilinear pass; outside the margin, the edge pixels are repeated.
    """
    radians = torch.deg2rad(drawn.angle)
    cos, sin = torch.cos(radians) / drawn.zoom, torch.sin(radians) / drawn.zoom
    # Output pixel u shows the image at zoom^-1 R^-1 (u - shift), mirrored last.
    x, y = 2 * drawn.shift_x, 2 * drawn.shift_y
    first = torch.stack([cos, -sin, -(cos * x - sin * y)], dim=1) * drawn.mirror[:, None]
    second = torch.stack([sin, cos, -(sin * x + cos * y)], dim=1)
    theta = torch.stack([first, second], dim=1) * (size / images.shape[-1])
    grid = functional.affine_grid(
        theta.to(images.device), [len(images), 1, size, size], align_corners=False
    )
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def recolour(images: Tensor, drawn: Draw) -> Tensor:
    """Scale the brightness, then the contrast around each crop's mean, clipped to 0 … 1."""
    brightness = drawn.brightness.to(images.device)[:, None, None, None]
    contrast = drawn.contrast.to(images.device)[:, None, None, None]
    bright = (images * brightness).clamp(0, 1)
    mean = bright.mean(dim=(1, 2, 3), keepdim=True)
    return ((bright - mean) * contrast + mean).clamp(0, 1)
