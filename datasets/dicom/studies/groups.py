"""Files grouped by study: the study's name and folder, and the rejected files that belong to it."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from spineline.datasets.common.files import plain_name
from spineline.datasets.common.log import LOG
from spineline.datasets.common.remarks import PathText
from spineline.datasets.dicom.types import Rejection

_HARMLESS = ("foreign", "duplicate")
"""Kinds of rejections that leave no study incomplete."""


class Located(Protocol):
    """Attributes of a slice's header that the search for studies needs."""

    @property
    def path(self) -> Path: ...  # noqa: D102

    @property
    def study_uid(self) -> str: ...  # noqa: D102


LocatedT = TypeVar("LocatedT", bound=Located)


@dataclass(frozen=True, slots=True)
class StudyGroup:
    """The files of one study, by name."""

    uid: str
    name: str
    folder: Path
    paths: tuple[str, ...]
    rejections: tuple[Rejection, ...]


def group_by_study(
    found: Iterable[LocatedT], rejections: Sequence[Rejection], source: Path
) -> list[StudyGroup]:
    """Group slices and rejections by study, sorted by name.

    Two cases become studies without files, so that a batch can report them. One is a folder beside
    the studies with damaged DICOM files and no usable image. The other is a study whose files were
    all rejected, wherever they are.
    """
    paths: dict[str, dict[str, None]] = {}
    for located in found:
        paths.setdefault(located.study_uid, {})[str(located.path)] = None
    folders = {uid: _common_folder(of_study) for uid, of_study in paths.items()}
    folders |= _folders_of_lost(rejections, folders)
    base = _common_base(folders, source)
    names = _names(folders, source, base)
    homes = _homes(paths, folders, names)
    by_study, loose = _rejections_by_study(rejections, folders, homes, source)
    failed = _failed_studies(
        _outside_studies(loose, folders, by_study, source, base), names, source, base
    )
    studies = [
        StudyGroup(uid, names[uid], folders[uid], tuple(paths.get(uid, ())), tuple(by_study[uid]))
        for uid in folders
    ]
    return sorted([*studies, *failed], key=lambda study: (study.name, study.uid))


def _folders_of_lost(rejections: Sequence[Rejection], known: Mapping[str, Path]) -> dict[str, Path]:
    """Folders of studies that have only rejected files."""
    lost: dict[str, list[str]] = {}
    for rejection in rejections:
        uid = rejection.study_uid
        if uid and uid not in known and rejection.kind not in _HARMLESS:
            lost.setdefault(uid, []).append(str(rejection.path))
    return {uid: _common_folder(paths) for uid, paths in lost.items()}


def _common_base(folders: Mapping[str, Path], source: Path) -> Path:
    """Where names start: the source, or the folder below it that contains all studies."""
    return Path(os.path.commonpath(folders.values())) if len(folders) > 1 else source


def _common_folder(paths: Iterable[str]) -> Path:
    return Path(os.path.commonpath({os.path.dirname(path) for path in paths}))  # noqa: PTH120 - many


def _names(folders: Mapping[str, Path], source: Path, base: Path) -> dict[str, str]:
    """Unique names: the study's folder below the base, its relative path, or either with a hash."""
    if source.is_file():
        return {uid: plain_name(source.stem, "study") for uid in folders}
    own = base.resolve().name
    parts = {uid: folder.relative_to(base).parts for uid, folder in folders.items()}
    names = {uid: plain_name(way[0] if way else own, "study") for uid, way in parts.items()}
    counts = _counts(names)
    names = {
        uid: name if counts[name.lower()] == 1 else plain_name("_".join(parts[uid]) or own, "study")
        for uid, name in names.items()
    }
    counts = _counts(names)
    return {
        uid: name if counts[name.lower()] == 1 else f"{name}-{_short_hash(uid)}"
        for uid, name in names.items()
    }


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _counts(names: Mapping[str, str]) -> Counter[str]:
    """How often a name occurs, regardless of case (as on some file systems)."""
    return Counter(name.lower() for name in names.values())


