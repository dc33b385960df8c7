"""Removal of names and paths of the data from free text, for ``names=hash``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from spineline.datasets.common.settings import Settings

_KEYS_OF_DATA = ("source", "compare", "annotations", "data", "split", "predictions")


def hides_names(settings: Settings) -> bool:
    """Whether ``names=hash`` is set."""
    return getattr(settings, "names", "folder") == "hash"


def data_of(settings: Settings) -> dict[str, Path]:
    """The files and folders of data that settings name, by key."""
    found = {key: getattr(settings, key, None) for key in _KEYS_OF_DATA}
    return {key: Path(path) for key, path in found.items() if path is not None}


class KnownNames:
    """Removes known paths and names from free text, such as an error message.

    Args:
        names: the replacement of each name that occurs as a separate word.
        paths: to remove, with all folders above them.
    """

    def __init__(self, names: Mapping[str, str], paths: Iterable[Path]) -> None:
        self._names = names
        self._lengths = sorted({len(name) for name in names}, reverse=True)
        folders = {str(parent) for path in paths for parent in (path, *path.parents)}
        folders |= {str(Path(folder).absolute()) for folder in folders}
        longest_first = sorted((f for f in folders if len(f) > 3), key=len, reverse=True)
        self._folders = [folder + os.sep for folder in longest_first] + longest_first

    def __call__(self, text: str, *, least: int = 1) -> str:
        """The text without the paths, and with names of at least ``least`` letters replaced."""
        for folder in self._folders:
            text = text.replace(folder, "")
        parts, place = [], 0
        while place < len(text):
            name = self.name_at(text, place, least)
            parts.append(text[place] if name is None else self._names[name])
            place += 1 if name is None else len(name)
        return "".join(parts)

    def name_at(self, text: str, start: int, least: int = 1) -> str | None:
        """The longest known name that begins at a position of the text, as a separate word."""
        if start and is_of_a_word(text[start - 1], "_.-"):
            return None
        for length in self._lengths:
            name, after = text[start : start + length], text[start + length : start + length + 1]
            if name in self._names and len(name) >= least and not is_of_a_word(after, "_-"):
                return name
        return None


def is_of_a_word(character: str, marks: str) -> bool:
    """Whether a character is a letter, a digit or one of the marks; false for an empty text.

    >>> is_of_a_word("a", "-"), is_of_a_word(".", "-"), is_of_a_word("", "-")
    (True, False, False)
    """
    return character.isalnum() or (character != "" and character in marks)
