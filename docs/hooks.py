"""Hooks of mkdocs: the command-line reference is made of the settings at build time."""

from __future__ import annotations

import importlib
from itertools import groupby
from pathlib import Path
from typing import Any

from spineline.datasets.common.settings import KeyDescription, describe
from spineline.pipeline.cli.commands import COMMANDS, Command

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("converters", "datasets", "detect", "classify", "pipeline", "weights")
MARK = "<!-- commands -->"


def on_startup(**_: Any) -> None:
    """Put the packages where their names say, since ``spineline`` itself is no folder."""
    place = ROOT / "build" / "api" / "spineline"
    place.mkdir(parents=True, exist_ok=True)
    for name in PACKAGES:
        if not (place / name).exists():
            (place / name).symlink_to(ROOT / name, target_is_directory=True)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the mark of the command-line page by all commands and their keys."""
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown


def on_page_content(html: str, **_: Any) -> str:
    """Let a docstring speak of what the API page does not show: its name then is no link."""
    return html.replace("<autoref ", "<autoref optional ")


def reference() -> str:
    """All commands: a table of them, then the keys of each."""
    lines = ["| command | does |", "|---|---|"]
    for name, command in commands():
        lines.append(f"| [`{name}`](#{name.replace(' ', '-')}) | {cell(command.summary)} |")
    for name, command in commands():
        lines += ["", f"## {name}", "", f"{command.summary[0].upper()}{command.summary[1:]}.", ""]
        module, _, settings = command.settings.partition(":")
        keys = describe(getattr(importlib.import_module(module), settings))
        for group, members in groupby(keys, key=lambda key: key.group):
            lines += [f"**{group}**", ""] if group else []
            lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
            lines += [row(key) for key in members]
            lines.append("")
    return "\n".join(lines)


def commands() -> list[tuple[str, Command]]:
    """Each command by the words that call it."""
    return [
        (f"{task} {mode}".strip(), command)
        for task, modes in COMMANDS.items()
        for mode, command in modes.items()
    ]


def row(key: KeyDescription) -> str:
    """One line of a table of keys."""
    kind = key.type.replace("|", ", ")
    default = key.default if key.default == "required" else f"`{key.default}`"
    return f"| `{key.name}` | {cell(kind)} | {cell(default)} | {cell(key.help)} |"


def cell(text: str) -> str:
    """Text that stays in its cell of a table, and is no HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
