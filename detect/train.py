"""``spineline detect train``: train a detector, a YOLO network, a Faster R-CNN or a U-Net."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import (
    ConfigError,
    OutputExistsError,
    RunFinishedError,
    SpinelineError,
    WeightsError,
)
from spineline.datasets.common.files import check_output, write_json
from spineline.datasets.common.locks import held_folder
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import clear_partial, resumed_settings, write_run_record
from spineline.detect.architectures import OWN_LOOP, canonical_name, package_yaml
from spineline.detect.engine.dataset import (
    YoloData,
    class_counts,
    read_data,
    read_images,
    warn_of_absent_classes,
)
from spineline.detect.engine.distributed import Group, first_speaks, group_of_environment
from spineline.detect.recipe import Resolved, log_outcomes, resolve
from spineline.detect.settings import DetectTrain
from spineline.detect.yolo.hyperparameters import PREFIX

if TYPE_CHECKING:
    from torch import nn

    from spineline.detect.yolo.trainer import TrainingParts

COMMAND = "spineline detect train"
_MAY_CHANGE = (
    "resume",
    "data",
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
"""Keys that a resumed run may be given otherwise than the run it continues."""

_RECORDS = ("run.yaml", "recipe.json", "results.csv")
_WEIGHTS = (
    "last.pt",
    "best.pt",
    "last.safetensors",
    "best.safetensors",
    "best_map50.safetensors",
    "best_map50_95.safetensors",
    "best_f1.safetensors",
    "best_precision.safetensors",
    "best_recall.safetensors",
)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training run left.

    Attributes:
        out: the run folder.
        weights: the weights to use: the best by validation, or the last where nothing was
            validated.
        last: the weights of the last epoch.
        epochs: epochs trained.
    """

    out: Path
    weights: Path
    last: Path
    epochs: int


def train(settings: DetectTrain) -> TrainResult:
    """Train a detector, or continue a run that was killed.

    Under ``torchrun`` every process calls this with the same settings; the first one writes.

    Args:
        settings: the command's keys.

    Returns:
        Where the weights are.

    Raises:
        ConfigError: a key or recipe that cannot work.
        AnnotationError: the dataset is missing or cannot be used.
        WeightsError: weights to start from cannot be used, or there is nothing to resume.
        OutputExistsError: the run folder exists and neither resume nor overwrite is given.
    """
    group = group_of_environment()
    with first_speaks(group):
        return _resume(settings, group) if settings.resume else _start(settings, group)


def _start(settings: DetectTrain, group: Group) -> TrainResult:
    if settings.model is None:
        raise ConfigError("missing model=… (architecture such as yolov8n, fasterrcnn or unet)")
    if settings.data is None:
        raise ConfigError("missing data=… (a dataset written by `spineline convert`)")
    dataset = settings.data
    settings = replace(settings, model=canonical_name(settings.model))
    resolved = resolve(settings)
    device_name(settings.device)
    data = read_data(dataset)
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


def _check_group(settings: DetectTrain, values: dict[str, Any], group: Group) -> None:
    if group.alone:
        return
    if settings.model not in OWN_LOOP:
        msg = (
            f"model={settings.model}: torchrun started {group.size} processes, and only "
            f"{' and '.join(OWN_LOOP)} train in several; start it without torchrun"
        )
        raise ConfigError(msg)
    from spineline.detect.engine.loop import check_group

    check_group(settings, values, group)


def _check_packages(settings: DetectTrain) -> None:
    if settings.tensorboard:
        from spineline.detect.engine.tensorboard import check_tensorboard

        check_tensorboard()
    if settings.compile:
        from spineline.detect.engine.compiling import check_compile

        check_compile(settings.device)


def _prepared(
    settings: DetectTrain, resolved: Resolved, data: YoloData, group: Group
) -> Callable[[], TrainResult]:
    """Everything read and checked before anything is written; the call that trains."""
    architecture = str(settings.model)
    if architecture in OWN_LOOP:
        from spineline.detect.engine import loop

        job = loop.make_job(settings, resolved.values, data, group)
        return lambda: loop.run(job)
    parts = _make_parts(settings, architecture, resolved, data)
    return lambda: _run(settings, resolved.values, parts)


