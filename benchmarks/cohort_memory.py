"""Memory of `spineline pipeline predict` over a cohort: of the whole tree of its processes.

    python benchmarks/cohort_memory.py [n=2000] …

`python benchmarks/cohort_memory.py help` lists the keys. The command runs over a tenth of the
studies, then over all of them, in processes of its own. Meanwhile the resident memory of all its
processes is added up ten times a second (Linux alone): by RSS, which counts what they share once
for each, and by PSS, which counts it once. Flat means: no more at the end than after the first.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import harness

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table

GOAL_MB = 2048
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings(harness.BenchSettings):
    n: int = key("studies", default=2000, minimum=10)
    repeats: int = key("one run of each size", default=1, minimum=1, maximum=1)
    slices: int = key("slices per series, of three", default=1, minimum=1, maximum=31)
    size: int = key("rows and columns of the images", default=192, minimum=128, maximum=1024)
    every: float = key("seconds between two looks", default=0.1, minimum=0.01, maximum=60)


@dataclass(frozen=True, slots=True)
class Look:
    """The process tree at one moment: studies done, processes, MiB by RSS and by PSS."""

    done: int
    processes: int
    rss_mb: float
    pss_mb: float


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """One run of the command."""

    studies: int
    seconds: float
    looks: tuple[Look, ...]

    def peak(self, clock: str, first: float = 0.0, last: float = 1.0) -> float:
        """Most MiB while the share of studies done was between two."""
        among = [
            getattr(look, clock)
            for look in self.looks
            if first * self.studies <= look.done <= last * self.studies
        ]
        return max(among, default=float("nan"))


def tree_of(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def memory_of(process: int) -> tuple[float, float]:
    """RSS and PSS in MiB; nothing of a process that has ended."""
    try:
        lines = (_PROC / str(process) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    found = {line.split()[0]: float(line.split()[1]) / 1024 for line in lines[1:]}
    return found.get("Rss:", 0.0), found.get("Pss:", 0.0)


def done_in(out: Path) -> int:
    """Studies that the command says it has done."""
    manifest = out / "manifest.jsonl"
    try:
        return manifest.read_bytes().count(b'"done"')
    except OSError:
        return 0


def watch(source: Path, out: Path, studies: int, every: float) -> MemoryRun:
    """Run the command and look at its memory until it ends."""
    words = ["pipeline", "predict", f"source={source}", f"out={out}"]
    start = time.monotonic()
    looks = []
    with subprocess.Popen(
        [sys.executable, *harness.CLI, *words], stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            tree = tree_of(process.pid)
            both = [memory_of(one) for one in tree]
            rss, pss = (sum(column) for column in zip(*both, strict=True))
            looks.append(Look(done_in(out), len(tree), rss, pss))
            time.sleep(every)
    if process.returncode:
        raise SpinelineError(f"the command ended with status {process.returncode}")
    return MemoryRun(studies, time.monotonic() - start, tuple(looks))


def work(settings: MemorySettings, folder: Path) -> harness.Found:
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
    return harness.Found(
        title="Memory over a cohort",
        about=f"""\
Resident memory of all processes of `pipeline predict`, looked at every {settings.every:g} s: by
RSS, which counts what processes share once for each of them, and by PSS, which counts it once.
Wanted: under {GOAL_MB} MiB, and no more over ten times the studies.""",
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
