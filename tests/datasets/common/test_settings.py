from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import yaml

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.run_record import recorded_command, write_run_record
from spineline.datasets.common.settings import (
    Settings,
    describe,
    key,
    parse_settings,
    read_settings_file,
    refuse_output_around,
    settings_to_dict,
)
from spineline.datasets.common.yaml_files import read_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Example(Settings):
    out: Path = key("where to")
    epochs: int = key("how often", default=3, minimum=1, maximum=9)
    rate: float = key("how fast", default=0.5)
    size: int | str = key("how large", default="auto")
    kfold: int | None = key("how many", default=None)
    steps: int = key("how far", default=1, minimum=1)
    data: Path | None = key("what to read", default=None)
    weights: str = key("a name or files", default="default")
    to: tuple[str, ...] = key("formats", default=("a",), choices=("a", "b"))
    overwrite: bool = key("replace", default=False)
    batch: int | Literal["auto"] = key("at once", default="auto")
    limits: Mapping[str, float] | None = key("of each", default=None)
    names: tuple[str, ...] = key("any", default=())


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("epochs", "7", 7),
        ("epochs", 7.0, 7),
        ("weights", ["a", "b"], "a,b"),
        ("weights", True, "true"),
        ("to", ("b", "a"), ("b", "a")),
        ("batch", "auto", "auto"),
        ("batch", "8", 8),
        ("limits", {"a": "1"}, {"a": 1.0}),
        ("rate", "1e-3", 0.001),
        ("size", "320", 320),
        ("size", "auto", "auto"),
        ("kfold", "none", None),
        ("kfold", "3", 3),
        ("to", "a,b", ("a", "b")),
        ("to", "[b, a]", ("b", "a")),
        ("to", ["b"], ("b",)),
        ("overwrite", "yes", True),
        ("overwrite", False, False),
        ("out", "x/y", Path("x/y")),
    ],
)
def test_values_become_their_types(name, raw, value):
    settings = parse_settings(Example, {"out": "o", name: raw})
    assert getattr(settings, name) == value
    assert type(getattr(settings, name)) is type(value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"out": "o", "epoch": 1}, "unknown key 'epoch'; did you mean 'epochs'"),
        ({"out": "o", "ove": 1}, "unknown key 'ove'; did you mean 'overwrite'"),
        ({"out": "o", "ov": 1}, "unknown key 'ov'; allowed: out, epochs"),
        ({"out": "o", "zzz": 1}, "unknown key 'zzz'; allowed: out, epochs"),
        ({}, r"missing out=… \(where to\)"),
        ({"out": "o", "epochs": "many"}, "epochs=many: not a valid value, wanted int"),
        ({"out": "o", "epochs": "2.5"}, "wanted int"),
        ({"out": "o", "epochs": True}, "wanted int"),
        ({"out": "o", "epochs": 2.5}, "wanted int"),
        ({"out": "o", "epochs": None}, "epochs=None: not a valid value, wanted int"),
        ({"out": "o", "to": 5}, "to=5: not an allowed value"),
        ({"out": "o", "limits": 5}, "limits=5: not a valid value, wanted float"),
        ({"out": "o", "epochs": 0}, "epochs=0: out of range, allowed 1 … 9"),
        ({"out": "o", "steps": 0}, "steps=0: out of range, allowed 1 or more"),
        ({"out": "o", "rate": "inf"}, "rate=inf: out of range, allowed any number, finite"),
        ({"out": "o", "to": ""}, "to=: names nothing; allowed: a, b"),
        ({"out": "o", "to": "a,c"}, "to=c: not an allowed value"),
        ({"out": "o", "overwrite": "maybe"}, "wanted true|false"),
        ({"out": ""}, "wanted path"),
    ],
)
def test_values_that_do_not_fit(given, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings(Example, given)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        pytest.param({"data": "run/set"}, "data=run/set", id="inside"),
        pytest.param({"data": "run"}, "data=run", id="itself"),
        pytest.param({"weights": "default,run/w.pt"}, "weights=run/w.pt", id="named in a text"),
        pytest.param({"data": "link"}, "data=link", id="through a link"),
        pytest.param({"data": "beside"}, None, id="elsewhere"),
        pytest.param({"data": "run/none"}, None, id="not there"),
        pytest.param({"weights": "run"}, None, id="a bare word is no path"),
        pytest.param({"data": "run/set", "overwrite": False}, None, id="nothing is replaced"),
    ],
)
def test_output_that_holds_an_input_is_refused(tmp_path, monkeypatch, given, found):
    monkeypatch.chdir(tmp_path)
    for name in ("run/set", "beside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run/w.pt").touch()
    (tmp_path / "link").symlink_to("run/set")
    settings = parse_settings(Example, {"out": "run", "overwrite": True, **given})
    if found is None:
        refuse_output_around(settings)
    else:
        with pytest.raises(ConfigError, match=f"out=run: holds {found}, which it would replace"):
            refuse_output_around(settings)


