"""Settings of commands: one frozen dataclass each, the only source of keys, types, defaults.

A command's settings derive from [Settings][] and describe each field with [key][]:

    @dataclass(frozen=True, slots=True, kw_only=True)
    class ShowSettings(Settings):
        out: Path = key("folder to write to")
        limit: int = key("how many images", default=16, minimum=1)

A field whose type is itself a settings class holds further keys, written ``columns.file=…``, or as
a mapping in a YAML file. The same holds for a field of type ``Mapping[str, float]``, whose keys are
checked by the code that reads them.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from spineline.datasets.common.errors import ConfigError, first_line
from spineline.datasets.common.yaml_files import YamlError, read_yaml

SettingsType = TypeVar("SettingsType", bound="Settings")

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
_NONE = ("none", "null", "")
_HINTS: dict[type[Any], dict[str, Any]] = {}

GROUPS = ("data", "model", "training", "augmentation", "output", "run")
"""Headings of a command's help, in order; a key without a group is in the last."""


def key(
    help: str,
    *,
    default: Any = MISSING,
    choices: Sequence[str] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    group: str = "",
    shown: object = None,
) -> Any:
    """Define a field of a settings class: its meaning, default and allowed values.

    Args:
        help: the meaning.
        default: the value if the key is not given; without a default it is required.
        choices: allowed values; for a tuple field, of each item.
        minimum: smallest number allowed.
        maximum: largest number allowed.
        group: one of [GROUPS][], under which help lists the key.
        shown: default shown in help, if ``default`` only represents it.
    """
    metadata = {
        "help": help,
        "choices": tuple(choices),
        "minimum": minimum,
        "maximum": maximum,
        "group": group,
        "shown": shown,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Base of every command's settings; checks choices and ranges when it is built.

    From Python, a path may be given as a string and the reverse, and several words as one string
    with commas or as a list. In YAML, a list is accepted for a string with commas too.

    Attributes:
        NOT_SHOWN: keys that a class inherits and refuses, which help leaves out.
    """

    NOT_SHOWN: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        hints = _type_hints(type(self))
        for spec in fields(self):
            given = getattr(self, spec.name)
            value = _from_python(given, hints[spec.name])
            if value is not given:
                object.__setattr__(self, spec.name, value)
            if value is not spec.default and not _is_of_type(value, hints[spec.name]):
                wanted = _type_name(hints[spec.name])
                raise ConfigError(f"{spec.name}={value!r}: not a valid value, wanted {wanted}")
            _check_value(spec, value)


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """One line of a command's help."""

    name: str
    type: str
    default: str
    help: str
    group: str


_OF_ULTRALYTICS = {
    "conf": "confidence",
    "exist_ok": "overwrite",
    "max_det": "max_detections",
    "model": "weights",
    "pretrained": "weights",
    "project": "out",
    "save_dir": "out",
    "save_txt": "txt",
}
"""Keys of Ultralytics' ``yolo``, and what they are called in commands that have no such key."""


def parse_settings(
    cls: type[SettingsType],
    values: Mapping[str, object],
    *,
    where: str = "settings",
    prefix: str = "",
) -> SettingsType:
    """Build settings from ``key=value`` strings or YAML values.

    Args:
        cls: the settings class.
        values: raw values by key; strings are converted to the field's type.
        where: source for messages, such as ``command line``.
        prefix: prefix of the keys in messages, if ``cls`` is a group of keys.

    Raises:
        ConfigError: a key is unknown or missing, or a value does not fit.
    """
    hints = _type_hints(cls)
    known = {spec.name: spec for spec in fields(cls)}
    given = _grouped(values, hints)
    for name in given:
        if name not in known:
            names = [prefix + description.name for description in describe(cls)]
            meant = _OF_ULTRALYTICS.get(name, name)
            hint = close_match(prefix + (meant if meant in known else name), names)
            raise ConfigError(f"{where}: unknown key {prefix + name!r}{hint}")
    missing = [
        name for name, spec in known.items() if spec.default is MISSING and name not in given
    ]
    if missing:
        wanted = ", ".join(f"{prefix}{name}=… ({known[name].metadata['help']})" for name in missing)
        raise ConfigError(f"{where}: missing {wanted}")
    return cls(
        **{
            name: _group(name, raw, hints[name], where, prefix)
            if _is_group(hints[name])
            else _convert(prefix + name, raw, hints[name], where)
            for name, raw in given.items()
        }
    )


def read_settings_file(path: Path, name: str = "cfg") -> dict[str, object]:
    """Read keys and values of a ``cfg=`` YAML file, or of the ``run.yaml`` of an earlier run.

    Args:
        path: the file.
        name: the key that gave it, for messages.

    Raises:
        ConfigError: the file is not readable, not YAML, or not a mapping.
    """
    try:
        content = read_yaml(path)
    except OSError as error:
        raise ConfigError(f"{name}={path}: cannot be read ({first_line(error)})") from error
    except YamlError as error:
        raise ConfigError(f"{name}={path}: cannot be read as YAML ({error})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"{name}={path}: holds a {type(content).__name__}, wanted keys and values"
        )
    if {"command", "settings"} <= set(content) and isinstance(content["settings"], dict):
        content = content["settings"]
    return {str(name): value for name, value in content.items()}


def settings_to_dict(settings: Settings) -> dict[str, Any]:
    """Convert settings to plain values for YAML or JSON, in the order of the fields."""
    return {spec.name: _plain(getattr(settings, spec.name)) for spec in fields(settings)}


def describe(cls: type[Settings]) -> list[KeyDescription]:
    """Describe the keys of a settings class with type, default and meaning, for help pages.

    Keys are ordered by group if the class has groups.
    """
    hints = _type_hints(cls)
    grouped = any(spec.metadata["group"] for spec in fields(cls))
    keys: list[KeyDescription] = []
    for spec in fields(cls):
        if spec.name in cls.NOT_SHOWN:
            continue
        if _is_group(hints[spec.name]):
            group = describe(hints[spec.name])
            keys += [dataclasses.replace(k, name=f"{spec.name}.{k.name}") for k in group]
            continue
        shown = spec.default if spec.metadata["shown"] is None else spec.metadata["shown"]
        keys.append(
            KeyDescription(
                name=f"{spec.name}.KEY" if _is_open(hints[spec.name]) else spec.name,
                type="|".join(spec.metadata["choices"]) or _type_name(hints[spec.name]),
                default="required" if shown is MISSING else _default_text(shown),
                help=spec.metadata["help"],
                group=(spec.metadata["group"] or GROUPS[-1]) if grouped else "",
            )
        )
    return sorted(keys, key=lambda k: GROUPS.index(k.group)) if grouped else keys


def refuse_output_around(settings: Settings) -> None:
    """Refuse an output folder whose replacement would delete the command's input.

    Every key that names an existing file or folder is checked.

    Raises:
        ConfigError: ``overwrite`` is set, and ``out`` is or contains one of them.
    """
    out = getattr(settings, "out", None)
    if not getattr(settings, "overwrite", False) or not isinstance(out, Path) or not out.is_dir():
        return
    for spec in fields(settings):
        for path in [] if spec.name == "out" else _paths_in(getattr(settings, spec.name)):
            if path.exists() and path.resolve().is_relative_to(out.resolve()):
                msg = f"out={out}: holds {spec.name}={path}, which it would replace"
                raise ConfigError(f"{msg}; choose another out=")


def close_match(word: str, known: Sequence[str]) -> str:
    """Return ``; did you mean 'x'?`` or the list of allowed words.

    A word that is the beginning of a single known one counts as close.

    >>> close_match("conf", ["confidence", "iou"]), close_match("x", ["confidence", "iou"])
    ("; did you mean 'confidence'?", '; allowed: confidence, iou')
    """
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    begun = [name for name in known if len(word) > 2 and name.startswith(word)]
    match = match or (begun if len(begun) == 1 else [])
    if match:
        return f"; did you mean {match[0]!r}?"
    return f"; allowed: {', '.join(known)}"


def _is_group(hint: object) -> bool:
    return isinstance(hint, type) and issubclass(hint, Settings)


def _is_open(hint: object) -> bool:
    """Whether the keys below a key are not known here: a mapping, or None."""
    return Mapping in [get_origin(option) for option in (hint, *get_args(hint))]


def _grouped(values: Mapping[str, object], hints: Mapping[str, Any]) -> dict[str, object]:
    """The values with dotted keys gathered in groups, where they override a group's mapping."""
    given: dict[str, object] = {}
    dotted: dict[str, dict[str, object]] = {}
    for name, raw in values.items():
        head, dot, rest = name.partition(".")
        if dot and (_is_group(hints.get(head)) or _is_open(hints.get(head))):
            dotted.setdefault(head, {})[rest] = raw
        else:
            given[name] = raw
    for head, group in dotted.items():
        whole = given.get(head) or {}
        given[head] = {**whole, **group} if isinstance(whole, Mapping) else whole
    return given


def _group(name: str, raw: object, hint: type[Settings], where: str, prefix: str) -> Settings:
    if not isinstance(raw, Mapping):
        keys = ", ".join(f"{prefix}{name}.{key.name}=…" for key in describe(hint))
        raise ConfigError(f"{where}: {prefix}{name}={raw}: names a group of keys; wanted {keys}")
    values = {str(key): value for key, value in raw.items()}
    return parse_settings(hint, values, where=where, prefix=f"{prefix}{name}.")


def _type_hints(cls: type[Any]) -> dict[str, Any]:
    """Types of a class's fields, which take a millisecond to resolve; once for each class."""
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls)
    return _HINTS[cls]


