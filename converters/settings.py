"""Settings of the conversion commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.labels import LABEL_SETS
from spineline.datasets.settings import Settings, key

FORMATS: tuple[str, ...] = ("yolo", "voc", "coco")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertSettings(Settings):
    """Keys that every source shares."""

    annotations: Path = key("the source's annotation file (JSON)")
    images: Path = key("folder of its images")
    out: Path = key("folder to write the dataset to")
    to: tuple[str, ...] = key("formats to write", default=FORMATS, choices=FORMATS)
    labels: str = key("what the boxes' classes are", default="level", choices=tuple(LABEL_SETS))
    split: str = key(
        "by study: train, val or test (all into one part), report (number up to 150 train, the "
        "rest test), a ratio such as 0.67 (train, the rest val), 0.7,0.15,0.15, or a manifest file",
        default="0.67",
    )
    kfold: int | None = key(
        "write out/fold0 … each a whole dataset; what split makes test is tested in every fold",
        default=None,
        minimum=2,
    )
    seed: int = key("decides ratios and folds", default=0, minimum=0)
    empty_tag: str | None = key(
        "what a missing or empty tag is taken as; none leaves it unlabelled",
        default=None,
        choices=("v1",),
    )
    window: str = key(
        "grey values: stretched between percentiles 0.5 and 99.5, or left as they are (8 bit only)",
        default="percentile",
        choices=("percentile", "none"),
    )
    overwrite: bool = key("replace out if it exists", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertReport(ConvertSettings):
    """Keys of ``spineline convert report``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertTianchi(ConvertSettings):
    """Keys of ``spineline convert tianchi``."""
