from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.settings import describe, parse_settings
from spineline.detect.defaults import DEFAULTS, DEFAULTS_OF, OWN_KEYS
from spineline.detect.settings import DetectTrain, DetectVal

BOUNDED = [
    (spec.name, bound)
    for spec in fields(DetectTrain)
    if spec.name in DEFAULTS and spec.name not in OWN_KEYS
    for bound in (spec.metadata["minimum"], spec.metadata["maximum"])
    if bound is not None
]


def test_keys_of_recipes_are_unset_by_default() -> None:
    settings = DetectTrain(out=Path("out"))
    assert all(getattr(settings, name) is None for name in DEFAULTS)


def test_help_shows_the_defaults_of_the_models() -> None:
    shown = {key.name: key for key in describe(DetectTrain)}
    for model, table in DEFAULTS_OF.items():
        for name, value in table.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            line = shown[name]
            stated = name in ("freeze", "mean", "std", "class_weights")
            assert stated or line.default == text or f"{model} {text}" in line.help, (model, name)


@pytest.mark.parametrize(("name", "bound"), BOUNDED)
def test_what_the_settings_allow_the_package_allows(name: str, bound: float) -> None:
    from spineline.detect.yolo.environment import import_ultralytics

    import_ultralytics()
    from ultralytics.cfg import get_cfg

    kind = type(DEFAULTS[name]) if DEFAULTS[name] is not None else int
    value = getattr(DetectTrain(out=Path("out"), **{name: kind(bound)}), name)
    assert getattr(get_cfg(overrides={name: value}), name) == value


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": "0"}, "epochs=0: out of range"),
        ({"epochs": "ten"}, "epochs=ten: not a valid value"),
        ({"optimizer": "sdg"}, "did you mean 'SGD'|allowed: SGD"),
        ({"mosaic": "2"}, "mosaic=2.0: out of range"),
        ({"lr0": "inf"}, "lr0=inf: out of range"),
        ({"labelsmoothing": "0.1"}, "did you mean 'label_smoothing'"),
    ],
)
def test_bad_values(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_settings(DetectTrain, {"out": "o", **given})


def test_conventions_of_the_evaluation_are_the_defaults() -> None:
    settings = DetectVal(model="m", data=Path("d"), out=Path("o"))
    assert (settings.confidence, settings.split) == (0.001, "val")
