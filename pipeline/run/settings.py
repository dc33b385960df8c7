"""Settings of ``spineline pipeline predict | val``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from spineline.datasets.common.devices import check_device
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.pages import check_name
from spineline.datasets.common.settings import Settings, key, settings_to_dict
from spineline.pipeline.outputs.writers import OF_COHORT, OF_STUDY, check_words
from spineline.pipeline.run.engines import ENGINES, check_engine

_WEIGHTS = "bundle, DETECTOR,CLASSIFIER, or one network in the default's place: names or files"
_DETECTOR = "detector instead of that of weights: a registry name or a file"
_CLASSIFIER = "classifier instead of that of weights: a registry name or a file"
_CONFIDENCE = "boxes less sure are marked as doubtful, and left out by decode=argmax"
_CANDIDATES = "boxes less sure are no candidates for the spine"
_NAMER = "network that reads levels off the straightened spine: name, file, none, or the bundle's"
_NAMING = "where the levels as a whole are less probable, they are marked as a guess (0: never)"
_ABSTAINED = "studies whose levels are but a guess are wrong, or left out but for naming.*"
_COMPARE = "Tianchi or report JSON for the source: its labels beside what was found, in pictures"
_TO = (
    "what else to write: report (STUDY/report.html), page (index.html, all studies), tianchi (a "
    "submission to the challenge), coco (detections); of DICOM studies sr (structured report), pr "
    "(presentation state), sc (secondary capture), slicer (points for 3D Slicer)"
)
_WINDOW = "8-bit window of plain images: percentile, or none for images already windowed"
_BATCH = (
    "images given to the models at once; auto: 1 on the CPU, else 32; halved if memory runs out"
)
_HALF = "mixed precision: true, false, or auto: on CUDA only"
_ENGINE = "this machine, or a Ray cluster (spineline[ray])"
_RAY_ADDRESS = "cluster of engine=ray: auto or HOST:PORT; else RAY_ADDRESS, or a local one"
_RAY_WORKERS = "actors of engine=ray that hold models; auto: as many as its CPUs or GPUs allow"
_WORKERS = "processes that read ahead of the models (0: none, no limits of time and memory)"
_THREADS = (
    "studies that go through the models at a time on the CPU, by one thread each; auto: as many as "
    "torch would use threads, 8 at most"
)
_TIMEOUT = "seconds that reading one study may take; then it fails, and the others go on"
_MEMORY = "MB that reading one study may take; then it fails, and the others go on"
_OUT = "folder to write, or of a run to go on with: STUDY/result.json, results.csv, manifest.jsonl"
_NAMES = "studies by their folder, or by a salted hash that hides names, UIDs and paths"
_SALT = "of names=hash; none: made at random and kept in OUT/salt.txt, for you alone"
_CROPS = "crops for grading: by the box rule from the points, or the detector's own boxes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings(Settings):
    """The keys that decide what the pipeline makes of an image."""

    weights: str = key(_WEIGHTS, default="default")
    detector: str | None = key(_DETECTOR, default=None)
    classifier: str | None = key(_CLASSIFIER, default=None)
    namer: str = key(_NAMER, default="bundle")
    decode: str = key(
        "ordered spine, or the surest box of each level",
        default="spine",
        choices=("spine", "argmax"),
    )
    confidence: float = key(_CONFIDENCE, default=0.25, minimum=0, maximum=1)
    candidate_confidence: float = key(_CANDIDATES, default=0.01, minimum=0, maximum=1)
    min_naming_probability: float = key(_NAMING, default=0.0, minimum=0, maximum=1)
    iou: float = key(
        "boxes of one level that overlap more are one box", default=0.8, minimum=0, maximum=1
    )
    crop_boxes: str = key(_CROPS, default="rule", choices=("rule", "detector"))
    window: str = key(_WINDOW, default="percentile", choices=("percentile", "none"))
    batch: int | Literal["auto"] = key(_BATCH, default="auto", minimum=1)
    device: str = key("cpu, cuda, mps, or the number of one CUDA device", default="cpu")
    half: bool | Literal["auto"] = key(_HALF, default="auto")
    trust: bool = key("load weights that are pickles, which run the code in them", default=False)

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        _check_machine(self)
        if self.decode == "argmax" and self.min_naming_probability > 0:
            msg = (
                f"min_naming_probability={self.min_naming_probability:g}: decode=argmax names each "
                "level by itself and has no probability of the whole; use decode=spine"
            )
            raise ConfigError(msg)


def _check_machine(settings: ModelSettings) -> None:
    if isinstance(settings.batch, str) and settings.batch != "auto":
        raise ConfigError(f"batch={settings.batch}: wanted auto, or a number of images, 1 or more")
    if isinstance(settings.half, str) and settings.half != "auto":
        raise ConfigError(f"half={settings.half}: wanted auto, true or false")
    check_device(settings.device)
    if settings.half is True and settings.device.strip().lower() == "cpu":
        msg = "half=true: the CPU computes in full precision; use half=auto, or a GPU by device=0"
        raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelinePredict(ModelSettings):
    """Keys of ``pipeline predict``."""

    source: Path = key("study, folder of studies, DICOM file, image, or folder of images")
    out: Path = key(_OUT)
    overlay: bool = key("draw STUDY/overlay.png", default=True)
    compare: Path | None = key(_COMPARE, default=None)
    to: tuple[str, ...] = key(
        _TO,
        default=(),
        choices=(*OF_STUDY, *(w for w in OF_COHORT if w not in OF_STUDY)),
    )
    names: str = key(_NAMES, default="folder", choices=("folder", "hash"))
    salt: str | None = key(_SALT, default=None)
    overwrite: bool = key("start anew instead of going on with an earlier run", default=False)
    retry: bool = key("try studies again that failed in an earlier run", default=False)
    engine: str = key(_ENGINE, default="local", choices=tuple(ENGINES))
    ray_address: str | None = key(_RAY_ADDRESS, default=None)
    ray_workers: int | Literal["auto"] = key(_RAY_WORKERS, default="auto", minimum=1, maximum=10000)
    workers: int | Literal["auto"] = key(_WORKERS, default="auto", minimum=0, maximum=256)
    threads: int | Literal["auto"] = key(_THREADS, default="auto", minimum=1, maximum=256)
    timeout: float = key(_TIMEOUT, default=60.0, minimum=0.1, maximum=86400)
    max_memory: int = key(_MEMORY, default=2048, minimum=64, maximum=1 << 20)
    seed: int = key("kept in run.yaml; prediction draws no random number", default=0, minimum=0)

    def __post_init__(self) -> None:
        ModelSettings.__post_init__(self)
        if isinstance(self.workers, str) and self.workers != "auto":
            msg = f"workers={self.workers}: wanted auto, or a number of processes, 0 or more"
            raise ConfigError(msg)
        if isinstance(self.threads, str) and self.threads != "auto":
            raise ConfigError(f"threads={self.threads}: wanted auto, or a number, 1 or more")
        _check_ray(self)
        _check_salt(self.salt, self.names)
        if self.names == "hash" and self.compare is not None:
            raise ConfigError("compare=…: finds labels by the names and UIDs that names=hash hides")
        check_words(self.to)


def _check_salt(salt: str | None, names: str) -> None:
    if salt is not None and (names != "hash" or len(salt) < 8):
        raise ConfigError("salt=…: wanted eight characters or more, and names=hash")


def _check_ray(settings: PipelinePredict) -> None:
    workers, address = settings.ray_workers, settings.ray_address
    if isinstance(workers, str) and workers != "auto":
        msg = f"ray_workers={workers}: wanted auto, or a number of actors, 1 or more"
        raise ConfigError(msg)
    if settings.engine != "ray" and (workers != "auto" or address is not None):
        raise ConfigError("ray_workers=… and ray_address=…: are of engine=ray alone")
    check_engine(settings.engine)


_NOT_OF_RESULTS = (
    "source", "out", "overwrite", "retry", "seed", "engine", "workers", "threads", "timeout",
    "max_memory", "batch", "device", "half", "trust", "weights", "detector", "classifier", "namer",
    "to", "names", "salt", "ray_address", "ray_workers",
)  # fmt: skip
"""Keys that say where and how to run; those of weights are told by their SHA-256."""


def mixed_precision(settings: ModelSettings) -> bool:
    """Whether the models compute in half precision where that is enough; auto: on CUDA."""
    if isinstance(settings.half, str):
        return check_device(settings.device) not in ("cpu", "mps")
    return settings.half


def results_hash(settings: PipelinePredict) -> str:
    """Twelve hexadecimal digits of the settings that change what is written of a study."""
    values = settings_to_dict(settings)
    kept: dict[str, object] = {k: v for k, v in values.items() if k not in _NOT_OF_RESULTS}
    kept["half"] = mixed_precision(settings)
    if settings.compare is not None and settings.compare.is_file():
        kept["compare"] = hashlib.sha256(settings.compare.read_bytes()).hexdigest()
    kept["to"] = sorted({word for word in settings.to if word in OF_STUDY})
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def spacing_key() -> Any:
    """The key ``spacing_mm``."""
    return key("pixel spacing of images that carry none", default=None, minimum=1e-3, maximum=100)


def fov_key() -> Any:
    """The key ``fov_mm``."""
    text = "field of view along the longer side of images that carry no spacing"
    return key(text, default=None, minimum=1, maximum=10000)


def check_spacing(spacing_mm: float | None, fov_mm: float | None) -> None:
    """Refuse both at once.

    Raises:
        ConfigError: both are given.
    """
    if spacing_mm is not None and fov_mm is not None:
        raise ConfigError("spacing_mm=… and fov_mm=…: give one of both")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineVal(ModelSettings):
    """Keys of ``pipeline val``."""

    source: Path | None = key("folder of DICOM studies, or of frames", default=None)
    annotations: Path | None = key("Tianchi or report JSON for the source", default=None)
    data: Path | None = key("converted dataset, instead of source and annotations", default=None)
    out: Path = key("folder to write: metrics.json, predictions/, results.csv, log.txt")
    part: str | None = key(
        "part of data, or of split, to score (default: val of data, all of a source)",
        default=None,
        choices=("train", "val", "test"),
    )
    split: Path | None = key("split manifest that says which studies part is", default=None)
    ids: tuple[str, ...] = key("score these studies alone", default=())
    slice: str = key(
        "the pipeline's own choice of slice, or the annotated one",
        default="auto",
        choices=("auto", "annotated"),
    )
    folds: tuple[Path, ...] = key(
        "weights by fold, each study run with those that did not see it: variant folders of kfold "
        "detect and kfold classify, or JSON files",
        default=(),
    )
    fold_match: str = key(
        "how studies are found in folds: by study UID, else by name; or by the number in the name "
        "(study12 is 012)",
        default="auto",
        choices=("auto", "number"),
    )
    predictions: Path | None = key(
        "score the result.json files of this folder instead of running models", default=None
    )
    spacing_mm: float | None = spacing_key()
    fov_mm: float | None = fov_key()
    abstained: str = key(_ABSTAINED, default="wrong", choices=("wrong", "leave_out"))
    draws: int = key("bootstrap draws", default=1000, minimum=1, maximum=100000)
    names: str = key(_NAMES, default="folder", choices=("folder", "hash"))
    salt: str | None = key(_SALT, default=None)
    table: Path | None = key(
        "also write the figures into this Markdown page, of which the rest stays", default=None
    )
    section: str = key("name of the table's section of that page", default="heldout")
    note: str = key("a sentence on the data, for the table", default="")
    overlay: bool = key("draw an overlay of each image", default=False)
    overwrite: bool = key("replace an earlier output", default=False)
    seed: int = key("of the bootstrap", default=0, minimum=0)

    def __post_init__(self) -> None:
        ModelSettings.__post_init__(self)
        _check_val(self)


def _check_val(settings: PipelineVal) -> None:
    _check_salt(settings.salt, settings.names)
    check_name(settings.section)
    if settings.data is None and (settings.source is None or settings.annotations is None):
        raise ConfigError("wanted source=… and annotations=…, or data=…")
    if settings.data is not None and (settings.source or settings.annotations):
        raise ConfigError("data=…: stands instead of source=… and annotations=…; give one of both")
    if settings.split is not None and settings.part is None:
        raise ConfigError("split=…: say which part to score, such as part=val")
    if settings.split is None and settings.part is not None and settings.data is None:
        raise ConfigError("part=…: needs split=MANIFEST, or data=… instead of a source")
    if settings.folds and settings.predictions is not None:
        raise ConfigError("folds=… and predictions=…: stored predictions run no weights")
    check_spacing(settings.spacing_mm, settings.fov_mm)
