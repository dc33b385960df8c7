"""``names=MAP.yaml``: the words of a source, and the meaning of each here.

    levels: {L1/L2: L1-L2, D12: T12, sacrum: ignore}
    grades: {attribute: pfirrmann, 1: v1, 2: v1, 3: v2, 4: "v3,v5", unclear: null}

``grades`` may hold a map for each kind instead: ``grades: {disc: {attribute: pfirrmann, 1: v1, …},
vertebra: {attribute: modic, 0: v1, 1: v2}}``. ``attribute`` is the column or attribute that holds
the grade. A level word mapped to ``ignore`` is left out, and a grade word mapped to null leaves the
structure unlabelled. Words outside the map are still recognised by their spelling.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spineline.datasets.common.errors import ConfigError, first_line
from spineline.datasets.common.settings import close_match
from spineline.datasets.common.yaml_files import YamlError, read_yaml
from spineline.datasets.labels import EXTRA_LEVELS, KINDS, LEVELS, PATHOLOGY, Kind
from spineline.datasets.words.grades import (
    UNGRADED,
    grades_of_word,
    known_grade_words,
    ordered_tags,
)
from spineline.datasets.words.levels import level_of_word

IGNORED = "ignore"
"""Value for a level word whose marks are left out on purpose."""

GRADE_ATTRIBUTES = (
    "grade", "pathology", "diagnosis", "tag", "tags", "disease", "finding", "degeneration",
)  # fmt: skip
"""Attributes and columns that hold a grade if the map gives none, lower case."""


@dataclass(frozen=True, slots=True)
class WordMap:
    """Meaning of a source's words.

    Attributes:
        levels: our level, another level such as ``S1``, or ``ignore``, by word in lower case.
        grades: tags by word in lower case, for each kind.
        attribute: attribute that holds the grade, by kind; without one, any known attribute.
    """

    levels: Mapping[str, str] = field(default_factory=dict)
    grades: Mapping[Kind, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    attribute: Mapping[Kind, str] = field(default_factory=dict)

    def level(self, word: str) -> str | None:
        """Return the level that a word names, ``ignore``, or None if it is unknown."""
        return self.levels.get(_key(word)) or level_of_word(word)

    def grade_texts(self, attributes: Iterable[tuple[str, str]], kind: Kind) -> list[str]:
        """Return the values of the attribute that holds a kind's grade; the first known of several.

        ``ungraded``, CVAT's value for a grade that nobody has set, is none unless the map has it.

        >>> WordMap().grade_texts([("Diagnosis", "bulging"), ("note", "v5")], "disc")
        ['bulging']
        """
        mapped = self.grades.get(kind, {})
        listed = [
            (_key(name), text)
            for name, text in attributes
            if _key(text) != UNGRADED or UNGRADED in mapped
        ]
        for wanted in [self.attribute[kind]] if kind in self.attribute else GRADE_ATTRIBUTES:
            if texts := [text for name, text in listed if name == wanted]:
                return texts
        return []

    def grade(self, word: str, kind: Kind) -> tuple[str, ...] | None:
        """Return the tags of a word, or None if it is unknown."""
        listed = self.grades.get(kind, {})
        return listed[_key(word)] if _key(word) in listed else grades_of_word(word, kind)

    def nearest_level(self, word: str) -> str:
        """Return ``; the nearest known word is 'L1'`` for an unknown level word."""
        return _nearest(word, [*self.levels, *map(str.lower, (*LEVELS, *EXTRA_LEVELS, "S1"))])

    def nearest_grade(self, word: str, kind: Kind) -> str:
        """Return the same for an unknown grade word."""
        return _nearest(word, [*self.grades.get(kind, {}), *known_grade_words(kind)])


def read_word_map(path: Path) -> WordMap:
    """Read ``names=MAP.yaml``.

    Raises:
        ConfigError: the file is not readable, or an entry's value is unknown here.
    """
    try:
        content = read_yaml(path)
    except (OSError, YamlError) as error:
        raise ConfigError(f"names={path}: cannot be read as YAML ({first_line(error)})") from error
    where = f"names={path}"
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(f"{where}: wanted the keys levels and grades, of words each")
    for name in content:
        if name not in ("levels", "grades"):
            raise ConfigError(f"{where}: unknown key {name!r:.60}; allowed: levels, grades")
    levels = {
        word: _level(value, f"{where}: levels: {word}")
        for word, value in _words(content.get("levels"), f"{where}: levels").items()
    }
    grades: dict[Kind, dict[str, tuple[str, ...]]] = {}
    attribute: dict[Kind, str] = {}
    whole: Any = content.get("grades")
    by_kind = isinstance(whole, Mapping) and any(kind in whole for kind in KINDS)
    if by_kind and set(whole) - set(KINDS):
        raise ConfigError(f"{where}: grades: disc and vertebra stand beside other words; wanted "
                          "words alone, or a map for each of the two")  # fmt: skip
    for kind in KINDS:
        here = f"{where}: grades" + (f": {kind}" if by_kind else "")
        listed = _words(whole.get(kind) if by_kind else whole, here)
        name = listed.pop("attribute", None)
        if name is not None:
            attribute[kind] = _key(str(name))
        found = {w: _grade(v, kind, f"{here}: {w}", by_kind) for w, v in listed.items()}
        grades[kind] = {word: tags for word, tags in found.items() if tags is not None}
    return WordMap(levels, grades, attribute)


def _key(word: str) -> str:
    """The word as maps hold it; ``3.0``, as pandas writes whole numbers beside gaps, is ``3``."""
    return re.sub(r"^(\d+)\.0+$", r"\1", " ".join(word.split()).casefold())


def _words(value: Any, where: str) -> dict[str, Any]:
    """Entries of a part of the map, by word in lower case."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: holds {value!r:.60}, wanted words and what they stand for")
    found: dict[str, Any] = {}
    for word, stands_for in value.items():
        if isinstance(word, bool):
            raise ConfigError(f"{where}: YAML reads a word as {word}; put it into quotes")
        if not isinstance(word, str | int | float):
            raise ConfigError(f"{where}: {word!r:.60} is not a word; put it in quotes")
        if _key(str(word)) in found:
            raise ConfigError(f"{where}: {word!r:.60} is given twice, but for its letters' case")
        found[_key(str(word))] = stands_for
    return found


def _level(value: Any, where: str) -> str:
    if value is None or value == IGNORED:
        return IGNORED
    level = level_of_word(value) if isinstance(value, str) else None
    if level is None:
        hint = close_match(str(value), (*LEVELS, *EXTRA_LEVELS, IGNORED))
        raise ConfigError(f"{where}: {value!r:.60} is not a level{hint}")
    return level


def _grade(value: Any, kind: Kind, where: str, by_kind: bool) -> tuple[str, ...] | None:
    """Tags of a kind; None if the value is a grade of the other kind only."""
    if value is None:
        return ()
    words = [str(v) for v in value] if isinstance(value, list) else str(value).split(",")
    tags = [word.strip().casefold() for word in words]
    if (found := ordered_tags(tags, kind)) is not None:
        return found
    if not by_kind and any(ordered_tags(tags, other) for other in KINDS):
        return None
    allowed = ", ".join(PATHOLOGY[kind] if by_kind else PATHOLOGY["disc"])
    raise ConfigError(f"{where}: {value!r:.60} is no grade; allowed: {allowed}, v5 also beside one")


def _nearest(word: str, known: list[str]) -> str:
    found = difflib.get_close_matches(_key(word), known, n=1, cutoff=0.0)
    return f"; the nearest known word is {found[0]!r}" if found else ""
