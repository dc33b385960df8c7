"""Figures as text: a table for the terminal, Markdown for the docs."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from spineline.datasets.common.run_record import versions
from spineline.datasets.common.settings import Settings, settings_to_dict
from spineline.datasets.common.tables import aligned_text
from spineline.datasets.labels import SEVEN_NAMES
from spineline.pipeline.evaluation.metrics import flatten

PUBLISHED: dict[str, str] = {
    "level_accuracy_8px": "0.878",
    "report.recall": "0.6667",
    "report.precision": "0.4022",
    "report.ap": "0.6574",
    "binary.accuracy": "0.9982",
    "seven.accuracy": "0.6248",
    "ccf.l_disc": "≈ 0.96 (both kinds)",
    "ccf.l_vertebra": "≈ 0.96 (both kinds)",
    "ccf.c_disc": "0.91",
    "ccf.c_vertebra": "0.77",
    "ccf.score": "0.8064",
}
"""The report's own figures on its 50 test studies; ``ccf`` on the same studies, 4 folds."""

_ABOUT_PUBLISHED = (
    "Published: the report's figures on its own 50 test studies, which are not the studies scored "
    "here, and for `ccf` other published figures on the same studies (4 folds). Always answering "
    '"not V5" scores 0.971 in binary accuracy there, and the commonest class of each kind 0.61 in '
    "seven-class accuracy. Intervals: bootstrap over studies."
)


def figures_text(metrics: Mapping[str, Any]) -> str:
    """Figures as aligned lines: key, value, interval, n."""
    rows: list[tuple[str, ...]] = [("figure", "value", "95 % interval", "n")]
    rows += [row[:4] for row in _rows(metrics, {})]
    return aligned_text(rows, right=range(1, 4))


def results_text(
    metrics: Mapping[str, Any],
    settings: Settings,
    *,
    published: Mapping[str, str] | None = None,
    note: str = "",
) -> str:
    """Every figure, and what is needed to make it again, as Markdown.

    Args:
        metrics: the content of ``metrics.json``.
        settings: of the run; keys that differ from their defaults are shown, paths by their last
            part alone.
        published: figures of others by key; default `PUBLISHED`.
        note: a sentence on the data.
    """
    published = PUBLISHED if published is None else published
    lines = [note, ""] if note else []
    lines += _facts(metrics, settings)
    lines += ["", "| figure | value | 95 % interval | n | published |", "|---|--:|--:|--:|---|"]
    lines += [f"| `{key}` | {' | '.join(cells)} |" for key, *cells in _rows(metrics, published)]
    lines += ["", _ABOUT_PUBLISHED, ""]
    lines += _confusion(metrics)
    return "\n".join(lines) + "\n"


def command_line(command: str, settings: Settings) -> str:
    """The command with the keys that differ from their defaults; of paths the last part alone."""
    words = [f"spineline {command}"]
    plain = settings_to_dict(settings)
    for spec in fields(settings):
        value = getattr(settings, spec.name)
        if value == spec.default or spec.name in ("overwrite", "table", "section", "note"):
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


def _rows(metrics: Mapping[str, Any], published: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Key, value, interval, n and published figure; tables of counts are left out."""
    rows: list[tuple[str, ...]] = []
    for key, figure in flatten(dict(metrics)).items():
        value, (low, high) = figure["value"], figure["ci95"]
        if isinstance(value, list):
            continue
        interval = "" if low is None else f"{low:.3f} – {high:.3f}"
        shown = "not defined" if value is None else f"{value:.4f}"
        rows.append((key, shown, interval, str(figure["n"]), published.get(key, "")))
    return rows


def _facts(metrics: Mapping[str, Any], settings: Settings) -> list[str]:
    weights, bootstrap = metrics["weights"], metrics["bootstrap"]
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    return [
        f"- Command: `{command_line('pipeline val', settings)}`",
        f"- Data: {metrics['studies']} studies, {metrics['images']} images, "
        f"{metrics['labels']} labels; {len(metrics['failures'])} failed, "
        f"{len(metrics['left_out'])} left out by quality control",
        f"- Weights: {weights['name'] or 'unknown'} (SHA-256 {weights['sha256'] or 'unknown'})",
        f"- Bootstrap: {bootstrap['draws']} draws, seed {bootstrap['seed']}",
        f"- Versions: {packages}",
        f"- Machine: {machine()}",
    ]


def _confusion(metrics: Mapping[str, Any]) -> list[str]:
    confusion = metrics.get("seven", {}).get("confusion")
    if not confusion:
        return []
    lines = [
        "## Seven-class confusion", "", "Rows: label; columns: answer.", "",
        "| | " + " | ".join(SEVEN_NAMES) + " | missed |", "|---|" + "--:|" * 8,
    ]  # fmt: skip
    for name, counts, missed in zip(
        SEVEN_NAMES, confusion["value"], confusion["missed"], strict=True
    ):
        lines.append(f"| {name} | {' | '.join(map(str, counts))} | {missed} |")
    return lines
