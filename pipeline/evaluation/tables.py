"""Figures as text, and how they came about: the command and the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from spineline.datasets.common.settings import Settings, settings_to_dict
from spineline.datasets.common.tables import aligned_text
from spineline.pipeline.evaluation.metrics import flatten


def figures_text(metrics: Mapping[str, Any]) -> str:
    """Figures as aligned lines: key, value, interval, n."""
    rows: list[tuple[str, ...]] = [("figure", "value", "95 % interval", "n")]
    rows += figure_rows(metrics)
    return aligned_text(rows, right=range(1, 4))


def command_line(command: str, settings: Settings) -> str:
    """The command with the keys that differ from their defaults; of paths the last part alone."""
    words = [f"spineline {command}"]
    plain = settings_to_dict(settings)
    for spec in fields(settings):
        value = getattr(settings, spec.name)
        if value == spec.default or spec.name == "overwrite":
            continue
        if isinstance(value, Mapping):
            words += [f"{spec.name}.{name}={own}" for name, own in value.items()]
            continue
        shown = value.name if isinstance(value, Path) else plain[spec.name]
        if isinstance(shown, bool):
            shown = str(shown).lower()
        text = ",".join(shown) if isinstance(shown, list) else str(shown)
        words.append(f"{spec.name}={','.join(_last_part(part) for part in text.split(','))}")
    return " ".join(words)


def machine() -> str:
    """CPU model and number of cores, such as ``Intel(R) Xeon(R) …, 2 cores``."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} cores"


def _last_part(text: str) -> str:
    return text.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def figure_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Key, value, interval and n of each figure of a ``metrics.json``; tables are left out."""
    rows: list[tuple[str, ...]] = []
    for key, figure in flatten(dict(metrics)).items():
        value, (low, high) = figure["value"], figure["ci95"]
        if isinstance(value, list):
            continue
        interval = "" if low is None else f"{low:.3f} – {high:.3f}"
        shown = "not defined" if value is None else f"{value:.4f}"
        rows.append((key, shown, interval, str(figure["n"])))
    return rows
