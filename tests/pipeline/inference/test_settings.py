"""Keys of the models that do not fit together, and what stands for ``auto``."""

from __future__ import annotations

from typing import Any

import pytest

from spineline.datasets.common.errors import ConfigError
from spineline.pipeline import Pipeline
from spineline.pipeline.inference.naming import LEAST_PROBABILITY
from spineline.pipeline.inference.pipeline import batch_size
from spineline.pipeline.inference.settings import (
    ModelSettings,
    changed_settings,
    check_spacing,
    mixed_precision,
)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"classifier": ","}, "classifier=,: names none; wanted A, or A,B for several"),
        ({"batch": "many"}, "batch=many: wanted auto, or a number of images, 1 or more"),
        ({"slices": "some"}, "slices=some: wanted auto, or a number of slices, 1 or more"),
        ({"half": "maybe"}, "half=maybe: wanted auto, true or false"),
        ({"half": True}, "half=true: the CPU computes in full precision; use half=auto, or a GPU"),
        (
            {"decode": "argmax", "min_naming_probability": 0.5},
            "min_naming_probability=0.5: decode=argmax names each level by itself",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_values_that_do_not_fit(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelSettings(**keys)


def test_python_takes_the_keys_too() -> None:
    with pytest.raises(ConfigError, match="slices=some: wanted auto, or a number of slices"):
        Pipeline.load(slices="some")  # type: ignore[arg-type]


def test_several_classifiers_may_be_a_list() -> None:
    assert ModelSettings(classifier=["a", "b"]).classifier == "a,b"  # type: ignore[arg-type]


@pytest.mark.parametrize("least", [0, LEAST_PROBABILITY])
def test_argmax_has_no_naming_to_doubt(least: float) -> None:
    settings = ModelSettings(decode="argmax", min_naming_probability=least)
    assert settings.min_naming_probability == least


@pytest.mark.parametrize(
    ("keys", "size", "half"),
    [
        ({}, 1, False),
        ({"device": "0"}, 32, True),
        ({"device": "cuda"}, 32, True),
        ({"device": "cuda:1", "half": False, "batch": 3}, 3, False),
        ({"device": "mps"}, 32, False),
        ({"device": "mps", "half": True}, 32, True),
        ({"batch": 16}, 16, False),
    ],
    ids=str,
)
def test_what_auto_means(keys: dict, size: int, half: bool) -> None:
    settings = ModelSettings(**keys)
    assert batch_size(settings) == size
    assert mixed_precision(settings) is half


def test_settings_that_change_results_are_told_apart() -> None:
    same = [ModelSettings(device="0"), ModelSettings(batch=4), ModelSettings(weights="other")]
    assert {changed_settings(each) for each in same} == {""}
    other = [ModelSettings(force=True), ModelSettings(slices=1), ModelSettings(iou=0.5)]
    assert len({changed_settings(each) for each in other} - {""}) == 3


def test_one_spacing_is_stated_in_one_way() -> None:
    check_spacing(1.0, None)
    check_spacing(None, 300.0)
    with pytest.raises(ConfigError, match="spacing_mm=… and fov_mm=…: give only one"):
        check_spacing(1.0, 300.0)
