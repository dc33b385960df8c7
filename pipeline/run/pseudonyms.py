"""``names=hash``: studies under names that tell nothing, the same ones again for the same salt.

A study is called ``study-`` and 16 hexadecimal digits: the first 64 bits of HMAC-SHA-256, keyed by
the salt, of its StudyInstanceUID (of a plain image, of the file's name). UIDs become UIDs under
2.25 made from 128 bits of the same hash. Who has the salt and the UIDs can link both; who has the
outputs alone cannot. What a remark speaks of is hidden by what it is: a file, a series, a UID. Of
free text, such as an error's, the names and paths of the case at hand are taken out.

DICOM outputs keep UIDs and the patient's module: the standard asks for it, and a report that is in
no study is of no use.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePath
from typing import TypeVar

from spineline.datasets.common.errors import ConfigError, OutputExistsError, SpinelineError
from spineline.datasets.common.files import write_text
from spineline.datasets.common.log import LOG
from spineline.datasets.common.remarks import (
    UNNAMED,
    FreeText,
    Marked,
    NameText,
    PathText,
    SeriesText,
    UidText,
)
from spineline.datasets.common.settings import Settings
from spineline.pipeline.inference.results import StudyResult
from spineline.pipeline.inference.sources import Case
from spineline.pipeline.run.engines import Outcome
from spineline.pipeline.run.settings import PipelinePredict

SALT_NAME = "salt.txt"
CHECK_NAME = "salt-check.txt"
"""Sixteen bits of a hash of the salt: another salt is noticed, and nobody finds the salt by it."""
NAME_DIGITS = 16
"""Hexadecimal digits of a study's name; two of a million studies share one once in 30 million."""

_FILE_DIGITS = 8
_HASHED = re.compile(rf"study-[0-9a-f]{{{NAME_DIGITS}}}")
_CHECK_DIGITS = 4
_HIDDEN = Path("hidden-by-names-hash")
_MOST_LISTED = 100_000
_KEYS_OF_DATA = ("source", "compare", "annotations", "data", "split", "predictions")
_LEAST_LOGGED = 4
"""Letters of a name that is looked for in every line of the log; shorter ones are in any text."""
_AFTER_A_PATH = (": ", "; ", ", ", ")", "'", '"', "\n")

SettingsT = TypeVar("SettingsT", bound=Settings)


class Pseudonyms:
    """Names of the studies of one run.

    Args:
        salt: keys the hash.
        cases: under their own names.
        source: of the run; its path is taken out of texts.
        check: file to keep a check of the salt in, once a study is to be written; None for none.
    """

    def __init__(
        self, salt: str, cases: Sequence[Case], source: Path, check: Path | None = None
    ) -> None:
        self._key = salt.encode()
        self._source = source
        self._check = check
        self._original = {self._name(case): case for case in cases}
        self._new = {case.name: name for name, case in self._original.items()}
        if len(self._original) < len(cases):
            raise SpinelineError("two studies have the same name by names=hash; use another salt=")

    def cases(self) -> tuple[Case, ...]:
        """The cases under their new names, sorted by them."""
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
        """An outcome whose texts and UIDs tell nothing; the header stays for DICOM outputs."""
        if self._check is not None and not self._check.exists():
            write_text(self._check, check_of(self._key) + "\n")
        name, failure, analysis = outcome.name, outcome.failure, outcome.analysis
        if failure is not None:
            failure = replace(failure, reason=_Hider(self, name)(failure.reason))
        if analysis is not None:
            hide, frame = _Hider(self, name), analysis.frame
            frame = replace(
                frame,
                name=name,
                warnings=tuple(each.hidden(hide) for each in frame.warnings),
                notes=tuple(each.hidden(hide) for each in frame.notes),
            )
            analysis = replace(analysis, frame=frame, result=self.result(name, analysis.result))
        return replace(outcome, failure=failure, analysis=analysis)

    def name(self, name: str) -> str | None:
        """The new name of a case by its own; None where there is no such case."""
        return self._new.get(name)

    def other(self, word: str, text: str) -> str:
        """A name for something that is no case, such as ``image-0123456789abcdef``."""
        return f"{word}-{self._hash(text)[:NAME_DIGITS]}"

    def file(self, name: str) -> str:
        """The new name of a file."""
        return f"file-{self._hash(name)[:_FILE_DIGITS]}"

    def result(self, name: str, result: StudyResult) -> StudyResult:
        """A result of the case of a new name, whose texts and UIDs tell nothing."""
        hide = _Hider(self, name)
        kept = [each for each in result.warnings if each.code != "identity_in_name"]
        return replace(
            result,
            study_uid=self.uid(result.study_uid),
            series_uid=self.uid(result.series_uid),
            instance_uid=self.uid(result.instance_uid),
            warnings=tuple(each.hidden(hide) for each in kept),
        )

    def uid(self, uid: str | None) -> str | None:
        """A UID under 2.25 in place of one.

        Source: ITU-T X.667, 128-bit numbers as UIDs.
        """
        if uid is None:
            return None
        return f"2.25.{int(self._hash(uid)[:32], 16)}"

    def known_names(self, new: str) -> tuple[dict[str, str], set[Path]]:
        """What stands for names of the case of a new name, and the paths that it has."""
        case = self._original[new]
        paths = _paths_of(case)
        base = self._source if self._source.is_dir() else self._source.parent
        folders = [] if case.path is not None else [case.name]
        for path in paths:
            inside = path.parent.relative_to(base) if path.is_relative_to(base) else path.parent
            folders += inside.parts
        names = {folder: new for folder in folders if folder not in ("/", "", ".")}
        names |= {path.name: self.file(path.name) for path in paths}
        study = case.files or case.study
        if study is not None and study.study_uid:
            names[study.study_uid] = str(self.uid(study.study_uid))
        return names, {*paths, self._source, base}

    def all_known_names(self) -> dict[str, str]:
        """What stands for names of all cases."""
        names: dict[str, str] = {}
        for new in self._original:
            names |= self.known_names(new)[0]
        return names

    def _name(self, case: Case) -> str:
        study = case.study or case.files
        uid = "" if study is None else study.study_uid
        if case.header is not None:  # the case is this image, of which a study may have several
            uid = case.header.instance_uid
        known = uid or (case.name if case.path is None else case.path.name)
        return f"study-{self._hash(known)[:NAME_DIGITS]}"

    def _hash(self, text: str) -> str:
        data = text.encode("utf-8", "surrogateescape")
        return hmac.new(self._key, data, hashlib.sha256).hexdigest()


