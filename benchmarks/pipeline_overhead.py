"""What `spineline pipeline predict` adds to its two networks, side by side in one run.

    python benchmarks/pipeline_overhead.py [weights=default] [repeats=30] [out=overhead.json]

A phantom study of 21 files (three series of seven slices) is drawn. In turn, as often as asked:

- bare: the detector's network on the prepared tensor, the classifier's network on the prepared
  crops, and pydicom reading the chosen file with its pixels;
- whole: `pipeline predict` with models loaded, from the study's folder to result.json, overlay.png,
  results.csv and run.yaml on disk.

Prints the medians in milliseconds, the time of each stage, and the ratio whole / bare.
"""

from __future__ import annotations

import contextlib
import json
import logging
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import torch

from spineline.datasets.crops import extract_crops
from spineline.datasets.dicom import choose_slice, scan
from spineline.detect.letterbox import letterbox
from spineline.pipeline import core, outputs, sources
from spineline.pipeline import predict as command
from spineline.pipeline.core import Pipeline
from spineline.pipeline.demo import draw_study
from spineline.pipeline.grading import crop_boxes
from spineline.pipeline.settings import ModelSettings, PipelinePredict
from spineline.pipeline.tables import machine

STAGES = {
    "scan headers": (sources, "scan"),
    "choose slice": (sources, "choose_slice"),
    "read pixels": (sources, "read_pixels"),
    "window": (sources, "window_to_uint8"),
    "decode the spine": (core, "decode_spine"),
    "cut crops": (core, "extract_crops"),
    "draw overlay": (outputs, "overlay_png"),
    "write json": (outputs, "write_json"),
    "write csv": (command, "write_results_csv"),
    "write run.yaml": (command, "write_run_record"),
}


@contextlib.contextmanager
def timed_stages(spent: dict[str, float]) -> Iterator[None]:
    """Add up the time of each stage while the block runs."""
    originals = {}
    for stage, (module, name) in STAGES.items():
        originals[stage] = getattr(module, name)

        def timed(*args, _stage=stage, _call=originals[stage], **kwargs):
            start = time.perf_counter()
            try:
                return _call(*args, **kwargs)
            finally:
                spent[_stage] += time.perf_counter() - start

        setattr(module, name, timed)
    try:
        yield
    finally:
        for stage, (module, name) in STAGES.items():
            setattr(module, name, originals[stage])


def prepare(pipeline: Pipeline, study: Path) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """The chosen file, and the tensors that the two networks get."""
    frame = sources.load_frame(sources.find_cases(study)[0])
    analysis = pipeline.analyse([frame])[0]
    found = analysis.spine.structures
    detector, classifier = pipeline.detector, pipeline.classifier
    fitted, _ = letterbox(frame.image, detector.imgsz, detector.stride)
    grey = torch.from_numpy(fitted)[None, None].float().div(255)
    image = grey.expand(-1, detector.meta.channels, -1, -1).contiguous()
    points = np.array([s.point_xy for s in found])
    boxes = crop_boxes(found, pipeline.settings.crop_boxes)
    crops = extract_crops(frame.image, points, boxes, classifier.crop)
    print(f"{len(found)} structures, image {tuple(image.shape)}, crops {crops.shape}")
    return frame.header.path, image, torch.from_numpy(crops)[:, None].float().div(255)


def clocks() -> tuple[float, float]:
    """Wall clock, and processor time of all threads (which other programs hardly disturb)."""
    return time.perf_counter(), time.process_time()


def bare(pipeline: Pipeline, path: Path, image: torch.Tensor, crops: torch.Tensor) -> None:
    """Only what cannot be left out."""
    pydicom.dcmread(path).pixel_array  # noqa: B018 - decodes
    with torch.inference_mode():
        pipeline.detector.network(image)
        pipeline.classifier.network(crops)


def main(words: list[str]) -> None:
    options = {"weights": "default", "repeats": "30", "out": ""} | dict(
        word.split("=", 1) for word in words
    )
    logging.getLogger("spineline").setLevel(logging.ERROR)
    logging.getLogger("spineline").addHandler(logging.NullHandler())
    pipeline = Pipeline.from_settings(ModelSettings(weights=options["weights"]))
    times: dict[str, list[float]] = defaultdict(list)
    spent: dict[str, float] = defaultdict(float)
    repeats = int(options["repeats"])
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        draw_study(Path(folder), 0)
        files = len(list(study.iterdir()))
        path, image, crops = prepare(pipeline, study)
        assert choose_slice(scan(study)[0]).slice.path == path
        for repeat in range(repeats + 3):  # the first three warm up
            settings = PipelinePredict(source=study, out=Path(folder) / f"out{repeat}")
            marks = [clocks()]
            bare(pipeline, path, image, crops)
            marks.append(clocks())
            with timed_stages(spent if repeat >= 3 else defaultdict(float)):
                command.predict(settings, pipeline=pipeline)
            marks.append(clocks())
            if repeat >= 3:
                for n, name in enumerate(("bare", "whole")):
                    for clock, (begin, end) in enumerate(zip(marks[n], marks[n + 1], strict=True)):
                        times[f"{name}{('', '_cpu')[clock]}"].append(end - begin)
    medians = {name: statistics.median(values) for name, values in times.items()}
    report = {
        "files": files,
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        **{f"{name}_ms": round(value * 1e3, 2) for name, value in medians.items()},
        "ratio": round(medians["whole"] / medians["bare"], 3),
        "ratio_cpu": round(medians["whole_cpu"] / medians["bare_cpu"], 3),
        "stages_mean_ms": {k: round(v / repeats * 1e3, 2) for k, v in spent.items()},
    }
    text = json.dumps(report, indent=2)
    print(text)
    if options["out"]:
        Path(options["out"]).write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
