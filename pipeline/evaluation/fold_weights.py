"""Weights by fold, so that every study can be scored with networks that did not see it.

The file is JSON:

    {"schema": "spineline-fold-weights/1",
     "folds": [{"studies": ["000", "003"], "detector": "fold0/det.safetensors",
                "classifier": "fold0/cls.safetensors"}, …]}

``studies`` lists the studies that the fold's networks did not see. ``study_uids`` may list their
UIDs in the same order, null where a study has none. Any key of the pipeline's models may be given
(``weights``, ``detector``, ``decode``, …); ``classifier`` may be a list of several to combine. Keys
not given come from the command. Paths are relative to the JSON file first. ``spineline kfold``
writes one such file for each variant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from spineline.datasets.common.errors import ConfigError, first_line
from spineline.datasets.common.files import read_json, write_json
from spineline.datasets.common.settings import close_match, parse_settings
from spineline.datasets.types import ImageRecord
from spineline.pipeline.inference.settings import ModelSettings
from spineline.weights import names_in_list

FOLD_WEIGHTS_SCHEMA = "spineline-fold-weights/1"
FOLD_WEIGHTS_FILE = "fold_weights.json"

ModelSettingsType = TypeVar("ModelSettingsType", bound=ModelSettings)

_OF_STUDIES = ("studies", "study_uids")
FOLD_PLACES = ("weights", "detector", "classifier", "namer")
"""Keys of a fold that name files."""


@dataclass(frozen=True, slots=True)
class FoldWeights:
    """One fold.

    Attributes:
        studies: that its networks did not see.
        study_uids: of these studies, in their order; None where a study has none.
        models: checked keys of [ModelSettings][] by name.
    """

    studies: tuple[str, ...]
    study_uids: tuple[str | None, ...]
    models: Mapping[str, Any]

    def applied(self, settings: ModelSettingsType) -> ModelSettingsType:
        """Settings with the fold's keys in place of their own."""
        return replace(settings, **self.models)


def read_fold_weights(paths: Sequence[Path]) -> tuple[FoldWeights, ...]:
    """The folds of one file, or of several files with the same folds, joined.

    Args:
        paths: files, or folders that hold a ``fold_weights.json``.

    Raises:
        ConfigError: not readable, not such a file, a study in two folds, files with different
            folds, or a key that two files give.
    """
    folds = _read(paths[0])
    for path in paths[1:]:
        folds = _joined(folds, _read(path), f"{paths[0]} and {path}")
    return folds


def write_fold_weights(path: Path, folds: Iterable[FoldWeights]) -> None:
    """Write folds as a file that ``pipeline val folds=`` reads."""
    content = [
        {"studies": list(fold.studies), "study_uids": list(fold.study_uids), **fold.models}
        for fold in folds
    ]
    write_json(path, {"schema": FOLD_WEIGHTS_SCHEMA, "folds": content})


def fold_by_study(
    records: Iterable[ImageRecord],
    folds: Sequence[FoldWeights],
    *,
    match: str = "auto",
    has_keys: bool = True,
) -> dict[str, tuple[int, str]]:
    """The fold of each annotated study, and the study's name in the folds.

    Args:
        records: of the studies.
        folds: from [read_fold_weights][].
        match: ``auto`` compares the study UID if both sides have one, else the whole name of the
            study or image; ``number`` compares the one number in the study's name (``study12`` is
            ``012``).
        has_keys: whether messages may name the keys ``fold_match`` and ``ids`` of the command.

    Returns:
        By ``study_id``, in the order of the records.

    Raises:
        ConfigError: a study that is in no fold, or ambiguous names.
    """
    fold_of = _by_number(folds) if match == "number" else _by_name(folds)
    uids = {uid for fold in folds for uid in fold.study_uids if uid is not None}
    found: dict[str, tuple[int, str]] = {}
    missing: dict[str, None] = {}
    for record in records:
        if match == "number":
            names = [_number(record.study_id)]
        elif uids and record.study_uid is not None:
            names = [record.study_uid]
        else:
            names = [record.study_uid, record.study_id, record.image_id]
        hits = [fold_of[name] for name in names if name is not None and name in fold_of]
        if hits:
            found[record.study_id] = hits[0]
        else:
            missing[record.study_id] = None
    if missing:
        known = [study for fold in folds for study in fold.studies]
        hint = ""
        if has_keys and match != "number" and not found:
            hint = "; fold_match=number compares the numbers in the names (study12 is 012)"
        raise ConfigError(
            f"folds=…: {len(missing)} of {len(missing) + len(found)} studies are in no fold, such "
            f"as {next(iter(missing))!r} (the folds hold {len(known)}, such as {known[0]!r}){hint}"
            + ("; or name the studies to score with ids=…" if has_keys else "")
        )
    if match == "number":
        owner: dict[str, str] = {}
        for study, (_, name) in found.items():
            if owner.setdefault(name, study) != study:
                both = f"{owner[name]!r} and {study!r}"
                raise ConfigError(f"fold_match=number: {both} are both {name!r} of the folds")
    return found


