"""Settings of ``spineline pipeline val`` and ``spineline naming calibrate``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.settings import key
from spineline.datasets.splits import PARTS
from spineline.pipeline.inference.settings import (
    GroundTruthSettings,
    ModelSettings,
    check_spacing,
)
from spineline.pipeline.outputs.settings import NAMES_HELP, SALT_HELP, check_salt

_NO_NAMING = ("classifier", "crop_boxes", "force", "slices")
"""Keys that ``naming calibrate`` refuses: they do not affect the naming of a single image."""

_ABSTAINED = (
    "how to score studies whose levels are a guess: as wrong, or left out of all "
    "metrics but naming.*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineVal(GroundTruthSettings):
    """Keys of ``pipeline val``."""

    out: Path = key("folder to write: metrics.json, predictions/, results.csv, log.txt")
    folds: tuple[Path, ...] = key(
        "weights by fold, so that each study is run with weights that did not see it: "
        "variant folders of kfold detect and kfold classify, or JSON files",
        default=(),
        group="model",
    )
    fold_match: str = key(
        "how studies are matched with folds: by study UID, else by name; or by the "
        "number in the name (study12 is 012)",
        default="auto",
        choices=("auto", "number"),
        group="model",
    )
    predictions: Path | None = key(
        "score the result.json files of this folder instead of running models",
        default=None,
        group="data",
    )
    compare: Path | None = key(
        "output folder of pipeline predict, or of pipeline val without predictions=, "
        "for the same studies; the difference of each metric, paired by study, is "
        "stored under 'compared' in metrics.json",
        default=None,
        group="data",
    )
    abstained: str = key(_ABSTAINED, default="wrong", choices=("wrong", "leave_out"))
    draws: int = key("number of bootstrap draws", default=1000, minimum=1, maximum=100000)
    names: str = key(NAMES_HELP, default="folder", choices=("folder", "hash"), group="output")
    salt: str | None = key(SALT_HELP, default=None, group="output")
    overlay: bool = key("draw an overlay of each image", default=False, group="output")
    overwrite: bool = key("replace an earlier output", default=False)
    seed: int = key("random seed for the bootstrap", default=0, minimum=0)

    def __post_init__(self) -> None:
        GroundTruthSettings.__post_init__(self)
        check_salt(self.salt, self.names)
        if self.data is None and (self.source is None or self.annotations is None):
            raise ConfigError("give source=… and annotations=…, or data=…")
        if self.data is not None and (self.source or self.annotations):
            raise ConfigError("data=…: replaces source=… and annotations=…; give only one")
        if self.split is not None and self.part is None:
            raise ConfigError("split=…: say which part to score, such as part=val")
        if self.split is None and self.part is not None and self.data is None:
            raise ConfigError("part=…: needs split=MANIFEST, or data=… instead of a source")
        if self.folds and self.predictions is not None:
            raise ConfigError("folds=… and predictions=…: stored predictions run no weights")
        check_spacing(self.spacing_mm, self.fov_mm)
        if self.compare is not None and not self.compare.is_dir():
            msg = f"compare={self.compare}: no such folder; wanted the output of pipeline predict "
            raise ConfigError(f"{msg}or pipeline val")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamingCalibrate(ModelSettings):
    """Keys of ``naming calibrate``."""

    NOT_SHOWN: ClassVar[tuple[str, ...]] = (*_NO_NAMING, "decode")

    data: Path = key("converted dataset (folder or data.yaml), labels=level", group="data")
    part: str = key(
        "without folds=: the part of the data that the networks have not seen",
        default="val",
        choices=(*PARTS, "all"),
        group="data",
    )
    folds: tuple[Path, ...] = key(
        "networks by fold, so that each spine is named by networks that did not see it: "
        "OUT/RECIPE of kfold pipeline, or JSON files",
        default=(),
        group="model",
    )
    out: Path = key(
        "folder to write: namer.safetensors, metrics.json, rows.json, reliability.png; with "
        "folds=, also fold_weights.json"
    )
    rows: Path | None = key(
        "rows.json of an earlier run with the same data and networks: its namings are used, and "
        "no networks run",
        default=None,
        group="data",
    )
    threads: int | None = key(
        "threads of the networks on the CPU; none: OMP_NUM_THREADS, else one with ONNX Runtime "
        "and OpenVINO, and as many as torch chooses; the last digits of numbers may differ",
        default=None,
        minimum=1,
        maximum=256,
    )
    seed: int = key("random seed for the changes of the images", default=0, minimum=0)
    overwrite: bool = key("replace an earlier output", default=False)

    def __post_init__(self) -> None:
        ModelSettings.__post_init__(self)
        if self.folds and self.part != "val":
            msg = f"part={self.part}: with folds=, the train and val parts are used; leave part="
            raise ConfigError(f"{msg} out")
        if self.decode == "argmax":
            raise ConfigError("decode=argmax: gives names no probability; leave it out")

    def refuse_unused(self) -> None:
        """Refuse keys of [ModelSettings][] that would change nothing.

        This is no check of the dataclass, because a fold's networks, with a classifier, take the
        place of these.

        Raises:
            ConfigError: one of them is not the default.
        """
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.name == "threads" and value is not None and self.rows is not None:
                raise ConfigError("threads=: no networks run with rows=; leave one of them out")
            if spec.name in _NO_NAMING and value != spec.default:
                msg = f"{spec.name}={value}: changes nothing here, where single images of the data"
                raise ConfigError(f"{msg} are named and none is graded; leave it out")
