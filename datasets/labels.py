"""Levels, kinds, pathology tags and the label sets made from them.

The order of classes is always an explicit tuple in this module, which alone decides class indices.
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

SEGMENT_RANKS = 2
"""Ranks (indices in [LEVELS][]) from one vertebra, or disc, to the next."""

EXTRA_LEVELS: tuple[str, ...] = ("T11-T12",)
"""Levels that some sources contain: kept in the record, not among the eleven."""

NO_LEVEL = ""
"""The level of a disc whose source names no levels, such as cervical sources."""

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
"""Tags of a disc without level, whose source has only these two grades."""

LABEL_SETS: dict[LabelSet, tuple[str, ...]] = {
    "level": LEVELS,
    "seven": SEVEN_NAMES,
    "binary": BINARY_NAMES,
    "health": HEALTH_NAMES,
}

Classes = LabelSet | tuple[str, ...]
"""The classes of boxes: a label set, or the names of a dataset's own classes."""

KIND_OF_SEVEN: tuple[Kind, ...] = ("vertebra", "vertebra", "disc", "disc", "disc", "disc", "disc")
"""The kind of each seven-class code, by code."""


def class_names(classes: Classes) -> tuple[str, ...]:
    """Return the names of classes, by index.

    >>> class_names("health"), class_names(("sacrum",))
    (('healthy', 'sick'), ('sacrum',))
    """
    return LABEL_SETS[classes] if isinstance(classes, str) else classes


def kind_of_level(level: str) -> Kind:
    """Return the kind of a level: a name with ``-`` is a disc.

    >>> kind_of_level("L4-L5"), kind_of_level("L4")
    ('disc', 'vertebra')
    """
    return "disc" if "-" in level else "vertebra"


def kind_of_class(name: str) -> Kind:
    """Return the kind of a class of boxes; a disc if the class fits both.

    >>> kind_of_class("L4"), kind_of_class("vertebra-normal"), kind_of_class("sick")
    ('vertebra', 'vertebra', 'disc')
    """
    if name in SEVEN_NAMES:
        return KIND_OF_SEVEN[SEVEN_NAMES.index(name)]
    return kind_of_level(name) if name in LEVELS else "disc"


def encode_seven(kind: Kind, pathology: tuple[str, ...]) -> int | None:
    """Return the report's seven-class code of a structure, or None if it is unlabelled.

    Vertebrae: v1 and v2 give 0 and 1. Discs: v1 to v4 give 2 to 5, v5 alone gives 6, and vN with v5
    keeps the code of vN. This is the report's encoding; see docs/convert.md.

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
    """Return the report's binary code: 1 for a disc with v5 (Schmorl's node), None if unlabelled.

    >>> encode_binary("disc", ("v2", "v5")), encode_binary("vertebra", ("v2",))
    (1, 0)
    """
    if not pathology:
        return None
    return int(kind == "disc" and "v5" in pathology)


def encode_health(pathology: tuple[str, ...]) -> int | None:
    """Return 0 for healthy (v1 alone, or that tag), 1 for sick (others), None if unlabelled.

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
    """Return the pathology tags of the report's pair of codes.

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
    """Return the pathology tags for a pair of predicted codes, even if the codes disagree.

    Code 6 is v5 alone; binary code 1 adds v5 to a disc's grade, and -1 means that there is none.

    >>> tags_of_codes("disc", 3, 1), tags_of_codes("disc", 6, 0), tags_of_codes("vertebra", 1, 0)
    (('v2', 'v5'), ('v5',), ('v2',))
    """
    if kind == "vertebra":
        return (PATHOLOGY["vertebra"][seven],) if seven in (0, 1) else ()
    graded = (PATHOLOGY["disc"][seven - 2],) if 2 <= seven <= 5 else ()
    return (*graded, "v5") if binary == 1 or seven == 6 else graded


def level_index(level: str | None) -> int:
    """Return the index of a level among the eleven, or -1 if it is unknown or not one of them.

    >>> level_index("L5-S1"), level_index(None), level_index("T11-T12")
    (10, -1, -1)
    """
    return LEVELS.index(level) if level in LEVELS else -1


def class_of(labels: LabelSet, level: str, kind: Kind, pathology: tuple[str, ...]) -> int | None:
    """Return the class index of a structure in a label set, or None without a class there."""
    if level in EXTRA_LEVELS:
        return None
    if level == NO_LEVEL:  # graded only as healthy or sick
        return encode_health(pathology) if labels == "health" else None
    if labels == "level":
        return LEVELS.index(level) if level in LEVELS else None
    if labels == "seven":
        return encode_seven(kind, pathology)
    if labels == "binary":
        return encode_binary(kind, pathology)
    return encode_health(pathology)
