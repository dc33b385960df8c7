"""YAML from anywhere: as PyYAML reads it, or refused at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from spineline.datasets.common.yaml_files import MAX_BYTES, YamlError, parse_yaml, read_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: 1",
        "- x\n- [1, 2.5, null, true]\n- {b: c}",
        "a: &x [1, 2]\nb: *x\nc: *x",
        "a: 2020-01-02",
        "'a: b'",
        "base: &b {x: 1, y: 2}\nown: {<<: *b, x: 3}\nmore: {<<: *b, <<: *b}",
        "{1: a, '1': b}",
    ],
)
def test_plain_yaml_is_what_pyyaml_makes_of_it(text: str) -> None:
    assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(LAUGHS, "aliases counted in full", id="aliases"),
        pytest.param("[" * 5000, "50 deep", id="deep"),
        pytest.param("{a: " * 60, "50 deep", id="deep mappings"),
        pytest.param("a: 2020-99-99", "month must be in", id="date"),
        pytest.param("a: !!int abc", "invalid literal", id="number"),
        pytest.param("a: !!int ''", "index out of range", id="no number"),
        pytest.param("a: " + "9" * 5000, "Exceeds the limit", id="long number"),
        pytest.param("!!python/object/apply:os.getcwd []", "could not determine", id="code"),
        pytest.param("a: [", "flow", id="cut short"),
        pytest.param("a: 1\nb: {c: 1,\n 'c': 2}", "line 3: key 'c' is given twice", id="twice"),
        pytest.param("{[1]: 2}", "unhashable", id="key"),
        pytest.param("a: *b", "undefined alias", id="alias of nothing"),
        pytest.param("a: \x00", "not allowed", id="NUL"),
        pytest.param("--- 1\n--- 2", "single document", id="two documents"),
    ],
)
def test_hostile_yaml_is_refused_at_once(text: str, said: str) -> None:
    with pytest.raises(YamlError, match=said) as caught:
        parse_yaml(text)
    assert 0 < len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


def test_a_value_that_holds_itself_is_finite() -> None:
    found = parse_yaml("a: &x [*x]")
    assert found["a"][0] is found["a"]


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: é", encoding="utf-8")
    assert read_yaml(path) == {"a": "é"}
    path.write_bytes(b"a: \xff")
    with pytest.raises(YamlError, match="not UTF-8 at byte 3"):
        read_yaml(path)
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(YamlError, match="larger than 4 MiB"):
        read_yaml(path)
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "nothing")
