"""Recipes: the report's numbers, files of one's own, and what is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from spineline.classify.recipe import RECIPES, Recipe, load_recipe, overrides_of, recipe_path
from spineline.classify.settings import ClassifyTrain
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.settings import parse_settings, read_settings_file
from spineline.datasets.crops.spec import CropSpec

REPORT = {
    "model": "resnet50", "size": 64, "batch": 512, "optimizer": "adam", "lr": 1e-3,
    "scheduler": "step", "step_size": 5, "gamma": 0.9, "epochs": 100, "hidden": 256, "dropout": 0.4,
    "normalise": True, "rotation": 10.0, "jitter": True, "balance": "noise", "label_smoothing": 0.0,
    "class_weights": "none", "binary_on": "all", "margin": 1.0, "align": "none",
    "color_jitter": 0.0, "freeze_trunk": False, "mask_kind": False, "amp": False,
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), REPORT.items(), ids=list(REPORT))
def test_the_reports_recipe(name: str, value: object) -> None:
    assert getattr(load_recipe("report"), name) == value


@pytest.mark.parametrize("name", RECIPES)
def test_bundled_recipes_hold_every_key(name: str) -> None:
    assert list(read_settings_file(recipe_path(name))) == [spec.name for spec in fields(Recipe)]
    assert isinstance(load_recipe(name).crop(), CropSpec)


def test_the_lumbar_recipe_cuts_along_the_spine() -> None:
    assert load_recipe("lumbar").crop().align == "spine"
    assert load_recipe("lumbar").head == "both"


def test_a_file_of_some_keys_takes_the_others_from_the_report(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 7\nscheduler: none\n")
    recipe = load_recipe(str(path), {"lr": 0.5})
    assert (recipe.epochs, recipe.scheduler, recipe.lr, recipe.batch) == (7, "none", 0.5, 512)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 7", "unknown key 'epoch'; did you mean 'epochs'"),
        ("epochs: 0", "epochs=0: out of range"),
        ("optimizer: adamax", "optimizer=adamax: not an allowed value; did you mean 'adam"),
        ("batch: many", "batch=many"),
        ("[1, 2]", "hyp=.*mine.yaml: holds a list"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(path))


def test_an_unknown_recipe_names_a_close_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'lumbar'"):
        load_recipe("lumber")


def test_every_recipe_key_is_a_key_of_train() -> None:
    names = {spec.name: spec for spec in fields(ClassifyTrain)}
    for spec in fields(Recipe):
        mine = names[spec.name].metadata
        assert mine["minimum"] == spec.metadata["minimum"]
        assert set(spec.metadata["choices"]) <= set(mine["choices"]) or not mine["choices"]


def test_none_on_the_command_line_is_a_choice_not_an_absent_key() -> None:
    words = {"data": "d", "out": "o", "scheduler": "none", "balance": "none", "align": "none"}
    settings = parse_settings(ClassifyTrain, {**words, "lr": "none"})
    assert overrides_of(settings) == {"scheduler": "none", "balance": "none", "align": "none"}


def test_false_and_zero_override_the_recipe() -> None:
    settings = parse_settings(
        ClassifyTrain, {"data": "d", "out": "o", "jitter": "false", "rotation": "0"}
    )
    assert overrides_of(settings) == {"jitter": False, "rotation": 0.0}
