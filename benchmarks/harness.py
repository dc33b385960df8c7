"""Shared code of the benchmark scripts: arms in turn, phantom cohorts, and page sections.

Other programs may run on the machine. So arms run one after the other in every round, in an order
that shifts by one each round. A ratio is the median of the ratios of the rounds, each of two runs
close in time. Besides wall-clock time, the processor time of the process and of its ended children
is measured, which other programs disturb less.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydicom
import yaml
from pages import write_section

from spineline.datasets.commands.phantom import phantom
from spineline.datasets.commands.settings import DataPhantom
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.files import write_json
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import versions
from spineline.datasets.common.settings import Settings, describe, key, parse_settings
from spineline.datasets.common.tables import aligned_text, markdown_table
from spineline.detect.yolo.environment import OFFLINE_ENVIRONMENT
from spineline.pipeline.evaluation.tables import command_line, machine

Clock = Literal["wall_s", "cpu_s"]
CLOCKS: tuple[Clock, Clock] = ("wall_s", "cpu_s")
CLI = ("-m", "spineline.pipeline.cli.main")
"""Arguments of Python that run the command line."""

ABOUT = """\
The variants run in turn, in an order that rotates each round, after a warm-up round. A ratio is the
median of the rounds' ratios, each of two neighbouring runs, with the smallest and largest in
brackets. If the load average exceeds the number of cores, other programs were running too, and
processor time is more reliable than wall-clock time."""
DRAWN = 8
"""Number of drawn studies in a cohort; the others are copies of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings(Settings):
    """Keys of every script."""

    repeats: int = key("rounds, after one that warms up", default=5, minimum=1)
    seed: int = key("of what is drawn", default=0, minimum=0)
    out: Path | None = key("JSON file to write", default=None)
    page: Path | None = key("Markdown page to write a section of", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldsSettings(Settings):
    """Keys of the scripts that train and score on every fold of the report's source."""

    out: Path = key("folder for everything that is made")
    annotations: Path | None = key("the report's labels", default=None)
    images: Path | None = key("the report's frames", default=None)
    epochs: int | None = key("of every training, instead", default=None, minimum=1)
    imgsz: int | None = key("of every detector's training, instead", default=None, minimum=32)
    k: int = key("folds", default=3, minimum=2)
    device: str = key("cpu, cuda or a number; several run folds side by side", default="cpu")
    draws: int = key("bootstrap draws", default=1000, minimum=1)
    seed: int = key("of folds, trainings and bootstrap", default=0, minimum=0)
    page: Path | None = key("Markdown page to write a section of", default=None)


Bench = TypeVar("Bench", bound=BenchSettings)
Keys = TypeVar("Keys", bound=Settings)


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds of one run of an arm, by the clock and by processor (ended children included)."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ratio of two arms: median, minimum and maximum of the rounds; NaN if a round has none."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "not told"
        return f"{self.value:.2f} ({self.low:.2f} – {self.high:.2f})"

    def to_json(self) -> dict[str, float | None]:
        """As plain values."""
        return {name: json_number(getattr(self, name), 4) for name in ("value", "low", "high")}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """The result of a script, for its page section and its JSON file.

    Attributes:
        title: of the section.
        about: what was run, as Markdown.
        data: what it ran on, in words.
        packages: whose versions are listed besides spineline and Python.
        threads: of torch; 0 omits them.
        tables: with the text between them, as Markdown.
        report: values for the JSON file.
    """

    title: str
    about: str
    data: str
    packages: Sequence[str]
    threads: int = 0
    tables: Sequence[str]
    report: Mapping[str, Any]


def timed(call: Callable[[], object]) -> Turn:
    """Run something once."""
    cpu, wall = processor_seconds(), time.perf_counter()
    call()
    return Turn(time.perf_counter() - wall, processor_seconds() - cpu)


def take_turns(
    arms: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    warm: int = 1,
    measure: Callable[[Callable[[], Any]], Turn] = timed,
) -> dict[str, list[Turn]]:
    """Run every arm once a round.

    Args:
        arms: what to run, by name.
        rounds: number of measured rounds.
        warm: number of rounds before those.
        measure: runs one arm and returns its time.

    Returns:
        One turn per measured round, by arm.
    """
    names = list(arms)
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    for number in range(warm + rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            turn = measure(arms[name])
            if number >= warm:
                turns[name].append(turn)
                LOG.info("round %d: %s: %.3f s", number - warm + 1, name, turn.wall_s)
    return turns


def afresh(out: Path, call: Callable[[], Any]) -> Callable[[], Any]:
    """The call, with removal of its output folder beforehand."""

    def run() -> Any:
        shutil.rmtree(out, ignore_errors=True)
        return call()

    return run


def process(
    *words: object,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> Callable[[], None]:
    """A call that runs Python with these arguments in a process without network."""

    def run() -> None:
        done = subprocess.run(
            [python, *map(str, words)],
            env={**os.environ, **OFFLINE_ENVIRONMENT, **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            told = done.stderr.strip()[-500:]
            raise SpinelineError(f"python {' '.join(map(str, words))}: {told}")

    return run


def processor_seconds() -> float:
    """Processor seconds of this process, all its threads, and its ended children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def median(turns: Sequence[Turn], clock: Clock = "wall_s") -> float:
    """The median of one clock, in seconds; NaN if a turn is NaN."""
    return median_of([getattr(turn, clock) for turn in turns])


def ratio(over: Sequence[Turn], under: Sequence[Turn], clock: Clock = "wall_s") -> Ratio:
    """One arm's time divided by another's, round by round."""
    found = [getattr(a, clock) / getattr(b, clock) for a, b in zip(over, under, strict=True)]
    value = median_of(found)
    return Ratio(value, value, value) if math.isnan(value) else Ratio(value, min(found), max(found))


def median_of(values: Sequence[float]) -> float:
    """The median; NaN if one of the values is NaN."""
    return math.nan if any(map(math.isnan, values)) else statistics.median(values)


def json_number(value: float, digits: int) -> float | None:
    """A rounded number for JSON; None for NaN."""
    return None if math.isnan(value) else round(value, digits)


def ratios_json(
    turns: Mapping[str, Sequence[Turn]], under: str, name: str = "ratio"
) -> dict[str, dict[str, dict[str, float | None]]]:
    """The times of all arms divided by that of one, as plain values, by both clocks."""
    clocks: tuple[tuple[str, Clock], ...] = ((name, "wall_s"), (f"{name}_cpu", "cpu_s"))
    return {
        key: {arm: ratio(all_, turns[under], clock).to_json() for arm, all_ in turns.items()}
        for key, clock in clocks
    }


def turns_json(turns: Mapping[str, Sequence[Turn]]) -> dict[str, Any]:
    """Every turn, as plain values."""
    return {
        name: [{clock: json_number(getattr(t, clock), 5) for clock in CLOCKS} for t in all_]
        for name, all_ in turns.items()
    }


def arms_table(
    turns: Mapping[str, Sequence[Turn]], under: str, by: str, *, studies: int = 0
) -> str:
    """A table of all arms: their times, also divided by that of ``under``, which is named ``by``.

    Args:
        turns: of all arms.
        under: name of the reference arm.
        by: its name in the heading.
        studies: of one run: times are milliseconds per study; 0 shows seconds of the run.
    """
    scale, digits = (1e3 / studies, 1) if studies else (1.0, 2)
    units = ("ms per study", "ms of processor") if studies else ("seconds", "of processor")
    rows = []
    for name, all_ in turns.items():
        times = (f"{median(all_, clock) * scale:.{digits}f}" for clock in CLOCKS)
        ratios = (str(ratio(all_, turns[under], clock)) for clock in CLOCKS)
        title = f"`{name}`" if name.startswith(("pipeline ", "convert ")) else name
        rows.append((title, *times, *(("1", "1") if name == under else ratios)))
    return markdown_table(("arm", *units, f"by {by}", f"by {by}, processor time"), rows)


def section_text(script: str, settings: BenchSettings, found: BenchResult) -> str:
    """The section of a script: what was run, how it was measured, and the tables."""
    known = versions() | {name: metadata.version(name) for name in found.packages}
    shown = (f"{name} {known[name]}" for name in ("spineline", "python", *found.packages))
    threads = f", {found.threads} threads" if found.threads else ""
    facts = [
        f"- Command: `{command_of(script, settings)}`",
        f"- Data: {found.data}; {settings.repeats} rounds; seed {settings.seed}",
        f"- Versions: {', '.join(shown)}",
        f"- Machine: {machine()}{threads}; load average at the end {os.getloadavg()[0]:.1f}",
    ]
    parts = [f"## {found.title}", found.about, "\n".join(facts), *found.tables]
    return "\n\n".join(parts) + "\n"


def command_of(script: str, settings: BenchSettings) -> str:
    """The command with the keys that differ from their defaults, without output files."""
    words = command_line("", settings).removeprefix("spineline").split()
    shown = [word for word in words if not word.startswith(("page=", "out="))]
    return " ".join([f"python benchmarks/{script}.py", *shown])


def figure_text(value: float | None, ci95: Sequence[float | None] = (None, None)) -> str:
    """``0.812``, ``0.812 (0.790 – 0.830)``, or ``not defined`` where there is no value."""
    if value is None:
        return "not defined"
    low, high = ci95
    interval = "" if low is None or high is None else f" ({low:.3f} – {high:.3f})"
    return f"{value:.3f}{interval}"


def recorded_command(
    record: Path, settings_class: type[Settings], instead: Mapping[str, str] | None = None
) -> str:
    """The command recorded in a ``run.yaml``; of paths, only the last part.

    Args:
        record: the file.
        settings_class: of the command.
        instead: keys to replace, as typed.
    """
    content = yaml.safe_load(record.read_text(encoding="utf-8"))
    values = {**content["settings"], **(instead or {})}
    settings = parse_settings(settings_class, values, where=str(record))
    return command_line(str(content["command"]).removeprefix("spineline "), settings)


def parse_words(words: Sequence[str], settings_class: type[Keys]) -> Keys | None:
    """The keys of a command line, such as ``n=3``; None after ``help``, which prints them."""
    if list(words) == ["help"]:
        print(aligned_text([(k.name, k.type, k.default, k.help) for k in describe(settings_class)]))
        return None
    values = dict(word.partition("=")[::2] for word in words)
    return parse_settings(settings_class, values, where="command line")


def run_bench(
    words: Sequence[str],
    settings_class: type[Bench],
    work: Callable[[Bench, Path], BenchResult],
    script: str,
) -> None:
    """Parse the arguments, do the work in a temporary folder, print, and write on request.

    Args:
        words: arguments: ``key=value``, or ``help``.
        settings_class: the script's keys.
        work: computes the result from settings and an empty folder.
        script: its name without suffix; the section has the same name, with hyphens.
    """
    settings = parse_words(words, settings_class)
    if settings is None:
        return
    LOG.addHandler(logging.NullHandler())
    with tempfile.TemporaryDirectory() as folder:
        found = work(settings, Path(folder))
    text = section_text(script, settings, found)
    print(text)
    if settings.out is not None:
        about = {"command": command_of(script, settings), "data": found.data}
        about |= {"machine": machine(), "versions": versions()}
        write_json(settings.out, {**about, **found.report})
    if settings.page is not None:
        section = getattr(settings, "section", script.replace("_", "-"))
        write_section(settings.page, section, text, title="Benchmarks")


def draw_cohort(
    folder: Path, n: int, *, seed: int, slices: int = 7, size: int | None = None
) -> str:
    """Fill a folder with phantom studies of three series each, one subfolder per study.

    The first eight are drawn. Every other is a copy with new UIDs, so that all studies, series and
    images are distinct.

    Args:
        folder: made here.
        n: number of studies.
        seed: of the drawn spines.
        slices: per series.
        size: rows and columns of the T2 sagittal images; None for various sizes.

    Returns:
        A description of the content.
    """
    drawn = min(n, DRAWN)
    source = folder.with_name(f"{folder.name}-drawn")
    settings = DataPhantom(
        out=source, n=drawn, seed=seed, format=("dicom",), slices=slices, size=size
    )
    phantom(settings)
    originals = sorted((source / "studies").iterdir())
    folder.mkdir(parents=True)
    files = 0
    for number in range(n):
        files += copy_study(originals[number % drawn], folder / f"study{number:04d}", number)
    words = "various sizes" if size is None else f"{size} px"
    return f"{n} phantom studies, {files // n} files each, {words}, {drawn} of them distinct"


def copy_study(original: Path, target: Path, number: int) -> int:
    """Copy a study's files with new UIDs; returns their number."""
    target.mkdir()
    count = 0
    for path in sorted(original.iterdir()):
        image = pydicom.dcmread(path)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(image, keyword, f"{getattr(image, keyword)[:50]}.{number}")
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.save_as(target / path.name)
        count += 1
    return count
