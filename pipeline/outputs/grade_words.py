"""Grades in words, and the worst grade of a study."""

from __future__ import annotations

from collections.abc import Iterable

from spineline.datasets.labels import KIND_OF_SEVEN, SEVEN_NAMES, Kind, encode_seven
from spineline.pipeline.inference.results import GradedStructure

_SCHMORL = SEVEN_NAMES.index("disc-schmorl")
_NORMAL = (SEVEN_NAMES.index("vertebra-normal"), SEVEN_NAMES.index("disc-normal"))

WORST_FIRST: tuple[int, ...] = tuple(
    SEVEN_NAMES.index(name)
    for name in (
        "disc-extrusion",
        "disc-protrusion",
        "disc-schmorl",
        "disc-bulging",
        "vertebra-degenerative",
        "disc-normal",
        "vertebra-normal",
    )
)
"""Codes by their distance from normal: an order for sorting studies, not a clinical scale."""

CODES_OF: dict[Kind, tuple[int, ...]] = {
    kind: tuple(code for code, of in enumerate(KIND_OF_SEVEN) if of == kind)
    for kind in ("disc", "vertebra")
}
"""The codes of each kind."""


def code_name(code: int) -> str:
    """A seven-class code in a word or two.

    >>> code_name(3), code_name(6)
    ('bulging', "Schmorl's node")
    """
    return "Schmorl's node" if code == _SCHMORL else SEVEN_NAMES[code].split("-")[1]


def has_schmorl(structure: GradedStructure) -> bool:
    """Whether either grade is Schmorl's node."""
    by_binary = structure.binary is not None and structure.binary.class_index == 1
    return by_binary or (structure.seven is not None and structure.seven.class_index == _SCHMORL)


def is_normal(structure: GradedStructure) -> bool | None:
    """Whether the grade is normal; None without a seven-class grade."""
    if structure.seven is None:
        return None
    return structure.seven.class_index in _NORMAL and not has_schmorl(structure)


def grade_words(structure: GradedStructure) -> str:
    """The grade of a structure, such as ``bulging + Schmorl's node``."""
    if structure.seven is None:
        if structure.binary is None:
            return "not graded"
        return "Schmorl's node" if structure.binary.class_index else "no Schmorl's node"
    name = code_name(structure.seven.class_index)
    extra = has_schmorl(structure) and structure.seven.class_index != _SCHMORL
    return f"{name} + Schmorl's node" if extra else name


def tag_words(kind: Kind, pathology: tuple[str, ...]) -> str:
    """The tags of a label in the same words.

    >>> tag_words("disc", ("v2", "v5")), tag_words("vertebra", ("v2",)), tag_words("disc", ())
    ("bulging + Schmorl's node", 'degenerative', 'not graded')
    """
    code = encode_seven(kind, pathology)
    if code is None:
        return "not graded"
    extra = kind == "disc" and "v5" in pathology and code != _SCHMORL
    return f"{code_name(code)} + Schmorl's node" if extra else code_name(code)


def rank(structure: GradedStructure) -> int:
    """Index of a structure's worse grade in `WORST_FIRST`; its length without a grade."""
    places = []
    if structure.seven is not None:
        places.append(WORST_FIRST.index(structure.seven.class_index))
    if has_schmorl(structure):
        places.append(WORST_FIRST.index(_SCHMORL))
    return min(places, default=len(WORST_FIRST))


def worst(structures: Iterable[GradedStructure]) -> GradedStructure | None:
    """The structure whose grade comes first in `WORST_FIRST`; the topmost of several."""
    graded = [s for s in structures if rank(s) < len(WORST_FIRST)]
    return min(graded, key=rank, default=None)


def furthest_words(structure: GradedStructure | None) -> str:
    """The description of the `worst` structure of a study."""
    if structure is None:
        return "not graded"
    if is_normal(structure):
        return "none, all normal"
    return f"{structure.level} {grade_words(structure)}"
