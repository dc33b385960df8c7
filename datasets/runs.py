"""What a run folder says of itself: resolved settings, versions and seed; and how runs talk."""

from __future__ import annotations

import functools
import logging
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sized
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import yaml

from spineline.datasets.files import write_text
from spineline.datasets.settings import Settings, settings_to_dict

LOG = logging.getLogger("spineline")

Item = TypeVar("Item")

_PACKAGES = (
    "spineline", "torch", "torchvision", "ultralytics", "timm", "numpy", "opencv-python", "pydicom",
)  # fmt: skip


def package_version() -> str:
    """The installed version of spineline, or ``unknown`` when it runs uninstalled."""
    try:
        return metadata.version("spineline")
    except metadata.PackageNotFoundError:
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of spineline, Python and the packages that decide a run's numbers."""
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
    """Write ``run.yaml`` into a run folder: command, resolved settings, versions, and ``extra``.

    Holds no time and no host name: the same run gives the same bytes.
    """
    record = {
        "command": f"spineline {command}",
        "settings": settings_to_dict(settings),
        **extra,
        "versions": versions(),
    }
    path = folder / "run.yaml"
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the same text, many times faster
    text = yaml.dump(record, Dumper=dumper, sort_keys=False, allow_unicode=True)
    write_text(path, text, sync=False)
    return path


def progress(
    items: Iterable[Item], *, description: str, total: int | None = None
) -> Iterator[Item]:
    """Iterate with a progress bar on a terminal and about ten plain lines elsewhere."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=description, total=total, leave=False)
        return
    step = max(1, (total or 1000) // 10)
    for done, item in enumerate(items, 1):
        yield item
        if done % step == 0:
            LOG.info("%s: %d%s", description, done, f" of {total}" if total else "")
