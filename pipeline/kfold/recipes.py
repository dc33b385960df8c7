"""Recipes as the variants of ``kfold pipeline``: read, trained and scored as whole pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.files import write_text
from spineline.datasets.dataset import load_dataset
from spineline.datasets.splits import Part, write_manifest
from spineline.pipeline.evaluation.settings import PipelineVal
from spineline.pipeline.kfold.folds import Folds
from spineline.pipeline.kfold.jobs import SCORES
from spineline.pipeline.kfold.settings import KfoldPipeline
from spineline.pipeline.kfold.variants import Variant, check_name
from spineline.pipeline.training.settings import PipelineTrain
from spineline.pipeline.training.train import RECIPES, check_recipe, load_recipe

if TYPE_CHECKING:
    from spineline.pipeline.evaluation.val import PipelineValResult

RECIPE_FILE = "recipe.yaml"
"""In a variant's folder: all that its trainings are given."""


def chosen_recipes(settings: KfoldPipeline) -> tuple[Variant, ...]:
    """The recipes that ``recipe=`` names, each as a variant of the name of its file.

    Raises:
        ConfigError: no such recipe, not a recipe, or a name that cannot be, or comes twice.
    """
    found: dict[str, Variant] = {}
    for word in _words(settings):
        name = word if word in RECIPES else Path(word).stem
        keys = load_recipe(word)
        check_name(name, f"recipe={word}")
        if name in found:
            raise ConfigError(f"recipe={word}: {name} is named twice; rename one of the files")
        found[name] = Variant(name, keys)
    if not found:
        raise ConfigError(f"recipe=: names nothing; allowed: {', '.join(RECIPES)}, or YAML files")
    return tuple(found.values())


def _words(settings: KfoldPipeline) -> tuple[str, ...]:
    return RECIPES if settings.recipe is None else settings.recipe


def check_recipes(settings: KfoldPipeline, recipes: Sequence[Variant]) -> None:
    """Refuse, before anything is trained, what a training would refuse, and equal recipes.

    Raises:
        ConfigError: says the recipe.
    """
    seen: dict[str, str] = {}
    for word, recipe in zip(_words(settings), recipes, strict=True):
        train = PipelineTrain(data=settings.data, out=settings.out, recipe=word)
        keys = {stage: dict(own) for stage, own in recipe.keys.items()}
        same = repr(check_recipe(train, keys))
        if same in seen:
            raise ConfigError(f"recipe={word}: says what {seen[same]} says; leave one away")
        seen[same] = recipe.name


def write_recipes(settings: KfoldPipeline, recipes: Sequence[Variant]) -> None:
    """Keep each recipe in its variant's folder, from which its trainings read it."""
    for recipe in recipes:
        text = yaml.safe_dump(dict(recipe.keys), sort_keys=False)
        write_text(settings.out / recipe.name / RECIPE_FILE, text)


def recipe_settings(
    settings: KfoldPipeline, recipe: Variant, *, data: Path, out: Path
) -> PipelineTrain:
    """The settings of the trainings of one fold."""
    file = settings.out / recipe.name / RECIPE_FILE
    return PipelineTrain(data=data, out=out, recipe=str(file), seed=settings.seed)


def scoring(settings: KfoldPipeline) -> dict[str, Any]:
    """The keys that ``pipeline val`` is given."""
    return {name: getattr(settings, name) for name in ("spacing_mm", "fov_mm", "draws", "seed")}


def out_of_fold(settings: KfoldPipeline, folds: Folds, variant: Path) -> PipelineValResult:
    """Every study by the pipeline of the fold that left it out; kept in the variant's folder.

    Returns:
        what ``pipeline val`` found, studies that failed and count as missed among it.
    """
    from spineline.pipeline.evaluation.val import val

    scored: Part = "val"
    data = load_dataset(folds.folders[0])  # each fold holds every image
    parts = {
        record.study_id: "test" if part == "test" else scored
        for part, records in data.records.items()
        for record in records
    }
    split = variant / "split.json"
    write_text(split, write_manifest(parts))
    return val(
        PipelineVal(
            data=data.root,
            split=split,
            part=scored,
            folds=(variant,),
            out=variant / SCORES,
            overwrite=True,
            **scoring(settings),
        )
    )
