"""Start-up time of spineline: help, import of the package, and the first study.

    python benchmarks/start_up.py [repeats=5] …

`python benchmarks/start_up.py help` lists the keys. Each arm is a process, measured from its start
to its end; arms run in turn. For comparison: an empty Python, the import of torch alone, and the
imports at the start of a typical script (torch, ultralytics' YOLO, timm, pydicom, OpenCV and
matplotlib). Files are in the disk's cache after the first round, which is shown separately.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import harness

from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.tables import markdown_table

GOALS = {"spineline help": 0.5, "spineline pipeline predict": 10.0}
IMPORTS = "import torch, timm, pydicom, cv2, matplotlib.pyplot; from ultralytics import YOLO"
ABOUT = f"""\
Each row is a separate process, from its start to its end. The study is a whole `pipeline predict`,
from DICOM files to files on disk. The first round, which fills the disk cache, is shown separately.
{harness.ABOUT}"""


def work(settings: harness.BenchSettings, folder: Path) -> harness.BenchResult:
    cohort, out = folder / "cohort", folder / "out"
    data = harness.draw_cohort(cohort, 1, seed=settings.seed)
    process, cli = harness.process, harness.CLI
    study = process(*cli, "pipeline", "predict", f"source={cohort}", f"out={out}")
    arms: dict[str, Callable[[], object]] = {
        "an empty Python": process("-c", "pass"),
        "spineline help": process(*cli, "help"),
        "import spineline.pipeline": process("-c", "import spineline.pipeline"),
        "spineline pipeline predict": harness.afresh(out, study),
        "import torch": process("-c", "import torch"),
        "imports of a script of one's own": process("-c", IMPORTS),
    }
    first = harness.take_turns(arms, 1, warm=0)
    turns = harness.take_turns(arms, settings.repeats, warm=0)
    rows = [
        (
            f"`{name}`" if name.startswith(("spineline", "import ")) else name,
            f"{harness.median(all_):.2f}",
            f"{min(t.wall_s for t in all_):.2f}",
            f"{harness.median(all_, 'cpu_s'):.2f}",
            f"{first[name][0].wall_s:.2f}",
            f"{GOALS[name]:g}" if name in GOALS else "",
        )
        for name, all_ in turns.items()
    ]
    heads = ("process", "seconds", "least", "of processor", "first round", "wanted")
    return harness.BenchResult(
        title="From a cold start",
        about=ABOUT,
        data=data,
        packages=("torch", "ultralytics", "timm", "pydicom"),
        tables=(markdown_table(heads, rows),),
        report={
            "goals": GOALS,
            "first": harness.turns_json(first),
            "turns": harness.turns_json(turns),
        },
    )


def main(words: list[str]) -> None:
    harness.run_bench(words, harness.BenchSettings, work, "start_up")


if __name__ == "__main__":
    run_script(main)
