"""Hyperparameters passed to ``ultralytics`` by their own names, such as ``yolo.bgr=0.1``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.settings import close_match
from spineline.datasets.common.yaml_files import read_yaml
from spineline.detect.settings import DetectTrain

PREFIX = "yolo."

NO_EFFECT: dict[str, str] = {
    "copy_paste": "it pastes segments, and the labels are boxes",
    "hsv_h": "images are grey and have no hue",
    "hsv_s": "images are grey and have no saturation",
}
"""Hyperparameters of the package that have no effect here, with the reason."""


def check_hyperparameters(names: Iterable[str], *, where: str) -> None:
    """Refuse names that are not hyperparameters of the installed ``ultralytics``, or are our keys.

    Args:
        names: names as given, with their prefix.
        where: source for messages, such as ``command line``.

    Raises:
        ConfigError: a name is refused; the message gives an alternative or the closest name.
    """
    ours = [spec.name for spec in fields(DetectTrain)]
    for name in names:
        own = name.removeprefix(PREFIX)
        if own in ours:
            raise ConfigError(f"{where}: {name}: is a key of spineline's own; give {own}=…")
        if own in NO_EFFECT:
            raise ConfigError(f"{where}: {name}: has no effect, since {NO_EFFECT[own]}")
        known = [word for word in _package_hyperparameters() if word not in (*ours, *NO_EFFECT)]
        if own in _package_defaults() and own not in known:
            raise ConfigError(f"{where}: {name}: is not a hyperparameter; spineline sets it itself")
        if own not in known:
            hint = close_match(own, known)
            raise ConfigError(f"{where}: {name}: ultralytics has no such hyperparameter{hint}")


def _package_hyperparameters() -> tuple[str, ...]:
    """The numbers from ``lr0`` up to ``cfg``, which are adjacent in the package's file."""
    defaults = _package_defaults()
    names = list(defaults)
    section = names[names.index("lr0") : names.index("cfg")]
    return tuple(name for name in section if isinstance(defaults[name], float))


@cache
def _package_defaults() -> dict[str, Any]:
    """The content of the package's ``default.yaml``, read without importing the package."""
    spec = find_spec("ultralytics")
    if spec is None or spec.origin is None:
        raise ConfigError("ultralytics is not installed; reinstall spineline")
    content: dict[str, Any] = read_yaml(Path(spec.origin).parent / "cfg" / "default.yaml")
    return content
