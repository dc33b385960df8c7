"""Settings of ``spineline pipeline predict``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.settings import key, settings_to_dict
from spineline.pipeline.inference.settings import mixed_precision
from spineline.pipeline.outputs.registry import list_outputs
from spineline.pipeline.outputs.settings import OutputSettings
from spineline.pipeline.run.engines import ENGINES, check_engine

_ENGINE = "run on this machine, or on a Ray cluster (spineline[ray])"
_RAY_ADDRESS = "cluster of engine=ray: auto or HOST:PORT; none: RAY_ADDRESS, or a local cluster"
_RAY_WORKERS = (
    "actors of engine=ray, each with its own models; auto: as many as the CPUs or GPUs allow"
)
_WORKERS = (
    "worker processes, each with one study (on a GPU and with exported networks, "
    "they only read files); 0: none, and no limits; auto: as many as torch would "
    "use threads, at most 8"
)
_TIMEOUT = (
    "time limit for a study, in seconds; a study that exceeds it fails, and the others continue"
)
_MEMORY = "memory limit for a study, in MB; a study that exceeds it fails, and the others continue"
_THREADS = (
    "threads per study for the networks on the CPU; with more than one, the last "
    "digits of numbers may differ"
)
_STACK = "treat the images of a folder as slices of one study, in the order of their names"
_OUT = "folder to write, or a run to resume: STUDY/result.json, results.csv, manifest.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelinePredict(OutputSettings):
    """Keys of ``pipeline predict``."""

    out: Path = key(_OUT)
    stack: bool = key(_STACK, default=False, group="data")
    overwrite: bool = key("start from scratch instead of resuming an earlier run", default=False)
    retry: bool = key("repeat studies that failed in an earlier run", default=False)
    engine: str = key(_ENGINE, default="local", choices=tuple(ENGINES))
    ray_address: str | None = key(_RAY_ADDRESS, default=None)
    ray_workers: int | Literal["auto"] = key(_RAY_WORKERS, default="auto", minimum=1, maximum=10000)
    workers: int | Literal["auto"] = key(_WORKERS, default="auto", minimum=0, maximum=256)
    threads: int = key(_THREADS, default=1, minimum=1, maximum=256)
    timeout: float = key(_TIMEOUT, default=60.0, minimum=0.1, maximum=86400)
    max_memory: int = key(_MEMORY, default=2048, minimum=64, maximum=1 << 20)
    seed: int = key("recorded in run.yaml; prediction uses no random numbers", default=0, minimum=0)

    def __post_init__(self) -> None:
        OutputSettings.__post_init__(self)
        if self.stack and self.window == "none":
            msg = "stack=true and window=none: slices of a stack are windowed alike; leave one out"
            raise ConfigError(msg)
        if isinstance(self.workers, str) and self.workers != "auto":
            msg = f"workers={self.workers}: wanted auto, or a number of processes, 0 or more"
            raise ConfigError(msg)
        actors = self.ray_workers
        if isinstance(actors, str) and actors != "auto":
            msg = f"ray_workers={actors}: wanted auto, or a number of actors, 1 or more"
            raise ConfigError(msg)
        if self.engine != "ray" and (actors != "auto" or self.ray_address is not None):
            raise ConfigError("ray_workers=… and ray_address=…: only for engine=ray")
        check_engine(self.engine)


_NOT_OF_RESULTS = (
    "source", "out", "overwrite", "retry", "seed", "engine", "workers", "threads", "timeout",
    "max_memory", "batch", "device", "half", "runtime", "trust", "weights", "detector",
    "classifier", "namer", "to", "names", "salt", "ray_address", "ray_workers",
)  # fmt: skip
"""Keys that determine where and how to run; keys of weights are covered by their SHA-256."""


def results_hash(settings: PipelinePredict) -> str:
    """Twelve hexadecimal digits of a hash of the settings that change a study's outputs."""
    values = settings_to_dict(settings)
    kept: dict[str, object] = {k: v for k, v in values.items() if k not in _NOT_OF_RESULTS}
    kept["half"] = mixed_precision(settings)
    if settings.compare is not None and settings.compare.is_file():
        kept["compare"] = hashlib.sha256(settings.compare.read_bytes()).hexdigest()
    kept["to"] = sorted({word for word in settings.to if list_outputs()[word].study_writer})
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]
