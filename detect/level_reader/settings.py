"""Settings of ``spineline naming train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.common.settings import Settings, key


@dataclass(frozen=True, slots=True, kw_only=True)
class NamingTrain(Settings):
    """Keys of ``naming train``."""

    data: Path = key("converted dataset (folder or data.yaml), labels=level")
    out: Path = key("folder to write: namer.safetensors, results.csv, metrics.json, run.yaml")
    weights: str | None = key(
        "initial weights: a .safetensors file or a registry name, with the same width= "
        "and hidden=; none: train from scratch",
        default=None,
    )
    epochs: int = key("number of epochs", default=100, minimum=1)
    batch: int = key("straightened spines per step", default=16, minimum=2)
    lr: float = key(
        "highest learning rate of the one-cycle schedule", default=2e-3, minimum=0, maximum=1
    )
    weight_decay: float = key("weight decay of AdamW", default=0.02, minimum=0, maximum=1)
    label_smoothing: float = key(
        "label smoothing of the cross-entropy", default=0.05, minimum=0, maximum=0.99
    )
    width: int = key("number of channels of the first stage", default=16, minimum=1, maximum=256)
    hidden: int = key("number of channels along the spine", default=64, minimum=1, maximum=1024)
    dropout: float = key("dropout rate of channels", default=0.3, minimum=0, maximum=0.95)
    scanner_looks: float = key(
        "probability of simulating another scanner: brightness, contrast, shading, fat "
        "suppression, sharpness, noise",
        default=0.5,
        minimum=0,
        maximum=1,
    )
    device: str = key("cpu, cuda, or the number of one CUDA device", default="cpu")
    seed: int = key("random seed for initial weights, order and augmentation", default=0, minimum=0)
    overwrite: bool = key("replace an earlier run in out", default=False)
