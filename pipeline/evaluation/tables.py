"""Metrics as text for the terminal; command and machine as stated on pages of results."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from spineline.datasets.common.settings import Settings, settings_to_dict
from spineline.datasets.common.tables import aligned_text
from spineline.datasets.metrics.tree import flatten


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """Metrics as aligned lines: key, value, interval, n; tables of counts are omitted."""
    rows = [("figure", "value", "95 % interval", "n"), *metric_rows(metrics)]
    return aligned_text(rows, right=range(1, 4))


def metric_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Key, value, interval and n of each metric, in order; tables of counts are omitted."""
    rows = []
    for key, metric in flatten(metrics).items():
        value, (low, high) = metric["value"], metric["ci95"]
        if not isinstance(value, list):
            between = "" if low is None else f"{low:.3f} – {high:.3f}"
            shown = "not defined" if value is None else f"{value:.4f}"
            rows.append((key, shown, between, str(metric["n"])))
    return rows


def command_line(command: str, settings: Settings) -> str:
    """The command with the keys that differ from their defaults; of paths only the last part."""
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
        text = ",".join(map(str, shown)) if isinstance(shown, list) else str(shown)
        parts = (part.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] for part in text.split(","))
        words.append(f"{spec.name}={','.join(parts)}")
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