def test_python_callers_are_checked_as_well():
    with pytest.raises(ConfigError, match="out of range"):
        Example(out=Path("o"), epochs=10)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("data", 3, r"path\|none"),
        ("data", ["a"], r"path\|none"),
        ("epochs", "3", "int"),
        ("epochs", 3.5, "int"),
        ("epochs", True, "int"),
        ("epochs", None, "int"),
        ("rate", "fast", "float"),
        ("overwrite", 1, r"true\|false"),
        ("overwrite", "true", r"true\|false"),
        ("weights", 3, "text"),
        ("names", 3, "text,…"),
        ("names", [3], "text,…"),
        ("batch", 1.5, r"int\|auto"),
        ("limits", [1], r"float\|none"),
    ],
)
def test_values_of_another_type_are_refused_from_python(name, value, wanted):
    with pytest.raises(ConfigError, match=rf"{name}=.*: not a valid value, wanted {wanted}$"):
        Example(**{"out": Path("o"), name: value})


@pytest.mark.parametrize(
    ("name", "value", "held"),
    [
        ("weights", Path("a/b.pt"), "a/b.pt"),
        ("names", ["a", "b"], ("a", "b")),
        ("rate", np.float32(0.5), 0.5),
        ("rate", 1, 1),
        ("epochs", np.int64(3), 3),
        ("kfold", None, None),
        ("limits", {"a": 1.0}, {"a": 1.0}),
    ],
)
def test_values_of_a_like_type_are_taken_from_python(name, value, held):
    found = getattr(Example(**{"out": "o", name: value}), name)
    assert found == held
    assert type(found) is not Path or name == "out"


def test_keys_that_are_refused_are_not_in_help():
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Narrower(Example):
        NOT_SHOWN = ("rate", "size")

    assert {k.name for k in describe(Example)} - {k.name for k in describe(Narrower)} == {
        "rate",
        "size",
    }


def test_plain_values_round_trip():
    settings = parse_settings(Example, {"out": "o", "to": "b,a", "kfold": 4})
    assert parse_settings(Example, settings_to_dict(settings)) == settings


def test_a_path_may_be_a_text_from_python():
    settings = Example(out="o", data="d/e")
    assert (settings.out, settings.data) == (Path("o"), Path("d/e"))
    assert settings == parse_settings(Example, {"out": "o", "data": "d/e"})


def test_texts_may_be_one_text_from_python():
    assert Example(out="o", to="a, b") == parse_settings(Example, {"out": "o", "to": "a,b"})
    with pytest.raises(ConfigError, match="to=c: not an allowed value"):
        Example(out="o", to="c")


def test_help_names_type_and_default():
    lines = {k.name: (k.type, k.default) for k in describe(Example)}
    assert lines["out"] == ("path", "required")
    assert lines["kfold"] == ("int|none", "none")
    assert lines["to"] == ("a|b", "a")
    assert lines["overwrite"] == ("true|false", "false")
    assert lines["names"] == ("text,…", "none")
    assert lines["batch"] == ("int|auto", "auto")


def test_the_record_of_a_run_is_a_settings_file(tmp_path):
    settings = parse_settings(Example, {"out": "o", "kfold": 4})
    path = write_run_record(tmp_path, "data example", settings)
    assert parse_settings(Example, read_settings_file(path)) == settings


def test_names_that_are_no_text_are_escaped_in_a_run_record(tmp_path):
    reason = os.fsdecode(b"br\xff/x.dcm: damaged \xc3\xbc")
    path = write_run_record(tmp_path, "data example", Example(out=tmp_path), reason=reason)
    assert '"br\\uDCFF/x.dcm: damaged ü"' in path.read_text(encoding="utf-8")
    assert read_yaml(path)["reason"] == reason


