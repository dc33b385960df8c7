"""Shared code of the scripts on grades: structures at their labelled points, graded out of fold.

Labels are the report's (`labels` and `frames`) or a converted dataset's (`data`); `folds` is a
`fold_weights.json`, as for `pipeline val folds=`. Each study is graded by the classifier of the
fold that did not see it, at the labelled points and boxes. No detector is involved, so only the
grading is measured. Images are windowed as in the pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from spineline.classify import Classifier, CombinedClassifier, Grades, load_classifier
from spineline.classify.combined import Combination, MemberClassifier, equal_shares
from spineline.datasets.common.arrays import FloatArray, IntArray, PixelArray
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.settings import Settings, key
from spineline.datasets.crops.extract import extract_crops
from spineline.datasets.images import read_uint8_image, window_to_uint8
from spineline.datasets.labels import LEVELS, Kind
from spineline.datasets.metrics.bootstrap import DRAWS, draw_weights, interval, with_interval
from spineline.datasets.metrics.grades import (
    GradeTable,
    Metric,
    abnormal_auc,
    binary_auc,
    grade_table,
    seven_accuracy,
)
from spineline.datasets.types import Structure
from spineline.pipeline.evaluation.fold_weights import (
    FoldWeights,
    fold_by_study,
    read_fold_weights,
)
from spineline.pipeline.evaluation.stress_set import LabelledSpine
from spineline.pipeline.evaluation.tables import command_line
from spineline.pipeline.inference.ground_truth import GroundTruth, load_ground_truth
from spineline.pipeline.inference.settings import GroundTruthSettings
from spineline.weights import resolve

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "disc AUC": partial(abnormal_auc, disc=True),
        "vertebra AUC": partial(abnormal_auc, disc=False),
        "V5 AUC": partial(binary_auc, discs_only=True),
        "seven accuracy": seven_accuracy,
    }
)
"""AUC of normal against abnormal, and of V5 among discs, the only kind that can have it."""

NOT_SHOWN = ("out=", "page=", "overwrite=", "section=")


def as_one(classifier: MemberClassifier | CombinedClassifier) -> CombinedClassifier:
    """A classifier as a combination; a single classifier becomes a combination of one."""
    if isinstance(classifier, CombinedClassifier):
        return classifier
    return CombinedClassifier((classifier,), Combination(equal_shares([classifier.head])))


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSettings(Settings):
    """Keys of the scripts that grade labelled structures."""

    out: Path = key("folder for the JSON and the Markdown table")
    labels: Path | None = key("the report's labels", default=None)
    frames: Path | None = key("the report's frames", default=None)
    data: Path | None = key("converted data set, instead of labels and frames", default=None)
    part: str | None = key(
        "part of data (none: val)", default=None, choices=("train", "val", "test")
    )
    folds: tuple[Path, ...] = key("fold_weights.json of classifiers by fold")
    device: str = key("cpu, cuda or a number", default="cpu")
    draws: int = key("bootstrap draws over studies", default=DRAWS, minimum=1)
    seed: int = key("of what is drawn", default=0, minimum=0)
    page: Path | None = key("Markdown page to write a section of", default=None)
    overwrite: bool = key("replace out", default=False)


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image and its structures of the eleven levels, top to bottom.

    Attributes:
        spine: the windowed image and the points.
        structures: with box and tags.
        fold: number of the fold that did not see its study.
    """

    spine: LabelledSpine
    structures: tuple[Structure, ...]
    fold: int


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSet:
    """Labelled images, fold by fold, and the classifier of each fold.

    Attributes:
        images: in the order of the folds.
        classifiers: by fold.
        studies: names, in the order of the rows' indices.
        study: (N,) index of the study of each structure.
        kinds: of each structure.
        seven, binary: (N,) codes of the labels; -1 if unlabelled.
        left_out: images of studies that are in no fold.
    """

    images: tuple[Labelled, ...]
    classifiers: tuple[Classifier | CombinedClassifier, ...]
    studies: tuple[str, ...]
    study: IntArray
    kinds: tuple[Kind, ...]
    seven: IntArray
    binary: IntArray
    left_out: int

    def table(self, answers: Grades) -> GradeTable:
        """A table of labels and predictions."""
        labels = (self.seven, self.binary)
        return grade_table(self.study, self.kinds, labels, answers.seven, answers.binary)

    @property
    def about(self) -> str:
        """A description of the graded data."""
        labelled = int((self.seven >= 0).sum())
        left = f"; {self.left_out} images in no fold are left out" if self.left_out else ""
        return f"{len(self.studies)} studies, {labelled} labelled structures{left}"


Look = Callable[[Labelled], tuple[PixelArray, FloatArray]]
"""Maps a labelled image to the image and the boxes (N, 4) to grade."""


def as_labelled(item: Labelled) -> tuple[PixelArray, FloatArray]:
    """The unchanged image and boxes."""
    return item.spine.image, boxes_of(item.structures)


def boxes_of(structures: Sequence[Structure]) -> FloatArray:
    """(N, 4) boxes, native pixels."""
    return np.array([s.box_xyxy for s in structures], dtype=np.float64).reshape(-1, 4)


