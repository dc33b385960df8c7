"""The command line: ``spineline TASK MODE key=value …``.

Parsing and help import only settings classes; other imports happen when the command runs.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.freed_memory import keep_freed_memory
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import package_version
from spineline.datasets.common.settings import (
    Settings,
    close_match,
    parse_settings,
    read_settings_file,
    refuse_output_around,
)
from spineline.pipeline.cli.commands import COMMANDS
from spineline.pipeline.cli.help import command_help, help_about, load_named, overview

_OBJECTS = 50_000
"""New objects before a garbage collection: imports make many objects that all stay."""

_HELP = ("help", "--help", "-h")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 for success, 1 if the run or a part of a batch failed, 2 for an unknown
            command, key or value.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    gc.set_threshold(_OBJECTS, 20, 20)
    if arguments is None and (words[:1] == ["kfold"] or words[1:2] == ["train"]):
        keep_freed_memory()  # this process ends with the training
    try:
        with _command_log():
            status = _dispatch_reporting(words)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
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
        print(_help_page(words[1:]))
        return 0
    if words[0] in ("version", "--version"):
        print(package_version())
        return 0
    task, rest = words[0], words[1:]
    if task not in COMMANDS:
        raise ConfigError(f"unknown task {task!r}{_right_command(words)}")
    modes = COMMANDS[task]
    if "" in modes:
        mode = ""
    elif not rest or rest[0] in _HELP:
        print(_help_page([task]))  # each mode with its keys
        return 0
    else:
        mode, rest = rest[0], rest[1:]
    if mode not in modes:
        hint = close_match(mode, list(modes))
        if "=" in mode or mode.startswith("-"):
            hint = f"; name a mode first: {', '.join(f'spineline {task} {each}' for each in modes)}"
        raise ConfigError(f"unknown mode {task} {mode!r}{hint}")
    if any(word in _HELP for word in rest):
        print(command_help(task, mode))
        return 0
    command = modes[mode]
    settings = settings_from_words(load_named(command.settings), rest)
    refuse_output_around(settings)
    result = load_named(command.run)(settings)
    return 1 if getattr(result, "failures", ()) or getattr(result, "refused", ()) else 0


def _right_command(words: Sequence[str]) -> str:
    """A hint for a command line that does not begin with a task."""
    first, *rest = words
    if "=" in first or first.startswith("-"):
        first, rest = "predict", list(words)  # keys alone
    if rest and first in COMMANDS.get(rest[0], {}):
        return f"; the task comes first: spineline {rest[0]} {first} {_as_keys(rest[1:])}".rstrip()
    tasks = [task for task, modes in COMMANDS.items() if first in modes]
    if not tasks:
        return close_match(first, list(COMMANDS))
    tasks.sort(key=lambda task: task != "pipeline")  # which most people want
    commands = [f"spineline {task} {first} {_as_keys(rest)}".rstrip() for task in tasks]
    return f"; name a task first: {' or '.join(commands)}"


def _help_page(words: list[str]) -> str:
    """The page of ``spineline help …``: of a command, or the result of a search."""
    if not words:
        return overview()
    task, mode = words[0], " ".join(words[1:])
    if mode in COMMANDS.get(task, {}):
        return command_help(task, mode)
    if task in COMMANDS and not mode:
        return "\n\n".join(command_help(task, mode) for mode in COMMANDS[task])
    return help_about(words)


def settings_from_words(settings_class: type[Settings], words: Sequence[str]) -> Settings:
    """Settings from ``key=value`` arguments; they override the keys of ``cfg=FILE``.

    Raises:
        ConfigError: an argument without ``=``, a key given twice, unknown or missing, or a bad
            value.
    """
    given: dict[str, object] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name or name.startswith("-"):
            meant = _as_keys(words)
            hint = ", such as out=FOLDER" if meant == " ".join(words) else f"; write {meant}"
            raise ConfigError(f"{word!r}: wanted key=value{hint}")
        if name in given:
            raise ConfigError(f"{name}=…: given twice")
        given[name] = value
    cfg = given.pop("cfg", None)
    if cfg is None:
        return parse_settings(settings_class, given, where="command line")
    merged = {**read_settings_file(Path(str(cfg))), **given}
    return parse_settings(settings_class, merged, where=f"command line and cfg={cfg}")


def _as_keys(words: Sequence[str]) -> str:
    """A command's words with ``key = value``, ``--key value`` and ``--key`` as ``key=value``."""
    text = re.sub(r" ?= ?", "=", " ".join(words))
    text = re.sub(r"(?<!\S)--?([\w.]+) (?=[^-\s][^=\s]*(?: |$))", r"\1=", text)
    text = re.sub(r"(?<!\S)--?([\w.]+)(?= |$)", r"\1=true", text)
    return re.sub(r"(?<!\S)--?(?=\w)", "", text)


class _PlainLines(logging.StreamHandler[Any]):
    """Writes plain lines; a reader that closes the pipe does not end the work.

    Characters that the stream's encoding lacks are escaped.
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
    """Log information to standard output, warnings and errors to standard error, as plain lines.

    On exit, the logger is restored for callers that run commands from Python.
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