@pytest.mark.parametrize(
    ("content", "command"),
    [
        (None, None),
        ("", None),
        ("- a", None),
        ("\x00", None),
        ("command: spineline x", "spineline x"),
    ],
)
def test_what_wrote_a_folder(tmp_path, content, command):
    if content is not None:
        (tmp_path / "run.yaml").write_text(content)
    assert recorded_command(tmp_path) == command


def test_every_run_record_has_a_seed(tmp_path):
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Drawing(Settings):
        seed: int = key("decides", default=0)

    for settings, seed in [(Drawing(seed=7), 7), (Example(out=Path("o")), None)]:
        path = write_run_record(tmp_path, "data example", settings)
        assert yaml.safe_load(path.read_text())["seed"] == seed


@pytest.mark.parametrize(
    ("text", "given"),
    [("", {}), ("epochs: 4\nout: o\n", {"epochs": 4, "out": "o"}), ("7: x\n", {"7": "x"})],
    ids=["empty", "keys", "a number for a key"],
)
def test_a_settings_file_holds_keys_and_values(tmp_path, text, given):
    (tmp_path / "c.yaml").write_text(text)
    assert read_settings_file(tmp_path / "c.yaml") == given


@pytest.mark.parametrize("text", ["- a", "{", "\x00"], ids=["list", "broken", "binary"])
def test_settings_files_that_are_none(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"cfg=.*c\.yaml"):
        read_settings_file(tmp_path / "c.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns(Settings):
    file: str = key("column of the name", default="Файлы")
    patient: str | None = key("column of the patient", default=None)
    depth: int = key("how deep", default=1, maximum=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Settings):
    out: Path = key("where to")
    columns: Columns = key("the columns", default=Columns())


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        pytest.param({}, Columns(), id="defaults"),
        pytest.param({"columns.file": "Name"}, Columns(file="Name"), id="dotted"),
        pytest.param({"columns": {"file": "Name"}}, Columns(file="Name"), id="mapping"),
        pytest.param(
            {"columns": {"file": "A", "depth": 2}, "columns.file": "B"},
            Columns(file="B", depth=2),
            id="dotted wins",
        ),
        pytest.param({"columns.patient": "none"}, Columns(), id="none"),
    ],
)
def test_groups_of_keys(given, wanted):
    settings = parse_settings(Table, {"out": "o", **given})
    assert settings.columns == wanted
    assert parse_settings(Table, settings_to_dict(settings)) == settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"columns.fil": "x"}, "unknown key 'columns.fil'; did you mean 'columns.file'"),
        ({"colums.file": "x"}, "unknown key 'colums.file'; did you mean 'columns.file'"),
        ({"out.file": "x"}, "unknown key 'out.file'"),
        ({"columns": "x"}, r"columns=x: names a group of keys; wanted columns\.file=…"),
        ({"columns": "x", "columns.file": "y"}, "columns=x: names a group"),
        ({"columns.depth": "many"}, r"columns\.depth=many: not a valid value, wanted int"),
        ({"columns.depth": 4}, "depth=4: out of range"),
    ],
)
def test_groups_that_do_not_fit(given, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings(Table, {"out": "o", **given})


@dataclass(frozen=True, slots=True, kw_only=True)
class Open(Settings):
    out: Path = key("where to")
    lib: Mapping[str, float] | None = key("keys of a library", default=None, group="training")
    size: int | None = key("how large", default=None, group="data", shown=64)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"lib.a": "2", "lib.b": 1}, {"a": 2.0, "b": 1.0}, id="dotted"),
        pytest.param({"lib": {"a": 1}, "lib.b": 2}, {"a": 1.0, "b": 2.0}, id="mapping"),
    ],
)
def test_keys_below_a_key_that_are_not_known_here(given, wanted):
    settings = parse_settings(Open, {"out": "o", **given})
    assert settings.lib == wanted
    assert parse_settings(Open, settings_to_dict(settings)) == settings


def test_help_goes_by_groups_and_shows_what_is_used():
    keys = [(k.name, k.type, k.default, k.group) for k in describe(Open)]
    assert keys == [
        ("size", "int|none", "64", "data"),
        ("lib.KEY", "float|none", "none", "training"),
        ("out", "path", "required", "run"),
    ]


def test_help_lists_the_keys_of_a_group():
    lines = {k.name: (k.type, k.default) for k in describe(Table)}
    assert list(lines) == ["out", "columns.file", "columns.patient", "columns.depth"]
    assert lines["columns.file"] == ("text", "Файлы")


def test_a_settings_file_that_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file"):
        read_settings_file(tmp_path / "none.yaml")
