"""Settings of ``spineline review``, ``pipeline write`` and ``pipeline agreement``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.common.settings import Settings, key
from spineline.pipeline.outputs.registry import check_packages, list_outputs

_SOURCE = "output folder of pipeline predict: STUDY/result.json"
_IMAGES = "source of that run, if it has moved from the place that run.yaml names"
_REVIEWER = "name or code to store with each correction; none stores nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Review(Settings):
    """Keys of ``spineline review``."""

    source: Path = key(_SOURCE)
    images: Path | None = key(_IMAGES, default=None)
    port: int = key("port on 127.0.0.1; 0: any free port", default=0, minimum=0, maximum=65535)
    readonly: bool = key("view only", default=False)
    open: bool = key("open the page in the browser", default=False)
    reviewer: str | None = key(_REVIEWER, default=None)
    timestamps: bool = key("store the time of each correction", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineWrite(Settings):
    """Keys of ``pipeline write``."""

    source: Path = key(_SOURCE)
    out: Path = key("folder to write: corrected STUDY/result.json, results.csv, log.txt")
    images: Path | None = key(_IMAGES, default=None)
    studies: str = key(
        "all, or only those that a reader has reviewed",
        default="all",
        choices=("all", "reviewed"),
    )
    to: tuple[str, ...] = key(
        "further outputs, as in pipeline predict", default=(), choices=tuple(list_outputs())
    )
    overlay: bool = key("draw STUDY/overlay.png", default=True)
    overwrite: bool = key("replace an earlier output", default=False)

    def __post_init__(self) -> None:
        check_packages(self.to)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineAgreement(Settings):
    """Keys of ``pipeline agreement``."""

    source: Path = key("output folder of pipeline predict that a reader has reviewed")
    out: Path = key("folder to write: agreement.json, agreement.csv, changes.csv")
    overwrite: bool = key("replace an earlier output", default=False)
