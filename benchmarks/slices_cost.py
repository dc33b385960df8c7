"""The cost of `slices=auto` relative to `slices=1`; `against.py` compares with another version.

    python benchmarks/slices_cost.py [n=16] [repeats=9] [source=STUDIES] …

`python benchmarks/slices_cost.py help` lists the keys. Every arm is a process with its models
loaded, which computes in one thread. In each round, it analyses every study (`Pipeline.predict`:
from the study's folder to its result, nothing written), and returns the processor time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key

GOAL = 1.5
ABOUT = f"""\
Each variant is a process that calls `Pipeline.predict` for every study of the cohort, with one
thread. The target for `slices=auto` is at most {GOAL} times the processor time of one slice.
{harness.ABOUT}"""
ANSWERING = """
import json, sys, time
from pathlib import Path
from spineline.pipeline import Pipeline
keys, studies = json.loads(sys.argv[1]), sorted(Path(sys.argv[2]).iterdir())
pipeline = Pipeline.load(**keys)
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    results = [pipeline.predict(study) for study in studies]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    seen = [getattr(result, "slices", None) for result in results]
    looked = [1 if s is None else len(s.looked_at) + s.other_series for s in seen]
    print(json.dumps([wall, cpu, sum(looked)]), flush=True)
"""
"""The program of an arm's process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicesCostSettings(harness.BenchSettings):
    repeats: int = key("rounds, after one that warms up", default=9, minimum=1)
    n: int = key("phantom studies, where there is no source", default=16, minimum=1)
    source: Path | None = key("folder of study folders, instead of phantoms", default=None)
    weights: str = key("bundle, as for pipeline predict", default="default")


class Arm:
    """A process that returns the time of a cohort on request."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.looks = 0

    def answer(self) -> Any:
        """Its next line.

        Raises:
            SpinelineError: it ended instead.
        """
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise SpinelineError("an arm ended without an answer; its error stands above")
        return json.loads(line)

    def turn(self) -> harness.Turn:
        """Run the cohort once."""
        if self.process.stdin is not None:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        wall_s, cpu_s, self.looks = self.answer()
        return harness.Turn(wall_s, cpu_s)


@contextmanager
def arm(studies: Path, keys: dict[str, Any]) -> Iterator[Arm]:
    """A process with models loaded."""
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    words = (sys.executable, "-P", "-c", ANSWERING, json.dumps(keys), str(studies))
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **one}
    )
    try:
        made = Arm(process)
        made.answer()
        yield made
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait()


def work(settings: SlicesCostSettings, folder: Path) -> harness.BenchResult:
    if settings.source is None:
        studies = folder / "cohort"
        data = harness.draw_cohort(studies, settings.n, seed=settings.seed)
    else:
        studies = settings.source.resolve()
        data = f"{len(list(studies.iterdir()))} studies of {studies.name}"
    under, arms = "slices=1", (1, "auto")
    with ExitStack() as stack:
        running = {
            f"slices={n}": stack.enter_context(
                arm(studies, {"weights": settings.weights, "slices": n})
            )
            for n in arms
        }
        calls: dict[str, Callable[[], object]] = {name: a.turn for name, a in running.items()}
        turns = harness.take_turns(calls, settings.repeats, measure=lambda turn: turn())
        looks = {name: each.looks for name, each in running.items()}
    count = len(list(studies.iterdir()))
    return harness.BenchResult(
        title="Cost of several slices",
        about=ABOUT,
        data=data,
        packages=("torch", "ultralytics", "pydicom", "numpy", "opencv-python"),
        threads=1,
        tables=(
            harness.arms_table(turns, under, under, studies=count),
            f"{median_of_medians(turns, under)}.",
            f"Images read: {looks['slices=auto'] / count:.2f} per study.",
        ),
        report={
            "goal": GOAL,
            "looks": looks,
            **harness.ratios_json(turns, under),
            "turns": harness.turns_json(turns),
        },
    )


def median_of_medians(turns: dict[str, list[harness.Turn]], under: str) -> str:
    """The ratio of the medians of processor time, in words."""
    medians: Sequence[float] = [
        harness.median(turns[name], "cpu_s") for name in ("slices=auto", under)
    ]
    return f"`slices=auto` by {under}, medians of processor time: {medians[0] / medians[1]:.2f}"


def main(words: list[str]) -> None:
    harness.run_bench(words, SlicesCostSettings, work, "slices_cost")


if __name__ == "__main__":
    run_script(main)
