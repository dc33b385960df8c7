"""``spineline detect train``: train a detector, a YOLO network, a Faster R-CNN or a U-Net."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import ConfigError, OutputExistsError, WeightsError
from spineline.datasets.common.files import write_json
from spineline.datasets.common.locks import held_folder
from spineline.datasets.common.run_record import resumed_settings, write_run_record
from spineline.datasets.networks.training import TrainingResult, check_new_run, clear_half_written
from spineline.detect.architectures import FASTERRCNN, OWN_LOOP, UNET, canonical_name
from spineline.detect.engine.compiling import check_compile
from spineline.detect.engine.dataset import YoloData, read_data
from spineline.detect.engine.distributed import ProcessGroup, first_speaks, group_of_environment
from spineline.detect.engine.tensorboard import check_tensorboard
from spineline.detect.recipe import Resolved, log_outcomes, resolve_recipe
from spineline.detect.settings import DetectTrain

COMMAND = "spineline detect train"
_MAY_CHANGE = (
    "resume",
    "data",
    "images",
    "out",
    "device",
    "compile",
    "workers",
    "cache",
    "plots",
    "tensorboard",
    "verbose",
    "trust",
    "overwrite",
)
"""Keys that may change when a run is resumed."""


def train(settings: DetectTrain) -> TrainingResult:
    """Train a detector, or continue a run that was killed.

    Under ``torchrun`` every process calls this with the same settings; the first one writes.

    Args:
        settings: the command's keys.

    Returns:
        The paths of the weights.

    Raises:
        ConfigError: a key or recipe cannot work.
        AnnotationError: the dataset is missing or cannot be used.
        WeightsError: the initial weights cannot be used, or there is nothing to resume.
        OutputExistsError: the run folder exists and neither resume nor overwrite is given.
    """
    group = group_of_environment()
    with first_speaks(group):
        return _resume(settings, group) if settings.resume else _start(settings, group)


def _start(settings: DetectTrain, group: ProcessGroup) -> TrainingResult:
    if settings.model is None:
        raise ConfigError("missing model=… (architecture such as yolov8n, fasterrcnn or unet)")
    if settings.data is None:
        raise ConfigError("missing data=… (a dataset written by `spineline convert`)")
    dataset = settings.data
    settings = replace(settings, model=canonical_name(settings.model))
    _check_start(settings)
    resolved = resolve_recipe(settings)
    device_name(settings.device)
    data = read_data(dataset, settings.images)
    if group.first:
        _check_run_folder(settings)
    _check_group(settings, resolved.values, group)
    _check_packages(settings)
    run = _prepared(settings, resolved, data, group)
    if not group.first:
        return run()
    _clear(settings)
    with held_folder(settings.out):
        write_run_record(settings.out, "detect train", settings, trained_with=resolved.values)
        if resolved.recipe is not None:
            write_json(settings.out / "recipe.json", resolved.report())
        log_outcomes(resolved)
        return run()


def _check_start(settings: DetectTrain) -> None:
    """Refuse initial weights that do not apply to the model, or more than one kind of them."""
    kinds = ("weights", "backbone_weights", "download")
    given = [kind for kind in kinds if getattr(settings, kind)]
    if len(given) > 1:
        words = " and ".join(f"{kind}={'true' if kind == 'download' else '…'}" for kind in given)
        raise ConfigError(f"{words}: give one of them")
    if settings.backbone_weights is not None and settings.model != FASTERRCNN:
        msg = f"backbone_weights=…: model={settings.model} has no such key, {FASTERRCNN} has"
        raise ConfigError(f"{msg}; give weights=…")
    if settings.download and settings.model == UNET:
        raise ConfigError(f"download=true: model={UNET} is trained from scratch or weights=…")


def _check_group(settings: DetectTrain, values: dict[str, Any], group: ProcessGroup) -> None:
    """Refuse settings that several processes cannot train with, or one device for all of them."""
    if group.alone:
        return
    if settings.model not in OWN_LOOP:
        msg = (
            f"model={settings.model}: torchrun started {group.size} processes, and only "
            f"{' and '.join(OWN_LOOP)} train in several; start it without torchrun"
        )
        raise ConfigError(msg)
    if values["batch"] % group.size:
        near = max(values["batch"] // group.size, 1) * group.size
        msg = (
            f"batch={values['batch']}: is the batch of all {group.size} processes of torchrun, "
            f"which they cannot share evenly; give batch={near} or another multiple"
        )
        raise ConfigError(msg)
    group.device(settings.device)


def _check_packages(settings: DetectTrain) -> None:
    if settings.tensorboard:
        check_tensorboard()
    if settings.compile:
        check_compile(settings.device)


def _prepared(
    settings: DetectTrain, resolved: Resolved, data: YoloData, group: ProcessGroup
) -> Callable[[], TrainingResult]:
    """Read and check everything before anything is written; returns the call that trains."""
    if settings.model in OWN_LOOP:
        from spineline.detect.engine import loop  # torch

        plan = loop.make_plan(settings, resolved.values, data, group)
        return lambda: loop.run_training(plan)
    from spineline.detect.yolo.train import prepare_yolo  # ultralytics

    return prepare_yolo(settings, resolved.values, data)


def _resume(given: DetectTrain, group: ProcessGroup) -> TrainingResult:
    if given.model is not None:
        given = replace(given, model=canonical_name(given.model))
    settings, values = resumed_settings(
        given, given.out, resolved="trained_with", may_change=_MAY_CHANGE
    )
    settings = replace(settings, out=given.out)
    _check_group(settings, values, group)
    _check_packages(settings)
    if settings.model is None or settings.data is None:
        record = settings.out / "run.yaml"
        raise WeightsError(f"{record}: names no model or data; start a new run")
    if settings.model not in OWN_LOOP:
        from spineline.detect.yolo import train as yolo_train  # ultralytics

        with held_folder(settings.out):
            clear_half_written(settings.out)
            return yolo_train.resume_yolo(settings, values)
    from spineline.detect.engine import loop  # torch

    if not group.first:
        return loop.resume_training(settings, values, group)
    with held_folder(settings.out):
        clear_half_written(settings.out)
        return loop.resume_training(settings, values, group)


def _check_run_folder(settings: DetectTrain) -> None:
    out = settings.out
    check_new_run(out, overwrite=settings.overwrite)
    if out.exists() and any(out.iterdir()) and not _is_run_folder(out):
        msg = f"{out}: is not a run folder of {COMMAND}; remove it yourself or choose another out="
        raise OutputExistsError(msg)


def _is_run_folder(out: Path) -> bool:
    try:
        content = yaml.safe_load((out / "run.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and content.get("command") == COMMAND


def _clear(settings: DetectTrain) -> None:
    if settings.overwrite and settings.out.exists():
        with held_folder(settings.out):
            shutil.rmtree(settings.out)
    settings.out.mkdir(parents=True, exist_ok=True)
