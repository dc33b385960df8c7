"""``names=hash``: studies under names that tell nothing, the same ones again for the same salt.

A study is called ``study-`` and 16 hexadecimal digits: the first 64 bits of HMAC-SHA-256, keyed by
the salt, of its StudyInstanceUID (of a plain image, of the file's name). UIDs become UIDs under
2.25 made from 128 bits of the same hash. Who has the salt and the UIDs can link both; who has the
outputs alone cannot. Names of files and folders are taken out of every text.

DICOM outputs keep UIDs and the patient's module: the standard asks for it, and a report that is in
no study is of no use.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from spineline.datasets.common.errors import ConfigError, OutputExistsError, SpinelineError
from spineline.datasets.common.files import write_text
from spineline.datasets.common.log import LOG
from spineline.datasets.dicom.privacy import without_descriptions
from spineline.pipeline.evaluation.settings import PipelineVal
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import StudyResult
from spineline.pipeline.inference.sources import Case
from spineline.pipeline.inference.warnings import codes_of
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
_TELLS_OF_FILES = "index"
"""The module that logs names of files and folders while a source is looked through."""
_KEYS_OF_DATA = ("source", "compare", "annotations", "data", "split", "predictions")

SettingsT = TypeVar("SettingsT", PipelinePredict, PipelineVal)


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
            case = replace(self._original[name], name=name)
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
        clean = self._cleaner(outcome.name)
        failure, analysis = outcome.failure, outcome.analysis
        return replace(
            outcome,
            failure=failure and replace(failure, reason=clean(failure.reason)),
            analysis=analysis and self._analysis(outcome.name, analysis, clean),
        )

    def name(self, name: str) -> str | None:
        """The new name of a case by its own; None where there is no such case."""
        return self._new.get(name)

    def other(self, word: str, text: str) -> str:
        """A name for something that is no case, such as ``image-0123456789abcdef``."""
        return f"{word}-{self._hash(text)[:NAME_DIGITS]}"

    def result(self, name: str, result: StudyResult) -> StudyResult:
        """A result of the case of a new name, whose texts and UIDs tell nothing."""
        clean = self._cleaner(name)
        kept = [text for text in result.warnings if codes_of([text]) != ("identity_in_name",)]
        return replace(
            result,
            study_uid=self.uid(result.study_uid),
            series_uid=self.uid(result.series_uid),
            instance_uid=self.uid(result.instance_uid),
            warnings=tuple(map(clean, kept)),
        )

    def uid(self, uid: str | None) -> str | None:
        """A UID under 2.25 in place of one.

        Source: ITU-T X.667, 128-bit numbers as UIDs.
        """
        if uid is None:
            return None
        return f"2.25.{int(self._hash(uid)[:32], 16)}"

    def _analysis(self, name: str, analysis: Analysis, clean: _Cleaner) -> Analysis:
        frame = analysis.frame
        return replace(
            analysis,
            frame=replace(
                frame,
                name=name,
                warnings=tuple(map(clean, frame.warnings)),
                notes=tuple(map(clean, frame.notes)),
            ),
            result=self.result(name, analysis.result),
        )

    def _cleaner(self, name: str) -> _Cleaner:
        case = self._original[name]
        paths = [case.path] if case.path is not None else []
        folders = [] if case.path is not None else [case.name]
        if case.files is not None:
            paths += [*map(Path, case.files.paths), *(r.path for r in case.files.rejections)]
        if case.study is not None:
            paths += [header.path for s in case.study.series for header in s.slices]
            paths += [rejection.path for rejection in case.study.rejections]
        base = self._source if self._source.is_dir() else self._source.parent
        for path in paths:
            inside = path.parent.relative_to(base) if path.is_relative_to(base) else path.parent
            folders += inside.parts
        new = {folder: name for folder in folders if folder not in ("/", "", ".")}
        new |= {path.name: f"file-{self._hash(path.name)[:_FILE_DIGITS]}" for path in paths}
        return _Cleaner(new, (*paths, self._source, base))

    def _name(self, case: Case) -> str:
        uid = case.files.study_uid if case.files is not None else ""
        if case.study is not None:
            uid = case.study.study_uid
        if case.header is not None:  # the case is this image, of which a study may have several
            uid = case.header.instance_uid
        known = uid or (case.name if case.path is None else case.path.name)
        return f"study-{self._hash(known)[:NAME_DIGITS]}"

    def _hash(self, text: str) -> str:
        data = text.encode("utf-8", "surrogateescape")
        return hmac.new(self._key, data, hashlib.sha256).hexdigest()


class _Cleaner:
    """Takes paths and names out of a text."""

    def __init__(self, names: dict[str, str], paths: Iterable[Path]) -> None:
        self._names = names
        folders = {str(parent) for path in paths for parent in (path, *path.parents)}
        folders |= {str(Path(folder).absolute()) for folder in folders}
        longest_first = sorted(folders - {"/", "."}, key=len, reverse=True)
        self._folders = [folder + os.sep for folder in longest_first] + longest_first
        words = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        self._words = re.compile(rf"(?<![\w.-])(?:{words})(?![\w-])") if names else None

    def __call__(self, text: str) -> str:
        code = "".join(f"{word}: " for word in codes_of([text]))
        text = text[len(code) :]
        for folder in self._folders:
            if len(folder) > 3:
                text = text.replace(folder, "")
        if self._words is not None:
            text = self._words.sub(lambda match: self._names[match[0]], text)
        text = without_descriptions(text.partition("; identity_in_name: ")[0])
        return code + text.lstrip(": ")


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


def recorded(settings: SettingsT) -> SettingsT:
    """The settings as ``run.yaml`` may show them: without the salt, nor paths and names of data."""
    if settings.names != "hash":
        return settings
    hidden: dict[str, object] = {"salt": None}
    for key in _KEYS_OF_DATA:
        if getattr(settings, key, None) is not None:
            hidden[key] = _HIDDEN
    if getattr(settings, "ids", ()):
        hidden["ids"] = (str(_HIDDEN),)
    return replace(settings, **hidden)  # type: ignore[arg-type]


@contextmanager
def quiet_names(settings: PipelinePredict | PipelineVal) -> Iterator[None]:
    """Keep what is said of single files off the log while the source is looked through.

    Raises:
        SpinelineError: raised inside, under numbers in place of names of files and folders.
    """
    if settings.names != "hash":
        yield
        return
    held: list[logging.LogRecord] = []

    def hold(record: logging.LogRecord) -> bool:
        if record.module == _TELLS_OF_FILES:
            held.append(record)
            return False
        return True

    LOG.addFilter(hold)
    try:
        yield
    except SpinelineError as error:
        raise type(error)(_nameless(str(error), settings)) from None
    finally:
        LOG.removeFilter(hold)
    if held:
        LOG.info("%d files or folders not used; names=hash does not name them", len(held))


def _nameless(text: str, settings: PipelinePredict | PipelineVal) -> str:
    """A text on data with a number for each file and folder: its place in the sorted listing."""
    keys = [key for key in _KEYS_OF_DATA if getattr(settings, key, None) is not None]
    roots = [Path(getattr(settings, key)) for key in keys]
    names: dict[str, str] = {}
    for root in roots:
        for number, path in enumerate(_listed(root), 1):
            if path.name in text:
                names.setdefault(path.name, f"file-{number}")
    for root, key in zip(roots, keys, strict=True):
        for name in (str(root), str(root.absolute())):
            text = text.replace(name + os.sep, "").replace(name, key)
    return _Cleaner(names, roots)(text)


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
