"""Meaning of the classes of a plain dataset, by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from spineline.datasets.labels import EXTRA_LEVELS, LEVELS, Kind, kind_of_class, kind_of_level
from spineline.datasets.words.levels import level_of_word


def levels_of_names(names: Sequence[str]) -> dict[str, str]:
    """Map class names to our levels; empty if two names stand for the same level.

    >>> levels_of_names(["disc_L5/S1", "D12-L1", "T11", "sacrum"])
    {'disc_L5/S1': 'L5-S1', 'D12-L1': 'T12-L1'}
    """
    ours = (*EXTRA_LEVELS, *LEVELS)
    found = {name: level for name in names if (level := level_of_word(name)) and level in ours}
    return found if len(set(found.values())) == len(found) else {}


def kind_of_name(name: str) -> Kind:
    """Return the kind of a class by its level or the words in its name; a disc by default.

    >>> kind_of_name("T11"), kind_of_name("Vertebrae"), kind_of_name("lesion")
    ('vertebra', 'vertebra', 'disc')
    """
    level = level_of_word(name)
    if level is not None:
        return kind_of_level(level)
    if not re.search(r"dis[ck]|ivd", name.lower()) and re.search(r"vert|corpus", name.lower()):
        return "vertebra"
    return kind_of_class(name)
