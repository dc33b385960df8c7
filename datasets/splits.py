"""Splits by patient into training, validation and test parts.

A split never separates the images of one study, nor the studies of one patient if patients are
known. It depends only on the sorted study ids, the patients and the seed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spineline.datasets.common.errors import AnnotationError, ConfigError, first_line
from spineline.datasets.common.files import read_json
from spineline.datasets.common.settings import close_match
from spineline.datasets.types import ImageRecord

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")

REPORT_LAST_TRAINING_STUDY = 150

FOLDS_FILE = "folds.json"
"""File that lists the studies of ``fold0``, ``fold1``, … beside it."""


def split_studies(
    study_ids: Iterable[str],
    split: str,
    *,
    seed: int = 0,
    patients: Mapping[str, str] | None = None,
) -> dict[str, Part]:
    """Assign each study to a part.

    Args:
        study_ids: study ids, in any order, with repetitions allowed.
        split: how to split. ``train``, ``val`` or ``test`` puts everything into one part.
            ``report`` trains on study numbers up to 150 and tests on the rest. A ratio such as
            ``0.67`` is that of train, and the rest is val. Two or three ratios such as
            ``0.7,0.15,0.15`` are those of train, val and test. A path is a manifest of
            [write_manifest][], or a JSON object of part by study.
        seed: decides which studies a ratio selects.
        patients: from [patients_of][]: a ratio selects all studies of a patient or none. The other
            splits assign studies directly; see [parted_patients][].

    Returns:
        Part by study id, in sorted order of the ids.

    Raises:
        ConfigError: ``split`` is none of these, or does not fit the studies.
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
    """Split by one training ratio, rounded down: 0.67 of 328 studies gives 219 train and 109 val.

    The older cervical project rounded this way; [split_studies][] rounds to nearest.
    """
    studies = sorted(set(study_ids))
    bounds = [int(len(studies) * ratio), len(studies)]
    return _split_at(_units(studies, patients), bounds, seed)


def patients_of(records: Iterable[ImageRecord]) -> dict[str, str]:
    """Return the patient of each study whose records state one."""
    return {r.study_id: r.patient_id for r in records if r.patient_id is not None}


def parted_patients(
    patients: Mapping[str, str], parts: Mapping[str, Part] | Mapping[str, int]
) -> list[tuple[str, ...]]:
    """Return the sorted studies of each patient who has some in several parts or folds.

    >>> parted_patients({"a": "p1", "b": "p1", "c": "p2"}, {"a": "train", "b": "val", "c": "val"})
    [('a', 'b')]
    """
    studies: dict[str, list[str]] = {}
    for study in sorted(study for study in patients if study in parts):
        studies.setdefault(patients[study], []).append(study)
    return [tuple(named) for named in studies.values() if len({parts[s] for s in named}) > 1]


def _units(studies: Sequence[str], patients: Mapping[str, str] | None) -> list[list[str]]:
    """Groups that a draw keeps together: the studies of each patient, or a single study."""
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
    """Assign each study to a fold 0 … k-1, with sizes as equal as possible.

    Args:
        study_ids: study ids, in any order, with repetitions allowed.
        k: number of folds, at least 2.
        seed: decides the draw.
        strata: stratum by study; each stratum is spread over the folds as evenly as possible. A
            patient's stratum is the last of those of the studies, in sorted order.
        patients: from [patients_of][]: all studies of a patient are in one fold.

    Raises:
        ConfigError: there are fewer patients than folds, or k is below 2.
    """
    studies = sorted(set(study_ids))
    units = _units(studies, patients)
    if k < 2 or k > len(units):
        what = "studies" if len(units) == len(studies) else f"patients ({len(studies)} studies)"
        raise ConfigError(f"kfold={k}: wanted 2 … {len(units)}, the number of {what}")

    def stratum(unit: Sequence[str]) -> str:
        return max((strata or {}).get(study, "") for study in unit)

    order = [units[i] for i in np.random.default_rng(seed).permutation(len(units))]
    order.sort(key=lambda unit: (stratum(unit), -len(unit)))  # stable, so it keeps the random order
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
    """Return ``fold0``, ``fold1``, … of a folder; empty for a dataset or without folds.

    Args:
        data: the folder, or a file in it.

    Raises:
        AnnotationError: the numbers have a gap; the message gives the first missing one.
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
    """Make the content of ``folds.json``.

    Args:
        folds: the studies of each fold.
        seed: the seed of the draw.
    """
    listed = [list(fold) for fold in folds]
    return {"schema": "spineline-folds/1", "k": len(listed), "seed": seed, "folds": listed}


def fold_strata(records: Sequence[ImageRecord]) -> dict[str, str]:
    """Return the stratum of each study: the number of discs with v5 or sick (none, one, more).

    The two official halves of the lumbar set were marked with v5 by different habits. A fold
    without v5 could not measure it. Discs without level are only graded healthy or sick.
    """
    marked: dict[str, int] = {}
    for record in records:
        discs = [s for s in record.structures if s.kind == "disc"]
        found = sum("v5" in s.pathology or "sick" in s.pathology for s in discs)
        marked[record.study_id] = marked.get(record.study_id, 0) + found
    return {study: str(min(count, 2)) for study, count in marked.items()}


def write_manifest(parts: Mapping[str, Part], patients: Mapping[str, str] | None = None) -> str:
    """Format a split as a manifest that ``split=FILE`` can read.

    Args:
        parts: part by study.
        patients: from [patients_of][]; written beside the parts, for people to read.
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
    """Group records by part, in their own order."""
    return {part: [r for r in records if parts[r.study_id] == part] for part in PARTS}


def _report_part(study: str) -> Part:
    numbers = re.findall(r"\d+", study)
    if not numbers or re.fullmatch(r"\d+(\.\d+)+", study):  # numbers in a UID are no study number
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
    """Fill the parts with drawn units, each up to about its bound of studies."""
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
            f"({first_line(error)}){hint}"
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
