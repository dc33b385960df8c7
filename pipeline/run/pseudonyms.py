"""``names=hash``: pseudonyms of studies, the same ones again for the same salt.

A study is named ``study-`` and 16 hexadecimal digits: the first 64 bits of HMAC-SHA-256, keyed by
the salt, of its StudyInstanceUID (for a plain image, of the file's name). UIDs become UIDs under
2.25 made from 128 bits of the same hash. Whoever has the salt and the UIDs can link both; the
outputs alone do not suffice.

Parameters of a warning are hidden according to their type: a file, a series, a UID. From free text,
such as an error message, the names and paths of the current case are removed.

DICOM outputs keep UIDs and the patient's module: the standard requires it, and a report without its
study is of no use.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from spineline.datasets.common.errors import (
    ConfigError,
    OutputExistsError,
    SpinelineError,
    first_line,
)
from spineline.datasets.common.files import write_text
from spineline.datasets.common.log import LOG
from spineline.datasets.common.remarks import UNNAMED, NameText, PathText, SeriesText, UidText
from spineline.datasets.common.settings import Settings
from spineline.datasets.volumes.volume import volume_suffix
from spineline.pipeline.inference.results import StudyResult
from spineline.pipeline.inference.sources.case import Case
from spineline.pipeline.run.engines import Outcome
from spineline.pipeline.run.known_names import KnownNames, data_of, hides_names
from spineline.pipeline.run.settings import PipelinePredict

SALT_NAME = "salt.txt"
CHECK_NAME = "salt-check.txt"
"""Holds sixteen bits of a hash of the salt: enough to notice another salt, too few to find it."""
NAME_DIGITS = 16
"""Hexadecimal digits of a study's name; a collision among a million studies has a probability of
about 1 in 30 million.
"""

_FILE_DIGITS = 8
_HASHED = re.compile(rf"study-[0-9a-f]{{{NAME_DIGITS}}}")
_CHECK_DIGITS = 4
_HIDDEN = Path("hidden-by-names-hash")

SettingsT = TypeVar("SettingsT", bound=Settings)


class Pseudonyms:
    """Names of the studies of one run.

    Args:
        salt: keys the hash.
        cases: under their own names.
        source: of the run; its path is removed from texts.
        check: file for a check of the salt, written with the first study; None for none.
    """

    def __init__(
        self, salt: str, cases: Sequence[Case], source: Path, check: Path | None = None
    ) -> None:
        self._key = salt.encode()
        self._source = source
        self._check = check
        self._original: dict[str, Case] = {}
        for case in cases:
            name = self._name(_known_by(case))
            if name in self._original:  # such as a study in a folder, and again in an archive
                name = self._name(f"{_known_by(case)} {case.name}")
            self._original[name] = case
        self._new = {case.name: name for name, case in self._original.items()}
        if len(self._original) < len(cases):
            raise SpinelineError("two studies have the same name by names=hash; use another salt=")

    def cases(self) -> tuple[Case, ...]:
        """The cases with their new names, sorted by them."""
        found = []
        for name in sorted(self._original):
            case = replace(self._original[name], name=name, is_pseudonymous=True)
            if case.files is not None:
                case = replace(case, files=replace(case.files, name=name))
            if case.study is not None:
                case = replace(case, study=replace(case.study, name=name))
            found.append(case)
        return tuple(found)

    def outcome(self, outcome: Outcome) -> Outcome:
        """An outcome with pseudonymous texts and UIDs; DICOM outputs keep the header."""
        if self._check is not None and not self._check.exists():
            write_text(self._check, check_of(self._key) + "\n")
        name, failure, analysis = outcome.name, outcome.failure, outcome.analysis
        if failure is not None:
            failure = replace(failure, reason=HideValues(self, name)(failure.reason))
        if analysis is not None:
            hide, frame = HideValues(self, name), analysis.frame
            frame = replace(
                frame,
                name=name,
                warnings=tuple(each.hidden(hide) for each in frame.warnings),
                notes=tuple(each.hidden(hide) for each in frame.notes),
            )
            analysis = replace(analysis, frame=frame, result=self.result(name, analysis.result))
        return replace(outcome, failure=failure, analysis=analysis)

    def name(self, name: str) -> str | None:
        """The new name of a case by its own; None if there is no such case."""
        return self._new.get(name)

    def other(self, word: str, text: str) -> str:
        """A name for something other than a case, such as ``image-0123456789abcdef``."""
        return f"{word}-{self._hash(text)[:NAME_DIGITS]}"

    def file(self, name: str) -> str:
        """The new name of a file."""
        return f"file-{self._hash(name)[:_FILE_DIGITS]}"

    def result(self, name: str, result: StudyResult) -> StudyResult:
        """A result with pseudonymous texts and UIDs, of the case with this new name."""
        hide = HideValues(self, name)
        kept = [each for each in result.warnings if each.code != "identity_in_name"]
        return replace(
            result,
            study_uid=self.uid(result.study_uid),
            series_uid=self.uid(result.series_uid),
            instance_uid=self.uid(result.instance_uid),
            file=None if result.file is None else self.file(result.file),
            warnings=tuple(each.hidden(hide) for each in kept),
        )

    def uid(self, uid: str | None) -> str | None:
        """A UID under 2.25 that replaces another.

        Source: ITU-T X.667, 128-bit numbers as UIDs.
        """
        if uid is None:
            return None
        return f"2.25.{int(self._hash(uid)[:32], 16)}"

    def known_names(self, new: str) -> tuple[dict[str, str], set[Path]]:
        """The replacements of names, and the paths, of the case with this new name."""
        case = self._original[new]
        paths, uids = _paths_and_uids_of(case)
        base = self._source if self._source.is_dir() else self._source.parent
        roots = [*(folder.parent for folder, _ in case.unpacked), base]
        folders = [] if case.path is not None else [case.name]
        for path in paths:
            root = next((root for root in roots if path.is_relative_to(root)), path.anchor)
            folders += path.parent.relative_to(root).parts
        names = {folder: new for folder in folders if folder not in ("/", "", ".")}
        names |= {path.name: self.file(path.name) for path in paths}
        names |= {uid: str(self.uid(uid)) for uid in uids if uid}
        return names, {*paths, self._source, base}

    def all_known_names(self) -> dict[str, str]:
        """The replacements of names of all cases."""
        names: dict[str, str] = {}
        for new in self._original:
            names |= self.known_names(new)[0]
        return names

    def _name(self, known: str) -> str:
        return f"study-{self._hash(known)[:NAME_DIGITS]}"

    def _hash(self, text: str) -> str:
        data = text.encode("utf-8", "surrogateescape")
        return hmac.new(self._key, data, hashlib.sha256).hexdigest()


def _known_by(case: Case) -> str:
    """The text from which the name of a case is derived."""
    study = case.study or case.files
    uid = "" if study is None else study.study_uid
    if case.header is not None:  # the case is this image, of which a study may have several
        uid = case.header.instance_uid
    if uid or case.path is None or volume_suffix(case.path):
        return uid or case.name  # folders of several patients hold volumes of the same name
    return case.path.name


def _paths_and_uids_of(case: Case) -> tuple[list[Path], list[str]]:
    """All files of a case, and its UIDs as far as they are known before its headers are read."""
    paths = [*case.paths, *(archive for _, archive in case.unpacked)]
    uids: list[str] = []
    if case.files is not None:
        paths += [*map(Path, case.files.paths), *(r.path for r in case.files.rejections)]
        uids = [case.files.study_uid]
    if case.study is not None:
        series = case.study.series
        slices = [header for each in series for header in each.slices]
        paths += [header.path for header in slices] + [r.path for r in case.study.rejections]
        uids = [case.study.study_uid, *(each.series_uid for each in series)]
        uids += [header.instance_uid for header in slices]
    return paths, uids


class HideValues:
    """Replaces a value about one case, or free text about it.

    Args:
        pseudonyms: of the run.
        name: new name of the case.
    """

    def __init__(self, pseudonyms: Pseudonyms, name: str) -> None:
        self._pseudonyms = pseudonyms
        self._name = name
        self._known: KnownNames | None = None

    def __call__(self, value: str) -> str:
        """The replacement of a marked value, or the text without names of the case."""
        if isinstance(value, SeriesText):
            return value.left_out()
        if isinstance(value, UidText):
            return str(self._pseudonyms.uid(value))
        if isinstance(value, NameText):
            return self._name
        if isinstance(value, PathText):
            return value if value == UNNAMED else self._pseudonyms.file(Path(value).name)
        if self._known is None:
            self._known = KnownNames(*self._pseudonyms.known_names(self._name))
        return self._known(value).lstrip(": ")


def pseudonyms_of(
    settings: PipelinePredict, cases: Sequence[Case], earlier: Iterable[str] = ()
) -> Pseudonyms | None:
    """The names of a run by its settings; None if studies keep their folders' names.

    Args:
        settings: of the run.
        cases: under their own names.
        earlier: names of the studies that earlier runs left in the same folder.

    Raises:
        ConfigError: the salt is not that of the earlier run.
        OutputExistsError: an earlier run named studies the other way; its files would remain.
        SpinelineError: the salt of an earlier run cannot be read, or a new one cannot be stored.
    """
    if settings.names != "hash":
        if (settings.out / CHECK_NAME).exists():
            msg = (
                f"{settings.out}: an earlier run hid names by names=hash, and this one would tell "
                "them beside it; add names=hash, choose another out=, or add overwrite=true"
            )
            raise OutputExistsError(msg)
        return None
    named = tuple(earlier)
    if not all(_HASHED.fullmatch(name) for name in named):
        msg = (
            f"{settings.out}: an earlier run named studies by their folders, and its files would "
            "stay beside those of names=hash; choose another out= or add overwrite=true"
        )
        raise OutputExistsError(msg)
    salt = _salt_of(settings, goes_on=bool(named))
    return Pseudonyms(salt, cases, settings.source, settings.out / CHECK_NAME)


def check_of(key: bytes) -> str:
    """The part of the salt's hash that is stored, to notice another salt."""
    text = b"spineline names=hash"
    return hmac.new(key, text, hashlib.sha256).hexdigest()[:_CHECK_DIGITS]


