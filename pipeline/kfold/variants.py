"""Variants of a cross-validation: named keys of the training that differ from the common ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spineline.datasets.common.errors import ConfigError, first_line
from spineline.datasets.common.settings import close_match
from spineline.datasets.common.yaml_files import YamlError, read_yaml
from spineline.pipeline.kfold.settings import FOLDS_FOLDER

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Variant:
    """A name with the keys that make it differ, as the user gave them."""

    name: str
    keys: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.name}: {keys_text(self.keys)}"


def keys_text(keys: Mapping[str, Any]) -> str:
    """Keys as text; those of a recipe by stage.

    >>> keys_text({"mixup": 0.2}), keys_text({"detector": {"epochs": 9}, "namer": {}})
    ('mixup=0.2', 'detector(epochs=9)')
    """
    said = [
        f"{name}({keys_text(value)})" if isinstance(value, dict) else f"{name}={value}"
        for name, value in keys.items()
        if value != {}
    ]
    return ", ".join(said) or "as given by the common keys"


def named_variants(word: str, built_in: Mapping[str, Mapping[str, Any]]) -> Iterator[Variant]:
    """The variant of a name, or all variants in a YAML file.

    Raises:
        ConfigError: no such variant or file, or a file without variants.
    """
    if word in built_in:
        yield Variant(word, built_in[word])
        return
    path, where = Path(word).expanduser(), f"variants={word}"
    if path.suffix not in (".yaml", ".yml"):
        hint = close_match(word, list(built_in))
        raise ConfigError(f"{where}: no such variant{hint}; or a YAML file with your own")
    try:
        content = read_yaml(path)
    except (OSError, YamlError) as error:
        raise ConfigError(f"{where}: cannot be read as YAML ({first_line(error)})") from error
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{where}: wanted variants as NAME: {{KEY: VALUE, …}}")
    for name, keys in content.items():
        text = str(name)
        check_name(text, where)
        if keys is not None and not isinstance(keys, dict):
            raise ConfigError(f"{where}, {text}: found {keys!r}, wanted {{KEY: VALUE, …}}")
        yield Variant(text, {str(k): v for k, v in (keys or {}).items()})


def check_name(text: str, where: str) -> None:
    """Refuse names that are not valid for a variant's folder.

    Raises:
        ConfigError: names what is allowed.
    """
    if not _NAME.fullmatch(text) or text == FOLDS_FOLDER:
        msg = f"{where}: {text!r} cannot name a variant; wanted letters, digits, _ . -"
        raise ConfigError(f"{msg}, and not {FOLDS_FOLDER!r}")
