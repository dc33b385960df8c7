"""Settings of ``spineline kfold``: keys of the trainings and of the folds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spineline.classify.settings import ClassifyTrain
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.settings import Settings, key
from spineline.detect.settings import DetectTrain
from spineline.pipeline.inference.settings import check_spacing, fov_key, spacing_key

DETECT_FIGURES = (
    "level_accuracy_8px", "coco.map50", "coco.map50_95",
    "one_to_one.precision", "one_to_one.recall", "one_to_one.f1", "one_to_one.average_precision",
    "seed.precision", "seed.recall", "seed.f1", "seed.average_precision",
)  # fmt: skip
CLASSIFY_FIGURES = (
    "seven.accuracy", "seven.macro_f1", "seven.ece", "abnormal.auc_disc", "abnormal.auc_vertebra",
    "binary.accuracy", "binary.sensitivity", "binary.specificity", "binary.auc", "binary.ece",
)  # fmt: skip
PIPELINE_FIGURES = (
    "level_accuracy_8px", "level_accuracy_6mm", "offset_accuracy", "seven.accuracy",
    "seven.macro_f1", "seven.ece", "binary.accuracy", "binary.auc", "binary.auc_disc",
    "ccf.l_disc", "ccf.l_vertebra", "ccf.c_disc", "ccf.c_vertebra", "ccf.score",
    "report.recall", "report.precision", "report.ap", "coco.map50",
)  # fmt: skip
NOT_OF_A_VARIANT = ("data", "out", "resume", "overwrite", "device", "trust")
"""Keys of a training that no variant may change; a file must not grant trust."""

FOLDS_FOLDER = "folds"
"""Folder of the folds' datasets within the output; a variant must not have this name."""

_DATA = "converted dataset, whose train and val parts are split into folds, or a folder of folds"
_OUT = "folder to write: VARIANT/foldN, folds.json, kfold.md, kfold.csv, kfold.json, kfold.png"
_RESUME = "continue the cross-validation in out= where it stopped; you may add variants"
_DEVICE = "cpu, cuda or a number; several, such as 0,1, run folds in parallel"
_K = "number of folds"
_FOLDS = "folds.json of another cross-validation, or of convert … kfold="
_CHECKPOINT = "weights to score; best is chosen on the same fold that scores it"


def _k() -> Any:
    return key(_K, default=None, minimum=2, maximum=100, group="data", shown="3, or the data's")


def _metric(choices: tuple[str, ...], chosen: str) -> Any:
    return key(f"metrics of the table ({chosen})", default=None, choices=choices, shown="chosen")


def _checkpoint() -> Any:
    return key(_CHECKPOINT, default="last", choices=("last", "best"))


@dataclass(frozen=True, slots=True, kw_only=True)
class KfoldDetect(DetectTrain):
    """Keys of ``kfold detect``; those of ``detect train`` apply to every variant."""

    data: Path = key(_DATA, group="data")
    out: Path = key(_OUT)
    resume: bool = key(_RESUME, default=False)
    overwrite: bool = key("replace an earlier cross-validation in out=", default=False)
    seed: int = key("random seed for the folds and every training", default=0, minimum=0)
    device: str = key(_DEVICE, default="cpu")
    val: bool = key(
        "validate on the fold's val part during training, for early stopping and the best weights",
        default=False,
    )
    k: int | None = _k()
    variants: tuple[str, ...] = key(
        "names of variants (original, label_smoothing, mixup), and YAML files with your own",
        default=("original", "label_smoothing", "mixup"),
        group="training",
    )
    folds: Path | None = key(_FOLDS, default=None, group="data")
    checkpoint: str = _checkpoint()
    metric: tuple[str, ...] | None = _metric(
        DETECT_FIGURES, "level_accuracy_8px if the classes are levels, else coco.map50"
    )
    draws: int = key("number of bootstrap draws", default=1000, minimum=1, maximum=100000)

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.checkpoint == "best" and not self.val:
            raise ConfigError("checkpoint=best: needs val=true, which says which epoch is best")


