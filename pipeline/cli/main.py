"""The command line: ``spineline TASK MODE key=value …``.

Only settings classes are imported to parse and to help; the work's imports happen when it runs.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import package_version
from spineline.datasets.common.settings import (
    Settings,
    close_match,
    describe,
    parse_settings,
    read_settings_file,
    refuse_output_around,
)
from spineline.pipeline.cli.commands import COMMANDS

_HELP = ("help", "--help", "-h")
_USAGE = """\
spineline: finds the vertebrae and discs of a spine MRI, names their levels, grades each for disease

usage: spineline TASK MODE key=value …       run a command
       spineline TASK MODE help              its keys, with type, default and meaning
       spineline TASK MODE cfg=FILE.yaml …   keys from a file; the command line wins
       spineline version

commands:
"""
_FOOTER = "\nResearch use only, not a medical device."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 done, 1 the run failed (or a part of a batch did), 2 an unknown command,
        key or value.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _command_log():
            status = _dispatch_reporting(words)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _dispatch_reporting(words: list[str]) -> int:
    try:
        return _dispatch(words)
    except ConfigError as error:
        LOG.error("error: %s", error)
        return 2
    except SpinelineError as error:
        LOG.error("error: %s", error)
        return 1
    except KeyboardInterrupt:
        LOG.error("interrupted")
        return 130


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in _HELP:
        print(overview())
        return 0
    if words[0] in ("version", "--version"):
        print(package_version())
        return 0
    task, rest = words[0], words[1:]
    if task not in COMMANDS:
        raise ConfigError(f"unknown task {task!r}{close_match(task, list(COMMANDS))}")
    modes = COMMANDS[task]
    if "" in modes:
        mode = ""
    elif not rest or rest[0] in _HELP:
        print("\n\n".join(command_help(task, mode) for mode in modes))  # each with its keys
        return 0
    else:
        mode, rest = rest[0], rest[1:]
    if mode not in modes:
        raise ConfigError(f"unknown mode {task} {mode!r}{close_match(mode, list(modes))}")
    if any(word in _HELP for word in rest):
        print(command_help(task, mode))
        return 0
    command = modes[mode]
    settings = settings_from_words(_load(command.settings), rest)
    refuse_output_around(settings)
    result = _load(command.run)(settings)
    return 1 if getattr(result, "failures", ()) or getattr(result, "refused", ()) else 0


def settings_from_words(settings_class: type[Settings], words: Sequence[str]) -> Settings:
    """Settings from ``key=value`` words; ``cfg=FILE`` supplies keys that the words may override.

    Raises:
        ConfigError: a word without ``=``, a key given twice, unknown or missing, or a bad value.
    """
    given: dict[str, object] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign:
            raise ConfigError(f"{word!r}: wanted key=value, such as out=FOLDER")
        if name in given:
            raise ConfigError(f"{name}=…: given twice")
        given[name] = value
    cfg = given.pop("cfg", None)
    if cfg is None:
        return parse_settings(settings_class, given, where="command line")
    merged = {**read_settings_file(Path(str(cfg))), **given}
    return parse_settings(settings_class, merged, where=f"command line and cfg={cfg}")


def overview() -> str:
    """The page of ``spineline help``."""
    lines = [
        f"  {f'{task} {mode}'.strip():<18} {command.summary}"
        for task, modes in COMMANDS.items()
        for mode, command in modes.items()
    ]
    return _USAGE + "\n".join(lines) + _FOOTER


def command_help(task: str, mode: str) -> str:
    """The page of ``spineline TASK MODE help``."""
    command = COMMANDS[task][mode]
    keys = describe(_load(command.settings))
    name_width = max((len(k.name) for k in keys), default=0)
    type_width = min(max((len(k.type) for k in keys), default=0), 28)
    default_width = min(max((len(k.default) for k in keys), default=0), 24)
    lines = [f"spineline {task} {mode}".rstrip() + f": {command.summary}"]
    for group, members in itertools.groupby(keys, key=lambda k: k.group):
        lines += ["", f"{group}:"] if group else [""]
        for k in members:
            words = f"{k.name:<{name_width}}  {k.type:<{type_width}}  {k.default:<{default_width}}"
            lines.append(f"  {words}  {k.help}")
    return "\n".join(lines)


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


class _PlainLines(logging.StreamHandler[Any]):
    """Lines as they are; a reader that has gone away does not end the work.

    What the stream's encoding lacks is written as an escape.
    """

    def format(self, record: logging.LogRecord) -> str:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        return super().format(record).encode(encoding, "backslashreplace").decode(encoding)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (its name)
        if not isinstance(sys.exception(), BrokenPipeError):
            super().handleError(record)


class _BelowWarning(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno < logging.WARNING


@contextmanager
def _command_log() -> Iterator[None]:
    """Information to standard output, warnings and errors to standard error, as plain lines.

    A caller that runs commands from Python finds the logger afterwards as it was.
    """
    handlers, level, propagate = list(LOG.handlers), LOG.level, LOG.propagate
    output = _PlainLines(sys.stdout)
    output.addFilter(_BelowWarning())
    errors = _PlainLines(sys.stderr)
    errors.setLevel(logging.WARNING)
    for handler in (output, errors):
        handler.setFormatter(logging.Formatter("%(message)s"))
    LOG.handlers = [output, errors]
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    try:
        yield
    finally:
        LOG.handlers, LOG.propagate = handlers, propagate
        LOG.setLevel(level)


if __name__ == "__main__":
    raise SystemExit(main())
