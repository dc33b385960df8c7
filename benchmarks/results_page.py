"""The metrics of a run of `pipeline val` as a section of a Markdown page.

    python benchmarks/results_page.py run=OUT page=PAGE.md [section=heldout] [note="A sentence."]

The section holds every metric beside what others published, and what is needed to make it again;
the rest of the page stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spineline.datasets.common.pages import check_name, write_section
from spineline.datasets.common.run_record import run_script, versions
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
"""The report's own figures on its 50 test studies; ``ccf`` on the same studies, 4 folds."""

ABOUT_PUBLISHED = (
    "Published: the report's figures on its own 50 test studies, which are not the studies scored "
    "here, and for `ccf` other published figures on the same studies (4 folds). Always answering "
    '"not V5" scores 0.971 in binary accuracy there, and the commonest class of each kind 0.61 in '
    "seven-class accuracy. Intervals: bootstrap over studies."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSettings(Settings):
    run: Path = key("folder that pipeline val wrote")
    page: Path = key("Markdown page to write a section of")
    section: str = key("name of that section", default="heldout")
    note: str = key("a sentence on the data", default="")

    def __post_init__(self) -> None:
        check_name(self.section)


def section_text(metrics: Mapping[str, Any], settings: PipelineVal, note: str = "") -> str:
    """Every metric, and what is needed to make it again, as Markdown.

    Args:
        metrics: the content of ``metrics.json``.
        settings: of the run; keys that differ from their defaults are shown, paths by their last
            part alone.
        note: a sentence on the data.
    """
    weights, bootstrap = metrics["weights"], metrics["bootstrap"]
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [note, ""] if note else []
    lines += [
        f"- Command: `{command_line('pipeline val', settings)}`",
        f"- Data: {metrics['studies']} studies, {metrics['images']} images, "
        f"{metrics['labels']} labels; {len(metrics['failures'])} failed, "
        f"{len(metrics['left_out'])} left out by quality control",
        f"- Weights: {weights['name'] or 'unknown'} (SHA-256 {weights['sha256'] or 'unknown'})",
        f"- Bootstrap: {bootstrap['draws']} draws, seed {bootstrap['seed']}",
        f"- Versions: {packages}",
        f"- Machine: {machine()}",
    ]
    lines += ["", "| figure | value | 95 % interval | n | published |", "|---|--:|--:|--:|---|"]
    lines += [
        f"| `{name}` | {' | '.join(cells)} | {PUBLISHED.get(name, '')} |"
        for name, *cells in metric_rows(metrics)
    ]
    lines += ["", ABOUT_PUBLISHED, "", *confusion_lines(metrics)]
    return "\n".join(lines) + "\n"


def confusion_lines(metrics: Mapping[str, Any]) -> list[str]:
    """The seven-class confusion as a Markdown table."""
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


def main(words: list[str]) -> None:
    values = dict(word.partition("=")[::2] for word in words)
    settings = parse_settings(PageSettings, values, where="command line")
    metrics = json.loads((settings.run / "metrics.json").read_text(encoding="utf-8"))
    record = settings.run / "run.yaml"
    content = yaml.safe_load(record.read_text(encoding="utf-8"))["settings"]
    run = parse_settings(PipelineVal, content, where=str(record))
    text = section_text(metrics, run, settings.note)
    write_section(settings.page, settings.section, text, title="Results")


if __name__ == "__main__":
    run_script(main)
