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
from pathlib import Path

from spineline.datasets.dicom_privacy import without_descriptions
from spineline.datasets.errors import OutputExistsError, SpinelineError
from spineline.datasets.runs import LOG
from spineline.pipeline.core import Analysis
from spineline.pipeline.doubts import codes_of
from spineline.pipeline.engines import Outcome
from spineline.pipeline.settings import PipelinePredict
from spineline.pipeline.sources import Case

SALT_NAME = "salt.txt"
NAME_DIGITS = 16
"""Hexadecimal digits of a study's name; two of a million studies share one once in 30 million."""

_FILE_DIGITS = 8
_HASHED = re.compile(rf"study-[0-9a-f]{{{NAME_DIGITS}}}")
_HIDDEN = Path("hidden-by-names-hash")


class Pseudonyms:
    """Names of the studies of one run.

    Args:
        salt: keys the hash.
        cases: under their own names.
        source: of the run; its path is taken out of texts.
    """

    def __init__(self, salt: str, cases: Sequence[Case], source: Path) -> None:
        self._key = salt.encode()
        self._source = source
        self._original = {self._name(case): case for case in cases}
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
        clean = self._cleaner(outcome.name)
        failure, analysis = outcome.failure, outcome.analysis
        return replace(
            outcome,
            failure=failure and replace(failure, reason=clean(failure.reason)),
            analysis=analysis and self._analysis(analysis, clean),
        )

    def uid(self, uid: str | None) -> str | None:
        """A UID under 2.25 in place of one.

        Source: ITU-T X.667, 128-bit numbers as UIDs.
        """
        if uid is None:
            return None
        return f"2.25.{int(self._hash(uid)[:32], 16)}"

    def _analysis(self, analysis: Analysis, clean: _Cleaner) -> Analysis:
        frame, result = analysis.frame, analysis.result
        kept = [text for text in result.warnings if codes_of([text]) != ("identity_in_name",)]
        return replace(
            analysis,
            frame=replace(
                frame,
                warnings=tuple(map(clean, frame.warnings)),
                notes=tuple(map(clean, frame.notes)),
            ),
            result=replace(
                result,
                study_uid=self.uid(result.study_uid),
                series_uid=self.uid(result.series_uid),
                instance_uid=self.uid(result.instance_uid),
                warnings=tuple(map(clean, kept)),
            ),
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
        OutputExistsError: an earlier run named studies by their folders; its files would stay.
        SpinelineError: the salt of an earlier run cannot be read, or none can be kept.
    """
    if settings.names != "hash":
        return None
    if not all(_HASHED.fullmatch(name) for name in earlier):
        msg = (
            f"{settings.out}: an earlier run named studies by their folders, and its files would "
            "stay beside those of names=hash; choose another out= or add overwrite=true"
        )
        raise OutputExistsError(msg)
    salt = settings.salt or _kept_salt(settings.out / SALT_NAME)
    return Pseudonyms(salt, cases, settings.source)


def recorded(settings: PipelinePredict) -> PipelinePredict:
    """The settings as ``run.yaml`` may show them: without the salt, nor the source's path."""
    if settings.names != "hash":
        return settings
    compare = None if settings.compare is None else _HIDDEN
    return replace(settings, source=_HIDDEN, salt=None, compare=compare)


@contextmanager
def quiet_names(settings: PipelinePredict) -> Iterator[None]:
    """Keep what is said of single files off the log while the source is looked through."""
    if settings.names != "hash":
        yield
        return
    held: list[logging.LogRecord] = []

    def hold(record: logging.LogRecord) -> bool:
        if "left out" in record.getMessage() or "cannot be" in record.getMessage():
            held.append(record)
            return False
        return True

    LOG.addFilter(hold)
    try:
        yield
    finally:
        LOG.removeFilter(hold)
    if held:
        LOG.info("%d files or folders left out; names=hash does not name them", len(held))


def _kept_salt(path: Path) -> str:
    """The salt in a run's folder; made there at first, for the user's eyes alone."""
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
    LOG.info("%s keeps the salt of the studies' names: do not pass it on with the results", path)
    return salt