def _by_name(folds: Sequence[FoldWeights]) -> dict[str, tuple[int, str]]:
    found = {study: (n, study) for n, fold in enumerate(folds) for study in fold.studies}
    for n, fold in enumerate(folds):
        for study, uid in zip(fold.studies, fold.study_uids, strict=True):
            if uid is not None:
                found[uid] = (n, study)
    return found


def _by_number(folds: Sequence[FoldWeights]) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for n, fold in enumerate(folds):
        for study in fold.studies:
            number = _number(study)
            if number is None:
                msg = f"fold_match=number: study {study!r} of the folds has not one number"
                raise ConfigError(msg)
            if number in found:
                msg = (
                    f"fold_match=number: studies {found[number][1]!r} and {study!r} of the folds "
                    f"have the same number {number}"
                )
                raise ConfigError(msg)
            found[number] = (n, study)
    return found


def _number(name: str) -> str | None:
    """The number in a name without leading zeros; None if there is not exactly one."""
    numbers = re.findall(r"\d+", name)
    return str(int(numbers[0])) if len(numbers) == 1 else None


def _read(path: Path) -> tuple[FoldWeights, ...]:
    file = path / FOLD_WEIGHTS_FILE if path.is_dir() else path
    where = f"folds={path}"
    try:
        content = read_json(file)
    except FileNotFoundError as error:
        msg = f"{where}: no {file.name} there; give a variant's folder of `spineline kfold` or such"
        raise ConfigError(f"{msg} a file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: cannot be read as JSON ({first_line(error)})") from error
    entries = content.get("folds") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f'{where}: wanted {{"folds": [{{"studies": […], "detector": …}}, …]}}')
    if not entries:
        raise ConfigError(f"{where}: holds no fold")
    folds = tuple(_fold(entry, file, f"{where}, fold {n}") for n, entry in enumerate(entries))
    _refuse_repeats(folds, where)
    return folds


def _fold(entry: Mapping[str, Any], file: Path, where: str) -> FoldWeights:
    names = [spec.name for spec in fields(ModelSettings) if spec.name != "trust"]
    for name in entry:
        if name not in (*_OF_STUDIES, *names):
            hint = close_match(name, [*_OF_STUDIES, *names])
            raise ConfigError(f"{where}: unknown key {name!r}{hint}")
    studies = entry.get("studies")
    if not isinstance(studies, list) or not studies:
        raise ConfigError(f"{where}: studies: wanted a list of study names, found {studies!r}")
    uids = entry.get("study_uids") or [None] * len(studies)
    if not isinstance(uids, list) or len(uids) != len(studies):
        raise ConfigError(f"{where}: study_uids: wanted {len(studies)}, one for each study")
    given = {name: entry[name] for name in names if name in entry}
    checked = parse_settings(ModelSettings, given, where=where)
    models = {name: getattr(checked, name) for name in given}
    for name in FOLD_PLACES:
        if models.get(name) is not None:
            parts = names_in_list(models[name])
            places = ((file.parent / part, part) for part in parts)
            models[name] = ",".join(str(p) if p.is_file() else part for p, part in places)
    return FoldWeights(
        tuple(str(study) for study in studies),
        tuple(None if uid is None else str(uid) for uid in uids),
        models,
    )


def _refuse_repeats(folds: Sequence[FoldWeights], where: str) -> None:
    for what in ("studies", "study_uids"):
        seen: dict[str, int] = {}
        for n, fold in enumerate(folds):
            for name in (name for name in getattr(fold, what) if name is not None):
                if name in seen:
                    places = f"fold {seen[name]} and fold {n}"
                    raise ConfigError(f"{where}: study {name!r} is in {places}; each is in one")
                seen[name] = n


def _joined(
    first: Sequence[FoldWeights], second: Sequence[FoldWeights], where: str
) -> tuple[FoldWeights, ...]:
    """Folds with the keys of both, in the order of the first."""
    partner: dict[frozenset[str], FoldWeights] = {frozenset(f.studies): f for f in second}
    joined = []
    for n, fold in enumerate(first):
        other = partner.get(frozenset(fold.studies))
        if other is None or len(first) != len(second):
            msg = (
                f"folds={where}: not made with the same folds (fold {n} of the first has "
                f"{len(fold.studies)} studies, the second has folds of "
                f"{', '.join(str(len(f.studies)) for f in second)}); make both with one folds.json"
            )
            raise ConfigError(msg)
        twice = sorted(set(fold.models) & set(other.models))
        if twice:
            raise ConfigError(f"folds={where}: both give {twice[0]}, fold {n}; leave one out")
        uids = fold.study_uids
        if not any(uids):
            uid_of = dict(zip(other.studies, other.study_uids, strict=True))
            uids = tuple(uid_of[study] for study in fold.studies)
        joined.append(FoldWeights(fold.studies, uids, {**fold.models, **other.models}))
    return tuple(joined)