def _homes(
    paths: Mapping[str, Iterable[str]], folders: Mapping[str, Path], names: Mapping[str, str]
) -> dict[Path, str]:
    """The study of each folder: one with files in it, else one that has the folder to itself.

    Below the folder of a study may lie others, as when studies of several patients have one UID.
    """
    around = {parent for folder in set(folders.values()) for parent in folder.parents}
    homes: dict[Path, str] = {}
    for uid in sorted(folders, key=lambda uid: names[uid]):
        for folder in sorted({os.path.dirname(path) for path in paths.get(uid, ())}):  # noqa: PTH120
            homes.setdefault(Path(folder), uid)
    for uid in sorted(folders, key=lambda uid: names[uid]):
        if folders[uid] not in around:
            homes.setdefault(folders[uid], uid)
    return homes


def _rejections_by_study(
    rejections: Sequence[Rejection],
    folders: Mapping[str, Path],
    study_of: Mapping[Path, str],
    source: Path,
) -> tuple[dict[str, list[Rejection]], list[Rejection]]:
    """Assign rejections to their study, else to the study of the nearest folder; or leave them."""
    by_study: dict[str, list[Rejection]] = {uid: [] for uid in folders}
    loose: list[Rejection] = []
    for rejection in rejections:
        around = (rejection.path, *rejection.path.parents)
        owner = next((study_of[folder] for folder in around if folder in study_of), None)
        if rejection.study_uid in by_study:
            owner = rejection.study_uid
            if not rejection.path.is_relative_to(folders[owner]):
                _log_left_out(rejection, source)
        if owner is None:
            loose.append(rejection)
        else:
            by_study[owner].append(rejection)
    return by_study, loose


def _outside_studies(
    loose: Sequence[Rejection],
    folders: Mapping[str, Path],
    by_study: Mapping[str, list[Rejection]],
    source: Path,
    base: Path,
) -> dict[Path, list[Rejection]]:
    """Rejections by the outermost folder without a study; a study's own are given to the study.

    Files directly in a folder of several studies belong to that folder.
    """
    inside: dict[Path, list[str]] = {}
    for uid, folder in folders.items() if loose else ():
        for around in (folder, *folder.parents):
            inside.setdefault(around, []).append(uid)
    beside: dict[Path, list[Rejection]] = {}
    for rejection in loose:
        folder = base if rejection.path.is_relative_to(base) else source
        for part in rejection.path.relative_to(folder).parts[:-1]:
            folder /= part
            if len(inside.get(folder, ())) < 2:
                break
        else:
            _log_left_out(rejection, source)
            continue
        owners = inside.get(folder, ())
        (by_study[owners[0]] if owners else beside.setdefault(folder, [])).append(rejection)
    return beside


def _failed_studies(
    beside: Mapping[Path, Sequence[Rejection]], names: Mapping[str, str], source: Path, base: Path
) -> list[StudyGroup]:
    """Folders of unusable DICOM files, as studies; other rejected files are logged."""
    used = {name.lower() for name in names.values()}
    failed: list[StudyGroup] = []
    for folder, rejections in beside.items():
        if all(r.kind in _HARMLESS for r in rejections):
            for rejection in rejections:
                _log_left_out(rejection, source)
            continue
        way = folder.relative_to(base if folder.is_relative_to(base) else source)
        name = plain_name("_".join(way.parts), "study")
        if name.lower() in used:
            name += f"-{_short_hash(str(way))}"
        used.add(name.lower())
        failed.append(StudyGroup("", name, folder, (), tuple(rejections)))
    return failed


def _log_left_out(rejection: Rejection, source: Path) -> None:
    level = logging.INFO if rejection.kind in _HARMLESS else logging.WARNING
    path = PathText(_relative(rejection.path, source))
    LOG.log(level, "%s: left out, %s", path, rejection.reason)


def _relative(path: Path, source: Path) -> str:
    inside = path != source and path.is_relative_to(source)
    return str(path.relative_to(source)) if inside else path.name
