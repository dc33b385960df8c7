"""What the benchmark scripts share: arms that take turns, ratios of neighbours, a page's section.

Other programs may run on the machine. So arms are run one after the other in every round, in an
order that moves on by one each round, and a ratio is the median of the ratios of the rounds, each
of two runs that were neighbours in time. Beside the clock on the wall, the processor time of the
process and of its ended children is kept, which others disturb less.
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

sys.path.insert(0, str(Path(__file__).parent))

from pages import write_section

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.files import write_json
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import versions
from spineline.datasets.common.settings import Settings, describe, key, parse_settings
from spineline.datasets.common.tables import aligned_text
from spineline.detect.yolo.environment import OFFLINE_ENVIRONMENT
from spineline.pipeline.evaluation.tables import command_line, machine

Clock = Literal["wall_s", "cpu_s"]
CLI = ("-m", "spineline.pipeline.cli.main")
"""Arguments of Python that run the command line."""

ABOUT = """\
Arms take turns in one run, in an order that moves on by one each round, after a round that warms
up; a ratio is the median of the rounds' ratios, each of two neighbours in time, with the least and
the largest. Other programs ran beside it where the load average is above the number of cores:
processor time then says more than the clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings(Settings):
    """Keys of every script."""

    repeats: int = key("rounds, after one that warms up", default=5, minimum=1)
    seed: int = key("of what is drawn", default=0, minimum=0)
    out: Path | None = key("JSON file to write", default=None)
    page: Path | None = key("Markdown page to write a section of", default=None)


Bench = TypeVar("Bench", bound=BenchSettings)


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds of one run of an arm: on the wall, and of processors (ended children included)."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of two arms: median, least and largest of the rounds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} – {self.high:.2f})"

    def to_json(self) -> dict[str, float]:
        """As plain values."""
        return {name: round(getattr(self, name), 4) for name in ("value", "low", "high")}


def take_turns(
    arms: Mapping[str, Callable[[], object]], rounds: int, *, warm: int = 1
) -> dict[str, list[Turn]]:
    """Run every arm once a round.

    Args:
        arms: what to run, by name.
        rounds: how often it is kept.
        warm: rounds before those.

    Returns:
        One turn per round kept, by arm.
    """
    names = list(arms)
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    for number in range(warm + rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            turn = timed(arms[name])
            if number >= warm:
                turns[name].append(turn)
                LOG.info("round %d: %s: %.3f s", number - warm + 1, name, turn.wall_s)
    return turns


def timed(call: Callable[[], object]) -> Turn:
    """Run something once."""
    cpu, wall = processor_seconds(), time.perf_counter()
    call()
    return Turn(time.perf_counter() - wall, processor_seconds() - cpu)


def afresh(out: Path, call: Callable[[], object]) -> Callable[[], None]:
    """The same, where the folder it writes is removed before."""

    def run() -> None:
        shutil.rmtree(out, ignore_errors=True)
        call()

    return run


def process(*words: str) -> Callable[[], None]:
    """A Python process with these arguments, from its start to its end, without network."""

    def run() -> None:
        done = subprocess.run(
            [sys.executable, *words],
            env=os.environ | OFFLINE_ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SpinelineError(f"python {' '.join(words)}: {done.stderr.strip()[-500:]}")

    return run


def processor_seconds() -> float:
    """Of this process, all its threads, and its ended children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def median(turns: Sequence[Turn], clock: Clock = "wall_s") -> float:
    """The median of one clock, in seconds."""
    return statistics.median(getattr(turn, clock) for turn in turns)


def ratio(over: Sequence[Turn], under: Sequence[Turn], clock: Clock = "wall_s") -> Ratio:
    """One arm's time by another's, round by round."""
    found = [getattr(a, clock) / getattr(b, clock) for a, b in zip(over, under, strict=True)]
    return Ratio(statistics.median(found), min(found), max(found))


def ratio_cells(over: Sequence[Turn], under: Sequence[Turn]) -> tuple[str, str]:
    """One arm's time by another's, for a table: by the clock, and by processor time."""
    return str(ratio(over, under)), str(ratio(over, under, "cpu_s"))


def ratios_json(
    turns: Mapping[str, Sequence[Turn]], names: Iterable[str], under: str, clock: Clock = "wall_s"
) -> dict[str, dict[str, float]]:
    """The times of arms by that of one, as plain values."""
    return {name: ratio(turns[name], turns[under], clock).to_json() for name in names}


def turns_json(turns: Mapping[str, Sequence[Turn]]) -> dict[str, Any]:
    """Every turn, as plain values."""
    return {
        name: [{"wall_s": round(t.wall_s, 5), "cpu_s": round(t.cpu_s, 5)} for t in all_]
        for name, all_ in turns.items()
    }


def facts(
    script: str, settings: BenchSettings, data: str, packages: Sequence[str], *, threads: int = 0
) -> str:
    """How the figures of a section came about, as a list.

    Args:
        script: its name, without suffix.
        settings: its keys.
        data: what it ran on.
        packages: whose versions matter beside spineline and Python.
        threads: of torch; 0 leaves them out.
    """
    found = versions() | {name: version_of(name) for name in packages}
    names = ("spineline", "python", *packages)
    load = os.getloadavg()[0]
    return "\n".join(
        [
            f"- Command: `{command_of(script, settings)}`",
            f"- Data: {data}; {settings.repeats} rounds; seed {settings.seed}",
            f"- Versions: {', '.join(f'{name} {found[name]}' for name in names)}",
            f"- Machine: {machine()}" + (f", {threads} threads" if threads else "")
            + f"; load average at the end {load:.1f}",
        ]
    )  # fmt: skip


def version_of(package: str) -> str:
    """The installed version of a package."""
    from importlib import metadata

    return metadata.version(package)


def command_of(script: str, settings: BenchSettings) -> str:
    """The command with the keys that differ from their defaults; files written are left out."""
    words = command_line("", settings).removeprefix("spineline").split()
    shown = [word for word in words if not word.startswith(("page=", "out="))]
    return " ".join([f"python benchmarks/{script}.py", *shown])


def run_bench(
    words: Sequence[str],
    settings_class: type[Bench],
    work: Callable[[Bench, Path], tuple[dict[str, Any], str]],
    section: str,
) -> None:
    """Parse the words, do the work in a temporary folder, print, and write what is asked for.

    Args:
        words: of the command line: ``key=value``, or ``help``.
        settings_class: the script's keys.
        work: from settings and an empty folder to the report and the section's text.
        section: its name in the page.
    """
    if list(words) == ["help"]:
        print(aligned_text([(k.name, k.type, k.default, k.help) for k in describe(settings_class)]))
        return
    values = dict(word.partition("=")[::2] for word in words)
    settings = parse_settings(settings_class, values, where="command line")
    LOG.addHandler(logging.NullHandler())
    with tempfile.TemporaryDirectory() as folder:
        report, text = work(settings, Path(folder))
    print(text)
    if settings.out is not None:
        write_json(settings.out, {"machine": machine(), "versions": versions(), **report})
    if settings.page is not None:
        write_section(settings.page, section, text, title="Benchmarks")
