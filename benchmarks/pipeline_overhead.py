"""What `spineline pipeline predict` adds to its networks, side by side in one run.

    python benchmarks/pipeline_overhead.py [n=48] [repeats=5] [weights=default] …

`python benchmarks/pipeline_overhead.py help` lists the keys. A cohort of phantom studies is drawn,
21 files each. Arms take turns (see `turns.py`):

- bare: every forward pass that the pipeline makes over that cohort, of the same networks on the
  same tensors, kept beforehand; and pydicom reading the pixels of each chosen file;
- whole: `pipeline predict` with models loaded, from the cohort's folder to its files on disk, as
  it comes, without worker processes (`workers=0`), and without overlays.

Beside these, each step is timed by itself, in milliseconds per study.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch

sys.path.insert(0, str(Path(__file__).parent))

from cohorts import draw_cohort
from turns import (
    ABOUT,
    BenchSettings,
    Turn,
    facts,
    median,
    ratio,
    run_bench,
    take_turns,
    timed,
    turns_json,
)

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
from spineline.pipeline.inference.sources import Frame, find_cases, load_frame
from spineline.pipeline.outputs.study_files import overlay_png, write_study
from spineline.pipeline.run import predict as command
from spineline.pipeline.run.settings import PipelinePredict

GOAL = 1.2
Pass = tuple[torch.nn.Module, torch.Tensor]
WHOLE: dict[str, dict[str, Any]] = {
    "pipeline predict": {},
    "pipeline predict workers=0": {"workers": 0},
    "pipeline predict overlay=false": {"overlay": False},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadSettings(BenchSettings):
    n: int = key("studies of the cohort", default=48, minimum=1)
    slices: int = key("slices per series, of three", default=7, minimum=1, maximum=31)
    weights: str = key("bundle, as for pipeline predict", default="default")


def kept_passes(pipeline: Pipeline, frames: list[Frame]) -> tuple[list[Pass], list[Analysis]]:
    """Every forward pass over frames, in batches as the command makes them, and what came of it."""
    passes: list[Pass] = []
    size = batch_size(pipeline.settings)
    networks = [pipeline.detector.network, pipeline.classifier.network]
    if pipeline.namer is not None:
        networks.append(pipeline.namer.network)
    handles = [
        network.register_forward_pre_hook(
            lambda module, tensors: passes.append((module, tensors[0].clone()))
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


def bare(passes: list[Pass], files: list[Path]) -> None:
    """Only what cannot be left out."""
    for path in files:
        pydicom.dcmread(path).pixel_array  # noqa: B018 - decodes
    with torch.inference_mode():
        for network, tensor in passes:
            network(tensor)


def whole(
    pipeline: Pipeline, cohort: Path, folder: Path, more: dict[str, Any]
) -> Callable[[], None]:
    """The command over the cohort, into a folder that is new each time."""
    out = folder / f"out{len(list(folder.iterdir()))}"
    out.mkdir()

    def run() -> None:
        shutil.rmtree(out)
        command.predict(PipelinePredict(source=cohort, out=out, **more), pipeline=pipeline)

    return run


def steps(pipeline: Pipeline, study: Path, analysis: Analysis, folder: Path) -> dict[str, float]:
    """Milliseconds of each step of one study that is no forward pass, each by itself."""
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
        "cut crops": lambda: extract_crops(
            frame.image, points, boxes, pipeline.classifier.crop
        ),
        "draw and pack the overlay": lambda: overlay_png(analysis),
        "write result.json": lambda: write_study(
            folder / "step", analysis, overlay=False, doubtful=0.25
        ),
    }  # fmt: skip
    found_ms = {}
    for name, call in calls.items():
        turns = [timed(call) for _ in range(12)][2:]
        found_ms[name] = round(median(turns, "cpu_s") * 1e3, 2)
    return found_ms


def work(settings: OverheadSettings, folder: Path) -> tuple[dict[str, Any], str]:
    cohort, outs = folder / "cohort", folder / "outs"
    data = draw_cohort(cohort, settings.n, seed=settings.seed, slices=settings.slices)
    outs.mkdir()
    pipeline = Pipeline.from_settings(ModelSettings(weights=settings.weights))
    frames = [load_frame(case) for case in find_cases(cohort)]
    passes, analyses = kept_passes(pipeline, frames)
    files = [frame.header.path for frame in frames]
    arms: dict[str, Callable[[], object]] = {"bare": lambda: bare(passes, files)}
    for name, more in WHOLE.items():
        arms[name] = whole(pipeline, cohort, outs, more)
    turns = take_turns(arms, settings.repeats)
    each = steps(pipeline, cohort / "study0000", analyses[0], folder)
    report = {
        "goal": GOAL,
        "data": data,
        "threads": torch.get_num_threads(),
        "ratio": {n: ratio(turns[n], turns["bare"]).to_json() for n in WHOLE},
        "ratio_cpu": {n: ratio(turns[n], turns["bare"], "cpu_s").to_json() for n in WHOLE},
        "steps_ms": each,
        "turns": turns_json(turns),
    }
    return report, section_text(settings, data, turns, each)


def section_text(
    settings: OverheadSettings, data: str, turns: dict[str, list[Turn]], each: dict[str, float]
) -> str:
    def ms(name: str) -> str:
        return f"{median(turns[name]) / settings.n * 1e3:.1f}"

    rows = [("bare passes of the same networks", ms("bare"), "1", "1")]
    rows += [
        (
            f"`{name}`",
            ms(name),
            str(ratio(turns[name], turns["bare"])),
            str(ratio(turns[name], turns["bare"], "cpu_s")),
        )
        for name in WHOLE
    ]
    packages = ("torch", "ultralytics", "pydicom", "numpy", "opencv-python")
    table = markdown_table(("arm", "ms per study", "by bare", "by bare, processor time"), rows)
    table_of_steps = markdown_table(("step", "ms of processor"), list(each.items()))
    return f"""## What the pipeline adds to its networks

*Bare* replays every forward pass that the pipeline makes over the cohort (detector, namer,
classifier), on tensors prepared beforehand, and reads the pixels of each chosen file; the others
are the command with models loaded, from the folder to its files on disk. Wanted is {GOAL} at most.
{ABOUT}

{facts("pipeline_overhead", settings, data, packages, threads=torch.get_num_threads())}

{table}

Each step of one study that is no forward pass, by itself:

{table_of_steps}
"""


def main(words: list[str]) -> None:
    run_bench(words, OverheadSettings, work, "pipeline-overhead")


if __name__ == "__main__":
    run_script(main)
