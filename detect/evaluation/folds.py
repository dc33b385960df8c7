"""Several folds scored as one: each image by the detector that did not see it.

``detect val model=[a,b,c] data=FOLDER``, where ``convert … kfold=3`` wrote FOLDER: the first
weights score the val part of its ``fold0``, the second that of ``fold1``, and so on; figures are
then counted over all images together. Average precision ranks the boxes of all detectors by
confidence, so detectors of which one is surer than another lose by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import yaml

from spineline.datasets.common.errors import AnnotationError, ConfigError
from spineline.datasets.common.log import LOG
from spineline.datasets.types import ImageRecord
from spineline.detect.settings import DetectVal

_FOLD = re.compile(r"fold(\d+)")


def fold_folders(data: Path) -> tuple[Path, ...]:
    """The folds that a folder holds, fold0, fold1, …; none if it is a dataset itself."""
    if not data.is_dir() or (data / "annotations").is_dir():
        return ()
    found = {int(m[1]): p for p in data.iterdir() if (m := _FOLD.fullmatch(p.name)) and p.is_dir()}
    return tuple(found[number] for number in sorted(found))


def model_names(model: str) -> tuple[str, ...]:
    """The weights that ``model=`` names: one, or several as ``[a,b,c]`` or ``a,b,c``."""
    if Path(model).exists():
        return (model,)
    parts = model.strip().removeprefix("[").removesuffix("]").split(",")
    return tuple(part.strip().strip("'\"") for part in parts if part.strip(" '\""))


def fold_settings(settings: DetectVal) -> tuple[tuple[str, DetectVal], ...]:
    """The name of each fold and the settings that score it alone; none where there are no folds.

    Raises:
        ConfigError: several weights without folds, folds without as many weights, or a part that
            all folds share.
    """
    folders = fold_folders(settings.data)
    models = model_names(settings.model) if settings.model is not None else ()
    if not folders:
        if len(models) > 1:
            msg = (
                f"model={settings.model}: names {len(models)} detectors, which score one fold "
                f"each, but data={settings.data} is no folder of folds; for an ensemble give "
                "weights=[a,b]"
            )
            raise ConfigError(msg)
        return ()
    _check_folds(settings, folders, models)
    for folder, model in zip(folders, models, strict=True):
        _warn_if_seen(folder, model)
    return tuple(
        (folder.name, replace(settings, model=model, data=folder))
        for folder, model in zip(folders, models, strict=True)
    )


def _check_folds(settings: DetectVal, folders: tuple[Path, ...], models: tuple[str, ...]) -> None:
    count = len(folders)
    if len(models) != count:
        given = f"model= names {len(models)}" if models else "weights= is an ensemble"
        msg = (
            f"data={settings.data}: holds {count} folds, and {given}; give the weights of each "
            f"fold in their order, model=[a,b,…], or name one fold, data={folders[0]}"
        )
        raise ConfigError(msg)
    if settings.split != "val":
        msg = (
            f"split={settings.split}: folds are scored on their val parts, which make up the whole "
            f"together; for their {settings.split} part name one fold, data={folders[0]}"
        )
        raise ConfigError(msg)


def _warn_if_seen(folder: Path, model: str) -> None:
    """Say so if the weights' own run was trained on another fold: it saw these images."""
    trained = _trained_on(Path(model).expanduser())
    if trained is not None and trained.name != folder.name and _FOLD.fullmatch(trained.name):
        LOG.warning(
            "warning: model=%s was trained on %s and scores %s: it may have seen its images; give "
            "the weights in the order of the folds",
            model,
            trained.name,
            folder.name,
        )


def _trained_on(weights: Path) -> Path | None:
    """The dataset folder in the record of the run that the weights lie in."""
    try:
        content = yaml.safe_load((weights.parent.parent / "run.yaml").read_text(encoding="utf-8"))
        data = Path(content["settings"]["data"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None
    return data.parent if data.name == "data.yaml" else data


def check_apart(data: Path, records: Iterable[ImageRecord]) -> None:
    """Refuse folds that share an image.

    Raises:
        AnnotationError: so; names the image.
    """
    seen: set[str] = set()
    for record in records:
        if record.image_id in seen:
            msg = (
                f"data={data}: image {record.image_id} is in the val parts of two folds; each "
                "image is scored once"
            )
            raise AnnotationError(msg)
        seen.add(record.image_id)
