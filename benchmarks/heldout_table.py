"""Write the metrics of a folder of `pipeline val` as a section of a Markdown page.

    python benchmarks/heldout_table.py val=OUT/val page=docs/results.md \\
        [section=heldout] [title=…] [note=…]

The rest of the page is unchanged. Published metrics of others are shown beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from harness import parse_words
from pages import check_name, folded, write_section

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import Settings, key, parse_settings
from spineline.datasets.labels import SEVEN_NAMES
from spineline.pipeline.evaluation.settings import PipelineVal
from spineline.pipeline.evaluation.tables import command_line, machine, metric_rows

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
"""The report's own metrics on its 50 test studies; ``ccf`` on the same studies, 4 folds."""

ABOUT_PUBLISHED = (
    "*Published* values are the report's on its own 50 test studies, which are not the studies "
    "scored here. For `ccf`, they are other published values on the same studies (4 folds). There, "
    'always answering "not V5" scores 0.971 in binary accuracy, and the most common class of each '
    "kind scores 0.61 in seven-class accuracy. Intervals are from a bootstrap over studies."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSettings(Settings):
    val: Path = key("folder that pipeline val wrote")
    page: Path = key("Markdown page to write a section of")
    section: str = key("name of that section", default="heldout")
    title: str = key("heading of the section", default="")
    note: str = key("a sentence on the data", default="")


GRADES = ("report", "seven", "binary", "ccf.c_", "ccf.score", "tianchi.macro_f1")
"""Prefixes of metrics of grades, which are omitted if no grade is labelled."""


def section_text(
    metrics: Mapping[str, Any], run: Mapping[str, Any], *, title: str = "", note: str = ""
) -> str:
    """All metrics, and how to reproduce them, as Markdown.

    Args:
        metrics: the content of ``metrics.json``.
        run: the content of ``run.yaml`` beside it; of its paths, only the last part is shown.
        title: heading of the section, if it has one.
        note: a sentence on the data.
    """
    settings = parse_settings(PipelineVal, run["settings"], where="run.yaml")
    weights, bootstrap = metrics["weights"], metrics["bootstrap"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    made = [
        f"- Command: `{command_line('pipeline val', settings)}`",
        f"- Data: {metrics['studies']} studies, {metrics['images']} images, "
        f"{metrics['labels']} labels; {len(metrics['failures'])} failed, "
        f"{len(metrics['left_out'])} left out by quality control",
        f"- Weights: {weights['name'] or 'unknown'} (SHA-256 {weights['sha256'] or 'unknown'})",
        f"- Bootstrap: {bootstrap['draws']} draws, seed {bootstrap['seed']}",
        f"- Versions: {versions}",
        f"- Machine: {machine()}",
    ]
    lines = [f"## {title}", ""] if title else []
    lines += [note, ""] if note else []
    lines += [
        "| figure | value | 95 % interval | n | published |",
        "|---|--:|--:|--:|---|",
    ]
    graded = metrics["report"]["recall"]["n"] > 0
    for name, *cells in metric_rows(metrics):
        if graded or not name.startswith(GRADES):
            lines.append(f"| `{name}` | {' | '.join(cells)} | {PUBLISHED.get(name, '')} |")
    lines += ["", ABOUT_PUBLISHED, ""]
    if graded:
        lines += [*confusion(metrics), ""]
    return "\n".join([*lines, *folded("Command, data, weights and versions", made)]) + "\n"


def confusion(metrics: Mapping[str, Any]) -> list[str]:
    """The seven-class confusion matrix, if it was scored."""
    found = metrics.get("seven", {}).get("confusion")
    if not found:
        return []
    lines = [
        "### Seven-class confusion", "", "Rows: label; columns: answer.", "",
        "| | " + " | ".join(SEVEN_NAMES) + " | missed |", "|---|" + "--:|" * 8,
    ]  # fmt: skip
    for name, counts, missed in zip(SEVEN_NAMES, found["value"], found["missed"], strict=True):
        lines.append(f"| {name} | {' | '.join(map(str, counts))} | {missed} |")
    return lines


def main(words: list[str]) -> None:
    settings = parse_words(words, TableSettings)
    if settings is None:
        return
    check_name(settings.section)
    try:
        metrics = json.loads((settings.val / "metrics.json").read_text(encoding="utf-8"))
        run = yaml.safe_load((settings.val / "run.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"val={settings.val}: no folder of pipeline val ({error})") from error
    text = section_text(metrics, run, title=settings.title, note=settings.note)
    write_section(settings.page, settings.section, text, title="Results")


if __name__ == "__main__":
    run_script(main)
