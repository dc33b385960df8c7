"""Levels, kinds, pathology tags and the label sets made from them.

Class order is always an explicit tuple in this module; nothing else decides a class index.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["disc", "vertebra"]
LabelSet = Literal["level", "seven", "binary", "health"]

KINDS: tuple[Kind, ...] = ("disc", "vertebra")

LEVELS: tuple[str, ...] = (
    "T12-L1", "L1", "L1-L2", "L2", "L2-L3", "L3", "L3-L4", "L4", "L4-L5", "L5", "L5-S1",
)  # fmt: skip
"""The eleven lumbar levels, top to bottom: the detector's classes 0..10."""

EXTRA_LEVELS: tuple[str, ...] = ("T11-T12",)
"""Levels that sources contain at times: kept in the record, left out of the eleven."""

NO_LEVEL = ""
"""The level of a disc whose source names none, as cervical sources do."""

PATHOLOGY: dict[Kind, tuple[str, ...]] = {
    "disc": ("v1", "v2", "v3", "v4", "v5"),
    "vertebra": ("v1", "v2"),
}

SEVEN_NAMES: tuple[str, ...] = (
    "vertebra-normal",
    "vertebra-degenerative",
    "disc-normal",
    "disc-bulging",
    "disc-protrusion",
    "disc-extrusion",
    "disc-schmorl",
)
BINARY_NAMES: tuple[str, ...] = ("not-v5", "v5")
HEALTH_NAMES: tuple[str, ...] = ("healthy", "sick")

HEALTH_TAGS: tuple[str, ...] = HEALTH_NAMES
"""What a disc without level is tagged with: its source grades no further."""

LABEL_SETS: dict[LabelSet, tuple[str, ...]] = {
    "level": LEVELS,
    "seven": SEVEN_NAMES,
    "binary": BINARY_NAMES,
    "health": HEALTH_NAMES,
}

Classes = LabelSet | tuple[str, ...]
"""What the boxes of a data set are told apart by: a label set, or the names of its own classes."""

KIND_OF_SEVEN: tuple[Kind, ...] = ("vertebra", "vertebra", "disc", "disc", "disc", "disc", "disc")
"""The kind each seven-class code belongs to, by code."""


def class_names(classes: Classes) -> tuple[str, ...]:
    """The names of classes, by index.

    >>> class_names("health"), class_names(("sacrum",))
    (('healthy', 'sick'), ('sacrum',))
    """
    return LABEL_SETS[classes] if isinstance(classes, str) else classes


def kind_of_level(level: str) -> Kind:
    """The kind of a level: a name with ``-`` is a disc.

    >>> kind_of_level("L4-L5"), kind_of_level("L4")
    ('disc', 'vertebra')
    """
    return "disc" if "-" in level else "vertebra"


def kind_of_class(name: str) -> Kind:
    """The kind of what a class of boxes names; a disc where the class fits both.

    >>> kind_of_class("L4"), kind_of_class("vertebra-normal"), kind_of_class("sick")
    ('vertebra', 'vertebra', 'disc')
    """
    if name in SEVEN_NAMES:
        return KIND_OF_SEVEN[SEVEN_NAMES.index(name)]
    return kind_of_level(name) if name in LEVELS else "disc"


def encode_seven(kind: Kind, pathology: tuple[str, ...]) -> int | None:
    """The report's seven-class code of a structure, or None where it is unlabelled.

    Vertebra v1, v2 give 0, 1; disc v1 to v4 give 2 to 5; disc v5 alone gives 6; a disc vN with v5
    keeps the code of vN (the report's encoding, see docs/convert.md).

    >>> encode_seven("disc", ("v2", "v5")), encode_seven("disc", ("v5",)), encode_seven("disc", ())
    (3, 6, None)
    """
    if not pathology:
        return None
    if kind == "vertebra":
        return PATHOLOGY["vertebra"].index(pathology[0])
    graded = [tag for tag in pathology if tag != "v5"]
    return 2 + PATHOLOGY["disc"].index(graded[0]) if graded else 6


def encode_binary(kind: Kind, pathology: tuple[str, ...]) -> int | None:
    """The report's binary code: 1 where a disc carries v5 (Schmorl's node), None if unlabelled.

    >>> encode_binary("disc", ("v2", "v5")), encode_binary("vertebra", ("v2",))
    (1, 0)
    """
    if not pathology:
        return None
    return int(kind == "disc" and "v5" in pathology)


def encode_health(pathology: tuple[str, ...]) -> int | None:
    """0 healthy (v1 alone, or tagged so), 1 sick (anything else), None where unlabelled.

    >>> encode_health(("v1",)), encode_health(("v1", "v5")), encode_health(())
    (0, 1, None)
    >>> encode_health(("healthy",)), encode_health(("sick",))
    (0, 1)
    """
    if not pathology:
        return None
    if pathology[0] in HEALTH_TAGS:
        return HEALTH_TAGS.index(pathology[0])
    return int(pathology != ("v1",))


def pathology_from_codes(kind: Kind, seven: int, binary: int) -> tuple[str, ...]:
    """The pathology tags behind the report's pair of codes.

    >>> pathology_from_codes("disc", 3, 1), pathology_from_codes("disc", 6, 1)
    (('v2', 'v5'), ('v5',))

    Raises:
        ValueError: the codes do not belong to this kind or contradict each other.
    """
    if not 0 <= seven < len(SEVEN_NAMES) or KIND_OF_SEVEN[seven] != kind:
        msg = f"seven-class code {seven} is none of a {kind}'s"
        raise ValueError(msg)
    if kind == "vertebra":
        if binary:
            raise ValueError("a vertebra cannot carry v5 (binary code 1)")
        return (PATHOLOGY["vertebra"][seven],)
    if seven == 6:
        if not binary:
            raise ValueError("code 6 (v5 alone) needs the binary code 1")
        return ("v5",)
    graded = PATHOLOGY["disc"][seven - 2]
    return (graded, "v5") if binary else (graded,)


def tags_of_codes(kind: Kind, seven: int, binary: int) -> tuple[str, ...]:
    """The pathology tags that a pair of predicted codes stands for, whatever their agreement.

    Code 6 is v5 alone; the binary code adds v5 to a disc's grade (-1: no such code).

    >>> tags_of_codes("disc", 3, 1), tags_of_codes("disc", 6, 0), tags_of_codes("vertebra", 1, 0)
    (('v2', 'v5'), ('v5',), ('v2',))
    """
    if kind == "vertebra":
        return (PATHOLOGY["vertebra"][seven],) if seven in (0, 1) else ()
    graded = (PATHOLOGY["disc"][seven - 2],) if 2 <= seven <= 5 else ()
    return (*graded, "v5") if binary == 1 or seven == 6 else graded


def level_index(level: str | None) -> int:
    """The place of a level among the eleven, -1 where it is unknown or none of them.

    >>> level_index("L5-S1"), level_index(None), level_index("T11-T12")
    (10, -1, -1)
    """
    return LEVELS.index(level) if level in LEVELS else -1


def class_of(labels: LabelSet, level: str, kind: Kind, pathology: tuple[str, ...]) -> int | None:
    """The class index of a structure in a label set, or None where it has none there."""
    if level in EXTRA_LEVELS:
        return None
    if level == NO_LEVEL:  # graded no further than healthy and sick
        return encode_health(pathology) if labels == "health" else None
    if labels == "level":
        return LEVELS.index(level) if level in LEVELS else None
    if labels == "seven":
        return encode_seven(kind, pathology)
    if labels == "binary":
        return encode_binary(kind, pathology)
    return encode_health(pathology)
