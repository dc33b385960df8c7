"""Parameters of crops: size, margin and alignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spineline.datasets.common.errors import ConfigError

Align = Literal["none", "spine"]
ALIGNS: tuple[Align, ...] = ("none", "spine")


@dataclass(frozen=True, slots=True)
class CropSpec:
    """Parameters for cutting crops.

    Attributes:
        size: side of the square crop in pixels.
        margin: factor by which the box is scaled about its centre before it is cut.
        align: ``none`` (upright) or ``spine`` (the spine runs from top to bottom of the crop).
    """

    size: int = 64
    margin: float = 1.0
    align: Align = "none"

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 1024:
            raise ConfigError(f"size={self.size}: a crop has 8 … 1024 pixels a side")
        if not 0.1 <= self.margin <= 10:
            raise ConfigError(f"margin={self.margin}: out of range, allowed 0.1 … 10")
        if self.align not in ALIGNS:
            raise ConfigError(f"align={self.align}: not an allowed value (none, spine)")
