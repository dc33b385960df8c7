"""The overhead of `spineline pipeline predict` over its networks, in one run.

    python benchmarks/pipeline_overhead.py [n=48] [repeats=5] [weights=default] …

`python benchmarks/pipeline_overhead.py help` lists the keys. A cohort of phantom studies is drawn,
21 files each. Arms run in turn (see `harness.py`):

- bare: every forward pass that the pipeline makes over that cohort, with the same networks and
  recorded tensors; and reading the pixels of each chosen file with pydicom;
- whole: `pipeline predict` with models loaded, from the cohort's folder to its files on disk, with
  default settings, but without worker processes (`workers=0`) and without overlays.

In addition, each step is timed separately, in milliseconds per study.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pydicom
import torch
from labelled_grades import as_one

from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table
from spineline.datasets.crops.extract import extract_crops
from spineline.datasets.dicom.pixels import read_pixels
from spineline.datasets.dicom.select import choose_slice
from spineline.datasets.dicom.study import scan
from spineline.datasets.images import window_to_uint8
from spineline.pipeline.inference.candidates import candidates_of
from spineline.pipeline.inference.decode import decode_spine
from spineline.pipeline.inference.grading import crop_boxes
from spineline.pipeline.inference.pipeline import Analysis, Pipeline, batch_size
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import Frame, load_frame
from spineline.pipeline.outputs.study_files import overlay_png, write_study
from spineline.pipeline.run import predict as command
from spineline.pipeline.run.settings import PipelinePredict

GOAL = 1.2
BARE = "bare"
ABOUT = f"""\
*Bare* replays every forward pass that the pipeline makes over the cohort (detector, level reader,
classifier), on tensors prepared beforehand, and reads the pixels of each chosen file. The other
rows are the command with models loaded, from the folder to its files on disk. The target ratio is
at most {GOAL}.
{harness.ABOUT}"""
Pass = tuple[torch.nn.Module, tuple[torch.Tensor | None, ...]]
WHOLE: dict[str, dict[str, Any]] = {
    "pipeline predict": {},
    "pipeline predict workers=0": {"workers": 0},
    "pipeline predict overlay=false": {"overlay": False},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadSettings(harness.BenchSettings):
    n: int = key("studies of the cohort", default=48, minimum=1)
    slices: int = key("slices per series, of three", default=7, minimum=1, maximum=31)
    weights: str = key("bundle, as for pipeline predict", default="default")


def kept_passes(pipeline: Pipeline, frames: list[Frame]) -> tuple[list[Pass], list[Analysis]]:
    """Record every forward pass over frames, in the command's batches, and the results."""
    passes: list[Pass] = []
    size = batch_size(pipeline.settings)
    classifier = as_one(pipeline.classifier)
    grouped = {number for numbers, _ in classifier.groups for number in numbers}
    networks = [
        pipeline.detector.network,
        *(group.network for _, group in classifier.groups),
        *(m.network for n, m in enumerate(classifier.members) if n not in grouped),
    ]
    if pipeline.namer is not None:
        networks.append(pipeline.namer.network)
    handles = [
        network.register_forward_pre_hook(
            lambda module, tensors: passes.append((module, tuple(map(_kept, tensors))))
        )
        for network in networks
    ]
    analyses = [
        analysis
        for start in range(0, len(frames), size)
        for analysis in pipeline.analyse(frames[start : start + size])
    ]
    for handle in handles:
        handle.remove()
    return passes, analyses


def _kept(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.clone()


def bare(passes: list[Pass], files: list[Path]) -> None:
    """Run only what cannot be left out."""
    for path in files:
        pydicom.dcmread(path).pixel_array  # noqa: B018 - decodes
    with torch.inference_mode():
        for network, tensors in passes:
            network(*tensors)


def steps(pipeline: Pipeline, study: Path, analysis: Analysis, folder: Path) -> dict[str, float]:
    """Milliseconds of each other step of one study than the forward passes, timed separately."""
    frame = analysis.frame
    (detections,) = pipeline.detector.detect([frame.image], confidence=0.01)
    found = analysis.spine.structures
    points = np.array([s.point_xy for s in found])
    boxes = crop_boxes(found, pipeline.settings.crop_boxes)
    pixels = read_pixels(frame.header)
    (scanned,) = scan(study)
    calls: dict[str, Callable[[], object]] = {
        "read headers": lambda: scan(study),
        "choose the slice": lambda: choose_slice(scanned),
        "read its pixels": lambda: read_pixels(frame.header),
        "window": lambda: window_to_uint8(pixels),
        "decode the spine": lambda: decode_spine(candidates_of(detections, 15)),
        "cut crops": lambda: as_one(pipeline.classifier).cut(
            partial(extract_crops, frame.image, points, boxes), [s.kind for s in found]
        ),
        "draw and pack the overlay": lambda: overlay_png(analysis),
        "write result.json": lambda: write_study(
            folder / "step", analysis, overlay=False, doubtful=0.25
        ),
    }  # fmt: skip
    found_ms = {}
    for name, call in calls.items():
        turns = [harness.timed(call) for _ in range(12)][2:]
        found_ms[name] = round(harness.median(turns, "cpu_s") * 1e3, 2)
    return found_ms


def work(settings: OverheadSettings, folder: Path) -> harness.BenchResult:
    cohort = folder / "cohort"
    data = harness.draw_cohort(cohort, settings.n, seed=settings.seed, slices=settings.slices)
    pipeline = Pipeline.from_settings(ModelSettings(weights=settings.weights, runtime="torch"))
    frames = [load_frame(case) for case in find_cases(cohort)]
    passes, analyses = kept_passes(pipeline, frames)
    files = [frame.header.path for frame in frames]
    arms: dict[str, Callable[[], object]] = {BARE: lambda: bare(passes, files)}
    for name, more in WHOLE.items():
        keys = PipelinePredict(source=cohort, out=folder / name.replace(" ", "-"), **more)
        arms[name] = harness.afresh(
            keys.out, lambda keys=keys: command.predict(keys, pipeline=pipeline)
        )
    turns = harness.take_turns(arms, settings.repeats)
    each = steps(pipeline, cohort / "study0000", analyses[0], folder)
    return harness.BenchResult(
        title="Pipeline overhead",
        about=ABOUT,
        data=data,
        packages=("torch", "ultralytics", "pydicom", "numpy", "opencv-python"),
        threads=torch.get_num_threads(),
        tables=(
            harness.arms_table(turns, BARE, "bare", studies=settings.n),
            "Time of each step of one study other than forward passes:",
            markdown_table(("step", "ms of processor"), list(each.items())),
        ),
        report={
            "goal": GOAL,
            "threads": torch.get_num_threads(),
            **harness.ratios_json(turns, BARE),
            "steps_ms": each,
            "turns": harness.turns_json(turns),
        },
    )


def main(words: list[str]) -> None:
    harness.run_bench(words, OverheadSettings, work, "pipeline_overhead")


if __name__ == "__main__":
    run_script(main)
