from __future__ import annotations

import pytest

from spineline.datasets.labels import EXTRA_LEVELS, LEVELS
from spineline.datasets.words.levels import level_of_word


@pytest.mark.parametrize("level", [*LEVELS, *EXTRA_LEVELS])
def test_own_names_are_known(level):
    joined = [level.replace("-", join) for join in ("_", "/", "", " – ", " ")]
    for word in (level, level.lower(), f" {level} ", *joined):
        assert level_of_word(word) == level, word


@pytest.mark.parametrize(
    ("word", "level"),
    [
        ("L1/2", "L1-L2"), ("l1-2", "L1-L2"), ("L1L2", "L1-L2"), ("L1_L2", "L1-L2"),
        ("D12", "T12"), ("Th12", "T12"), ("TH12-L1", "T12-L1"), ("D12/L1", "T12-L1"),
        ("BWK12/LWK1", "T12-L1"), ("LWK1", "L1"), ("LWK 1", "L1"), ("LWK4/5", "L4-L5"),
        ("disc L4-L5", "L4-L5"), ("disc_L4_L5", "L4-L5"), ("L4-L5 disk", "L4-L5"),
        ("IVD L5/S1", "L5-S1"), ("vertebra_L1", "L1"), ("vertebral body L3", "L3"),
        ("S1", "S1"), ("S1-S2", "S1-S2"), ("T11", "T11"), ("T11-T12", "T11-T12"), ("L6", "L6"),
        ("L6-S1", "L6-S1"), ("L4-S1", "L4-S1"), ("C5/6", "C5-C6"), ("C7-T1", "C7-T1"),
        ("T11-L1", "T11-L1"), ("L.5.S.1", "L5-S1"),
    ],
)  # fmt: skip
def test_spellings(word, level):
    assert level_of_word(word) == level


@pytest.mark.parametrize(
    "word",
    ["", " ", "L", "12", "L0", "L7", "L12", "L1-L3", "L2-L1", "S1-L5", "disc", "disc L4",
     "disco L4", "vertebra L4-L5", "disc vertebra L4", "F-1", "lesion 1", "person", "T12-T1",
     "L5-1", "XL1",      "L4-L5-S1", "L1 and L2", "tL1", "L1x", "MarkupsFiducial_1", "C8", "L４５"],
)  # fmt: skip
def test_what_is_no_level(word):
    assert level_of_word(word) is None
