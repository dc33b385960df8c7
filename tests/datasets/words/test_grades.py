from __future__ import annotations

import pytest

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.labels import PATHOLOGY
from spineline.datasets.words.grades import grades_of_word
from spineline.datasets.words.word_map import WordMap, read_word_map


@pytest.mark.parametrize("kind", ["disc", "vertebra"])
def test_tags_stand_for_themselves(kind):
    for tag in PATHOLOGY[kind]:
        assert grades_of_word(tag.upper(), kind) == (tag,)


@pytest.mark.parametrize(
    ("word", "kind", "tags"),
    [
        ("v5,v3", "disc", ("v3", "v5")), ("v2 v5", "disc", ("v2", "v5")),
        ("v2+v5", "disc", ("v2", "v5")), ("v2,", "disc", ("v2",)), ("Bulging", "disc", ("v2",)),
        ("bulge", "disc", ("v2",)), ("protrusion", "disc", ("v3",)), ("Extrusion", "disc", ("v4",)),
        ("Schmorl", "disc", ("v5",)), ("Schmorl's node", "disc", ("v5",)),
        ("Schmorl’s nodes", "disc", ("v5",)), ("Schmorl-node", "disc", ("v5",)),
        ("protrusion and Schmorl", "disc", ("v3", "v5")), ("normal", "vertebra", ("v1",)),
        ("degenerative", "vertebra", ("v2",)), ("Degenerated", "vertebra", ("v2",)),
        ("disc-bulging", "disc", ("v2",)), ("vertebra-degenerative", "vertebra", ("v2",)),
        ("v3", "vertebra", None), ("v2,v3", "disc", None), ("degenerated", "disc", None),
        ("no bulging", "disc", None), ("herniation", "disc", None), ("", "disc", None),
        ("3", "disc", None), ("v6", "disc", None), ("vertebra-normal", "disc", None),
    ],
)  # fmt: skip
def test_words(word, kind, tags):
    assert grades_of_word(word, kind) == tags


def write(tmp_path, text):
    path = tmp_path / "map.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_map_names_levels_and_grades(tmp_path):
    path = write(
        tmp_path,
        "levels: {erste: L1, Kreuz: ignore, low disc: L5/S1}\n"
        "grades: {attribute: Pfirrmann, 1: v1, 2: v1, 3: v2, 4: 'v3,v5', unclear: null}\n",
    )
    words = read_word_map(path)
    assert words.level("ERSTE") == "L1"
    assert words.level("low  disc") == "L5-S1"
    assert words.level("Kreuz") == "ignore"
    assert words.level("L4/5") == "L4-L5"
    assert words.level("zweite") is None
    assert words.grade("4", "disc") == ("v3", "v5")
    assert words.grade("3", "vertebra") == ("v2",)
    assert words.grade("4", "vertebra") is None
    assert words.grade("unclear", "disc") == ()
    assert words.grade_texts([("grade", "v5"), ("pfirrmann", "3")], "disc") == ["3"]
    assert words.grade_texts([("grade", "v5")], "disc") == []
    assert WordMap().grade_texts([("diagnosis", "x"), ("Grade", "v5")], "disc") == ["v5"]


def test_a_map_may_differ_by_kind(tmp_path):
    path = write(
        tmp_path,
        "grades: {disc: {attribute: pfirrmann, 5: v4}, vertebra: {attribute: modic, 1: v2}}",
    )
    words = read_word_map(path)
    assert words.grade("5", "disc") == ("v4",)
    assert words.grade("1", "vertebra") == ("v2",)
    assert words.grade_texts([("Modic", "1"), ("Pfirrmann", "5")], "vertebra") == ["1"]
    assert words.grade_texts([("Modic", "1"), ("Pfirrmann", "5")], "disc") == ["5"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("levels: {a: L9}", "'L9' is no level; did you mean 'L1'|is not a level"),
        ("levels: [a]", "wanted words"),
        ("level: {a: L1}", "unknown key 'level'; allowed: levels, grades"),
        ("grades: {1: v7}", "'v7' is no grade; allowed: v1, v2, v3, v4, v5"),
        ("grades: {vertebra: {1: v3}}", "'v3' is no grade; allowed: v1, v2,"),
        ("grades: {no: v1}", "put it into quotes"),
        ("grades: {Bulge: v2, bulge: v3}", "given twice"),
        ("grades: {disc: {1: v1}, 2: v2}", "stand beside other words"),
        ("levels: {a: L1", "cannot be read as YAML"),
        ("", "wanted the keys levels and grades"),
    ],
)
def test_a_map_that_is_none(tmp_path, text, match):
    with pytest.raises(ConfigError, match=match):
        read_word_map(write(tmp_path, text))


def test_the_nearest_word_is_named():
    assert "'l5-s1'" in WordMap().nearest_level("L5-S11")
    assert "'protrusion'" in WordMap().nearest_grade("protrussion", "disc")