def _from_python(value: object, hint: Any) -> object:
    """A value as its field holds it: paths and words become each other, and lists tuples."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    listed = next((option for option in options if get_origin(option) is tuple), None)
    if listed is not None and isinstance(value, (str, list, tuple)):
        parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        item = get_args(listed)[0]
        return tuple(_from_python(part, item) for part in parts if part != "")
    if isinstance(value, str) and Path in options:
        return Path(value)
    return str(value) if isinstance(value, Path) and str in options else value


def _is_of_type(value: object, hint: Any) -> bool:
    """Whether a value given from Python has the type of its field; words are checked elsewhere."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_is_of_type(value, option) for option in get_args(hint))
    if origin is tuple:
        items = value if isinstance(value, (tuple, list)) else (None,)
        return all(_is_of_type(item, get_args(hint)[0]) for item in items)
    if origin is not None:
        return isinstance(value, Mapping if origin is Mapping else str)
    if hint in (int, float):
        number = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, hint)


def _check_value(spec: dataclasses.Field[Any], value: object) -> None:
    if value is None:
        return
    choices = spec.metadata.get("choices", ())
    items = value if isinstance(value, tuple) else (value,)
    if choices and not items and spec.default != ():
        raise ConfigError(f"{spec.name}=: names nothing; allowed: {', '.join(choices)}")
    for item in items:
        if choices and item not in choices:
            hint = close_match(str(item), choices)
            allowed = "" if "allowed" in hint else f" (allowed: {', '.join(choices)})"
            raise ConfigError(f"{spec.name}={item}: not an allowed value{hint}{allowed}")
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            _check_range(spec, item)


