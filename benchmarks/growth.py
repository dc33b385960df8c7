"""The cost of a study of `pipeline predict` in growing cohorts, on this machine and with Ray.

    python benchmarks/growth.py [sizes=10,100,1000] [engines=local,ray1,ray2,ray4] …

`python benchmarks/growth.py help` lists the keys. Each engine runs once over phantom studies of
each size, in separate processes (`ray2`: `engine=ray` with two workers on a local cluster).
Meanwhile, the manifest and the processes are watched: the time of the first study, the time after
the last, the peak of memory by PSS, and the processor time of the whole tree. The two largest
cohorts of the first engine give the cost of one more study, which is extrapolated to 100,000 and to
a million. Linux only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cohort_memory
import harness

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table

ENGINES = ("local", "ray1", "ray2", "ray4")
LARGE = (100_000, 1_000_000)
ENOUGH = 100
"""Minimum size of the largest cohort for an extrapolation."""
ABOUT = """\
Each row is one run of the command. *First* is the time until the first study was done: imports,
weights, listing all files, starting workers. *Last* is the time from the last study to the end,
when the cohort's own files are written. *A study* is the time between the two, divided by the
number of the other studies. Memory is the peak of all processes together by PSS. Every engine
writes the same files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthSettings(harness.BenchSettings):
    repeats: int = key("one run of each size", default=1, minimum=1, maximum=1)
    sizes: tuple[int, ...] = key("studies of the cohorts, rising", default=(10, 100, 1000))
    engines: tuple[str, ...] = key("which", default=ENGINES, choices=ENGINES)
    slices: int = key("slices per series, of three", default=1, minimum=1, maximum=31)
    size: int = key("rows and columns of the images", default=192, minimum=128, maximum=1024)
    to: tuple[str, ...] = key(
        "also write these, as for pipeline predict", default=("report", "page")
    )
    every: float = key("seconds between two looks", default=0.1, minimum=0.01, maximum=60)


@dataclass(frozen=True, slots=True)
class Grown:
    """One run over one cohort.

    Attributes:
        engine: one of ``ENGINES``.
        studies: of the cohort.
        seconds, cpu_s: of the whole command, by the clock and of all its processes.
        first_s, first_cpu_s: until the first study was done, by both clocks.
        last_s, last_cpu_s: from the last study to the end.
        pss_mb: peak of memory, MiB.
        files, bytes: written by the command.
    """

    engine: str
    studies: int
    seconds: float
    cpu_s: float
    first_s: float
    first_cpu_s: float
    last_s: float
    last_cpu_s: float
    pss_mb: float
    files: int
    bytes: int

    @property
    def study_s(self) -> float:
        """Seconds per study between the first and the last."""
        return (self.seconds - self.first_s - self.last_s) / max(self.studies - 1, 1)


def grown(engine: str, run: cohort_memory.MemoryRun, out: Path) -> Grown:
    """Summarise a run.

    Args:
        engine: its name.
        run: its samples.
        out: the folder that it wrote.
    """
    end = cohort_memory.Look(run.studies, 0, 0.0, 0.0, run.seconds, run.cpu_s)
    first = next((look for look in run.looks if look.done), end)
    last = next((look for look in run.looks if look.done >= run.studies), end)
    sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    return Grown(
        engine,
        run.studies,
        run.seconds,
        run.cpu_s,
        first.at_s,
        first.cpu_s,
        run.seconds - last.at_s,
        run.cpu_s - last.cpu_s,
        run.peak("pss_mb"),
        len(sizes),
        sum(sizes),
    )


def measure(settings: GrowthSettings, folder: Path) -> tuple[str, list[Grown]]:
    """Run every engine over every cohort; returns a description of the data, and the runs."""
    found, data = [], ""
    for n in settings.sizes:
        cohort = folder / f"cohort{n}"
        data = harness.draw_cohort(
            cohort, n, seed=settings.seed, slices=settings.slices, size=settings.size
        )
        for engine in settings.engines:
            out = folder / f"out-{engine}-{n}"
            words = [f"to={','.join(settings.to)}"] if settings.to else []
            if engine != "local":
                words += ["engine=ray", f"ray_workers={engine.removeprefix('ray')}"]
            run = cohort_memory.watch(cohort, out, n, settings.every, *words)
            found.append(grown(engine, run, out))
            LOG.info("%s, %d studies: %.1f s", engine, n, found[-1].seconds)
    return data, found


