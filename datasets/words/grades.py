"""Annotators' words for grades of discs and vertebrae: ``v3``, ``bulging``, ``Schmorl's node``.

Pfirrmann and Modic numbers become our grades only by a map that the user gives
([spineline.datasets.words.word_map][]), because the thresholds are a decision of the study.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from spineline.datasets.labels import KINDS, PATHOLOGY, SEVEN_NAMES, Kind

UNGRADED = "ungraded"
"""What ``data export`` writes for a structure without grade, for tools that require a value."""

_WORDS: dict[Kind, dict[str, str]] = {
    "disc": {
        **dict.fromkeys(("normal", "healthy", "no finding"), "v1"),
        **dict.fromkeys(("bulge", "bulging", "bulged", "disc bulge"), "v2"),
        **dict.fromkeys(("protrusion", "protruded", "protruding"), "v3"),
        **dict.fromkeys(("extrusion", "extruded", "extruding"), "v4"),
        **dict.fromkeys(
            ("schmorl", "schmorls node", "schmorls nodes", "schmorl node", "schmorl nodes"), "v5"
        ),
    },
    "vertebra": {
        **dict.fromkeys(("normal", "healthy", "no finding"), "v1"),
        **dict.fromkeys(("degenerative", "degenerated", "degeneration", "degenerate"), "v2"),
    },
}
_CLASSES = dict(
    zip(SEVEN_NAMES, ("v1", "v2", "v1", "v2", "v3", "v4", "v5"), strict=True)
)  # a converted dataset's own class names


def grades_of_word(word: str, kind: Kind) -> tuple[str, ...] | None:
    """Return the pathology tags of a word or a combination of words; None if it is unknown.

    Combinations are joined by ``,``, ``;``, ``/``, ``+``, ``&``, ``|`` or ``and``. Negations ("no
    bulging") are not known words.

    ``ungraded``, which ``data export`` writes, stands for no tag.

    >>> grades_of_word("v3, V5", "disc"), grades_of_word("bulging + Schmorl's node", "disc")
    (('v3', 'v5'), ('v2', 'v5'))
    >>> grades_of_word("degenerated", "vertebra"), grades_of_word("no bulging", "disc")
    (('v2',), None)
    """
    if word.strip().casefold() == UNGRADED:
        return ()
    pieces = [p for p in re.split(r"[,;/+&|]| and ", word.strip().casefold()) if p.strip()]
    if len(pieces) == 1:
        pieces = pieces[0].split() if re.fullmatch(r"\s*(v\d\s+)+v\d\s*", pieces[0]) else pieces
    tags = [_tag(piece, kind) for piece in pieces]
    return ordered_tags((tag for tag in tags if tag is not None), kind) if all(tags) else None


def ordered_tags(tags: Iterable[str], kind: Kind) -> tuple[str, ...] | None:
    """Return the tags sorted and unique; None unless they are one grade, perhaps with v5."""
    found = tuple(sorted(set(tags)))
    graded = [tag for tag in found if tag != "v5"]
    fits = found and set(found) <= set(PATHOLOGY[kind]) and len(graded) < 2
    return found if fits else None


def known_grade_words(kind: Kind) -> tuple[str, ...]:
    """Return the single words for grades of a kind, tags first."""
    return (*PATHOLOGY[kind], *_WORDS[kind])


def is_grade_word(word: str) -> bool:
    """Return whether a word is a grade of a disc or of a vertebra."""
    return any(grades_of_word(word, kind) is not None for kind in KINDS)


def _tag(piece: str, kind: Kind) -> str | None:
    word = " ".join(re.sub(r"['’`]", "", re.sub(r"[_\s-]+", " ", piece)).split())
    if word in PATHOLOGY[kind]:
        return word
    as_class = word.replace(" ", "-")
    if as_class in _CLASSES and as_class.startswith(kind):
        return _CLASSES[as_class]
    return _WORDS[kind].get(word)