def _resume(given: DetectTrain, group: Group) -> TrainResult:
    if given.model is not None:
        given = replace(given, model=canonical_name(given.model))
    settings, values = resumed_settings(
        given, given.out, resolved="trained_with", may_change=_MAY_CHANGE
    )
    settings = replace(settings, out=given.out)
    _check_group(settings, values, group)
    _check_packages(settings)
    if settings.model is None or settings.data is None:
        raise WeightsError(
            f"{settings.out / 'run.yaml'}: names no model or data; start the run anew"
        )
    if not group.first:
        from spineline.detect.engine import loop

        return loop.resume(settings, values, group)
    with held_folder(settings.out):
        clear_partial(settings.out, (*_RECORDS, *(f"weights/{name}" for name in _WEIGHTS)))
        if settings.model in OWN_LOOP:
            from spineline.detect.engine import loop

            return loop.resume(settings, values, group)
        checkpoint = _read_checkpoint(settings.out / "weights" / "last.pt")
        if checkpoint["optimizer"] is None or int(checkpoint["epoch"]) + 1 >= values["epochs"]:
            return _close(settings, values, checkpoint)
        return _go_on(settings, settings.model, settings.data, values, checkpoint)


def _go_on(
    settings: DetectTrain,
    architecture: str,
    dataset: Path,
    values: dict[str, Any],
    checkpoint: dict[str, Any],
) -> TrainResult:
    device_name(settings.device)
    data = read_data(dataset)
    names = tuple(checkpoint["ema"].names.values())
    if names != data.names:
        msg = f"data={dataset}: its classes {data.names} are not the run's {names}"
        raise ConfigError(msg)
    parts = _read_parts(settings, architecture, values, data)
    parts = replace(parts, checkpoint=checkpoint)
    done = int(checkpoint["epoch"]) + 1
    LOG.info("resuming after epoch %d of %d; random state starts afresh", done, values["epochs"])
    from spineline.detect.engine.results_csv import trim_results

    trim_results(settings.out / "results.csv", done)
    return _run(settings, values, parts)


def _read_checkpoint(last: Path) -> dict[str, Any]:
    from spineline.detect.checkpoints import load_pickle

    if not last.is_file():
        msg = f"{last}: nothing to resume, no epoch was finished; start it anew with overwrite=true"
        raise WeightsError(msg)
    return {"optimizer": None, "epoch": -1, **load_pickle(last, trust=True)}


def _close(
    settings: DetectTrain, values: dict[str, Any], checkpoint: dict[str, Any]
) -> TrainResult:
    """Write the weights of a run that was killed after its last epoch."""
    from spineline.detect.yolo.trainer import finish_checkpoint

    folder = settings.out / "weights"
    wanted = [f"{n}.safetensors" for n in ("last", "best") if (folder / f"{n}.pt").exists()]
    if checkpoint["optimizer"] is None and all((folder / name).exists() for name in wanted):
        msg = (
            f"{folder / 'last.pt'}: the run is finished ({values['epochs']} epochs), there is "
            "nothing to resume; to train on, start another run with "
            f"weights={folder / 'last.safetensors'}"
        )
        raise RunFinishedError(msg)
    LOG.info("all epochs were trained; writing the weights (`spineline detect val` draws plots)")
    epochs = finish_checkpoint(checkpoint, folder / "last.pt")
    return _write_weights(settings, values["imgsz"], epochs)


def _check_run_folder(settings: DetectTrain) -> None:
    out = settings.out
    try:
        check_output(out, overwrite=settings.overwrite)
    except OutputExistsError as error:
        msg = f"{out}: exists already; choose another out=, or add overwrite=true or resume=true"
        raise OutputExistsError(msg) from error
    if out.exists() and any(out.iterdir()) and not _is_run_folder(out):
        msg = f"{out}: is no run folder of {COMMAND}; remove it yourself or choose another out="
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


def _make_parts(
    settings: DetectTrain, architecture: str, resolved: Resolved, data: YoloData
) -> TrainingParts:
    parts = _read_parts(settings, architecture, resolved.values, data)
    return replace(parts, start=_start_network(settings, architecture))


def _read_parts(
    settings: DetectTrain, architecture: str, values: dict[str, Any], data: YoloData
) -> TrainingParts:
    train_images = read_images(data.train, data.names, part="train")
    val_images = read_images(data.val, data.names, part="val") if data.val else ()
    from spineline.detect.yolo.trainer import TrainingParts

    LOG.info("data: %d images to train on, %d to validate on", len(train_images), len(val_images))
    counts = class_counts(train_images, len(data.names))
    warn_of_absent_classes(data.names, counts)
    if not val_images:
        LOG.warning(
            "the val part is empty: no validation, the weights of the last epoch are the result"
        )
    return TrainingParts(
        architecture=architecture,
        description=package_yaml(architecture),
        names=data.names,
        train=train_images,
        val=val_images,
        label_smoothing=values["label_smoothing"],
        val_every=settings.val_every,
        cache=settings.cache == "ram",
        tensorboard=settings.tensorboard,
    )