def _paths_of(case: Case) -> list[Path]:
    """All files of a case."""
    paths = [case.path] if case.path is not None else []
    if case.files is not None:
        paths += [*map(Path, case.files.paths), *(r.path for r in case.files.rejections)]
    if case.study is not None:
        paths += [header.path for s in case.study.series for header in s.slices]
        paths += [rejection.path for rejection in case.study.rejections]
    return paths


class _Hider:
    """Gives what stands in the place of a value that speaks of one case, or of free text on it.

    Args:
        pseudonyms: of the run.
        name: new name of the case.
    """

    def __init__(self, pseudonyms: Pseudonyms, name: str) -> None:
        self._pseudonyms = pseudonyms
        self._name = name
        self._known: _KnownNames | None = None

    def __call__(self, value: str) -> str:
        if isinstance(value, Marked) and not isinstance(value, FreeText):
            return _hidden_mark(value, self._pseudonyms, self._name)
        if self._known is None:
            self._known = _KnownNames(*self._pseudonyms.known_names(self._name))
        return self._known(value).lstrip(": ")


def _hidden_mark(value: Marked, pseudonyms: Pseudonyms, name: str) -> str:
    """What stands in the place of a marked value, by what it is."""
    if isinstance(value, SeriesText):
        return value.left_out()
    if isinstance(value, UidText):
        return str(pseudonyms.uid(value))
    if isinstance(value, NameText):
        return name
    return value if value == UNNAMED else PathText(pseudonyms.file(PurePath(value).name))


class _KnownNames:
    """Takes known paths and names out of free text, such as an error's.

    Args:
        names: what stands for each name, where that is a word of its own.
        paths: which are left out, and all folders above them.
    """

    def __init__(self, names: Mapping[str, str], paths: Iterable[Path]) -> None:
        self._names = names
        self._lengths = sorted({len(name) for name in names}, reverse=True)
        folders = {str(parent) for path in paths for parent in (path, *path.parents)}
        folders |= {str(Path(folder).absolute()) for folder in folders}
        longest_first = sorted((f for f in folders if len(f) > 3), key=len, reverse=True)
        self._folders = [folder + os.sep for folder in longest_first] + longest_first

    def __call__(self, text: str, *, least: int = 1) -> str:
        """The text without the paths, and with other words for names of so many letters or more."""
        for folder in self._folders:
            text = text.replace(folder, "")
        parts, place = [], 0
        while place < len(text):
            name = self.name_at(text, place, least)
            parts.append(text[place] if name is None else self._names[name])
            place += 1 if name is None else len(name)
        return "".join(parts)

    def name_at(self, text: str, start: int, least: int = 1) -> str | None:
        """The longest known name that begins at a place of the text, as a word of its own."""
        if start and _is_of_a_word(text[start - 1], "_.-"):
            return None
        for length in self._lengths:
            name, after = text[start : start + length], text[start + length : start + length + 1]
            if name in self._names and len(name) >= least and not _is_of_a_word(after, "_-"):
                return name
        return None


