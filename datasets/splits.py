"""Splits by patient: who trains, who validates, who tests.

A split never separates the images of one study, nor the studies of one patient where it is known
who the patients are; it follows from the sorted study ids, the patients and the seed alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spineline.datasets.common.errors import AnnotationError, ConfigError
from spineline.datasets.common.files import read_json
from spineline.datasets.common.settings import close_match
from spineline.datasets.types import ImageRecord

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")

REPORT_LAST_TRAINING_STUDY = 150

FOLDS_FILE = "folds.json"
"""Names the studies of ``fold0``, ``fold1``, … beside it."""


def split_studies(
    study_ids: Iterable[str],
    split: str,
    *,
    seed: int = 0,
    patients: Mapping[str, str] | None = None,
) -> dict[str, Part]:
    """The part of each study.

    Args:
        study_ids: study ids, in any order, repeats allowed.
        split: ``train``, ``val`` or ``test`` (everything into one part), ``report`` (study number
            up to 150 train, the rest test), a ratio such as ``0.67`` (train, the rest val), two or
            three ratios such as ``0.7,0.15,0.15`` (train, val, test), or the path of a manifest
            written by [write_manifest][] (or a JSON object of part by study).
        seed: decides which studies a ratio picks.
        patients: of [patients_of][]: a ratio picks all studies of a patient or none. The other
            ways of splitting say themselves where a study belongs; see [parted_patients][].

    Returns:
        Part by study id, in sorted order of the ids.

    Raises:
        ConfigError: the value is none of these, or does not fit the studies.
    """
    studies = sorted(set(study_ids))
    if split in PARTS:
        return dict.fromkeys(studies, split)
    if split == "report":
        return {study: _report_part(study) for study in studies}
    if re.fullmatch(r"[0-9.]+(,[0-9.]+){0,2}", split):
        return _split_by_ratio(_units(studies, patients), _ratios(split), seed)
    return _split_by_manifest(studies, Path(split))


def split_by_train_ratio(
    study_ids: Iterable[str],
    ratio: float,
    *,
    seed: int = 0,
    patients: Mapping[str, str] | None = None,
) -> dict[str, Part]:
    """Train and val by one ratio, rounded down: of 328 studies, 0.67 trains 219 and leaves 109.

    The older cervical project counted so; [split_studies][] rounds to the nearest.
    """
    studies = sorted(set(study_ids))
    bounds = [int(len(studies) * ratio), len(studies)]
    return _split_at(_units(studies, patients), bounds, seed)


def patients_of(records: Iterable[ImageRecord]) -> dict[str, str]:
    """The patient of each study, of those whose records tell it."""
    return {r.study_id: r.patient_id for r in records if r.patient_id is not None}


def parted_patients(
    patients: Mapping[str, str], parts: Mapping[str, Part] | Mapping[str, int]
) -> list[tuple[str, ...]]:
    """The studies, sorted, of each patient who has some in several parts or folds.

    >>> parted_patients({"a": "p1", "b": "p1", "c": "p2"}, {"a": "train", "b": "val", "c": "val"})
    [('a', 'b')]
    """
    studies: dict[str, list[str]] = {}
    for study in sorted(study for study in patients if study in parts):
        studies.setdefault(patients[study], []).append(study)
    return [tuple(named) for named in studies.values() if len({parts[s] for s in named}) > 1]


def _units(studies: Sequence[str], patients: Mapping[str, str] | None) -> list[list[str]]:
    """What a draw keeps together: the studies of each patient, each other study by itself."""
    units: dict[tuple[bool, str], list[str]] = {}
    for study in studies:
        patient = (patients or {}).get(study)
        units.setdefault((patient is None, patient or study), []).append(study)
    return list(units.values())


def fold_studies(
    study_ids: Iterable[str],
    k: int,
    *,
    seed: int = 0,
    strata: Mapping[str, str] | None = None,
    patients: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """The fold 0 … k-1 of each study, sizes as even as can be.

    Args:
        study_ids: study ids, in any order, repeats allowed.
        k: number of folds, at least 2.
        seed: decides the draw.
        strata: stratum by study; each stratum is spread over the folds as evenly as can be. A
            patient is of the last stratum that one of his studies is of.
        patients: of [patients_of][]: all studies of a patient are in one fold.

    Raises:
        ConfigError: fewer patients than folds, or k below 2.
    """
    studies = sorted(set(study_ids))
    units = _units(studies, patients)
    if k < 2 or k > len(units):
        what = "studies" if len(units) == len(studies) else f"patients ({len(studies)} studies)"
        raise ConfigError(f"kfold={k}: wanted 2 … {len(units)}, the number of {what}")

    def stratum(unit: Sequence[str]) -> str:
        return max((strata or {}).get(study, "") for study in unit)

    order = [units[i] for i in np.random.default_rng(seed).permutation(len(units))]
    order.sort(key=lambda unit: (stratum(unit), -len(unit)))  # stable: keeps the draw otherwise
    fold: dict[str, int] = {}
    sizes, in_stratum = [0] * k, Counter[tuple[str, int]]()
    for unit in order:
        name = stratum(unit)
        least = min(range(k), key=lambda n: (in_stratum[name, n], sizes[n]))
        fold |= dict.fromkeys(unit, least)
        sizes[least] += len(unit)
        in_stratum[name, least] += len(unit)
    return {study: fold[study] for study in studies}


def fold_folders(data: Path) -> tuple[Path, ...]:
    """``fold0``, ``fold1``, … of a folder of folds; empty where it is a dataset, or holds none.

    Args:
        data: the folder, or a file in it.

    Raises:
        AnnotationError: the numbers do not run from 0 without a gap; names the first that is
            missing.
    """
    root = data if data.is_dir() else data.parent
    if (root / "annotations").is_dir():
        return ()
    found = [p for p in root.glob("fold*") if re.fullmatch(r"fold\d+", p.name) and p.is_dir()]
    folders = tuple(root / f"fold{n}" for n in range(len(found)))
    missing = [folder.name for folder in folders if folder not in found]
    if missing:
        raise AnnotationError(f"data={data}: {missing[0]} is missing among its {len(found)} folds")
    return folders


def folds_content(folds: Sequence[Sequence[str]], seed: int) -> dict[str, Any]:
    """The content of ``folds.json``.

    Args:
        folds: the studies of each fold.
        seed: that drew them.
    """
    listed = [list(fold) for fold in folds]
    return {"schema": "spineline-folds/1", "k": len(listed), "seed": seed, "folds": listed}


def fold_strata(records: Sequence[ImageRecord]) -> dict[str, str]:
    """The stratum of each study: how many of its discs carry v5, or are sick (none, one, more).

    The two official halves of the lumbar set were marked with v5 by different habits, so a fold
    without them would tell nothing about v5. Discs without level know healthy and sick alone.
    """
    marked: dict[str, int] = {}
    for record in records:
        discs = [s for s in record.structures if s.kind == "disc"]
        found = sum("v5" in s.pathology or "sick" in s.pathology for s in discs)
        marked[record.study_id] = marked.get(record.study_id, 0) + found
    return {study: str(min(count, 2)) for study, count in marked.items()}


def write_manifest(parts: Mapping[str, Part], patients: Mapping[str, str] | None = None) -> str:
    """A split as the text of a manifest file, readable by ``split=FILE``.

    Args:
        parts: part by study.
        patients: of [patients_of][]; written beside the parts, for people to read.
    """
    by_part: dict[str, Any] = {
        part: sorted(s for s, p in parts.items() if p == part) for part in PARTS
    }
    if patients:
        by_part["patients"] = {study: patients[study] for study in sorted(patients)}
    return json.dumps({"schema": "spineline-split/1", **by_part}, indent=2) + "\n"


def records_by_part(
    records: Sequence[ImageRecord], parts: Mapping[str, Part]
) -> dict[Part, list[ImageRecord]]:
    """Records of each part, in their own order."""
    return {part: [r for r in records if parts[r.study_id] == part] for part in PARTS}


def _report_part(study: str) -> Part:
    numbers = re.findall(r"\d+", study)
    if not numbers or re.fullmatch(r"\d+(\.\d+)+", study):  # a UID holds numbers, but not its own
        msg = (
            f"split=report: study {study!r} has no number in its name; "
            "use split=0.67 or a manifest file instead"
        )
        raise ConfigError(msg)
    return "train" if int(numbers[0]) <= REPORT_LAST_TRAINING_STUDY else "test"


def _ratios(text: str) -> list[float]:
    try:
        ratios = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"split={text}: not a ratio") from error
    if len(ratios) == 1:
        if not 0 < ratios[0] < 1:
            raise ConfigError(f"split={text}: a single ratio lies between 0 and 1")
        ratios.append(1 - ratios[0])
    if min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6:
        raise ConfigError(f"split={text}: ratios are not negative and add up to 1")
    return ratios


def _split_by_ratio(units: list[list[str]], ratios: list[float], seed: int) -> dict[str, Part]:
    count = sum(map(len, units))
    return _split_at(units, [round(count * sum(ratios[: n + 1])) for n in range(len(ratios))], seed)


def _split_at(units: list[list[str]], bounds: list[int], seed: int) -> dict[str, Part]:
    """Parts of drawn units, so that each part has the studies up to its bound, or nearly so."""
    part_of: dict[str, Part] = {}
    for i in np.random.default_rng(seed).permutation(len(units)):
        middle = len(part_of) + (len(units[i]) - 1) / 2
        part = PARTS[next(n for n, bound in enumerate(bounds) if middle < bound)]
        part_of |= dict.fromkeys(units[i], part)
    return {study: part_of[study] for study in sorted(part_of)}


def _named_studies(content: Any) -> list[tuple[str, Part]]:
    """Pairs of study and part, from lists by part or from parts by study."""
    by_study = [(study, part) for study, part in content.items() if part in PARTS]
    if any(study not in PARTS for study, _ in by_study):
        return by_study
    return [(str(study), part) for part in PARTS for study in content.get(part, [])]


def _split_by_manifest(studies: list[str], path: Path) -> dict[str, Part]:
    try:
        content = read_json(path)
        named = _named_studies(content)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        hint = "" if path.is_file() else close_match(str(path), [*PARTS, "report"])
        hint = hint if "did you mean" in hint else ""
        msg = (
            f"split={path}: neither train, val, test, report, a ratio, nor a readable manifest "
            f"({error}){hint}"
        )
        raise ConfigError(msg) from error
    part_of = dict(named)
    twice = sorted({s for s, _ in named if sum(s == other for other, _ in named) > 1})
    if twice:
        raise ConfigError(f"split={path}: study {twice[0]!r} is named more than once")
    missing = [study for study in studies if study not in part_of]
    if missing:
        msg = f"split={path}: names no part for {len(missing)} studies, such as {missing[0]!r}"
        raise ConfigError(msg)
    return {study: part_of[study] for study in studies}
