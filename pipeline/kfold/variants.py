"""Variants of a cross-validation: named keys of the training that differ from the common ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from spineline.classify.settings import ClassifyTrain
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.settings import close_match, parse_settings, settings_to_dict
from spineline.datasets.common.yaml_files import YamlError, read_yaml
from spineline.detect.settings import DetectTrain
from spineline.pipeline.kfold.settings import (
    CLASSIFY_VARIANTS,
    DETECT_VARIANTS,
    NOT_OF_A_VARIANT,
    KfoldClassify,
    KfoldDetect,
    KfoldPipeline,
)

KfoldSettings = KfoldDetect | KfoldClassify | KfoldPipeline
_OneStage = KfoldDetect | KfoldClassify
TrainSettings = DetectTrain | ClassifyTrain

FOLDS_FOLDER = "folds"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Variant:
    """A name with the keys that make it differ, as the user gave them."""

    name: str
    keys: Mapping[str, Any]


def chosen_variants(settings: KfoldSettings) -> tuple[Variant, ...]:
    """The variants that ``variants=`` names, in its order; of a YAML file, all in it.

    Raises:
        ConfigError: no such variant or file, a name twice, or a key or value of one that the
            training does not know.
    """
    if isinstance(settings, KfoldPipeline):
        from spineline.pipeline.kfold.recipes import chosen_recipes

        return chosen_recipes(settings)
    built_in = DETECT_VARIANTS if isinstance(settings, KfoldDetect) else CLASSIFY_VARIANTS
    found: dict[str, Variant] = {}
    for word in settings.variants:
        for variant in _named(word, built_in):
            if variant.name in found:
                raise ConfigError(f"variants={word}: {variant.name} is named twice")
            checked_keys(settings, variant, f"variants={word}, {variant.name}")
            found[variant.name] = variant
    if not found:
        raise ConfigError(f"variants=: names nothing; allowed: {', '.join(built_in)}, or a file")
    return tuple(found.values())


def checked_keys(settings: _OneStage, variant: Variant, where: str) -> dict[str, Any]:
    """A variant's keys as the training's settings hold them.

    Raises:
        ConfigError: an unknown key, a value that does not fit, or a key that all variants share.
    """
    cls = _train_class(settings)
    for name in variant.keys:
        if name in NOT_OF_A_VARIANT:
            raise ConfigError(f"{where}: {name} is the same for all variants; give it to kfold")
    parsed = parse_settings(cls, {"out": ".", **variant.keys}, where=where)
    return {name: getattr(parsed, name) for name in variant.keys}


def train_settings(
    settings: _OneStage, variant: Variant, *, data: Path, out: Path, device: str
) -> TrainSettings:
    """The settings of one training."""
    cls = _train_class(settings)
    common = {spec.name: getattr(settings, spec.name) for spec in fields(cls)}
    own = checked_keys(settings, variant, f"variant {variant.name}")
    here = {"data": data, "out": out, "device": device, "resume": False, "overwrite": False}
    return cls(**{**common, **own, **here})


def check_trainings(settings: KfoldSettings, variants: Sequence[Variant]) -> None:
    """Refuse, before anything is trained, what the training would refuse, and equal variants.

    Raises:
        ConfigError: a recipe or a combination that cannot work, or two variants that train alike.
    """
    if isinstance(settings, KfoldPipeline):
        from spineline.pipeline.kfold.recipes import check_recipes

        check_recipes(settings, variants)
        return
    seen: dict[str, str] = {}
    works: dict[str, str] = {}
    for variant in variants:
        train = train_settings(
            settings, variant, data=settings.data, out=settings.out, device="cpu"
        )
        try:
            values = resolved_training(train)
        except ConfigError as error:
            raise ConfigError(f"variant {variant.name}: {error}") from error
        resolved, effect = repr(values), repr(_in_effect(train, values))
        if resolved in seen:
            keys = ", ".join(f"{name}={value}" for name, value in variant.keys.items())
            msg = (
                f"variants={seen[resolved]},{variant.name}: train alike, since the recipe and keys "
                f"given for all are {keys or 'those'} already; leave one away, or give another "
                "value for all"
            )
            raise ConfigError(msg)
        if effect in works:
            msg = "variants %s and %s: will train alike, since the keys that differ have no effect"
            LOG.warning(msg + " here (see the warnings above)", works[effect], variant.name)
        seen[resolved] = works[effect] = variant.name


def head_of(settings: KfoldClassify, variant: Variant) -> str:
    """``seven``, ``binary`` or ``both``."""
    from spineline.classify.recipe import load_recipe, overrides_of

    train = train_settings(settings, variant, data=settings.data, out=settings.out, device="cpu")
    return load_recipe(train.hyp or "report", overrides_of(train)).head


def masks_kind(train: ClassifyTrain) -> bool:
    """Whether the recipe rules out the other kind's classes."""
    from spineline.classify.recipe import load_recipe, overrides_of

    return load_recipe(train.hyp or "report", overrides_of(train)).mask_kind