def _is_of_a_word(character: str, marks: str) -> bool:
    return character.isalnum() or (character != "" and character in marks)


def pseudonyms_of(
    settings: PipelinePredict, cases: Sequence[Case], earlier: Iterable[str] = ()
) -> Pseudonyms | None:
    """The names of a run by its settings; None where studies keep their folders' names.

    Args:
        settings: of the run.
        cases: under their own names.
        earlier: names of the studies that earlier runs left in the same folder.

    Raises:
        ConfigError: the salt is not that of the earlier run.
        OutputExistsError: an earlier run named studies the other way; its files would stay.
        SpinelineError: the salt of an earlier run cannot be read, or none can be kept.
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
    """What is kept of a salt, to notice another one."""
    text = b"spineline names=hash"
    return hmac.new(key, text, hashlib.sha256).hexdigest()[:_CHECK_DIGITS]


def _salt_of(settings: PipelinePredict, *, goes_on: bool) -> str:
    """The salt of a run, which has to be that of the earlier run that it goes on with.

    Raises:
        ConfigError: it is another one, or is not given again.
        SpinelineError: the salt of an earlier run cannot be read, or none can be kept.
    """
    out, kept, check = settings.out, settings.out / SALT_NAME, settings.out / CHECK_NAME
    advice = "choose another out=, or add overwrite=true to name all studies anew"
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
        raise SpinelineError(f"{check}: cannot be read ({error}); {advice}") from error
    if wanted is None and kept.exists():
        wanted = check_of(kept_salt(kept).encode())
    if wanted not in (None, check_of(salt.encode())):
        msg = (
            f"salt=…: is not the one of the earlier run into {out}, whose studies would get other "
            f"names beside their own; give that one, or {advice}"
        )
        raise ConfigError(msg)
    return salt


def hides_names(settings: Settings) -> bool:
    """Whether ``names=hash`` is asked for."""
    return getattr(settings, "names", "folder") == "hash"


def recorded(settings: SettingsT) -> SettingsT:
    """The settings as ``run.yaml`` may show them: without the salt, nor paths and names of data."""
    if not hides_names(settings):
        return settings
    hidden: dict[str, object] = {"salt": None, **dict.fromkeys(_data_of(settings), _HIDDEN)}
    if getattr(settings, "ids", ()):
        hidden["ids"] = (str(_HIDDEN),)
    return replace(settings, **hidden)


def _data_of(settings: Settings) -> dict[str, Path]:
    """The files and folders of data that settings name, by key."""
    found = {key: getattr(settings, key, None) for key in _KEYS_OF_DATA}
    return {key: Path(path) for key, path in found.items() if path is not None}


class _LogFilter:
    """Keeps paths and names off the log, whichever module logs them.

    A value in a record is hidden by what it is: a path outside of ``out=``, or [Marked][]. Of free
    text, paths of the data are taken out, and names of studies and files where they are known.

    Args:
        settings: of the run.
        pseudonyms: names to give instead; None holds records back that tell of files.

    Attributes:
        held: how many records were held back.
    """

    def __init__(self, settings: Settings, pseudonyms: Pseudonyms | None = None) -> None:
        self.held = 0
        self._pseudonyms = pseudonyms
        self._out = Path(getattr(settings, "out", _HIDDEN))
        data = {path for root in _data_of(settings).values() for path in (root, root.absolute())}
        roots = {str(path) for path in data} | {str(path.resolve()) for path in data}
        self._data = sorted((root for root in roots if len(root) > 1), key=len, reverse=True)

    @functools.cached_property
    def _known(self) -> _KnownNames:
        """Takes the names of all cases out of a text."""
        return _KnownNames(self._pseudonyms.all_known_names() if self._pseudonyms else {}, ())

    def __call__(self, record: logging.LogRecord) -> bool:
        if self._pseudonyms is None:
            text = record.getMessage()
            tells = any(map(self._tells, _arguments(record))) or self._without_paths(text) != text
            self.held += tells
            return not tells
        hide = self._hidden
        if isinstance(record.args, Mapping):
            record.args = {name: hide(value) for name, value in record.args.items()}
        elif record.args:
            record.args = tuple(map(hide, record.args))
        text = self._without_paths(record.getMessage())
        record.msg = self._known(text, least=_LEAST_LOGGED)
        record.args = record.exc_info = record.exc_text = None
        return True

    def _tells(self, value: object) -> bool:
        """Whether a value of a record is one to hide."""
        if isinstance(value, PurePath):
            return value != self._out and self._out not in value.parents
        return isinstance(value, Marked) and not isinstance(value, FreeText)

    def _hidden(self, value: object) -> object:
        if self._pseudonyms is None or not self._tells(value):
            return value
        marked = value if isinstance(value, Marked) else PathText(value)
        name = self._pseudonyms.name(str(value)) or self._pseudonyms.other("study", str(value))
        return str(_hidden_mark(marked, self._pseudonyms, name))

    def _without_paths(self, text: str) -> str:
        """The text with other words for each path of the data, up to where it may end at most."""
        pieces = _split_at(text, str(self._out))
        return str(self._out).join(map(self._piece_without_paths, pieces))

    def _piece_without_paths(self, text: str) -> str:
        for root in self._data:
            text, *others = _split_at(text, root)
            for other in others:
                while (name := self._known.name_at(other, 1)) and other.startswith(os.sep):
                    other = other[1 + len(name) :]
                ends = [place for mark in _AFTER_A_PATH if (place := other.find(mark)) >= 0]
                text += UNNAMED + other[min(ends, default=len(other)) :]
        return text


def _split_at(text: str, path: str) -> list[str]:
    """The pieces of a text around a path, which one of a single name is only with a slash after."""
    first, *others = text.split(path)
    pieces, is_name = [first], os.sep not in path
    for other in others:
        ends = other.startswith(os.sep) or not (is_name or _is_of_a_word(other[:1], "_.-"))
        if ends:
            pieces.append(other)
        else:
            pieces[-1] += path + other
    return pieces


def _arguments(record: logging.LogRecord) -> Sequence[object]:
    """The values in a record."""
    if isinstance(record.args, Mapping):
        return tuple(record.args.values())
    return record.args or ()


@contextmanager
def quiet_names(settings: Settings) -> Iterator[None]:
    """Keep what is said of single files off the log while the source is looked through.

    Raises:
        SpinelineError: raised inside, under numbers in place of names of files and folders.
    """
    if not hides_names(settings):
        yield
        return
    hold = _LogFilter(settings)
    LOG.addFilter(hold)
    try:
        yield
    except SpinelineError as error:
        raise type(error)(_nameless(str(error), settings)) from None
    finally:
        LOG.removeFilter(hold)
    if hold.held:
        LOG.info("%d files or folders not used; names=hash does not name them", hold.held)


@contextmanager
def hidden_in_log(settings: Settings, pseudonyms: Pseudonyms | None) -> Iterator[None]:
    """Keep paths and names of the data off the log while studies are gone over.

    Args:
        settings: of the run.
        pseudonyms: of the run; None, where studies keep their names, hides nothing.
    """
    if pseudonyms is None:
        yield
        return
    hide = _LogFilter(settings, pseudonyms)
    LOG.addFilter(hide)
    try:
        yield
    finally:
        LOG.removeFilter(hide)


def _nameless(text: str, settings: Settings) -> str:
    """A text on data with a number for each file and folder: its place in the sorted listing."""
    data = _data_of(settings)
    names: dict[str, str] = {}
    for root in data.values():
        for number, path in enumerate(_listed(root), 1):
            if path.name in text:
                names.setdefault(path.name, f"file-{number}")
    for key, root in data.items():
        for name in (str(root), str(root.absolute())):
            text = text.replace(name + os.sep, "").replace(name, key)
    return _KnownNames(names, data.values())(text).lstrip(": ")


def _listed(root: Path) -> list[Path]:
    """What is below a folder, sorted; as much as can be listed."""
    try:
        return sorted(islice(root.rglob("*"), _MOST_LISTED)) if root.is_dir() else [root]
    except OSError:
        return []


def kept_salt(path: Path) -> str:
    """The salt in a run's folder; made there at first, for the user's eyes alone.

    Raises:
        SpinelineError: it cannot be read or kept.
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
        raise SpinelineError(f"{path}: cannot be read or kept ({error}); give salt=…") from error
    text = "%s in out= keeps the salt of the studies' names: do not pass it on with the results"
    LOG.info(text, path.name)
    return salt
