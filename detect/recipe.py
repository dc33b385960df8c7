"""Training recipes: hyperparameters by name, what became of each, and the training values.

A recipe file has one of two forms. Ours has ``values`` with a status each, and ``settings`` beside
them; see ``recipes/report.yaml``. The flat form is ``key: value``, as in YOLOv5's hyp files and
Ultralytics' settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from spineline.datasets.common.errors import ConfigError, first_line
from spineline.datasets.common.log import LOG
from spineline.datasets.common.settings import close_match, parse_settings, settings_to_dict
from spineline.datasets.common.yaml_files import YamlError, read_yaml
from spineline.detect.architectures import FASTERRCNN, OWN_LOOP, UNET
from spineline.detect.defaults import DEFAULTS, DEFAULTS_OF, model_defaults
from spineline.detect.settings import DetectTrain
from spineline.detect.yolo.hyperparameters import NO_EFFECT, PREFIX, check_hyperparameters

DETECT_RECIPES: tuple[str, ...] = ("report", "lumbar", "cervical")
_YOLO = "the YOLO networks"
_MODELS_OF = {"report": _YOLO, "lumbar": _YOLO, "cervical": FASTERRCNN}

_CLOSED_WITH_MOSAIC = ("mosaic", "mixup", "cutmix")
"""Augmentations that end with the mosaic, before the last ``close_mosaic`` epochs."""

OFF = dict.fromkeys(_CLOSED_WITH_MOSAIC, 0.0)
"""Value of a key that is switched off, where it is known."""

_UNET_OPTIMIZERS = ("SGD", "Adam", "AdamW")

ANCHOR_ONLY: dict[str, str] = {
    "obj": "the anchor-free head has no objectness output",
    "obj_pw": "the anchor-free head has no objectness output",
    "iou_t": "training threshold of anchor matching; the head has no anchors",
    "anchor_t": "ratio threshold of anchor matching; the head has no anchors",
    "fl_gamma": "the package's loss has no focal term",
    "anchors": "the head has no anchors",
}
"""Keys of YOLOv5's hyp files without a counterpart here, with the reason."""

OTHER_MEANING: dict[str, str] = {
    "box": "in a YOLOv5 file: gain of the anchor-based box loss, on another scale",
    "cls_pw": "in a YOLOv5 file: weight of positives; here an exponent of inverse frequency",
}
"""Keys with a different meaning in a YOLOv5 file than in the package."""

BESIDE = "needed beside the values above"
"""Reason that marks a setting of a recipe among the outcomes of its values."""

ValueStatus = Literal["mapped", "not_applicable"]


@dataclass(frozen=True, slots=True)
class RecipeValue:
    """One value of a recipe as its author wrote it, and whether the trainer can use it."""

    key: str
    value: Any
    status: ValueStatus
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DetectRecipe:
    """A recipe: its values in the file's order, and the settings that go with them."""

    name: str
    source: str
    values: tuple[RecipeValue, ...]
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ValueOutcome:
    """What became of one value in a run."""

    key: str
    value: Any
    status: Literal["applied", "overridden", "not_applicable"]
    trained_with: Any
    reason: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """Training values: every key of [DEFAULTS][], and what became of the recipe's values."""

    recipe: str | None
    source: str
    values: dict[str, Any]
    outcomes: tuple[ValueOutcome, ...]

    def report(self) -> dict[str, Any]:
        """Plain values for ``recipe.json``."""
        return {
            "recipe": self.recipe,
            "source": self.source,
            "values": [asdict(outcome) for outcome in self.outcomes],
            "trained_with": self.values,
        }


def load_detect_recipe(hyp: str, *, model: str | None = None) -> DetectRecipe:
    """Load a bundled recipe by name, or a recipe from a YAML file.

    Args:
        hyp: name or path.
        model: canonical name of the architecture; None for a YOLO network.

    Raises:
        ConfigError: there is no such recipe, it is for another model or is not YAML, or a key is
            unknown.
    """
    if hyp in DETECT_RECIPES:
        if _MODELS_OF[hyp] != (model if model in OWN_LOOP else _YOLO):
            raise ConfigError(f"hyp={hyp}: is a recipe for {_MODELS_OF[hyp]}, not model={model}")
        text = (resources.files("spineline.detect") / "recipes" / f"{hyp}.yaml").read_text("utf-8")
        return parse_recipe(yaml.safe_load(text), where=f"hyp={hyp}", model=model)
    path = Path(hyp).expanduser()
    if not path.is_file():
        hint = close_match(hyp, DETECT_RECIPES)
        msg = f"hyp={hyp}: neither a bundled recipe ({', '.join(DETECT_RECIPES)}) nor a file{hint}"
        raise ConfigError(msg)
    try:
        content = read_yaml(path)
    except (OSError, YamlError) as error:
        raise ConfigError(f"hyp={hyp}: cannot be read as YAML ({first_line(error)})") from error
    return parse_recipe(content, where=f"hyp={hyp}", name=path.stem, model=model)


