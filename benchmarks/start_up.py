"""How long spineline takes to start: help, the import of the package, the first study.

    python benchmarks/start_up.py [repeats=5] …

`python benchmarks/start_up.py help` lists the keys. Each arm is a process of its own, from its
start to its end; arms take turns. Beside ours: an empty Python, the import of torch alone, and the
imports that a script of one's own begins with (torch, ultralytics' YOLO, timm, pydicom, OpenCV and
matplotlib), before it has done anything. Files are in the disk's cache after the first round, which
stands apart.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from cohorts import draw_cohort
from turns import (
    ABOUT,
    CLI,
    BenchSettings,
    Turn,
    afresh,
    facts,
    median,
    process,
    run_bench,
    take_turns,
    turns_json,
)

from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.tables import markdown_table

GOALS = {"spineline help": 0.5, "spineline pipeline predict": 10.0}
IMPORTS = "import torch, timm, pydicom, cv2, matplotlib.pyplot; from ultralytics import YOLO"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSettings(BenchSettings):
    pass


def work(settings: StartSettings, folder: Path) -> tuple[dict[str, Any], str]:
    data = draw_cohort(folder / "cohort", 1, seed=settings.seed)
    out = folder / "out"
    study = process(*CLI, "pipeline", "predict", f"source={folder / 'cohort'}", f"out={out}")
    arms: dict[str, Callable[[], object]] = {
        "an empty Python": process("-c", "pass"),
        "spineline help": process(*CLI, "help"),
        "import spineline.pipeline": process("-c", "import spineline.pipeline"),
        "spineline pipeline predict": afresh(out, study),
        "import torch": process("-c", "import torch"),
        "imports of a script of one's own": process("-c", IMPORTS),
    }
    first = take_turns(arms, 1, warm=0)
    turns = take_turns(arms, settings.repeats, warm=0)
    report = {"goals": GOALS, "data": data, "first": turns_json(first), "turns": turns_json(turns)}
    return report, section_text(settings, data, first, turns)


def section_text(
    settings: StartSettings, data: str, first: dict[str, list[Turn]], turns: dict[str, list[Turn]]
) -> str:
    rows = [
        (
            f"`{name}`" if name.startswith(("spineline", "import ")) else name,
            f"{median(all_):.2f}",
            f"{min(t.wall_s for t in all_):.2f}",
            f"{median(all_, 'cpu_s'):.2f}",
            f"{first[name][0].wall_s:.2f}",
            f"{GOALS[name]:g}" if name in GOALS else "",
        )
        for name, all_ in turns.items()
    ]
    heads = ("process", "seconds", "least", "of processor", "first round", "wanted")
    return f"""## From a cold start

Each is a process of its own, from its start to its end; the study is a whole `pipeline predict`
from DICOM files to files on disk. The first
round, which fills the disk's cache, stands apart.
{ABOUT}

{facts("start_up", settings, data, ("torch", "ultralytics", "timm", "pydicom"))}

{markdown_table(heads, rows)}
"""


def main(words: list[str]) -> None:
    run_bench(words, StartSettings, work, "start-up")


if __name__ == "__main__":
    run_script(main)