@dataclass(frozen=True, slots=True, kw_only=True)
class KfoldClassify(ClassifyTrain):
    """Keys of ``kfold classify``; those of ``classify train`` apply to every variant."""

    data: Path = key(_DATA, group="data")
    out: Path = key(_OUT)
    resume: bool = key(_RESUME, default=False)
    overwrite: bool = key("replace an earlier cross-validation in out=", default=False)
    seed: int = key("random seed for the folds and every training", default=0, minimum=0)
    device: str = key(_DEVICE, default="cpu")
    k: int | None = _k()
    variants: tuple[str, ...] = key(
        "names of variants (original, label_smoothing, mixup; the report's rows resize,"
        " batch_1024, normalise, rotation, colour_jitter, noise, "
        "noise_normalise_rotation; resnet18, resnet34, resnet101, vgg16), and YAML "
        "files with your own",
        default=("original", "label_smoothing", "mixup"),
        group="training",
    )
    folds: Path | None = key(_FOLDS, default=None, group="data")
    checkpoint: str = _checkpoint()
    metric: tuple[str, ...] | None = _metric(
        CLASSIFY_FIGURES, "seven.accuracy, or binary.accuracy for a binary head"
    )
    draws: int = key("number of bootstrap draws", default=1000, minimum=1, maximum=100000)


@dataclass(frozen=True, slots=True, kw_only=True)
class KfoldPipeline(Settings):
    """Keys of ``kfold pipeline``: detector, classifier and level reader of every fold."""

    data: Path = key(f"{_DATA}; labels=level", group="data")
    out: Path = key("folder to write: RECIPE/foldN, folds.json, kfold.md, .csv, .json, .png")
    recipe: tuple[str, ...] | None = key(
        "best (the recipe of the default bundle), finetune (the same, starting from "
        "bundled weights; not for studies that they were trained on), and YAML files "
        "with keys for the trainings: detector: {…}, classifier: {…}, namer: {…}; each "
        "is cross-validated",
        default=None,  # not best, which a resumed run could not be given
        group="training",
        shown="best",
    )
    k: int | None = _k()
    folds: Path | None = key(_FOLDS, default=None, group="data")
    metric: tuple[str, ...] | None = _metric(PIPELINE_FIGURES, "level_accuracy_8px, seven.accuracy")
    spacing_mm: float | None = spacing_key()
    fov_mm: float | None = fov_key()
    draws: int = key("number of bootstrap draws", default=1000, minimum=1, maximum=100000)
    seed: int = key("random seed for the folds and every training", default=0, minimum=0)
    device: str = key(_DEVICE, default="cpu")
    resume: bool = key(
        "continue the cross-validation in out= where it stopped; you may add recipes",
        default=False,
    )
    overwrite: bool = key("replace an earlier cross-validation in out=", default=False)

    @property
    def checkpoint(self) -> str:
        """The weights that are scored."""
        return "last"

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        check_spacing(self.spacing_mm, self.fov_mm)


KfoldSettings = KfoldDetect | KfoldClassify | KfoldPipeline

_RESIZE: dict[str, object] = {
    "normalise": False, "jitter": False, "balance": "none", "rotation": 0, "translate": 0,
    "scale": 0, "fliplr": 0, "color_jitter": 0, "noise": 0,
    "mixup": 0,
}  # fmt: skip
_NOISE: dict[str, object] = {"jitter": True, "balance": "noise"}

DETECT_VARIANTS: dict[str, dict[str, object]] = {
    "original": {},
    "label_smoothing": {"label_smoothing": 0.1},
    "mixup": {"mixup": 0.2},
    "onehot": {"heatmap": "onehot"},
    "gaussian": {"heatmap": "gaussian"},
}

CLASSIFY_VARIANTS: dict[str, dict[str, object]] = {
    "original": {},
    "label_smoothing": {"label_smoothing": 0.1},
    "mixup": {"mixup": 0.2},
    # The report's rows. "Noise" is its offline augmentation: points jittered in four directions,
    # then noisy copies until every class is as frequent as the largest.
    "resize": _RESIZE,
    "batch_1024": {**_RESIZE, "batch": 1024},
    "normalise": {**_RESIZE, "normalise": True},
    "rotation": {**_RESIZE, "rotation": 10},
    "colour_jitter": {**_RESIZE, "color_jitter": 0.2},
    "noise": {**_RESIZE, **_NOISE},
    "noise_normalise_rotation": {**_RESIZE, **_NOISE, "normalise": True, "rotation": 10},
    "resnet18": {"model": "resnet18"},
    "resnet34": {"model": "resnet34"},
    "resnet101": {"model": "resnet101"},
    "vgg16": {"model": "vgg16"},
}
