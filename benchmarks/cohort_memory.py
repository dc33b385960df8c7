"""Memory of `spineline pipeline predict` over a cohort, for its whole process tree.

    python benchmarks/cohort_memory.py [n=2000] …

`python benchmarks/cohort_memory.py help` lists the keys. The command runs over a tenth of the
studies, then over all of them, in separate processes. Meanwhile, the resident memory of all its
processes is summed ten times a second (Linux only): by RSS, which counts shared memory once for
each process, and by PSS, which counts it once. Memory is flat if it is no larger at the end than
after the first studies.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import harness
import psutil

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table

GOAL_MB = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings(harness.BenchSettings):
    n: int = key("studies", default=2000, minimum=10)
    repeats: int = key("one run of each size", default=1, minimum=1, maximum=1)
    slices: int = key("slices per series, of three", default=1, minimum=1, maximum=31)
    size: int = key("rows and columns of the images", default=192, minimum=128, maximum=1024)
    every: float = key("seconds between two looks", default=0.1, minimum=0.01, maximum=60)


@dataclass(frozen=True, slots=True)
class Look:
    """The process tree at one moment: studies done, processes, MiB by RSS and PSS, both clocks."""

    done: int
    processes: int
    rss_mb: float
    pss_mb: float
    at_s: float = 0.0
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """One run of the command: its studies, its time by both clocks, and its memory."""

    studies: int
    seconds: float
    looks: tuple[Look, ...]
    cpu_s: float = 0.0

    def peak(self, clock: str, first: float = 0.0, last: float = 1.0) -> float:
        """Maximum MiB while the share of processed studies was in a range."""
        among = [
            getattr(look, clock)
            for look in self.looks
            if first * self.studies <= look.done <= last * self.studies
        ]
        return max(among, default=float("nan"))


def memory_of(root: int) -> tuple[int, float, float]:
    """Number of processes in a tree, and their RSS and PSS in MiB."""
    found = []
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(root)
        for process in (top, *top.children(recursive=True)):
            with suppress(psutil.Error):  # it has ended
                memory = process.memory_full_info()
                found.append((memory.rss / 2**20, memory.pss / 2**20))
    return len(found), sum(rss for rss, _ in found), sum(pss for _, pss in found)


def processor_seconds_of(root: int) -> dict[int, float]:
    """Processor seconds of each process in a tree, by process id."""
    found = {}
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(root)
        for process in (top, *top.children(recursive=True)):
            with suppress(psutil.Error):
                times = process.cpu_times()
                found[process.pid] = times.user + times.system
    return found


def watch(source: Path, out: Path, studies: int, every: float, *more: str) -> MemoryRun:
    """Run the command, with more keys, and sample its processes until it ends."""
    words = ["pipeline", "predict", f"source={source}", f"out={out}", *more]
    start = time.monotonic()
    looks, used = [], dict[int, float]()
    with subprocess.Popen(
        [sys.executable, *harness.CLI, *words], stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            manifest = out / "manifest.jsonl"
            done = manifest.read_bytes().count(b'"done"') if manifest.exists() else 0
            used |= processor_seconds_of(process.pid)
            clocks = time.monotonic() - start, sum(used.values())
            looks.append(Look(done, *memory_of(process.pid), *clocks))
            time.sleep(every)
    if process.returncode:
        raise SpinelineError(f"the command ended with status {process.returncode}")
    return MemoryRun(studies, time.monotonic() - start, tuple(looks), sum(used.values()))


def work(settings: MemorySettings, folder: Path) -> harness.BenchResult:
    few = max(settings.n // 10, 1)
    size = {"slices": settings.slices, "size": settings.size, "seed": settings.seed}
    harness.draw_cohort(folder / "few", few, **size)
    data = harness.draw_cohort(folder / "all", settings.n, **size)
    runs = [
        watch(folder / name, folder / f"out-{name}", count, settings.every)
        for name, count in (("few", few), ("all", settings.n))
    ]
    whole = runs[-1]
    thirds = {
        f"{part} third": [whole.peak(clock, n / 3, (n + 1) / 3) for clock in ("rss_mb", "pss_mb")]
        for n, part in enumerate(("first", "second", "last"))
    }
    told = [
        {
            "studies": run.studies,
            "seconds": round(run.seconds, 2),
            "processes": max(look.processes for look in run.looks),
            "peak_rss_mb": round(run.peak("rss_mb"), 1),
            "peak_pss_mb": round(run.peak("pss_mb"), 1),
        }
        for run in runs
    ]
    rows = [
        (f"{count} studies", f"{seconds:.0f}", processes, f"{rss:.0f}", f"{pss:.0f}")
        for count, seconds, processes, rss, pss in (run.values() for run in told)
    ]
    rows += [
        (f"{whole.studies} studies, {name}", "", "", f"{rss:.0f}", f"{pss:.0f}")
        for name, (rss, pss) in thirds.items()
    ]
    heads = ("run", "seconds", "processes", "peak RSS, MiB", "peak PSS, MiB")
    return harness.BenchResult(
        title="Memory over a cohort",
        about=f"""\
The table gives the resident memory of all processes of `pipeline predict`, sampled every
{settings.every:g} s. RSS counts shared memory once for each process, PSS only once in total. The
target is less than {GOAL_MB} MiB, and no increase over ten times the studies.""",
        data=data,
        packages=("torch", "pydicom"),
        tables=(markdown_table(heads, rows),),
        report={
            "goal_mb": GOAL_MB,
            "runs": told,
            "thirds_mb": {name: [round(v, 1) for v in both] for name, both in thirds.items()},
        },
    )


def main(words: list[str]) -> None:
    harness.run_bench(words, MemorySettings, work, "cohort_memory")


if __name__ == "__main__":
    run_script(main)
