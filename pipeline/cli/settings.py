"""Settings of ``spineline weights``, ``demo``, ``doctor`` and ``completion``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.common.settings import Settings, key


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsList(Settings):
    """Keys of ``weights list``."""

    folder: Path | None = key("folder of further weights to list", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsVerify(Settings):
    """Keys of ``weights verify``."""

    weights: str = key("name of the weights to verify, or all", default="all")
    folder: Path | None = key("folder of further weights to verify", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsAdd(Settings):
    """Keys of ``weights add``."""

    weights: Path = key("stripped .safetensors file to add")
    name: str = key("its name in the registry")
    trained_on: str = key("description of the training data")
    input: str = key("description of the network's input")
    licence: str = key("SPDX licence", default="AGPL-3.0-or-later")
    figures: tuple[str, ...] = key("metrics on held-out data, NAME:VALUE,…", default=())
    card: Path | None = key("model card, a Markdown file", default=None)
    folder: Path | None = key("folder of the registry; none: the bundled one", default=None)
    overwrite: bool = key("replace the entry of that name", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsGraphs(Settings):
    """Keys of ``weights graphs``."""

    weights: str = key("name of the weights whose graphs to write, or all", default="all")
    folder: Path | None = key("folder of the registry; none: the bundled one", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo(Settings):
    """Keys of ``demo``."""

    out: Path = key(
        "folder to write; an earlier demo in it is replaced", default=Path("spineline-demo")
    )
    weights: str = key("bundle name, or DETECTOR,CLASSIFIER", default="default")
    device: str = key("cpu, cuda, or the number of one CUDA device", default="cpu")
    overwrite: bool = key("replace the folder even if it does not hold a demo", default=False)
    seed: int = key("random seed for the drawn phantom", default=2, minimum=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doctor(Settings):
    """Keys of ``doctor``."""

    weights: str = key("bundle name, or folder of pipeline export", default="default")
    device: str = key("cpu, cuda, mps, or the number of one CUDA device", default="cpu")
    quick: bool = key("skip importing network libraries and looking for a GPU", default=False)
    json: bool = key("print JSON", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion(Settings):
    """Keys of ``completion``."""

    shell: str = key("shell to print the script for", choices=("bash", "zsh", "fish"))
