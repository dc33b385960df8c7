"""What is cross-validated: variants of a detector or of a classifier, or recipes of a pipeline.

A task defines its variants, how one is trained on a fold, and how out-of-fold predictions become
metrics. [spineline.pipeline.kfold.kfold][] does the rest, which is common to all tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import yaml

from spineline.classify.settings import ClassifyTrain
from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.common.files import write_text
from spineline.datasets.common.log import LOG
from spineline.datasets.common.settings import parse_settings
from spineline.datasets.dataset import load_dataset
from spineline.datasets.splits import Part, write_manifest
from spineline.detect.recipe import OFF, switched_off
from spineline.detect.settings import DetectTrain
from spineline.pipeline.evaluation.settings import PipelineVal
from spineline.pipeline.evaluation.val import val
from spineline.pipeline.kfold.folds import Folds
from spineline.pipeline.kfold.jobs import SCORES, ClassifyJob, DetectJob, FoldJob, PipelineJob
from spineline.pipeline.kfold.out_of_fold import (
    Metrics,
    pool_detections,
    pool_grades,
)
from spineline.pipeline.kfold.settings import (
    CLASSIFY_VARIANTS,
    DETECT_VARIANTS,
    NOT_OF_A_VARIANT,
)
from spineline.pipeline.kfold.table import flat_metrics
from spineline.pipeline.kfold.variants import Variant, check_name, keys_text, named_variants
from spineline.pipeline.run.predict import Failure
from spineline.pipeline.training.settings import PipelineTrain
from spineline.pipeline.training.train import (
    BUNDLE_RECIPES,
    check_initial_weights,
    check_labels,
    check_recipe,
    classify_recipe,
    load_bundle_recipe,
    resolved_training,
    weights_in,
)

RECIPE_FILE = "recipe.yaml"
"""File in a recipe's folder with all keys of its trainings."""


