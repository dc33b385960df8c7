"""Settings of ``spineline pipeline train`` and ``spineline weights strip``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.common.settings import Settings, key


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineTrain(Settings):
    """Keys of ``pipeline train``."""

    data: Path = key("converted dataset (folder or data.yaml), labels=level")
    out: Path = key(
        "folder to write: detector.safetensors, classifier.safetensors, namer.safetensors, and "
        "the run folder of each"
    )
    recipe: str = key(
        "best (the recipe of the default bundle), finetune (the same, starting from "
        "bundled weights), or a YAML file with keys for the trainings: detector: {…}, "
        "classifier: {…}, namer: {…}; members: [RECIPE, …] trains several classifiers "
        "and combines them",
        default="best",
    )
    epochs: int | None = key(
        "epochs of every training; none: as the recipe says", default=None, minimum=1
    )
    seed: int = key("random seed for every training", default=0, minimum=0)
    device: str = key("cpu, cuda, or the number of one CUDA device", default="cpu")
    side_by_side: bool = key(
        "on the CPU, train the detector in its own process, in parallel with the others, on all "
        "cores but one",
        default=True,
    )
    resume: bool = key("continue the trainings in out= where they stopped", default=False)
    overwrite: bool = key("replace earlier trainings in out=", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsStrip(Settings):
    """Keys of ``weights strip``."""

    weights: Path = key("checkpoint: .safetensors, or .pt; a YOLO network's .pt with trust=true")
    out: Path = key("file to write, .safetensors")
    half: bool = key("store fp16 (the network still computes in fp32)", default=True)
    trust: bool = key("allow a pickle, which can run code", default=False)
    overwrite: bool = key("replace out if it exists", default=False)
