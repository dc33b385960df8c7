"""Settings of the pipeline itself, and of the ground truth for its evaluation."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from spineline.datasets.common.devices import check_device
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.settings import Settings, key
from spineline.pipeline.inference.naming import LEAST_PROBABILITY
from spineline.weights import names_in_list

SliceCount: TypeAlias = "int | Literal['auto']"
"""The number of slices to read per study."""

_WEIGHTS = (
    "bundle, DETECTOR,CLASSIFIER, or one network that replaces its counterpart in "
    "the default bundle: names or files"
)
_DETECTOR = "detector instead of that of weights: a registry name or a file"
_CLASSIFIER = (
    "classifier instead of that of weights: a registry name or a file; several, as "
    "A,B, are averaged"
)
_CONFIDENCE = "boxes with a lower confidence are marked as doubtful, and left out by decode=argmax"
_CANDIDATES = "boxes with a lower confidence are not candidates for the spine"
_NAMER = "level reader instead of that of weights: a registry name, a file, or none"
_NAMING = "if the naming probability is lower, the levels are marked as a guess; 0: never"
_FORCE = (
    "also name and grade images that are not a sagittal T2 of a lumbar spine with "
    "the head up, and say so"
)
_WINDOW = "8-bit window of plain images: percentile, or none for images already windowed"
_SLICES = "slices to read: auto (three; in doubt more, and T1), or a number; 1: only the middle one"
_BATCH = "images per model batch; auto: 1 on the CPU, else 32; halved if memory runs out"
_RUNTIME = (
    "library that runs the networks: torch, onnx (ONNX Runtime), openvino, or auto:"
    " onnx on the CPU for weights that come with spineline, else torch"
)
_HALF = "mixed precision: true, false, or auto: on CUDA only"
_CROPS = (
    "boxes of the crops for grading: made from the points by the box rule, or the detector's own"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings(Settings):
    """The keys that determine the pipeline's result for an image."""

    weights: str = key(_WEIGHTS, default="default", group="model")
    detector: str | None = key(_DETECTOR, default=None, group="model")
    classifier: str | None = key(_CLASSIFIER, default=None, group="model")
    namer: str = key(_NAMER, default="bundle", group="model")
    decode: str = key(
        "decode boxes as one ordered spine, or take the most confident box of each level",
        default="spine",
        choices=("spine", "argmax"),
        group="model",
    )
    confidence: float = key(_CONFIDENCE, default=0.25, minimum=0, maximum=1, group="model")
    candidate_confidence: float = key(
        _CANDIDATES, default=0.01, minimum=0, maximum=1, group="model"
    )
    min_naming_probability: float = key(
        _NAMING, default=LEAST_PROBABILITY, minimum=0, maximum=1, group="model"
    )
    force: bool = key(_FORCE, default=False, group="model")
    iou: float = key(
        "boxes of one level that overlap by more are merged",
        default=0.8,
        minimum=0,
        maximum=1,
        group="model",
    )
    crop_boxes: str = key(_CROPS, default="rule", choices=("rule", "detector"), group="model")
    slices: SliceCount = key(_SLICES, default="auto", minimum=1, maximum=99, group="data")
    window: str = key(_WINDOW, default="percentile", choices=("percentile", "none"), group="data")
    batch: int | Literal["auto"] = key(_BATCH, default="auto", minimum=1)
    device: str = key("cpu, cuda, mps, or the number of one CUDA device", default="cpu")
    half: bool | Literal["auto"] = key(_HALF, default="auto")
    runtime: str = key(_RUNTIME, default="auto", choices=("auto", "torch", "onnx", "openvino"))
    trust: bool = key(
        "allow weights that are pickles, which can run code", default=False, group="model"
    )

    def __post_init__(self) -> None:
        if isinstance(self.classifier, (list, tuple)):
            object.__setattr__(self, "classifier", ",".join(map(str, self.classifier)))
        Settings.__post_init__(self)
        if self.classifier is not None and not names_in_list(self.classifier):
            msg = f"classifier={self.classifier}: names none; wanted A, or A,B for several"
            raise ConfigError(msg)
        if isinstance(self.batch, str) and self.batch != "auto":
            raise ConfigError(f"batch={self.batch}: wanted auto, or a number of images, 1 or more")
        if isinstance(self.slices, str) and self.slices != "auto":
            msg = f"slices={self.slices}: wanted auto, or a number of slices, 1 or more"
            raise ConfigError(msg)
        if isinstance(self.half, str) and self.half != "auto":
            raise ConfigError(f"half={self.half}: wanted auto, true or false")
        check_device(self.device)
        if self.half is True and self.device.strip().lower() == "cpu":
            msg = "half=true: the CPU computes in full precision; use half=auto, or a GPU by "
            raise ConfigError(msg + "device=0")
        if self.decode == "argmax" and self.min_naming_probability not in (0, LEAST_PROBABILITY):
            msg = (
                f"min_naming_probability={self.min_naming_probability:g}: decode=argmax names each "
                "level by itself and has no probability of the whole; use decode=spine"
            )
            raise ConfigError(msg)


