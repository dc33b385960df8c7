"""Annotators' words for levels: ``L1/2``, ``Th12-L1``, ``LWK1``, ``disc_L4_L5`` and so on."""

from __future__ import annotations

import re
from collections.abc import Mapping

from spineline.datasets.labels import Kind, kind_of_level

_REGIONS: dict[str, str] = {
    "c": "C", "hwk": "C", "hw": "C",
    "t": "T", "th": "T", "d": "T", "bwk": "T", "bw": "T",
    "l": "L", "lwk": "L", "lw": "L",
    "s": "S", "swk": "S", "sw": "S",
}  # fmt: skip
"""Region of the letters before a number."""

_LAST: Mapping[str, int] = {"C": 7, "T": 13, "L": 6, "S": 5}
"""Last vertebra of each region, rare ones (T13, L6) included."""

_ENDS: Mapping[str, tuple[int, ...]] = {"C": (7,), "T": (11, 12, 13), "L": (4, 5, 6), "S": (5,)}
"""Vertebrae of a region that the next region can follow."""

_KIND_OF_WORD: dict[str, Kind] = {
    **dict.fromkeys(("disc", "disk", "discs", "disks", "discus", "ivd", "bandscheibe"), "disc"),
    **dict.fromkeys(
        ("vertebra", "vertebrae", "vertebral", "vb", "wirbel", "wirbelkoerper", "wirbelkörper",
         "corpus"),
        "vertebra",
    ),
}  # fmt: skip
_FILLERS = ("level", "body", "intervertebral", "the", "of")

_LETTERS = "|".join(sorted(_REGIONS, key=len, reverse=True))
_VERTEBRA = re.compile(rf"({_LETTERS})[ ]?(\d{{1,2}})(?!\d)")
_DISC = re.compile(rf"({_LETTERS})[ ]?(\d{{1,2}})[ ]?-?[ ]?({_LETTERS})?[ ]?(\d{{1,2}})(?!\d)")
_JOINS = re.compile(r"[\s_/\\.,:;|+&–—−-]+")
_TOKEN = re.compile(r"[^\W\d_]+")


def level_of_word(word: str) -> str | None:
    """Return the level that a word names, in our spelling, or None.

    Levels beyond the lumbar eleven are recognised too (``S1``, ``T11``, ``C5-C6``, ``L6``). The
    caller decides whether one belongs to the eleven. A word with both disc and vertebra, or with
    vertebrae that are not neighbours, names no level.

    >>> [level_of_word(word) for word in ("L1/2", "D12", "Th12/L1", "LWK1", "disc L4-L5", "S1")]
    ['L1-L2', 'T12', 'T12-L1', 'L1', 'L4-L5', 'S1']
    >>> level_of_word("vertebra L4-L5"), level_of_word("L1-L3"), level_of_word("lesion 1")
    (None, None, None)
    """
    text, kind = _without_fillers(word)
    if found := _VERTEBRA.fullmatch(text):
        level = _vertebra(found.group(1), found.group(2))
    elif found := _DISC.fullmatch(text):
        level = _disc(*found.groups())
    else:
        return None
    fits = level is not None and kind in (None, kind_of_level(level))
    return level if fits else None


def _without_fillers(word: str) -> tuple[str, Kind | None]:
    """The word with ``-`` for every join and only the level left; and the kind that it names."""
    kinds: set[Kind] = set()
    text = _JOINS.sub("-", word.strip().casefold()).strip("-")

    def drop(match: re.Match[str]) -> str:
        token = match.group()
        if token in _KIND_OF_WORD:
            kinds.add(_KIND_OF_WORD[token])
            return ""
        return "" if token in _FILLERS else token

    text = _TOKEN.sub(drop, text)
    text = re.sub(r"-+", "-", text).strip("-")
    text = re.sub(rf"\b({_LETTERS})-(?=\d)", r"\1", text)
    return ("", None) if len(kinds) > 1 else (text, next(iter(kinds), None))


def _vertebra(letters: str, digits: str) -> str | None:
    region, number = _REGIONS[letters], int(digits)
    return f"{region}{number}" if 1 <= number <= _LAST[region] else None


def _disc(upper: str, first: str, lower: str | None, second: str) -> str | None:
    above, below = _vertebra(upper, first), _vertebra(lower or upper, second)
    if above is None or below is None:
        return None
    region, number = above[0], int(above[1:])
    next_region = {"C": "T", "T": "L", "L": "S"}.get(region)
    follows = below[0] == region and int(below[1:]) == number + 1
    crosses = below == f"{next_region}1" and number in _ENDS[region]
    return f"{above}-{below}" if follows or crosses else None
