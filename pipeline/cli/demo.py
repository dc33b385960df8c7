"""``spineline demo``: draw a phantom study, run the pipeline on it, and compare the two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spineline.datasets.common.files import check_output, staged_folder, write_json
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import recorded_command, write_run_record
from spineline.datasets.labels import encode_seven
from spineline.datasets.phantoms.phantom import draw_phantom, record_of
from spineline.datasets.phantoms.study import write_phantom_study
from spineline.datasets.tianchi import annotation_entry
from spineline.datasets.types import ImageRecord, Structure
from spineline.pipeline.cli.settings import Demo
from spineline.pipeline.inference.pipeline import Pipeline
from spineline.pipeline.inference.results import GradedStructure
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import load_frame
from spineline.pipeline.outputs.study_files import write_study

_CLOSE_PX = 8.0
_NEXT = """\
Next, use your own data: DICOM folders, volumes, archives or images:
  spineline pipeline predict source=STUDIES out=results
Review the results and correct them:
  spineline review source=results
Convert your own annotations, to train on them or to evaluate with them:
  spineline convert help
List all commands, or those about a topic:
  spineline help
  spineline help naming
README.md and docs/ of the project say more."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The outcome of the demo.

    Attributes:
        out: the folder: ``study/``, ``annotation.json``, ``result.json``, ``overlay.png``.
        distance_px: of each level from its drawn position; inf if it was not found.
        seven_right: number of levels whose seven-class grade equals the drawn one.
    """

    out: Path
    distance_px: dict[str, float]
    seven_right: int

    @property
    def close(self) -> int:
        """Number of levels closer than 8 px."""
        return sum(distance < _CLOSE_PX for distance in self.distance_px.values())


def demo(settings: Demo) -> DemoResult:
    """Draw one phantom study, find and grade its levels, and report how far off they are.

    Raises:
        OutputExistsError: ``out`` holds something other than an earlier demo.
        SpinelineError: it cannot be written, or the weights cannot be loaded.
    """
    overwrite = settings.overwrite or recorded_command(settings.out) == "spineline demo"
    check_output(settings.out, overwrite=overwrite)
    LOG.info("loading the models and drawing a phantom study (seed %d)", settings.seed)
    pipeline = Pipeline.from_settings(
        ModelSettings(weights=settings.weights, device=settings.device)
    )
    with staged_folder(settings.out, overwrite=overwrite) as stage:
        drawn = draw_study(stage, settings.seed)
        (case,) = find_cases(stage / "study", slices=pipeline.settings.slices)
        analysis = pipeline.analyse([load_frame(case)])[0]
        write_study(stage, analysis, overlay=True, doubtful=pipeline.settings.confidence)
        write_run_record(stage, "demo", settings, runtime=pipeline.runtime)
    result = compare_with_drawn(settings.out, drawn.structures, analysis.result.structures)
    for note in analysis.frame.notes:
        LOG.info("  %s", note)
    for warning in analysis.result.warnings:
        LOG.warning("%s", warning)
    _log_summary(result)
    return result


def draw_study(folder: Path, seed: int) -> ImageRecord:
    """Write a phantom's DICOM study and its annotation; return the annotation as a record."""
    phantom = draw_phantom(np.random.default_rng([seed, 0]))
    record = record_of(phantom, "000-000")
    placed = write_phantom_study(folder / "study", phantom, record, identity=f"{seed}.0")
    write_json(folder / "annotation.json", [annotation_entry(placed, 3)])
    return placed


def compare_with_drawn(
    out: Path, drawn: Sequence[Structure], found: Sequence[GradedStructure]
) -> DemoResult:
    """Distances of the found levels from their drawn positions, and the count of correct grades."""
    by_level = {structure.level: structure for structure in found}
    distance_px = dict.fromkeys((label.level for label in drawn), math.inf)
    right = 0
    for label in drawn:
        structure = by_level.get(label.level)
        if structure is None:
            continue
        distance_px[label.level] = math.dist(label.point_xy, structure.point_xy)
        seven = encode_seven(label.kind, label.pathology)
        right += structure.seven is not None and structure.seven.class_index == seven
    return DemoResult(out, distance_px, right)


def _log_summary(result: DemoResult) -> None:
    for level, distance in result.distance_px.items():
        off = "not found" if math.isinf(distance) else f"{distance:4.1f} px from where it was drawn"
        LOG.info("  %-7s %s", level, off)
    count = len(result.distance_px)
    LOG.info("%d of %d levels within %g px", result.close, count, _CLOSE_PX)
    LOG.info(
        "%d of %d grades as drawn: the classifier was trained on real MR, not drawings, so the "
        "grades of a phantom only show what an answer looks like",
        result.seven_right,
        count,
    )
    LOG.info("look at %s", result.out / "overlay.png")
    LOG.info("the rest is in %s: result.json, the DICOM study, its annotation", result.out)
    LOG.info("\n%s", _NEXT)