def resolved_training(train: TrainSettings) -> dict[str, Any]:
    """What decides a training: its recipe with all keys resolved, and the keys beside it."""
    plain = settings_to_dict(train)
    if isinstance(train, DetectTrain):
        from spineline.detect.architectures import canonical_name
        from spineline.detect.recipe import resolve

        if train.model is None:
            raise ConfigError("missing model=… (architecture such as yolov8n or fasterrcnn)")
        train = replace(train, model=canonical_name(train.model))
        return {**plain, "model": train.model, "hyp": None, **resolve(train).values}
    from spineline.classify.model import check_model_name
    from spineline.classify.recipe import load_recipe, overrides_of

    recipe = load_recipe(train.hyp or "report", overrides_of(train))
    check_model_name(recipe.model)
    return {**plain, "hyp": None, **settings_to_dict(recipe)}


def _in_effect(train: TrainSettings, values: dict[str, Any]) -> dict[str, Any]:
    """The values less those that others switch off."""
    if isinstance(train, ClassifyTrain):
        return values
    from spineline.detect.recipe import OFF, switched_off

    return values | {key: OFF.get(key) for key in switched_off(values, model=values["model"])}


def _train_class(settings: _OneStage) -> type[TrainSettings]:
    return DetectTrain if isinstance(settings, KfoldDetect) else ClassifyTrain


def _named(word: str, built_in: Mapping[str, Mapping[str, Any]]) -> Iterator[Variant]:
    if word in built_in:
        yield Variant(word, built_in[word])
        return
    path = Path(word).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        hint = close_match(word, list(built_in))
        raise ConfigError(f"variants={word}: no such variant{hint}; or a YAML file of own ones")
    yield from _of_file(path, f"variants={word}")


def _of_file(path: Path, where: str) -> Iterator[Variant]:
    try:
        content = read_yaml(path)
    except (OSError, YamlError) as error:
        raise ConfigError(f"{where}: cannot be read as YAML ({error})") from error
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{where}: wanted variants as NAME: {{KEY: VALUE, …}}")
    for name, keys in content.items():
        text = str(name)
        check_name(text, where)
        if keys is not None and not isinstance(keys, dict):
            raise ConfigError(f"{where}, {text}: found {keys!r}, wanted {{KEY: VALUE, …}}")
        yield Variant(text, {str(k): v for k, v in (keys or {}).items()})


def check_name(text: str, where: str) -> None:
    """Refuse what cannot name a variant's folder.

    Raises:
        ConfigError: says what can.
    """
    if not _NAME.fullmatch(text) or text == FOLDS_FOLDER:
        msg = f"{where}: {text!r} cannot name a variant; wanted letters, digits, _ . -"
        raise ConfigError(f"{msg}, and not {FOLDS_FOLDER!r}")