def mixed_precision(settings: ModelSettings) -> bool:
    """Whether the models compute in half precision where that suffices; auto: on CUDA."""
    if isinstance(settings.half, str):
        return check_device(settings.device) not in ("cpu", "mps")
    return settings.half


_TOLD_ELSEWHERE = (
    "weights", "detector", "classifier", "namer", "trust", "batch", "device", "half", "runtime",
)  # fmt: skip
"""Keys that are covered by the hash of the weights, or change only the last digits of a result."""


def changed_settings(settings: ModelSettings) -> str:
    """Six hexadecimal digits of a hash of the model settings that are not the default.

    Returns:
        The digits; empty if all settings are the default.

    >>> changed_settings(ModelSettings()), changed_settings(ModelSettings(slices=1))
    ('', 'ead8ce')
    """
    kept = [spec for spec in fields(ModelSettings) if spec.name not in _TOLD_ELSEWHERE]
    changed = {spec.name: getattr(settings, spec.name) for spec in kept}
    changed = {spec.name: changed[spec.name] for spec in kept if changed[spec.name] != spec.default}
    text = json.dumps(changed, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:6] if changed else ""


def spacing_key() -> Any:
    """The key ``spacing_mm``."""
    text = "pixel spacing, in mm, of images without one"
    return key(text, default=None, minimum=1e-3, maximum=100, group="data")


def fov_key() -> Any:
    """The key ``fov_mm``."""
    text = "field of view, in mm, along the longer side of images without a pixel spacing"
    return key(text, default=None, minimum=1, maximum=10000, group="data")


def check_spacing(spacing_mm: float | None, fov_mm: float | None) -> None:
    """Refuse both at once.

    Raises:
        ConfigError: both are given.
    """
    if spacing_mm is not None and fov_mm is not None:
        raise ConfigError("spacing_mm=… and fov_mm=…: give only one")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundTruthSettings(ModelSettings):
    """The keys that select the ground truth."""

    source: Path | None = key("folder of DICOM studies, or of frames", default=None, group="data")
    annotations: Path | None = key(
        "Tianchi or report JSON for the source, or a folder of results that a reader "
        "has reviewed in spineline review",
        default=None,
        group="data",
    )
    data: Path | None = key(
        "converted dataset, instead of source and annotations", default=None, group="data"
    )
    part: str | None = key(
        "part of data or of split to score; none: val of data, everything of a source",
        default=None,
        choices=("train", "val", "test"),
        group="data",
    )
    split: Path | None = key(
        "split manifest that lists the studies of part", default=None, group="data"
    )
    ids: tuple[str, ...] = key("score only these studies", default=(), group="data")
    slice: str = key(
        "slice to score: the pipeline's choice, or the annotated one",
        default="auto",
        choices=("auto", "annotated"),
        group="data",
    )
    spacing_mm: float | None = spacing_key()
    fov_mm: float | None = fov_key()
