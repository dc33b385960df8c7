"""The log with ``names=hash``: without paths and names of the data, whichever module logs."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePath

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.remarks import UNNAMED, FreeText, Marked, PathText
from spineline.datasets.common.settings import Settings
from spineline.pipeline.run.known_names import KnownNames, data_of, hides_names, is_of_a_word
from spineline.pipeline.run.pseudonyms import HideValues, Pseudonyms

_MOST_LISTED = 100_000
_LEAST_LOGGED = 4
"""Minimum length of a name to search for in log lines; shorter ones occur in any text."""
_AFTER_A_PATH = (": ", "; ", ", ", ")", "'", '"', "\n")


class _LogFilter:
    """Removes paths and names from the log, whichever module logs them.

    A value in a record is hidden according to its type: a path outside of ``out=``, or [Marked][].
    From free text, paths of the data and known names of studies and files are removed.

    Args:
        settings: of the run.
        pseudonyms: replacements for names; None withholds records about files.

    Attributes:
        held: number of withheld records.
    """

    def __init__(self, settings: Settings, pseudonyms: Pseudonyms | None = None) -> None:
        self.held = 0
        self._pseudonyms = pseudonyms
        self._out = Path(getattr(settings, "out", "out"))
        data = {path for root in data_of(settings).values() for path in (root, root.absolute())}
        roots = {str(path) for path in data} | {str(path.resolve()) for path in data}
        self._data = sorted((root for root in roots if len(root) > 1), key=len, reverse=True)

    @functools.cached_property
    def _known(self) -> KnownNames:
        """Replaces the names of all cases in a text."""
        return KnownNames(self._pseudonyms.all_known_names() if self._pseudonyms else {}, ())

    def __call__(self, record: logging.LogRecord) -> bool:
        if self._pseudonyms is None:
            text = record.getMessage()
            args = record.args or ()
            values = args.values() if isinstance(args, Mapping) else args
            tells = any(map(self._tells, values)) or self._without_paths(text) != text
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
        """Whether a value of a record must be hidden."""
        if isinstance(value, PurePath):
            return value != self._out and self._out not in value.parents
        return isinstance(value, Marked) and not isinstance(value, FreeText)

    def _hidden(self, value: object) -> object:
        if self._pseudonyms is None or not self._tells(value):
            return value
        name = self._pseudonyms.name(str(value)) or self._pseudonyms.other("study", str(value))
        marked = value if isinstance(value, Marked) else PathText(value)
        return str(HideValues(self._pseudonyms, name)(marked))

    def _without_paths(self, text: str) -> str:
        """The text with each path of the data replaced, up to where it may end at most."""
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
    """Split a text at a path; a path of a single name counts only with a slash after it."""
    first, *others = text.split(path)
    pieces, is_name = [first], os.sep not in path
    for other in others:
        ends = other.startswith(os.sep) or not (is_name or is_of_a_word(other[:1], "_.-"))
        if ends:
            pieces.append(other)
        else:
            pieces[-1] += path + other
    return pieces


@contextmanager
def quiet_names(settings: Settings) -> Iterator[None]:
    """Withhold log records about single files while the source is searched.

    Raises:
        SpinelineError: raised inside, with numbers instead of names of files and folders.
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
    """Hide paths and names of the data in the log while studies are processed.

    Args:
        settings: of the run.
        pseudonyms: of the run; None if studies keep their names, which hides nothing.
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
    """Replace each file and folder in a text by a number: its index in the sorted listing."""
    data = data_of(settings)
    names: dict[str, str] = {}
    for root in data.values():
        for number, path in enumerate(_listed(root), 1):
            if path.name in text:
                names.setdefault(path.name, f"file-{number}")
    for key, root in data.items():
        for name in (str(root), str(root.absolute())):
            text = text.replace(name + os.sep, "").replace(name, key)
    return KnownNames(names, data.values())(text).lstrip(": ")


def _listed(root: Path) -> list[Path]:
    """The sorted content of a folder, as far as it can be listed."""
    try:
        return sorted(islice(root.rglob("*"), _MOST_LISTED)) if root.is_dir() else [root]
    except OSError:
        return []
