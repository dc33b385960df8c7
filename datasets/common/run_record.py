"""The record in a run folder: resolved settings, versions and seed."""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import yaml

from spineline.datasets.common.errors import ConfigError, SpinelineError, WeightsError, first_line
from spineline.datasets.common.files import write_text
from spineline.datasets.common.settings import (
    Settings,
    SettingsType,
    parse_settings,
    settings_to_dict,
)
from spineline.datasets.common.yaml_files import YamlError, read_yaml

_PACKAGES = (
    "spineline", "torch", "torchvision", "ultralytics", "timm", "onnxruntime", "numpy",
    "opencv-python", "pydicom",
)  # fmt: skip


def package_version() -> str:
    """Return the installed version of spineline, or ``unknown`` if it is not installed."""
    try:
        return metadata.version("spineline")
    except metadata.PackageNotFoundError:
        return "unknown"


def versions() -> dict[str, str]:
    """Return versions of spineline, Python and the packages that influence a run's numbers."""
    return dict(_installed_versions())


@functools.cache
def _installed_versions() -> Mapping[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_run_record(folder: Path, command: str, settings: Settings, **extra: Any) -> Path:
    """Write ``run.yaml`` into a run folder: command, resolved settings, seed, ``extra``, versions.

    The seed is null for a command without random numbers. The file holds no time and no host name,
    so the same run gives the same bytes.
    """
    record = {
        "command": f"spineline {command}",
        "settings": settings_to_dict(settings),
        "seed": getattr(settings, "seed", None),
        **extra,
        "versions": versions(),
    }
    path = folder / "run.yaml"
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the same text, many times faster
    try:
        text = yaml.dump(record, Dumper=dumper, sort_keys=False, allow_unicode=True)
    except UnicodeEncodeError:  # file names may not be valid text; the slow dumper escapes them
        text = yaml.dump(record, Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True)
    write_text(path, text, sync=False)
    return path


def recorded_command(folder: Path) -> str | None:
    """Return the command that wrote a run folder, such as ``spineline demo``, or None."""
    try:
        content = read_yaml(folder / "run.yaml")
    except (OSError, YamlError):
        return None
    return str(content.get("command")) if isinstance(content, dict) else None


def resumed_settings(
    given: SettingsType, folder: Path, *, resolved: str, may_change: Collection[str]
) -> tuple[SettingsType, dict[str, Any]]:
    """Return the settings of the run in ``folder`` to resume, and their resolved values.

    A key of ``given`` counts as given only if it differs from its default.

    Args:
        given: settings of the resuming command.
        folder: the run folder.
        resolved: the entry of ``run.yaml`` that holds the training values.
        may_change: keys that are taken from ``given``.

    Raises:
        WeightsError: there is no record of such a run.
        ConfigError: a given key differs from the run's.
    """
    record = folder / "run.yaml"
    try:
        content = read_yaml(record)
        earlier = parse_settings(type(given), content["settings"], where=str(record))
        values = dict(content[resolved])
    except FileNotFoundError as error:
        msg = f"out={folder}: nothing to resume, no run.yaml there; start it without resume=true"
        raise WeightsError(msg) from error
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise WeightsError(
            f"{record}: is not a record of such a training run ({first_line(error)})"
        ) from error
    changed: dict[str, Any] = {}
    for spec in fields(given):
        value, began = getattr(given, spec.name), getattr(earlier, spec.name)
        if value in (spec.default, began, values.get(spec.name, began)):
            continue
        if spec.name not in may_change:
            shown = values.get(spec.name, began)
            msg = (
                f"{spec.name}={value}: the run in {folder} began with {spec.name}={shown}, and "
                "resume=true keeps that; leave the key out, or start another run"
            )
            raise ConfigError(msg)
        changed[spec.name] = value
    return replace(earlier, **changed), values


def run_script(main: Callable[[list[str]], int | None]) -> NoReturn:
    """End the process as a command does: 0 done, 1 failed, 2 a wrong key; without a traceback.

    Args:
        main: takes the command-line arguments and returns the exit status; None means 0.
    """
    try:
        status = main(sys.argv[1:])
    except SpinelineError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2 if isinstance(error, ConfigError) else 1
    sys.exit(status)