def read_labelled(settings: LabelledSettings) -> LabelledSet:
    """Labels, images, and the fold's classifier of each.

    Raises:
        ConfigError: no labels are named, a fold has no classifier, or no study is in a fold.
    """
    if settings.data is None and (settings.labels is None or settings.frames is None):
        raise ConfigError("wanted labels=… and frames=…, or data=…")
    folds = read_fold_weights(settings.folds)
    classifiers = tuple(
        load_classifier(resolve(name, task="classify").path, device=settings.device)
        for name in map(_classifier_of, folds)
    )
    truth = load_ground_truth(
        GroundTruthSettings(
            source=settings.frames,
            annotations=settings.labels,
            data=settings.data,
            part=settings.part,
        )
    )
    held = {name for fold in folds for name in (*fold.studies, *fold.study_uids)} - {None}
    kept = [t for t in truth.truths if held & {t.record.study_id, t.record.image_id,
                                               t.record.study_uid}]  # fmt: skip
    if not kept:
        raise ConfigError("folds=…: no labelled study is in one; were they made of these labels?")
    place = fold_by_study([t.record for t in kept], folds)
    images = [_labelled(t, place[t.record.study_id][0]) for t in kept]
    images.sort(key=lambda item: item.fold)
    rows = [(item.spine.patient, s) for item in images for s in item.structures]
    studies = tuple(dict.fromkeys(study for study, _ in rows))
    codes = [[s.class_in(name) for _, s in rows] for name in ("seven", "binary")]
    seven, binary = (np.array([-1 if c is None else c for c in each]) for each in codes)
    return LabelledSet(
        images=tuple(images),
        classifiers=classifiers,
        studies=studies,
        study=np.array([studies.index(study) for study, _ in rows]),
        kinds=tuple(s.kind for _, s in rows),
        seven=seven,
        binary=binary,
        left_out=len(truth.truths) - len(kept),
    )


def _classifier_of(fold: FoldWeights) -> str:
    name = fold.models.get("classifier")
    if name is None:
        raise ConfigError("folds=…: a fold names no classifier")
    return str(name)


def _labelled(truth: GroundTruth, fold: int) -> Labelled:
    record, path = truth.record, truth.case.path
    if path is None:
        raise ConfigError("wanted frames or a converted data set, found DICOM studies")
    found = [s for s in record.structures if s.level in LEVELS]
    structures = tuple(sorted(found, key=lambda s: s.point_xy[1]))
    image = window_to_uint8(read_uint8_image(path))
    points = {s.level: s.point_xy for s in structures}
    return Labelled(LabelledSpine(record.image_id, record.study_id, "labelled", image, points),
                    structures, fold)  # fmt: skip


def graded(data: LabelledSet, look: Look = as_labelled) -> Grades:
    """The predictions of each image's classifier for its structures, with known kinds."""
    sevens, binaries = [], []
    for number, classifier in enumerate(data.classifiers):
        own = [item for item in data.images if item.fold == number]
        if not own:
            continue
        grader = as_one(classifier)
        crops: list[list[PixelArray]] = [[] for _ in grader.members]
        kinds, levels = [], []
        for item in own:
            image, boxes = look(item)
            points, pixels = np.array([s.point_xy for s in item.structures]), window_to_uint8(image)
            cut = partial(extract_crops, pixels, points, boxes)
            for each, found in zip(crops, grader.cut(cut), strict=True):
                each.append(found)
            kinds += [s.kind for s in item.structures]
            levels += [LEVELS.index(s.level) for s in item.structures]
        joined = [np.concatenate(each) for each in crops]
        answers = grader.grade(joined, kinds, levels=np.array(levels))
        if answers.seven is None or answers.binary is None:
            raise ConfigError("folds=…: wanted classifiers with both heads (head=both)")
        sevens.append(answers.seven)
        binaries.append(answers.binary)
    return Grades(np.concatenate(sevens), np.concatenate(binaries))


def study_weights(data: LabelledSet, settings: LabelledSettings) -> FloatArray:
    """(draws + 1, studies) bootstrap weights."""
    return draw_weights(len(data.studies), settings.draws, seed=settings.seed)


def figure(values: FloatArray, n: int) -> dict[str, Any]:
    """A metric by bootstrap row as JSON: value, 95 % interval and count."""
    return with_interval(values, n)


def difference(stressed: FloatArray, plain: FloatArray, n: int) -> dict[str, Any]:
    """The same for a difference with shared draws, and whether its interval excludes 0."""
    found = with_interval(stressed - plain, n)
    bounds = interval(stressed - plain)
    clear = bounds is not None and bool(bounds[0] > 0 or bounds[1] < 0)
    return {**found, "clear": clear}


def signed_text(found: Mapping[str, Any]) -> str:
    """``-0.012 (-0.020 … -0.004)``; bold if the interval excludes 0."""
    if found["value"] is None:
        return "not defined"
    low, high = found["ci95"]
    text = f"{found['value']:+.3f} ({low:+.3f} … {high:+.3f})"
    return f"**{text}**" if found["clear"] else text


def command_text(script: str, settings: Settings) -> str:
    """The command of a script with the keys that differ from their defaults."""
    words = command_line("", settings).removeprefix("spineline").split()
    shown = [word for word in words if not word.startswith(NOT_SHOWN)]
    return " ".join([f"python benchmarks/{script}.py", *shown])