def _salt_of(settings: PipelinePredict, *, goes_on: bool) -> str:
    """The salt of a run, which must be that of the earlier run that it continues.

    Raises:
        ConfigError: it is another one, or is not given again.
        SpinelineError: the salt of an earlier run cannot be read, or a new one cannot be stored.
    """
    out, kept, check = settings.out, settings.out / SALT_NAME, settings.out / CHECK_NAME
    advice = "choose another out=, or add overwrite=true to rename all studies"
    if settings.salt is None and not kept.exists() and (goes_on or check.exists()):
        msg = (
            f"{out}: an earlier run named its studies with a salt=… of yours, and none is given "
            f"now: they would get other names; give the same salt=, {advice}"
        )
        raise ConfigError(msg)
    salt = settings.salt or kept_salt(kept)
    try:
        wanted = check.read_text(encoding="ascii").strip() if check.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise SpinelineError(f"{check}: cannot be read ({first_line(error)}); {advice}") from error
    if wanted is None and kept.exists():
        wanted = check_of(kept_salt(kept).encode())
    if wanted not in (None, check_of(salt.encode())):
        msg = (
            f"salt=…: is not the one of the earlier run into {out}, whose studies would get other "
            f"names beside their own; give that one, or {advice}"
        )
        raise ConfigError(msg)
    return salt


def recorded(settings: SettingsT) -> SettingsT:
    """The settings as stored in ``run.yaml``: without the salt, or paths and names of data."""
    if not hides_names(settings):
        return settings
    hidden: dict[str, object] = {"salt": None, **dict.fromkeys(data_of(settings), _HIDDEN)}
    if getattr(settings, "ids", ()):
        hidden["ids"] = (str(_HIDDEN),)
    return replace(settings, **hidden)


def kept_salt(path: Path) -> str:
    """The salt in a run's folder; created on first use, readable by the user only.

    Raises:
        SpinelineError: it cannot be read or stored.
    """
    try:
        if path.exists():
            salt = path.read_text(encoding="ascii").strip()
            if len(salt) < 32:
                raise SpinelineError(f"{path}: holds no salt; give the run's own by salt=…")
            return salt
        salt = secrets.token_hex(16)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(salt + "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SpinelineError(
            f"{path}: cannot be read or kept ({first_line(error)}); give salt=…"
        ) from error
    text = "%s in out= keeps the salt of the studies' names: do not pass it on with the results"
    LOG.info(text, path.name)
    return salt