def _check_range(spec: dataclasses.Field[Any], value: float) -> None:
    low, high = spec.metadata.get("minimum"), spec.metadata.get("maximum")
    too_low = low is not None and not value >= low
    too_high = high is not None and not value <= high
    if too_low or too_high or not math.isfinite(value):
        allowed = _bounds_text(low, high) + (", finite" if math.isinf(value) else "")
        raise ConfigError(f"{spec.name}={value}: out of range, allowed {allowed}")


def _bounds_text(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{low} … {high}"
    if low is not None:
        return f"{low} or more"
    return "any number" if high is None else f"{high} or less"


def _paths_in(value: object) -> list[Path]:
    """Paths that a key's value may name: a path itself, or the path-like parts of a string."""
    if isinstance(value, Path):
        return [value]
    if isinstance(value, tuple):
        return [path for item in value for path in _paths_in(item)]
    if isinstance(value, str):  # a bare word is a name or a choice, not a path
        return [Path(part) for part in value.split(",") if "/" in part or "." in part]
    return []


def _convert(name: str, raw: object, hint: Any, where: str) -> Any:
    options = [hint]
    if get_origin(hint) in (Union, types.UnionType):
        options = list(get_args(hint))
    if type(None) in options:
        if raw is None or (isinstance(raw, str) and raw.strip().lower() in _NONE):
            return None
        options.remove(type(None))
    for option in options:
        try:
            return _convert_one(raw, option)
        except (ValueError, TypeError):
            continue
    wanted = " or ".join(_type_name(option) for option in options)
    raise ConfigError(f"{where}: {name}={raw}: not a valid value, wanted {wanted}")


def _convert_one(raw: object, hint: Any) -> Any:
    if get_origin(hint) is tuple:
        return _convert_tuple(raw, get_args(hint)[0])
    if get_origin(hint) is Mapping:
        if not isinstance(raw, Mapping):
            raise ValueError("no mapping")
        return {str(name): _convert_one(value, get_args(hint)[1]) for name, value in raw.items()}
    if get_origin(hint) is not None:  # Literal: choices check the value
        return str(raw)
    if hint is bool:
        return _convert_bool(raw)
    if raw is None:
        raise ValueError("no value")
    if hint is str and isinstance(raw, (list, tuple)) and all(isinstance(p, str) for p in raw):
        return ",".join(raw)
    if isinstance(raw, bool):
        if hint is str:
            return str(raw).lower()
        raise ValueError("a truth value")
    return _convert_plain(raw, hint)


def _convert_plain(raw: object, hint: Any) -> Any:
    if hint is int:
        if isinstance(raw, float) and not raw.is_integer():
            raise ValueError("not whole")
        return int(raw) if isinstance(raw, (int, float)) else int(str(raw))
    if hint is float:
        return float(str(raw))
    if hint is Path:
        if not str(raw):
            raise ValueError("empty path")
        return Path(str(raw)).expanduser()
    return str(raw)


def _convert_tuple(raw: object, item: Any) -> tuple[Any, ...]:
    if isinstance(raw, str):
        text = raw.strip().removeprefix("[").removesuffix("]")
        parts: Sequence[object] = [part.strip() for part in text.split(",") if part.strip()]
    elif isinstance(raw, Sequence):
        parts = raw
    else:
        parts = [raw]
    return tuple(_convert_one(part, item) for part in parts)


def _convert_bool(raw: object) -> bool:
    text = str(raw).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("not a truth value")


def _type_name(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        names = [_type_name(o) for o in get_args(hint) if o is not type(None)]
        return "|".join([*names, "none"] if type(None) in get_args(hint) else names)
    if get_origin(hint) is tuple:
        return f"{_type_name(get_args(hint)[0])},…"
    if get_origin(hint) is Mapping:
        return _type_name(get_args(hint)[1])
    if get_origin(hint) is not None:
        return "|".join(str(a) for a in get_args(hint))
    return {Path: "path", bool: "true|false", str: "text"}.get(hint, hint.__name__)


def _default_text(value: object) -> str:
    plain = _plain(value)
    if plain is None:
        return "none"
    if isinstance(plain, bool):
        return str(plain).lower()
    if isinstance(plain, list):
        return ",".join(str(item) for item in plain) or "none"
    return str(plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return settings_to_dict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return dict(value)
    return value