def rows_of(runs: Sequence[Grown]) -> list[tuple[str, ...]]:
    """The runs as a table, by engine."""
    engines = list(dict.fromkeys(run.engine for run in runs))
    return [
        (
            run.engine.replace("ray", "ray, workers: "),
            f"{run.studies}",
            f"{run.seconds:.1f}",
            f"{run.first_s:.1f}",
            f"{run.study_s * 1e3:.1f}",
            f"{run.last_s:.1f}",
            f"{run.cpu_s / run.studies * 1e3:.1f}",
            f"{run.pss_mb:.0f}",
            f"{run.bytes / run.studies / 1e3:.0f}",
        )
        for run in sorted(runs, key=lambda run: (engines.index(run.engine), run.studies))
    ]


@dataclass(frozen=True, slots=True)
class Slope:
    """The cost of one more study: the difference between two cohorts of one engine."""

    cpu_s: float
    first_cpu_s: float
    last_cpu_s: float
    pss_mb: float
    files: float
    bytes: float


def slope(small: Grown, large: Grown) -> Slope:
    """The difference between two runs, divided by that between their numbers of studies."""
    more = large.studies - small.studies
    return Slope(
        **{
            name: (getattr(large, name) - getattr(small, name)) / more
            for name in Slope.__dataclass_fields__
        }
    )


def large_rows(small: Grown, large: Grown) -> list[tuple[str, ...]]:
    """Extrapolations to large cohorts."""
    each = slope(small, large)
    return [
        (
            f"{n:,}",
            f"{each.cpu_s * n / 3600:.1f}",
            f"{max(each.first_cpu_s, 0) * n / 60:.1f}",
            f"{max(each.last_cpu_s, 0) * n / 60:.1f}",
            f"{(large.pss_mb + max(each.pss_mb, 0) * (n - large.studies)) / 1024:.1f}",
            f"{each.bytes * n / 1e9:.1f}",
            f"{each.files * n / 1e6:.2f}",
        )
        for n in LARGE
    ]


def work(settings: GrowthSettings, folder: Path) -> harness.BenchResult:
    if len(settings.sizes) < 2 or list(settings.sizes) != sorted(set(settings.sizes)):
        msg = f"sizes={','.join(map(str, settings.sizes))}: wanted at least two, each larger than"
        raise ConfigError(f"{msg} the one before, such as sizes=10,100")
    data, runs = measure(settings, folder)
    heads = (
        "engine", "studies", "s", "first, s", "a study, ms", "last, s", "processor, ms a study",
        "peak PSS, MiB", "written, kB a study",
    )  # fmt: skip
    first = [run for run in runs if run.engine == settings.engines[0]]
    large_heads = (
        "studies", "hours of one core", "list and load, min", "cohort's files, min",
        "memory, GiB", "written, GB", "files, millions",
    )  # fmt: skip
    each, enough = slope(*first[-2:]), first[-1].studies >= ENOUGH
    slopes = f"""\
With `{first[0].engine}`, from {first[-2].studies} to {first[-1].studies} studies, one more study
takes {each.cpu_s * 1e3:.1f} ms of processor time and {each.pss_mb * 1024:.1f} KiB of memory.
Of that time, {each.first_cpu_s * 1e3:.2f} ms are spent before the first study and
{each.last_cpu_s * 1e3:.2f} ms after the last. For large cohorts, this means:"""
    return harness.BenchResult(
        title="Cost by cohort size",
        about=ABOUT,
        data=data,
        packages=("torch", "ray", "pydicom"),
        tables=(
            markdown_table(heads, rows_of(runs)),
            *((slopes, markdown_table(large_heads, large_rows(*first[-2:]))) if enough else ()),
        ),
        report={"runs": [asdict(run) for run in runs], "one_more": asdict(each)},
    )


def main(words: list[str]) -> None:
    harness.run_bench(words, GrowthSettings, work, "growth")


if __name__ == "__main__":
    run_script(main)
