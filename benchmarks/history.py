"""Run all speed benchmarks, store their results by commit, and plot each value over the commits.

    python benchmarks/history.py [only=start_up,…] [into=benchmarks/history] [run=false] …

`python benchmarks/history.py help` lists the keys. Each script runs with the few rounds given here,
in its own process. The reports are stored as one JSON file named after the commit and its date,
with machine, versions and load. The plot uses all files of this machine in the folder; `run=false`
only draws it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
from against import HERE, commit_of, git

from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.files import read_json, write_json, write_through
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import run_script, versions
from spineline.datasets.common.settings import Settings, key
from spineline.pipeline.evaluation.tables import machine

SCHEMA = "spineline-benchmarks/1"
RUNS = {
    "start_up": ["repeats=3"],
    "slices_cost": ["n=8", "repeats=3"],
    "cohort_memory": ["n=60"],
    "convert_speed": ["n=200", "repeats=3"],
    "grading_time": ["repeats=10"],
    "training_speed": ["repeats=1", "backends=yolo", "n=12"],
}
"""All scripts to run, with their keys."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel of the plot.

    Attributes:
        title: with the unit.
        script: whose report holds the value.
        value: reads it from the report.
    """

    title: str
    script: str
    value: Callable[[Mapping[str, Any]], float]


def turns_of(arm: str, scale: float = 1.0) -> Callable[[Mapping[str, Any]], float]:
    """A function that reads an arm's median processor time from a report."""
    return lambda report: scale * statistics.median(t["cpu_s"] for t in report["turns"][arm])


PANELS = (
    Panel("pipeline predict, cold, s", "start_up", turns_of("spineline pipeline predict")),
    Panel("a study, slices=1, ms", "slices_cost", turns_of("slices=1", 1e3 / 8)),
    Panel("a study, slices=auto, ms", "slices_cost", turns_of("slices=auto", 1e3 / 8)),
    Panel(
        "memory of a cohort, MiB PSS",
        "cohort_memory",
        lambda found: found["runs"][-1]["peak_pss_mb"],
    ),
    Panel("convert a frame, ms", "convert_speed", turns_of("convert report", 1e3 / 200)),
    Panel(
        "grade eleven crops, ms",
        "grading_time",
        lambda report: turns_of(list(report["turns"])[-1], 1e3)(report),
    ),
    Panel(
        "an epoch of YOLO, s (clock)",
        "training_speed",
        lambda found: statistics.median(found["seconds_per_epoch"]["yolo ours cache=ram"]),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySettings(Settings):
    """Keys of this script."""

    only: tuple[str, ...] = key("scripts to run", default=tuple(RUNS), choices=tuple(RUNS))
    into: Path = key("folder of the JSON files", default=HERE / "benchmarks" / "history")
    run: bool = key("run the scripts; false draws what is kept", default=True)
    picture: Path = key(
        "PNG to draw", default=HERE / "docs" / "images" / "benchmarks-over-commits.png"
    )


def run_all(only: Sequence[str]) -> dict[str, Any]:
    """The reports of the scripts, with machine and versions."""
    reports = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in only:
            out = Path(folder) / f"{name}.json"
            LOG.info("%s", name)
            script = HERE / "benchmarks" / f"{name}.py"
            harness.process(script, *RUNS[name], f"out={out}")()
            reports[name] = read_json(out)
    return {
        "schema": SCHEMA,
        "commit": commit_of(),
        "committed": git("show", "--no-patch", "--format=%cI", "HEAD"),
        "machine": machine(),
        "load_average": round(os.getloadavg()[1], 1),
        "versions": versions(),
        "reports": reports,
    }


def file_of(entry: Mapping[str, Any], into: Path) -> Path:
    """The file of an entry."""
    commit = entry["commit"].replace("+", "-changed")
    return into / f"{entry['committed'][:10]}-{commit}.json"


def read_entries(into: Path) -> list[dict[str, Any]]:
    """The stored entries, by date of commit.

    Raises:
        SpinelineError: a file that is not an entry.
    """
    entries = []
    for path in sorted(into.glob("*.json")):
        try:
            entry = read_json(path)
            if entry["schema"] != SCHEMA:
                raise ValueError(f"schema {entry['schema']!r}, wanted {SCHEMA!r}")
            entries.append(entry)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SpinelineError(f"{path}: no benchmark that was kept ({error})") from error
    return sorted(entries, key=lambda entry: (entry["committed"], entry["commit"]))


def points(panel: Panel, entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """A value by commit, for the entries that have it."""
    return [
        (entry["commit"][:7], panel.value(entry["reports"][panel.script]))
        for entry in entries
        if panel.script in entry["reports"]
    ]


def draw(entries: Sequence[Mapping[str, Any]], picture: Path) -> None:
    """Plot each value over the commits."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [panel for panel in PANELS if points(panel, entries)]
    columns = 2
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(9, 2.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        found = points(panel, entries)
        axes.plot([value for _, value in found], marker="o", color="tab:blue")
        axes.set_xticks(range(len(found)), [commit for commit, _ in found], fontsize=7)
        axes.set_title(panel.title, fontsize=9, loc="left")
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, axis="y", alpha=0.3)
    write_through(
        picture, lambda path: figure.savefig(path, format="png", metadata={"Software": None})
    )


def main(words: list[str]) -> None:
    settings = harness.parse_words(words, HistorySettings)
    if settings is None:
        return
    if settings.run:
        entry = run_all(settings.only)
        file = file_of(entry, settings.into)
        if file.exists():  # of the same commit: results of other scripts are kept
            entry["reports"] = read_json(file)["reports"] | entry["reports"]
        write_json(file, entry)
        for panel in PANELS:
            for _, value in points(panel, [entry]):
                print(f"{panel.title}: {value:.2f}")
    entries = read_entries(settings.into)
    if not entries:
        raise ConfigError(f"into={settings.into}: nothing is kept there; leave run=false away")
    here = [entry for entry in entries if entry["machine"] == machine()]
    draw(here or entries, settings.picture)


if __name__ == "__main__":
    run_script(main)
