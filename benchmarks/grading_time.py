"""Time to grade the eleven crops of a spine on one thread.

    python benchmarks/grading_time.py [classifiers=A,B] [repeats=30] …

`python benchmarks/grading_time.py help` lists the keys. Each classifier runs alone, and all of them
combined if there are several single ones; arms run in turn. Crops are cut from phantoms beforehand.
To compare two versions, run each version's own script.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import harness
import numpy as np

from spineline.datasets.common.arrays import BoolArray
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table

LEVELS_OF_A_SPINE = np.arange(11)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradingTimeSettings(harness.BenchSettings):
    """Keys of this script."""

    classifiers: tuple[str, ...] = key(
        "registry names or files", default=("lumbar-gradients", "lumbar-grades")
    )
    repeats: int = key("rounds, after one that warms up", default=30, minimum=1)


def work(settings: GradingTimeSettings, _folder: Path) -> harness.BenchResult:
    import torch

    from spineline.classify import CombinedClassifier, load_classifier
    from spineline.datasets.crops.extract import extract_crops
    from spineline.datasets.crops.spec import CropSpec
    from spineline.datasets.phantoms.phantom import draw_spine
    from spineline.weights import resolve_classifiers

    threads = torch.get_num_threads()
    spine = draw_spine(settings.seed, (448, 448))
    points = np.array([s.point_xy for s in spine.record.structures])
    boxes = np.array([s.box_xyxy for s in spine.record.structures])

    kinds = [s.kind for s in spine.record.structures]

    def cut(spec: CropSpec, only: BoolArray | None = None) -> np.ndarray:
        return extract_crops(spine.pixels, points, boxes, spec, only)

    files = resolve_classifiers(settings.classifiers)
    loaded = {file.name: load_classifier(file.path) for file in files}
    if len(files) > 1 and not any(isinstance(c, CombinedClassifier) for c in loaded.values()):
        loaded["all as one"] = load_classifier([file.path for file in files])
    arms = {}
    for name, found in loaded.items():
        several = isinstance(found, CombinedClassifier)
        crops = found.cut(cut, kinds) if several else cut(found.crop)
        arms[name] = partial(found.grade, crops, kinds, levels=LEVELS_OF_A_SPINE)
    try:
        torch.set_num_threads(1)
        turns = harness.take_turns(arms, settings.repeats)
    finally:
        torch.set_num_threads(threads)
    rows = [
        (
            name,
            *(f"{harness.median(all_, clock) * 1e3:.1f}" for clock in harness.CLOCKS),
            f"{min(turn.cpu_s for turn in all_) * 1e3:.1f}",
        )
        for name, all_ in turns.items()
    ]
    return harness.BenchResult(
        title="Grading eleven crops",
        about="Crops of one spine, cut beforehand; networks have one thread.",
        data=f"one phantom, {len(points)} crops",
        packages=("torch", "timm"),
        threads=1,
        tables=(markdown_table(("classifier", "ms", "ms of processor", "least of it"), rows),),
        report={"turns": harness.turns_json(turns)},
    )


def main(words: list[str]) -> None:
    harness.run_bench(words, GradingTimeSettings, work, "grading_time")


if __name__ == "__main__":
    run_script(main)
