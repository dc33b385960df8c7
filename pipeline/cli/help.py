"""The pages of ``spineline help``: all commands, the keys of one command, and a search."""

from __future__ import annotations

import difflib
import importlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.settings import KeyDescription, describe
from spineline.datasets.common.tables import aligned_text
from spineline.pipeline.cli.commands import COMMANDS, Command
from spineline.pipeline.cli.examples import example

_USAGE = """\
spineline: finds the vertebrae and discs of a spine MRI, names their levels, grades each for disease

usage: spineline TASK MODE key=value …       run a command
       spineline TASK MODE help              its keys: type, default, meaning; an example
       spineline TASK MODE cfg=FILE.yaml …   keys from a file; the command line wins
       spineline help WORD …                 commands and keys that are about it
       spineline --version

commands:
"""
_FOOTER = "\nResearch use only, not a medical device."


def load_named(place: str) -> Any:
    """The object at ``module:name``."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def overview() -> str:
    """The page of ``spineline help``."""
    lines = [
        f"  {f'{task} {mode}'.strip():<18} {command.summary}" for task, mode, command in _commands()
    ]
    return _USAGE + "\n".join(lines) + _FOOTER


def command_help(task: str, mode: str) -> str:
    """The page of ``spineline TASK MODE help``."""
    command = COMMANDS[task][mode]
    keys = describe(load_named(command.settings))
    name_width = max((len(k.name) for k in keys), default=0)
    type_width = min(max((len(k.type) for k in keys), default=0), 28)
    default_width = min(max((len(k.default) for k in keys), default=0), 24)
    lines = [f"spineline {task} {mode}".rstrip() + f": {command.summary}"]
    for group, members in itertools.groupby(keys, key=lambda k: k.group):
        lines += ["", f"{group}:"] if group else [""]
        for k in members:
            words = f"{k.name:<{name_width}}  {k.type:<{type_width}}  {k.default:<{default_width}}"
            lines.append(f"  {words}  {k.help}")
    return "\n".join([*lines, "", f"example: {example(task, mode)}"])


def help_about(words: Sequence[str]) -> str:
    """The page of ``spineline help WORD …``: commands and keys that contain all of the words.

    Raises:
        ConfigError: there is none.
    """
    sought = [word.casefold() for word in words]
    commands: list[tuple[str, str]] = []
    users: dict[tuple[str, str], list[str]] = {}
    for task, mode, command in _commands():
        name = f"{task} {mode}".strip()
        if _holds(f"{name} {command.summary}", sought):
            commands.append((name, command.summary))
        for key in _keys(command):
            if _holds(f"{key.name} {key.help}", sought):
                users.setdefault((key.name, key.help), []).append(name)
    if not commands and not users:
        raise ConfigError(f"help: nothing is about {' '.join(words)!r}{_near(sought)}")
    lines = []
    if commands:
        lines += ["commands:", *(f"  {line}" for line in aligned_text(commands).splitlines())]
    if users:
        # keys with the word in their name first
        ranked = sorted(users, key=lambda key: not _holds(key[0], sought))
        lines += [""] * bool(lines) + ["keys:"]
        for name, meaning in ranked:
            lines.append(f"  {name}: {meaning}")
            lines.append(f"    of {', '.join(users[name, meaning])}")
    return "\n".join(lines)


def _commands() -> Iterator[tuple[str, str, Command]]:
    for task, modes in COMMANDS.items():
        for mode, command in modes.items():
            yield task, mode, command


def _keys(command: Command) -> list[KeyDescription]:
    return describe(load_named(command.settings))


def _holds(text: str, sought: Sequence[str]) -> bool:
    return all(word in text.casefold() for word in sought)


def _near(sought: Sequence[str]) -> str:
    """A question that suggests the closest names of commands and keys."""
    known: dict[str, None] = {}
    for task, mode, command in _commands():
        known |= dict.fromkeys([task, mode, *(key.name for key in _keys(command))])
    near = [m for word in sought for m in difflib.get_close_matches(word, [*known], n=3)]
    if not near:
        return "; spineline help lists all commands"
    return f"; did you mean {' or '.join(map(repr, dict.fromkeys(near)))}?"
