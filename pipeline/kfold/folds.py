"""Folds of a cross-validation: drawn once by patient, recorded, and written as datasets.

Images are hard-linked, not copied. The test part stays out of every fold.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from spineline.converters.write import write_dataset
from spineline.datasets.common.errors import AnnotationError, ConfigError, first_line
from spineline.datasets.common.files import read_json, staged_folder, write_json
from spineline.datasets.common.log import LOG
from spineline.datasets.crops.files import is_crops_folder
from spineline.datasets.dataset import Dataset, load_dataset
from spineline.datasets.labels import LabelSet
from spineline.datasets.splits import (
    FOLDS_FILE,
    PARTS,
    Part,
    fold_folders,
    fold_strata,
    fold_studies,
    folds_content,
    parted_patients,
    patients_of,
)
from spineline.datasets.types import ImageRecord
from spineline.pipeline.kfold.settings import FOLDS_FOLDER, KfoldSettings

DEFAULT_K = 3


@dataclass(frozen=True, slots=True)
class Folds:
    """The datasets of the folds.

    Attributes:
        folders: one converted dataset for each fold, in order.
        records: of the val part of each fold; together they hold every image once.
        labels: label set of their boxes.
        names: class names.
        test_studies: number of test studies, which are not used.
    """

    folders: tuple[Path, ...]
    records: tuple[tuple[ImageRecord, ...], ...]
    labels: LabelSet
    names: tuple[str, ...]
    test_studies: int

    def studies(self, fold: int) -> tuple[str, ...]:
        """The studies that a fold validates on, sorted."""
        return tuple(sorted({record.study_id for record in self.records[fold]}))

    def uid_of(self) -> dict[str, str | None]:
        """The study UID of each study whose images agree on one."""
        uids: dict[str, set[str | None]] = {}
        for record in (record for fold in self.records for record in fold):
            uids.setdefault(record.study_id, set()).add(record.study_uid)
        return {study: next(iter(u)) if len(u) == 1 else None for study, u in uids.items()}


def make_folds(settings: KfoldSettings) -> Folds:
    """The folds in ``out``: existing or new ones; or those that ``data`` holds.

    Raises:
        AnnotationError: the data cannot be read, or its folds share a study.
        ConfigError: number or manifest of folds do not fit the data.
    """
    manifest = settings.out / FOLDS_FILE
    folders = fold_folders(settings.data)
    if folders:
        _check_given(settings, len(folders))
    else:
        folders = _laid_out(settings, manifest)
    folds = _read(folders)
    fold_of = {study: n for n in range(len(folders)) for study in folds.studies(n)}
    _warn_of_parted([r for fold in folds.records for r in fold], fold_of, settings.data)
    if manifest.is_file() and _sorted_folds(manifest) != _studies_in(folds):
        msg = f"data={settings.data}: its folds are not those of {manifest}; give the same data"
        raise ConfigError(msg)
    if not manifest.is_file():
        write_json(manifest, folds_content(_studies_in(folds), settings.seed))
    return folds


def read_manifest(path: Path) -> list[list[str]]:
    """The studies of each fold of a ``folds.json``.

    Raises:
        ConfigError: not readable, not such a file, or a study in two folds.
    """
    try:
        content = read_json(path)
        if not all(isinstance(fold, list) for fold in content["folds"]):
            raise ValueError("wanted folds as lists of studies")
        folds = [[str(study) for study in fold] for fold in content["folds"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"folds={path}: not a folds.json of spineline kfold or convert … kfold= "
        raise ConfigError(f"{msg}({first_line(error)})") from error
    twice = [study for study, n in Counter(s for fold in folds for s in fold).items() if n > 1]
    if twice:
        raise ConfigError(f"folds={path}: study {twice[0]!r} is in more than one fold")
    if len(folds) < 2 or not all(folds):
        raise ConfigError(f"folds={path}: wanted two folds or more, none of them empty")
    return folds


def _check_given(settings: KfoldSettings, count: int) -> None:
    if settings.folds is not None:
        msg = f"folds={settings.folds}: data={settings.data} holds folds already; leave one out"
        raise ConfigError(msg)
    if settings.k is not None and settings.k != count:
        msg = f"k={settings.k}: data={settings.data} holds {count} folds; leave k= out"
        raise ConfigError(msg)
    if count < 2:
        raise ConfigError(f"data={settings.data}: holds one fold; wanted two or more")


def _laid_out(settings: KfoldSettings, manifest: Path) -> tuple[Path, ...]:
    """The dataset of each fold below ``out``, written if missing."""
    root = settings.out / FOLDS_FOLDER
    if root.is_dir():  # it is written atomically; a run killed just then has no manifest yet
        if manifest.is_file():
            _check_drawn(settings, manifest)
        return fold_folders(root)
    dataset = _loaded(settings.data)
    records = _present(dataset, [*dataset.records["train"], *dataset.records["val"]])
    test = _present(dataset, dataset.records["test"])
    if both := {record.study_id for record in records} & {record.study_id for record in test}:
        msg = (
            f"data={settings.data}: study {min(both)} is in test and in another part; split "
            f"the data again"
        )
        raise AnnotationError(msg)
    source = manifest if manifest.is_file() else settings.folds
    fold_of = _drawn(settings, records) if source is None else _given(settings, source, records)
    with staged_folder(root, overwrite=False) as stage:
        for n in range(max(fold_of.values()) + 1):
            parts: dict[str, Part] = {
                study: "val" if fold == n else "train" for study, fold in fold_of.items()
            }
            parts.update({record.study_id: "test" for record in test})
            write_dataset(
                stage / f"fold{n}",
                [*records, *test],
                parts,
                labels=dataset.labels,
                formats=("yolo", "coco"),
                images=dataset.image_path,
            )
    return fold_folders(root)


def _check_drawn(settings: KfoldSettings, manifest: Path) -> None:
    """Refuse a number of folds, a manifest or data that differ from those of the existing folds.

    The dataset itself may be gone, because its images are kept in the folds.
    """
    drawn = _sorted_folds(manifest)
    if settings.k not in (None, len(drawn)):
        raise ConfigError(f"k={settings.k}: {manifest} holds {len(drawn)} folds; leave k= out")
    if settings.folds is not None and _sorted_folds(settings.folds) != drawn:
        msg = f"folds={settings.folds}: is not what {manifest} holds; leave it out"
        raise ConfigError(f"{msg}, or give another out=")
    if not settings.data.exists():
        return
    dataset = _loaded(settings.data)
    records = _present(dataset, [*dataset.records["train"], *dataset.records["val"]])
    studies = {record.study_id for record in records}
    if others := sorted(studies.difference(*drawn)):
        msg = f"data={settings.data}: {manifest} was not drawn of it: study {others[0]!r} is in no"
        raise ConfigError(f"{msg} fold; give the same data, or another out=")


def _loaded(data: Path) -> Dataset:
    if data.is_dir() and is_crops_folder(data):
        msg = f"data={data}: a folder of crops is split already; give the converted dataset"
        raise ConfigError(msg)
    dataset = load_dataset(data)
    dataset.check_whole(data)
    return dataset


def _present(dataset: Dataset, records: Sequence[ImageRecord]) -> list[ImageRecord]:
    found = [record for record in records if dataset.image_path(record).is_file()]
    if len(found) < len(records):
        LOG.warning("%d images are missing, and left out", len(records) - len(found))
    return found


def _drawn(settings: KfoldSettings, records: Sequence[ImageRecord]) -> dict[str, int]:
    """Draw folds by patient, with rare classes spread evenly."""
    studies, patients = [record.study_id for record in records], patients_of(records)
    k = DEFAULT_K if settings.k is None else settings.k
    if k > len(set(studies)):
        msg = f"k={k}: data={settings.data} has {len(set(studies))} studies in train and val"
        raise ConfigError(f"{msg}; give fewer folds")
    return fold_studies(
        studies, k, seed=settings.seed, strata=fold_strata(records), patients=patients
    )


def _given(settings: KfoldSettings, path: Path, records: Sequence[ImageRecord]) -> dict[str, int]:
    folds = read_manifest(path)
    if settings.k is not None and settings.k != len(folds):
        raise ConfigError(f"k={settings.k}: folds={path} holds {len(folds)}; leave k= out")
    fold_of = {study: n for n, fold in enumerate(folds) for study in fold}
    studies = sorted({record.study_id for record in records})
    missing = [study for study in studies if study not in fold_of]
    if missing:
        msg = f"folds={path}: names no fold for {len(missing)} studies, such as {missing[0]!r}"
        raise ConfigError(msg)
    _check_held(folds, set(studies), path, settings.data)
    return {study: fold_of[study] for study in studies}


def _warn_of_parted(
    records: Sequence[ImageRecord], fold_of: Mapping[str, int], where: Path
) -> None:
    """Warn if given folds split the studies of a patient, and report unknown patients."""
    patients = patients_of(records)
    if parted := parted_patients(patients, fold_of):
        text = "%s: %d patients have studies in more than one fold, such as %s: figures of folds "
        text += "that saw the patient are too good"
        LOG.warning(text, where, len(parted), " and ".join(parted[0]))
    if unknown := len(set(fold_of) - set(patients)):
        text = "patients: of %d of %d studies it is not known whether they share one with another: "
        text += "each is treated as a separate patient (patients= of convert says who is)"
        LOG.info(text, unknown, len(fold_of))


def _check_held(
    folds: Sequence[Sequence[str]], studies: AbstractSet[str], path: Path, data: Path
) -> None:
    """Refuse a fold without studies of the data, and warn of studies that are not in the data."""
    for number, fold in enumerate(folds, 1):
        if studies.isdisjoint(fold):
            msg = f"folds={path}: fold {number} holds no study of data={data}"
            raise ConfigError(f"{msg}; give the data that it was made of, or other folds")
    others = sorted({study for fold in folds for study in fold} - studies)
    if others:
        msg = "folds=%s: %d of its studies are not in data=%s, such as %s"
        LOG.warning(msg, path, len(others), data, others[0])


def _read(folders: Sequence[Path]) -> Folds:
    """Load the folds and check that no study is on both sides and each is validated once."""
    datasets = [load_dataset(folder) for folder in folders]
    first = datasets[0]
    val_of: dict[str, str] = {}
    for folder, dataset in zip(folders, datasets, strict=True):
        if dataset.names != first.names:
            raise AnnotationError(f"{folder}: its classes are not those of {folders[0]}")
        for study in _sides(folder, dataset)["val"]:
            if study in val_of:
                msg = f"{folder}: study {study} is validated in {val_of[study]} already"
                raise AnnotationError(msg)
            val_of[study] = folder.name
    for folder, dataset in zip(folders, datasets, strict=True):
        held = [*dataset.records["train"], *dataset.records["val"]]
        gone = [path for path in map(dataset.image_path, held) if not path.is_file()]
        if gone:  # they would count as missed
            msg = f"{folder}: {len(gone)} of its images are missing, such as {gone[0]}; put them"
            raise AnnotationError(f"{msg} back, or convert again")
        sides = _sides(folder, dataset)
        if odd := {*sides["train"], *sides["val"]} ^ set(val_of):
            msg = f"{folder}: study {min(odd)} is not in train or val of every fold, and val of one"
            raise AnnotationError(msg)
    return Folds(
        tuple(folders),
        tuple(dataset.records["val"] for dataset in datasets),
        first.labels,
        first.names,
        len({record.study_id for record in first.records["test"]}),
    )


def _sides(folder: Path, dataset: Dataset) -> dict[Part, list[str]]:
    """The sorted studies of each part; a study in two parts is refused."""
    sides = {part: {record.study_id for record in dataset.records[part]} for part in PARTS}
    for a, b in itertools.combinations(PARTS, 2):
        if both := sides[a] & sides[b]:
            msg = f"{folder}: study {min(both)} is in {a} and in {b}; a study is on one side"
            raise AnnotationError(msg)
    if not sides["val"] or not sides["train"]:
        raise AnnotationError(f"{folder}: wanted studies in train and in val")
    return {part: sorted(sides[part]) for part in PARTS}


def _studies_in(folds: Folds) -> list[list[str]]:
    return [list(folds.studies(n)) for n in range(len(folds.folders))]


def _sorted_folds(manifest: Path) -> list[list[str]]:
    return [sorted(fold) for fold in read_manifest(manifest)]
