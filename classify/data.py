"""Crops in memory, from a converted dataset or a crops folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spineline.classify.recipe import Recipe
from spineline.datasets.common.errors import AnnotationError, ConfigError
from spineline.datasets.common.log import LOG
from spineline.datasets.crops.files import is_crops_folder, load_crops
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.crops.table import (
    BalanceBy,
    CropTable,
    balance_with_noise,
    make_crops,
    why_no_crop,
)
from spineline.datasets.dataset import load_dataset
from spineline.datasets.splits import Part

_FOLDER_KEYS = ("size", "margin", "align")
_PAD_DIVISOR = 4  # margin on each side: size // 4, enough for 10 degrees and 10 % zoom


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Crops to train with.

    Attributes:
        train: training crops, with the recipe's jitter and balancing.
        val: None if the data has no val part.
        recipe: the recipe as it applies to this data.
        counts_before: training crops per class before jitter and balancing.
    """

    train: CropTable
    val: CropTable | None
    recipe: Recipe
    counts_before: dict[str, int]

    def fingerprint(self) -> str:
        """SHA-256 of all pixels and labels."""
        digest = hashlib.sha256()
        for table in (self.train, self.val):
            if table is not None:
                digest.update(np.ascontiguousarray(table.pixels).data)
                digest.update(repr((table.rows, table.spec, table.pad)).encode())
        return digest.hexdigest()


def balanced_encoding(recipe: Recipe) -> BalanceBy:
    """The encoding whose classes are balanced: binary for the binary head, else seven."""
    return "binary" if recipe.head == "binary" else "seven"


def load_training_data(
    data: Path, recipe: Recipe, *, given: Mapping[str, object], seed: int
) -> TrainingData:
    """The crops of the train and val parts.

    Args:
        data: converted dataset or crops folder.
        recipe: how to cut, jitter and balance.
        given: recipe keys that the user set; it is an error if a crops folder contradicts one.
        seed: of balancing.

    Raises:
        AnnotationError: not readable, no training crop, or a study in both parts.
        ConfigError: a crops folder was cut with other settings than the given ones.
    """
    if is_crops_folder(data):
        tables, recipe = _tables_of_folder(data, recipe, given)
    else:
        tables = _tables_of_dataset(data, recipe)
    train = tables["train"]
    if not len(train):
        msg = f"{data}: no labelled structure to train on in its train part; check split= and tags"
        raise AnnotationError(_with_reason(msg, data))
    val = tables.get("val")
    _check_sides(data, train, val)
    before = replace(train, rows=tuple(r for r in train.rows if not r.variant))
    by = balanced_encoding(recipe)
    counts = before.counts(by)
    if recipe.balance == "noise":
        train = balance_with_noise(train, by=by, noise_std=recipe.noise_std, seed=seed)
    return TrainingData(train, val if val is not None and len(val) else None, recipe, counts)


def load_part(data: Path, part: Part, spec: CropSpec) -> CropTable:
    """The unaugmented crops of one part, cut as ``spec`` requires.

    Raises:
        AnnotationError: not readable, or the part has no labelled structure.
        ConfigError: a crops folder was cut with other settings.
    """
    if is_crops_folder(data):
        tables = load_crops(data)
        table = tables.get(part)
        if table is not None and table.spec != spec:
            msg = f"{data}: its crops are {table.spec}, the network wants {spec}; cut them again"
            raise ConfigError(msg)
    else:
        dataset = load_dataset(data)
        dataset.check_whole(data)
        table = make_crops(dataset, part, spec)
        _refuse_failures(data, table)
    if table is None or not len(table):
        msg = f"{data}: no labelled structure in its {part} part; check split="
        raise AnnotationError(_with_reason(msg, data))
    return table


def _with_reason(message: str, data: Path) -> str:
    """The message, or the reason why no part of a converted dataset has a crop, if there is one."""
    if is_crops_folder(data):
        return message
    dataset = load_dataset(data)
    structures = [s for record in dataset.all_records() for s in record.structures]
    if any(structure.class_in("seven") is not None for structure in structures):
        return message
    return f"{data}: {why_no_crop(dataset, ())}"


def _tables_of_dataset(data: Path, recipe: Recipe) -> dict[Part, CropTable]:
    dataset = load_dataset(data)
    dataset.check_whole(data)
    pad = recipe.size // _PAD_DIVISOR
    train = make_crops(dataset, "train", recipe.crop(), pad=pad, jitter=recipe.jitter)
    val = make_crops(dataset, "val", recipe.crop())
    for table in (train, val):
        _refuse_failures(data, table)
    return {"train": train, "val": val}


def _tables_of_folder(
    folder: Path, recipe: Recipe, given: Mapping[str, object]
) -> tuple[dict[Part, CropTable], Recipe]:
    """Crops of a folder as they are; the settings they were cut with replace the recipe's."""
    tables = load_crops(folder)
    if "train" not in tables:
        raise AnnotationError(f"{folder}: crops.csv has no row of part train")
    train = tables["train"]
    for name in _FOLDER_KEYS:
        found = getattr(train.spec, name)
        if name in given and given[name] != found:
            msg = (
                f"{name}={given[name]}: the crops in {folder} were cut with {name}={found}; leave "
                f"{name}= out, or give the converted dataset as data="
            )
            raise ConfigError(msg)
    jittered = any(row.variant for row in train.rows)
    if recipe.jitter and not jittered:
        if "jitter" in given:
            msg = f"jitter=true: the crops in {folder} have no surroundings; cut them with jitter"
            raise ConfigError(msg)
        LOG.warning("jitter: not applied, the crops in %s were cut without it", folder)
    spec = train.spec
    recipe = replace(recipe, size=spec.size, margin=spec.margin, align=spec.align, jitter=jittered)
    return tables, recipe


def _refuse_failures(data: Path, table: CropTable) -> None:
    if table.failures:
        more = f" and {len(table.failures) - 1} more" if len(table.failures) > 1 else ""
        raise AnnotationError(f"{data}: an image cannot be read: {table.failures[0]}{more}")


def _check_sides(data: Path, train: CropTable, val: CropTable | None) -> None:
    both = sorted(set(train.study_id) & set(val.study_id)) if val is not None else []
    if both:
        msg = f"{data}: study {both[0]} is in train and in val ({len(both)} such); split by study"
        raise AnnotationError(msg)
