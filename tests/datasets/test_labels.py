from __future__ import annotations

import pytest

from spineline.datasets.labels import (
    KIND_OF_SEVEN,
    LABEL_SETS,
    LEVELS,
    NO_LEVEL,
    SEVEN_NAMES,
    class_of,
    encode_binary,
    encode_health,
    encode_seven,
    kind_of_class,
    kind_of_level,
    pathology_from_codes,
    tags_of_codes,
)

TABLE = [
    # kind, tags, seven, binary, health: the report's table of codes
    ("vertebra", ("v1",), 0, 0, 0),
    ("vertebra", ("v2",), 1, 0, 1),
    ("disc", ("v1",), 2, 0, 0),
    ("disc", ("v2",), 3, 0, 1),
    ("disc", ("v3",), 4, 0, 1),
    ("disc", ("v4",), 5, 0, 1),
    ("disc", ("v5",), 6, 1, 1),
    ("disc", ("v1", "v5"), 2, 1, 1),
    ("disc", ("v4", "v5"), 5, 1, 1),
    ("disc", (), None, None, None),
    ("vertebra", (), None, None, None),
]


@pytest.mark.parametrize(("kind", "tags", "seven", "binary", "health"), TABLE)
def test_codes(kind, tags, seven, binary, health):
    assert encode_seven(kind, tags) == seven
    assert encode_binary(kind, tags) == binary
    assert encode_health(tags) == health
    if seven is not None:
        assert pathology_from_codes(kind, seven, binary) == tags
        assert tags_of_codes(kind, seven, binary) == tags
        assert kind_of_class(SEVEN_NAMES[seven]) == kind
        assert KIND_OF_SEVEN[seven] == kind


@pytest.mark.parametrize(
    ("kind", "seven", "binary"),
    [("disc", 0, 0), ("vertebra", 2, 0), ("vertebra", 0, 1), ("disc", 6, 0), ("disc", 7, 0)],
)
def test_codes_that_contradict(kind, seven, binary):
    with pytest.raises(ValueError, match="code"):
        pathology_from_codes(kind, seven, binary)


def test_levels_alternate_from_disc_to_disc():
    kinds = [kind_of_level(level) for level in LEVELS]
    assert kinds == ["disc", "vertebra"] * 5 + ["disc"]
    assert len(SEVEN_NAMES) == len(KIND_OF_SEVEN)


def test_class_in_each_set():
    assert class_of("level", "L5-S1", "disc", ()) == 10
    assert class_of("seven", "L5-S1", "disc", ("v3", "v5")) == 4
    assert class_of("binary", "L5-S1", "disc", ("v3", "v5")) == 1
    assert class_of("health", "L5-S1", "disc", ()) is None
    assert class_of("level", "T11-T12", "disc", ("v1",)) is None


@pytest.mark.parametrize(("tags", "health"), [(("healthy",), 0), (("sick",), 1), ((), None)])
def test_a_disc_without_level_has_a_health_and_no_other_class(tags, health):
    assert class_of("health", NO_LEVEL, "disc", tags) == health
    assert all(class_of(labels, NO_LEVEL, "disc", tags) is None for labels in LABEL_SETS
               if labels != "health")  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "seven", "binary", "tags"),
    [
        ("disc", 6, 0, ("v5",)), ("disc", 3, -1, ("v2",)), ("disc", 0, 1, ("v5",)),
        ("vertebra", 2, 0, ()), ("vertebra", 0, 1, ("v1",)),
    ],
)  # fmt: skip
def test_codes_that_do_not_agree_have_tags_all_the_same(kind, seven, binary, tags):
    assert tags_of_codes(kind, seven, binary) == tags