def parse_recipe(
    content: object, *, where: str, name: str = "recipe", model: str | None = None
) -> DetectRecipe:
    """Parse the content of a recipe's YAML file, of either form.

    Raises:
        ConfigError: it is not a mapping, or a key or value is not valid.
    """
    if not isinstance(content, dict) or not content:
        found = type(content).__name__
        raise ConfigError(f"{where}: holds {found}, wanted keys and values such as 'lr0: 0.01'")
    if isinstance(content.get("values"), dict):
        recipe = _parse_ours(content, where, name)
    else:
        recipe = _parse_flat(_dotted(content), name)
    mapped = [value.key for value in recipe.values if value.status == "mapped"]
    _check_known(recipe.settings, f"{where}: settings", model, ())
    _check_known(mapped, where, model, (*ANCHOR_ONLY, *NO_EFFECT))
    _typed(_mapped(recipe), where)
    return recipe


def _dotted(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Flatten the keys to strings: ``yolo: {…}`` becomes ``yolo.KEY``."""
    found: dict[str, Any] = {}
    for word, value in content.items():
        if f"{word}." == PREFIX and isinstance(value, Mapping):
            found |= {f"{PREFIX}{name}": own for name, own in value.items()}
        else:
            found[str(word)] = value
    return found


def _check_known(
    words: Iterable[str], where: str, model: str | None, not_applicable: tuple[str, ...]
) -> None:
    """Refuse keys that a recipe for the model cannot hold.

    Raises:
        ConfigError: a key is unknown; the message suggests the closest.
    """
    defaults = model_defaults(model)
    for word in words:
        if word.startswith(PREFIX) and model not in OWN_LOOP:
            check_hyperparameters([word], where=where)
        elif word not in defaults:
            hint = close_match(word, (*defaults, *not_applicable))
            raise ConfigError(f"{where}: unknown key {word!r}{hint}")


def _parse_ours(content: dict[str, Any], where: str, name: str) -> DetectRecipe:
    allowed = ("name", "source", "settings", "values")
    for word in content:
        if word not in allowed:
            raise ConfigError(f"{where}: unknown key {word!r}{close_match(str(word), allowed)}")
    settings = content.get("settings") or {}
    if not isinstance(settings, dict):
        raise ConfigError(
            f"{where}: settings holds {type(settings).__name__}, wanted keys and values"
        )
    values = tuple(_value_of(str(k), entry, where) for k, entry in content["values"].items())
    return DetectRecipe(
        name=str(content.get("name", name)),
        source=str(content.get("source", "")),
        values=values,
        settings=_dotted(settings),
    )


def _value_of(word: str, entry: object, where: str) -> RecipeValue:
    if not isinstance(entry, dict) or "value" not in entry:
        raise ConfigError(f"{where}: {word}: wanted value, status and perhaps reason")
    status = entry.get("status")
    if status not in ("mapped", "not_applicable"):
        msg = f"{where}: {word}: status {status!r}; allowed: mapped, not_applicable"
        raise ConfigError(msg)
    if status == "not_applicable" and not entry.get("reason"):
        raise ConfigError(f"{where}: {word}: not_applicable needs a reason")
    return RecipeValue(word, entry["value"], status, str(entry.get("reason", "")))


def _parse_flat(content: dict[str, Any], name: str) -> DetectRecipe:
    yolov5 = any(word in ANCHOR_ONLY for word in content)
    values = []
    for word, value in content.items():
        reason = ANCHOR_ONLY.get(word) or NO_EFFECT.get(word)
        if reason is not None:
            values.append(RecipeValue(word, value, "not_applicable", reason))
        elif yolov5 and word in OTHER_MEANING:
            values.append(RecipeValue(word, value, "not_applicable", OTHER_MEANING[word]))
        else:
            values.append(RecipeValue(word, value, "mapped"))
    return DetectRecipe(name=name, source="a flat recipe file", values=tuple(values), settings={})


def _mapped(recipe: DetectRecipe) -> dict[str, Any]:
    values = {v.key: v.value for v in recipe.values if v.status == "mapped"}
    return {**recipe.settings, **values}


def _typed(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check values against the settings class, the only source of their types and ranges."""
    settings = parse_settings(DetectTrain, {"out": "run", **values}, where=where)
    found = {**settings_to_dict(settings), **_dotted({"yolo": settings.yolo or {}})}
    return {name: found[name] for name in values}


def resolve_recipe(settings: DetectTrain) -> Resolved:
    """Return the training values: a given key, else the recipe's value, else the default.

    Args:
        settings: the command's keys, with the canonical name in ``model``.

    Raises:
        ConfigError: the recipe is not valid, a key is for another model, or a combination cannot
            work.
    """
    defaults = model_defaults(settings.model)
    checks = {FASTERRCNN: check_fasterrcnn, UNET: check_unet}
    check = checks.get(str(settings.model), check_combination)
    given = _given(settings, defaults)
    if settings.hyp is None:
        values = {**defaults, **given}
        check(values)
        return Resolved(None, "", values, ())
    recipe = load_detect_recipe(settings.hyp, model=settings.model)
    mapped = _typed(_mapped(recipe), f"hyp={settings.hyp}")
    values = {**defaults, **mapped, **given}
    check(values)
    named = {value.key for value in recipe.values}
    beside = [
        RecipeValue(k, v, "mapped", BESIDE) for k, v in recipe.settings.items() if k not in named
    ]
    off = switched_off(values, model=settings.model)
    outcomes = tuple(_outcome(value, values, given, off) for value in (*recipe.values, *beside))
    return Resolved(recipe.name, recipe.source, values, outcomes)


def _given(settings: DetectTrain, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's keys that the user gave.

    Raises:
        ConfigError: one of them has no meaning for the model.
    """
    every = (name for table in DEFAULTS_OF.values() for name in table)
    given = {k: getattr(settings, k) for k in every if getattr(settings, k) is not None}
    own = _dotted({"yolo": settings.yolo or {}})
    given |= own
    if settings.model not in OWN_LOOP:
        check_hyperparameters(own, where="command line")
    for word, value in given.items():
        if word not in defaults and (word not in own or settings.model in OWN_LOOP):
            msg = f"{word}={value}: model={settings.model} has no such key; it knows "
            raise ConfigError(msg + ", ".join(defaults))
    return given


def check_fasterrcnn(values: Mapping[str, Any]) -> None:
    """Refuse values that a Faster R-CNN cannot be trained with.

    Raises:
        ConfigError: a value cannot be used; the message gives the reason.
    """
    if values["optimizer"] != "SGD":
        raise ConfigError(f"optimizer={values['optimizer']}: model={FASTERRCNN} supports only SGD")
    _check_own_loop(values)


def check_unet(values: Mapping[str, Any]) -> None:
    """Refuse values that a U-Net cannot be trained with.

    Raises:
        ConfigError: a value cannot be used; the message gives the reason.
    """
    if values["optimizer"] not in _UNET_OPTIMIZERS:
        known = ", ".join(_UNET_OPTIMIZERS)
        raise ConfigError(f"optimizer={values['optimizer']}: model={UNET} has {known}")
    if not 0 < values["sigma"] <= values["imgsz"] / 4:
        most = values["imgsz"] / 4
        raise ConfigError(
            f"sigma={values['sigma']}: wanted more than 0, at most imgsz/4 = {most:g}"
        )
    if not 0 <= values["scale"] < 1:
        raise ConfigError(f"scale={values['scale']}: wanted less than 1, a share of the size")
    _check_own_loop(values)


def _check_own_loop(values: Mapping[str, Any]) -> None:
    if values["channels"] not in (1, 3):
        raise ConfigError(f"channels={values['channels']}: allowed: 1, 3")
    if values["distortion_min"] > values["distortion_max"]:
        low, high = values["distortion_min"], values["distortion_max"]
        raise ConfigError(f"distortion_min={low}: is more than distortion_max={high}")
    if 0 < values["crop"] < 32:
        raise ConfigError(f"crop={values['crop']}: wanted 0 (no crop), or at least 32 pixels")


def _outcome(
    value: RecipeValue,
    values: Mapping[str, Any],
    given: Mapping[str, Any],
    off: Mapping[str, str],
) -> ValueOutcome:
    if value.status == "not_applicable":
        return ValueOutcome(
            value.key, value.value, "not_applicable", values.get(value.key), value.reason
        )
    if value.key in given and given[value.key] != value.value:
        reason = f"{value.key}={given[value.key]} was given"
        return ValueOutcome(value.key, value.value, "overridden", given[value.key], reason)
    if value.key in off:
        return ValueOutcome(
            value.key, value.value, "overridden", OFF.get(value.key), off[value.key]
        )
    return ValueOutcome(value.key, value.value, "applied", values[value.key], value.reason)


def check_combination(values: Mapping[str, Any]) -> None:
    """Refuse combinations that cannot work, and warn of keys that switch others off.

    Raises:
        ConfigError: ``imgsz`` is not a multiple of the networks' stride, 32.
    """
    size = values["imgsz"]
    if size % 32:
        near = (size // 32 * 32, size // 32 * 32 + 32)
        raise ConfigError(f"imgsz={size}: wanted a multiple of 32, such as {near[0]} or {near[1]}")
    ignored = [k for k in ("lr0", "momentum") if values[k] != DEFAULTS[k]]
    if values["optimizer"] == "auto" and ignored:
        words = " and ".join(f"{k}={values[k]}" for k in ignored)
        LOG.warning("optimizer=auto ignores %s; name an optimizer, such as optimizer=SGD", words)
    closed = [k for k in _CLOSED_WITH_MOSAIC if values[k]]
    if closed and values["close_mosaic"] >= values["epochs"]:
        LOG.warning(
            "close_mosaic=%d with epochs=%d: no epoch is left with %s",
            values["close_mosaic"], values["epochs"], " or ".join(closed),
        )  # fmt: skip
    if values["rect"]:
        LOG.warning("rect=true turns mosaic, mixup and shuffling off")


def switched_off(values: Mapping[str, Any], *, model: str | None) -> dict[str, str]:
    """Return the keys without effect because of other keys, with the reason.

    See also `check_combination`.

    Args:
        values: training values from [resolve_recipe][]; other keys may be among them.
        model: canonical name of the architecture.
    """
    if model in OWN_LOOP:
        return {}
    off: dict[str, str] = {}
    if values["close_mosaic"] >= values["epochs"]:
        reason = f"close_mosaic={values['close_mosaic']} leaves it no epoch"
        off |= dict.fromkeys(_CLOSED_WITH_MOSAIC, reason)
    if values["rect"]:
        off |= dict.fromkeys(_CLOSED_WITH_MOSAIC, "rect=true turns it off")
    if values["optimizer"] == "auto":
        off |= dict.fromkeys(("lr0", "momentum"), "optimizer=auto chooses its own")
    return {key: reason for key, reason in off.items() if values[key] != OFF.get(key)}


def log_outcomes(resolved: Resolved) -> None:
    """Log what became of each value of the recipe."""
    if resolved.recipe is None:
        LOG.info("recipe: none given, the model's defaults and the keys given")
        return
    by_status: dict[str, list[ValueOutcome]] = {
        "applied": [],
        "overridden": [],
        "not_applicable": [],
    }
    for outcome in resolved.outcomes:
        by_status[outcome.status].append(outcome)
    own = [o for o in by_status["applied"] if o.reason != BESIDE]
    total = sum(o.reason != BESIDE for o in resolved.outcomes)
    LOG.info(
        "recipe %s: %d of its %d values applied: %s", resolved.recipe, len(own), total, _words(own)
    )
    beside = [o for o in by_status["applied"] if o.reason == BESIDE]
    if beside:
        LOG.info("recipe %s: also set: %s", resolved.recipe, _words(beside))
    for status, word in (("overridden", "overridden"), ("not_applicable", "not applied")):
        for o in by_status[status]:
            LOG.info("recipe %s: %s=%s %s: %s", resolved.recipe, o.key, o.value, word, o.reason)


def _words(outcomes: list[ValueOutcome]) -> str:
    return " ".join(f"{o.key}={o.trained_with}" for o in outcomes)