def _start_network(settings: DetectTrain, architecture: str) -> nn.Module | None:
    from spineline.detect.checkpoints import network_from_pickle, network_from_safetensors

    if settings.weights is not None and settings.download:
        raise ConfigError("weights=… and download=true: give one of them")
    if settings.download:
        return network_from_pickle(_download(architecture), trust=True)[0]
    if settings.weights is None:
        return None
    from spineline.weights import resolve as resolve_weights

    file = resolve_weights(settings.weights, task="detect", trust=settings.trust).path
    LOG.info("starting from %s", file)
    if file.suffix == ".safetensors":
        return network_from_safetensors(file)[0]
    return network_from_pickle(file, trust=settings.trust)[0]


def _download(architecture: str) -> Path:
    """The official COCO weights, fetched because the user asked for it."""
    from spineline.detect.yolo.environment import config_folder, import_ultralytics

    import_ultralytics()
    from ultralytics.utils.downloads import attempt_download_asset

    file = config_folder() / "downloads" / f"{architecture}.pt"
    file.parent.mkdir(parents=True, exist_ok=True)
    LOG.info("fetching %s from Ultralytics' releases", file.name)
    try:
        attempt_download_asset(str(file))
    except Exception as error:  # the package raises many kinds
        raise WeightsError(f"{file.name}: could not be fetched ({error})") from error
    if not file.is_file():
        raise WeightsError(f"{file.name}: could not be fetched; is the network reachable?")
    return file


def _run(settings: DetectTrain, values: dict[str, Any], parts: TrainingParts) -> TrainResult:
    from spineline.detect.yolo.trainer import SpineDetectionTrainer, kept_generators

    with kept_generators():
        _let_it_talk(settings)
        try:
            trainer = SpineDetectionTrainer(parts, trainer_arguments(settings, values))
            trainer.train()
        except ValueError as error:
            raise ConfigError(f"ultralytics refuses these settings: {error}") from error
        except (RuntimeError, OSError) as error:  # out of memory, disk full, losses not numbers
            msg = f"out={settings.out}: training stopped ({error}); resume=true goes on with it"
            raise SpinelineError(msg) from error
        trainer.strip_last()
        return _write_weights(settings, values["imgsz"], trainer.epoch + 1)


def _let_it_talk(settings: DetectTrain) -> None:
    if settings.verbose:
        import logging

        logging.getLogger("ultralytics").setLevel(logging.INFO)


def trainer_arguments(settings: DetectTrain, values: dict[str, Any]) -> dict[str, Any]:
    """Arguments for Ultralytics' trainer.

    Args:
        settings: the command's keys.
        values: what the run trains with, by [spineline.detect.recipe.resolve][].
    """
    taken = {
        name.removeprefix(PREFIX): value
        for name, value in values.items()
        if name != "label_smoothing"
    }
    return {
        **taken,
        "model": package_yaml(str(settings.model)),
        "data": str(settings.data),
        "save_dir": str(settings.out.absolute()),
        "pretrained": False,
        "resume": settings.resume,
        "seed": settings.seed,
        "device": device_name(settings.device).removeprefix("cuda:"),
        "workers": settings.workers,
        "amp": _precision(settings),
        "compile": settings.compile,
        "val": settings.val,
        "plots": settings.plots,
        "exist_ok": True,
        "deterministic": True,
    }


def _precision(settings: DetectTrain) -> str | bool:
    """``bf16`` or off: the package's fp16 check downloads a network."""
    if device_name(settings.device) == "cpu" or not settings.amp:
        return False
    import torch

    return "bf16" if torch.cuda.is_bf16_supported() else False


def _write_weights(settings: DetectTrain, imgsz: int, epochs: int) -> TrainResult:
    """The finished checkpoints of a run as safetensors."""
    from spineline.detect.checkpoints import network_from_pickle, save_safetensors
    from spineline.detect.yolo.trainer import make_meta

    folder = settings.out / "weights"
    for name in ("last", "best"):
        file = folder / f"{name}.pt"
        if not file.exists():
            continue
        network: Any = network_from_pickle(file, trust=True)[0]
        meta = make_meta(network, str(settings.model), imgsz)
        save_safetensors(network, meta, file.with_suffix(".safetensors"))
    last, best = folder / "last.safetensors", folder / "best.safetensors"
    if not last.exists():
        raise SpinelineError(f"{folder}: no weights were written")
    chosen = best if best.exists() else last
    LOG.info("done: %d epochs; weights: %s", epochs, chosen)
    return TrainResult(settings.out, chosen, last, epochs)