class KfoldTask(ABC):
    """A command of ``spineline kfold`` with its settings."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @abstractmethod
    def variants(self) -> tuple[Variant, ...]:
        """The requested variants, in order.

        Raises:
            ConfigError: no such variant or file, a name twice, or keys that no training has.
        """

    @abstractmethod
    def check(self, variants: Sequence[Variant]) -> None:
        """Refuse equal variants, and whatever a training would refuse, before anything is trained.

        Raises:
            ConfigError: names the variant.
        """

    @abstractmethod
    def metric(self, folds: Folds, variants: Sequence[Variant]) -> tuple[str, ...]:
        """The metrics of the table: the requested ones, or the defaults.

        Raises:
            ConfigError: a metric that these folds cannot have.
            AnnotationError: folds without anything to train on.
        """

    @abstractmethod
    def job(self, variant: Variant, fold: int, data: Path) -> FoldJob:
        """The training of a variant on a fold, and its scoring."""

    @abstractmethod
    def pool(self, folds: Folds, jobs: Sequence[FoldJob]) -> tuple[Metrics, tuple[Failure, ...]]:
        """The metrics of a variant's out-of-fold predictions, which are also written.

        Returns:
            The metrics, and the studies that failed and count as missed.
        """

    @abstractmethod
    def models(self, job: FoldJob) -> dict[str, str]:
        """The files of a fold's networks by role, relative to the variant's folder."""

    def begin(self, variants: Sequence[Variant]) -> None:  # noqa: B027 (most write nothing)
        """Write the files that the trainings of the variants read."""

    def folder(self, variant: Variant, fold: int) -> Path:
        """The run folder of a training."""
        path: Path = self.settings.out / variant.name / f"fold{fold}"
        return path


class OneStageTask(KfoldTask):
    """Variants of one network's training, which differ in some keys."""

    train_class: ClassVar[type[DetectTrain | ClassifyTrain]]
    job_class: ClassVar[type[FoldJob]]
    built_in: ClassVar[Mapping[str, Mapping[str, object]]]
    network: ClassVar[str]
    pool_scores: ClassVar[Callable[..., Metrics]]

    def variants(self) -> tuple[Variant, ...]:
        """See [KfoldTask][]."""
        found: dict[str, Variant] = {}
        for word in self.settings.variants:
            for variant in named_variants(word, self.built_in):
                if variant.name in found:
                    raise ConfigError(f"variants={word}: {variant.name} is named twice")
                self._keys(variant, f"variants={word}, {variant.name}")
                found[variant.name] = variant
        if not found:
            allowed = ", ".join(self.built_in)
            raise ConfigError(f"variants=: names nothing; allowed: {allowed}, or a file")
        return tuple(found.values())

    def check(self, variants: Sequence[Variant]) -> None:
        """See [KfoldTask][]; also warns of variants that do not differ in effect."""
        seen: dict[str, str] = {}
        works: dict[str, str] = {}
        for variant in variants:
            try:
                training = self.training(variant)
                values = resolved_training(training)
                check_initial_weights(training)
            except (ConfigError, WeightsError) as error:
                raise ConfigError(f"variant {variant.name}: {error}") from error
            resolved, effect = repr(values), repr(self.in_effect(values))
            if resolved in seen:
                keys = keys_text(variant.keys) if variant.keys else "those"
                msg = (
                    f"variants={seen[resolved]},{variant.name}: train alike, since the recipe and "
                    f"keys given for all are {keys} already; leave one out, or give another value "
                    "for all"
                )
                raise ConfigError(msg)
            if effect in works:
                msg = "variants %s and %s: will train alike, since the keys that differ have no"
                msg += " effect here (see the warnings above)"
                LOG.warning(msg, works[effect], variant.name)
            seen[resolved] = works[effect] = variant.name

    def in_effect(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values of a training without those that others switch off."""
        return values

    def training(
        self, variant: Variant, *, data: Path | None = None, out: Path | None = None
    ) -> Any:
        """The settings of one training, on the CPU, by default on all data."""
        common = {spec.name: getattr(self.settings, spec.name) for spec in fields(self.train_class)}
        here: dict[str, Any] = {"device": "cpu", "resume": False, "overwrite": False}
        here |= {"data": data, "out": out} if data and out else {}
        own = self._keys(variant, f"variant {variant.name}")
        return self.train_class(**{**common, **own, **here})

    def _keys(self, variant: Variant, where: str) -> dict[str, Any]:
        """A variant's keys, as parsed by the training's settings.

        Raises:
            ConfigError: an unknown key, an invalid value, or a key that all variants share.
        """
        for name in variant.keys:
            if name in NOT_OF_A_VARIANT:
                msg = f"{where}: {name} is the same for all variants; give it to kfold"
                raise ConfigError(msg)
        parsed = parse_settings(self.train_class, {"out": ".", **variant.keys}, where=where)
        names = dict.fromkeys(name.partition(".")[0] for name in variant.keys)
        own = {name: getattr(parsed, name) for name in names}
        if own.get("yolo"):
            own["yolo"] = {**(self.settings.yolo or {}), **own["yolo"]}
        return own

    def job(self, variant: Variant, fold: int, data: Path) -> FoldJob:
        """See [KfoldTask][]."""
        training = self.training(variant, data=data, out=self.folder(variant, fold))
        return self.job_class(variant.name, fold, training, self.settings.checkpoint)

    def models(self, job: FoldJob) -> dict[str, str]:
        """See [KfoldTask][]."""
        return {self.network: f"{job.train.out.name}/weights/{job.weights.name}"}

    def pool(self, folds: Folds, jobs: Sequence[FoldJob]) -> tuple[Metrics, tuple[Failure, ...]]:
        """See [KfoldTask][]."""
        out, settings = self.settings.out / jobs[0].variant, self.settings
        scores = [job.scores for job in jobs]
        pool_scores = type(self).pool_scores
        return pool_scores(scores, folds, out, draws=settings.draws, seed=settings.seed), ()


class DetectTask(OneStageTask):
    """``spineline kfold detect``."""

    train_class, job_class = DetectTrain, DetectJob
    built_in, network = DETECT_VARIANTS, "detector"
    pool_scores = staticmethod(pool_detections)

    def metric(self, folds: Folds, variants: Sequence[Variant]) -> tuple[str, ...]:  # noqa: ARG002
        """See [KfoldTask][]."""
        given: tuple[str, ...] = self.settings.metric or ()
        if folds.labels != "level" and "level_accuracy_8px" in given:
            msg = f"metric=level_accuracy_8px: the classes of data={self.settings.data} are no"
            raise ConfigError(f"{msg} levels")
        return given or ("level_accuracy_8px" if folds.labels == "level" else "coco.map50",)

    def in_effect(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values of a training without those that others switch off."""
        return values | {key: OFF.get(key) for key in switched_off(values, model=values["model"])}


class ClassifyTask(OneStageTask):
    """``spineline kfold classify``."""

    train_class, job_class = ClassifyTrain, ClassifyJob
    built_in, network = CLASSIFY_VARIANTS, "classifier"
    pool_scores = staticmethod(pool_grades)

    def metric(self, folds: Folds, variants: Sequence[Variant]) -> tuple[str, ...]:  # noqa: ARG002
        """See [KfoldTask][]."""
        heads = {classify_recipe(self.training(variant)).head for variant in variants}
        usual = "binary.accuracy" if heads == {"binary"} else "seven.accuracy"
        return self.settings.metric or (usual,)


class PipelineTask(KfoldTask):
    """``spineline kfold pipeline``: the variants are recipes of all three trainings."""

    @property
    def words(self) -> tuple[str, ...]:
        """The requested recipes."""
        return ("best",) if self.settings.recipe is None else self.settings.recipe

    def variants(self) -> tuple[Variant, ...]:
        """See [KfoldTask][]; each recipe has the name of its file."""
        found: dict[str, Variant] = {}
        for word in self.words:
            name = word if word in BUNDLE_RECIPES else Path(word).stem
            keys = load_bundle_recipe(word)
            check_name(name, f"recipe={word}")
            if name in found:
                raise ConfigError(f"recipe={word}: {name} is named twice; rename one of the files")
            found[name] = Variant(name, keys)
        if not found:
            allowed = ", ".join(BUNDLE_RECIPES)
            raise ConfigError(f"recipe=: names nothing; allowed: {allowed}, or YAML files")
        return tuple(found.values())

    def check(self, variants: Sequence[Variant]) -> None:
        """See [KfoldTask][]."""
        seen: dict[str, str] = {}
        for word, variant in zip(self.words, variants, strict=True):
            train = PipelineTrain(data=self.settings.data, out=self.settings.out, recipe=word)
            same = repr(check_recipe(train, {stage: dict(k) for stage, k in variant.keys.items()}))
            if same in seen:
                raise ConfigError(f"recipe={word}: says what {seen[same]} says; leave one out")
            seen[same] = variant.name

    def metric(self, folds: Folds, variants: Sequence[Variant]) -> tuple[str, ...]:  # noqa: ARG002
        """See [KfoldTask][]."""
        check_labels(self.settings.data, folds.labels)
        return self.settings.metric or ("level_accuracy_8px", "seven.accuracy")

    def begin(self, variants: Sequence[Variant]) -> None:
        """Store each recipe in its folder, from which its trainings read it."""
        for variant in variants:
            text = yaml.safe_dump(dict(variant.keys), sort_keys=False)
            write_text(self.settings.out / variant.name / RECIPE_FILE, text)

    def job(self, variant: Variant, fold: int, data: Path) -> FoldJob:
        """See [KfoldTask][]."""
        train = PipelineTrain(
            data=data,
            out=self.folder(variant, fold),
            recipe=str(self.settings.out / variant.name / RECIPE_FILE),
            seed=self.settings.seed,
        )
        return PipelineJob(variant.name, fold, train, "last", self._scoring())

    def models(self, job: FoldJob) -> dict[str, str]:
        """See [KfoldTask][]."""
        made = weights_in(Path(job.train.out.name))
        files = {"detector": made.detector, "classifier": made.classifier, "namer": made.namer}
        return {task: file.as_posix() for task, file in files.items()}

    def pool(self, folds: Folds, jobs: Sequence[FoldJob]) -> tuple[Metrics, tuple[Failure, ...]]:
        """Score every study with the pipeline of the fold that left it out, by ``pipeline val``."""
        variant = self.settings.out / jobs[0].variant
        scored: Part = "val"
        data = load_dataset(folds.folders[0])  # each fold holds every image
        parts = {
            record.study_id: "test" if part == "test" else scored
            for part, records in data.records.items()
            for record in records
        }
        split = variant / "split.json"
        write_text(split, write_manifest(parts))
        found = val(
            PipelineVal(
                data=data.root,
                split=split,
                part=scored,
                folds=(variant,),
                out=variant / SCORES,
                overwrite=True,
                **self._scoring(),
            )
        )
        missed = [Failure(f"{variant.name}, study {f.name}", f.reason) for f in found.failures]
        return flat_metrics(found.metrics), tuple(missed)

    def _scoring(self) -> dict[str, Any]:
        """The keys for ``pipeline val``."""
        names = ("spacing_mm", "fov_mm", "draws", "seed")
        return {name: getattr(self.settings, name) for name in names}
