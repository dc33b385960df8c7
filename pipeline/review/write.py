"""``spineline pipeline write``: outputs of corrected results, without networks."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from spineline.datasets.common.errors import AnnotationError, SpinelineError
from spineline.datasets.common.files import check_output, staged_folder
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.common.settings import refuse_output_around
from spineline.datasets.labels import EXTRA_LEVELS, LEVELS
from spineline.pipeline.inference.candidates import DecodedStructure
from spineline.pipeline.inference.decode import DecodedSpine
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import GradedStructure, StudyResult
from spineline.pipeline.inference.sources.frame import Frame, load_frame
from spineline.pipeline.outputs.settings import OutputSettings
from spineline.pipeline.outputs.study_files import (
    log_lines,
    write_log,
    write_results_csv,
    write_study,
)
from spineline.pipeline.outputs.writers import write_cohort_extras, write_study_extras
from spineline.pipeline.review.folder import CorrectedStudy, corrected_studies, results_folder
from spineline.pipeline.review.images import ResultImages
from spineline.pipeline.review.settings import PipelineWrite
from spineline.pipeline.run.engines import Failure
from spineline.pipeline.run.predict import StoredResults


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The output: the folder, the names of the studies, and the failures."""

    out: Path
    studies: tuple[str, ...]
    failures: tuple[Failure, ...]


def write(settings: PipelineWrite) -> WriteResult:
    """Run ``spineline pipeline write``.

    Raises:
        AnnotationError: the source holds no results, or none that was selected.
        OutputExistsError: ``out`` exists and ``overwrite`` is not set.
    """
    refuse_output_around(settings)
    check_output(settings.out, overwrite=settings.overwrite)
    results = results_folder(settings.source)
    corrected, failures, lines, done = 0, [], [], []
    with ExitStack() as stack:
        images = ResultImages(results, settings.images, stack)
        if images.problem:
            raise AnnotationError(
                f"source={settings.source}: there are no images: {images.problem}"
            )
        stage = stack.enter_context(staged_folder(settings.out, overwrite=settings.overwrite))
        outputs = OutputSettings(source=results, to=settings.to, overlay=settings.overlay)
        for study in corrected_studies(results):
            if isinstance(study, Failure):
                failures.append(study)
                continue
            if settings.studies == "reviewed" and not study.looked_at:
                continue
            folder = stage / study.name
            folder.mkdir()
            try:
                analysis = _analysis_of(study, images)
                write_study(folder, analysis, overlay=outputs.overlay, doubtful=outputs.confidence)
                write_study_extras(folder, analysis, outputs)
            except SpinelineError as error:
                shutil.rmtree(folder)
                failures.append(Failure(study.name, str(error), "reading"))
                continue
            write_log(folder, log_lines(study.name, analysis))
            lines += log_lines(study.name, analysis)
            done.append(study.name)
            corrected += study.corrections is not None
        if not done and not failures:
            raise AnnotationError(f"source={settings.source}: no study in it has been reviewed")
        stored = StoredResults(stage, done)
        write_results_csv(stage / "results.csv", stored, [each.name for each in failures])
        write_cohort_extras(stage, stored, [(f.name, f.reason) for f in failures], outputs)
        write_log(stage, [*lines, *map(str, failures)])
        write_run_record(stage, "pipeline write", settings)
    for failure in failures:
        LOG.error("error: %s", failure)
    what = "study" if len(done) == 1 else "studies"
    text = "%d %s written, %d of them corrected, %d failed; outputs in %s"
    LOG.info(text, len(done), what, corrected, len(failures), settings.out)
    return WriteResult(settings.out, tuple(done), tuple(failures))


def _analysis_of(study: CorrectedStudy, images: ResultImages) -> Analysis:
    """A corrected result with its frame, in the form of the pipeline's output."""
    result = StudyResult.from_json(study.corrected)
    located = images.located(study.name, result)
    frame = replace(load_frame(located.graded_case()), name=study.name)
    placed = tuple(_placed(frame, structure) for structure in result.structures)
    _check_order(placed)
    missing = tuple((level, "no_candidate") for level in result.missing_levels)
    spine = DecodedSpine(placed, missing, naming=result.naming)  # type: ignore[arg-type]
    return Analysis(frame, spine, result)


def _check_order(placed: Sequence[DecodedStructure]) -> None:
    """Refuse points that were moved past a neighbour, as conversion does."""
    order = (*EXTRA_LEVELS, *LEVELS)
    ranked = sorted(placed, key=lambda structure: order.index(structure.level))
    for above, below in pairwise(ranked):
        if not above.point_xy[1] < below.point_xy[1]:
            msg = f"{below.level} does not lie below {above.level}"
            raise AnnotationError(f"{msg}; move one of them, or rename it, in spineline review")


def _placed(frame: Frame, structure: GradedStructure) -> DecodedStructure:
    """A structure in the coordinates of the upright frame."""
    corners = np.array(structure.box_xyxy).reshape(2, 2)
    (x, y), *shown = frame.turn.from_native(np.array([structure.point_xy, *corners])).tolist()
    (left, top), (right, bottom) = np.min(shown, axis=0).tolist(), np.max(shown, axis=0).tolist()
    box = left, top, right, bottom
    return DecodedStructure(structure.level, structure.kind, (x, y), box, structure.confidence)
