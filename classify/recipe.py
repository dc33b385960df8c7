"""Recipes: all numbers that determine how a classifier is trained.

A recipe is a YAML file. Those of `RECIPES` come with the package. Your own file may hold some of
the keys; the others are the report's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.settings import (
    Settings,
    close_match,
    key,
    parse_settings,
    read_settings_file,
)
from spineline.datasets.crops.spec import ALIGNS, CropSpec

Head = Literal["seven", "binary", "both"]
HEADS: tuple[Head, ...] = ("seven", "binary", "both")
RECIPES: tuple[str, ...] = (
    "report", "lumbar", "lumbar_cnn", "lumbar_linear", "lumbar_features", "lumbar_efficientnet",
)  # fmt: skip
MAX_MEMBERS = 64
MAX_BLOCKS = 64
MAX_POOL = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Settings):
    """A resolved recipe. Angles in degrees, sizes in pixels of the crop, noise in grey levels."""

    model: str = key("timm architecture, or gradients: histograms of gradient orientations")
    head: str = key(
        "output of the classifier: seven grades, Schmorl's node or not (binary), or both",
        choices=HEADS,
    )
    channels: int = key("input channels; a grey crop is repeated", minimum=1, maximum=3)
    hidden: int = key("units of the hidden layer; 0: none", minimum=0, maximum=65536)
    dropout: float = key("dropout after the hidden layer", minimum=0, maximum=0.99)
    components: int = key(
        "model=gradients, keep_blocks: number of principal components to keep",
        minimum=1,
        maximum=3072,
    )
    whiten: bool = key(
        "scale every component to unit variance; false: scale all by the same factor, "
        "so that the first has unit variance"
    )
    feature_dropout: float = key("dropout of the trunk's features", minimum=0, maximum=0.99)
    members: int = key(
        "number of hidden layers with heads, trained in parallel on one trunk and averaged",
        minimum=1,
        maximum=MAX_MEMBERS,
    )
    copies: int = key(
        "with a fixed trunk (model=gradients, keep_blocks, freeze_trunk): number of "
        "augmented copies of each crop whose features are stored and sampled; 0 = a new"
        " copy every time, or the plain crops with fit=logistic",
        minimum=0,
        maximum=1000,
    )
    pretrained: str = key(
        "initial weights of the trunk: random, or ImageNet weights of an installed package",
        choices=("none", "imagenet"),
    )
    keep_blocks: int = key(
        "EfficientNet and similar: use the stem and this many blocks as a fixed trunk; "
        "0 = train the whole network",
        minimum=0,
        maximum=MAX_BLOCKS,
    )
    pool: int = key(
        "keep_blocks: average to this many cells along each side", minimum=1, maximum=MAX_POOL
    )
    freeze_blocks: int = key(
        "EfficientNet and similar: freeze the stem and this many blocks",
        minimum=0,
        maximum=MAX_BLOCKS,
    )
    freeze_norm: bool = key("freeze the trunk's batch norms")
    freeze_trunk: bool = key("train only the hidden layer and the heads")
    level_input: bool = key("add the level of a crop to the trunk's features")

    size: int = key("side of a crop in pixels", minimum=8, maximum=1024)
    margin: float = key("size of the crop relative to the box", minimum=0.1, maximum=10)
    align: str = key("rotate crops so that the spine is upright", choices=ALIGNS)
    normalise: bool = key("subtract the mean and divide by the std of the training crops")

    jitter: bool = key("add training crops shifted by a tenth of the larger side")
    balance: str = key(
        "balance classes: by noisy copies, or by weighted sampling",
        choices=("none", "noise", "sampler"),
    )
    sampler_power: float = key(
        "balance=sampler: exponent by which frequent classes are sampled less; 1 balances fully",
        minimum=0,
        maximum=1,
    )
    noise_std: float = key(
        "balance=noise: noise of the copies, in grey levels", minimum=0, maximum=128
    )

    rotation: float = key("largest rotation, in degrees", minimum=0, maximum=180)
    translate: float = key("largest shift, as a fraction of the crop", minimum=0, maximum=1)
    scale: float = key("largest zoom, as a fraction", minimum=0, maximum=0.9)
    fliplr: float = key("probability of a left-right flip", minimum=0, maximum=1)
    color_jitter: float = key(
        "largest change of brightness and contrast, as a fraction", minimum=0, maximum=1
    )
    noise: float = key("Gaussian noise during training, in grey levels", minimum=0, maximum=128)
    scanner_looks: float = key(
        "probability of simulating another scanner: brightness, contrast, shading, fat "
        "suppression, sharpness, noise",
        minimum=0,
        maximum=1,
    )
    mixup: float = key(
        "mixup: parameter a of Beta(a, a), from which the shares of mixed crops are drawn; 0 = off",
        minimum=0,
        maximum=10,
    )

    fit: str = key(
        "training method: epochs of gradient descent, or logistic: only the heads, "
        "fitted once on the trunk's features",
        choices=("epochs", "logistic"),
    )
    logistic_c: float = key(
        "fit=logistic: inverse strength of the L2 penalty", minimum=1e-6, maximum=1e6
    )
    epochs: int = key("passes over the training crops", minimum=1)
    batch: int = key("crops per step", minimum=2)
    optimizer: str = key("optimizer", choices=("adam", "adamw", "sgd"))
    lr: float = key("learning rate", minimum=0)
    momentum: float = key("momentum of sgd", minimum=0, maximum=0.9999)
    weight_decay: float = key("weight decay", minimum=0)
    scheduler: str = key("schedule of the learning rate", choices=("step", "cosine", "none"))
    step_size: int = key("scheduler=step: epochs between steps", minimum=1)
    gamma: float = key("scheduler=step: factor of a step", minimum=0, maximum=1)
    warmup_epochs: float = key("epochs of linear warm-up", minimum=0)

    amp: bool = key("train in bfloat16 where it is safe: faster, slightly less exact")

    label_smoothing: float = key("label smoothing of the cross-entropy", minimum=0, maximum=0.99)
    class_weights: str = key(
        "weight classes in the loss by 1 / count, or by its square root",
        choices=("none", "balanced", "sqrt"),
    )
    binary_on: str = key("crops to include in the binary loss", choices=("all", "disc"))
    binary_weight: float = key("head=both: weight of the binary loss", minimum=0)

    kind_loss: bool = key("also exclude classes of the other kind in the loss")
    mask_kind: bool = key("exclude classes of the other kind, which the level implies")
    select_by: str = key(
        "metric on val that selects the best epoch", choices=("auc", "macro_f1", "accuracy")
    )

    @property
    def has_components(self) -> bool:
        """Whether features are principal components of what a fixed trunk measures."""
        return self.model == "gradients" or self.keep_blocks > 0

    @property
    def trunk_learns(self) -> bool:
        """Whether training changes the trunk."""
        return self.fit == "epochs" and not (self.has_components or self.freeze_trunk)

    def crop(self) -> CropSpec:
        """How crops are cut."""
        return CropSpec(self.size, self.margin, "spine" if self.align == "spine" else "none")


def recipe_key(name: str, group: str) -> Any:
    """A settings field that overrides the recipe's key of that name.

    Choices default to ``recipe``, because ``none`` may be one of them; all other keys default to
    None. The help shows the report's value.
    """
    metadata = next(spec.metadata for spec in fields(Recipe) if spec.name == name)
    choices = metadata["choices"]
    return key(
        metadata["help"],
        default="recipe" if choices else None,
        choices=("recipe", *choices) if choices else (),
        minimum=metadata["minimum"],
        maximum=metadata["maximum"],
        group=group,
        shown=_report_values()[name],
    )


@cache
def _report_values() -> dict[str, object]:
    return read_settings_file(recipe_path("report"))


def recipe_path(name: str) -> Path:
    """The file of a recipe by name, or the path itself.

    Raises:
        ConfigError: neither a recipe's name nor a file.
    """
    if name in RECIPES:
        return Path(__file__).parent / "recipes" / f"{name}.yaml"
    path = Path(name).expanduser()
    if not path.is_file():
        hint = close_match(name, RECIPES)
        raise ConfigError(f"hyp={name}: no such recipe or file{hint}; or a YAML file")
    return path


def load_recipe(name: str = "report", overrides: Mapping[str, object] | None = None) -> Recipe:
    """Load a recipe by name or from a file, with some keys replaced.

    Raises:
        ConfigError: an unknown recipe, key or value.
    """
    values = dict(_report_values())
    if name != "report":
        values.update(read_settings_file(recipe_path(name), "hyp"))
    values.update(overrides or {})
    return parse_settings(Recipe, values, where=f"hyp={name}")


def overrides_of(settings: Settings) -> dict[str, object]:
    """The recipe keys that a command's settings set explicitly."""
    names = {spec.name for spec in fields(Recipe)}
    given = {s.name: getattr(settings, s.name) for s in fields(settings) if s.name in names}
    return {name: v for name, v in given.items() if v is not None and v != "recipe"}
