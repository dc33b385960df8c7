"""Training of YOLO networks by ``ultralytics``; importing this module imports the package."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import ConfigError, SpinelineError, WeightsError, first_line
from spineline.datasets.common.log import LOG
from spineline.datasets.networks.training import (
    TrainingResult,
    check_there_is_a_checkpoint,
    run_finished,
    trim_results,
)
from spineline.detect.architectures import package_yaml
from spineline.detect.checkpoints import (
    load_pickle,
    network_from_pickle,
    network_from_safetensors,
    save_safetensors,
)
from spineline.detect.defaults import OWN_KEYS
from spineline.detect.engine.dataset import (
    YoloData,
    class_counts,
    read_data,
    warn_of_absent_classes,
)
from spineline.detect.settings import DetectTrain
from spineline.detect.yolo.environment import config_folder
from spineline.detect.yolo.hyperparameters import PREFIX
from spineline.detect.yolo.trainer import (
    SpineDetectionTrainer,
    TrainingParts,
    cpu_has_bf16,
    finish_checkpoint,
    kept_generators,
    yolo_meta,
)
from spineline.weights import resolve as resolve_weights


def prepare_yolo(
    settings: DetectTrain, values: dict[str, Any], data: YoloData
) -> Callable[[], TrainingResult]:
    """Read and check everything before anything is written; returns the call that trains.

    Raises:
        AnnotationError: images or labels cannot be used.
        WeightsError: the initial weights cannot be used.
    """
    parts = replace(_read_parts(settings, values, data), start=_start_network(settings))
    return lambda: _run(settings, values, parts)


def resume_yolo(settings: DetectTrain, values: dict[str, Any]) -> TrainingResult:
    """Continue a run that was stopped, or finish one that was killed after its last epoch.

    Raises:
        WeightsError: there is nothing to continue.
        ConfigError: the dataset's classes are not the run's.
    """
    last = settings.out / "weights" / "last.pt"
    check_there_is_a_checkpoint(last)
    checkpoint = {"optimizer": None, "epoch": -1, **load_pickle(last, trust=True)}
    done = int(checkpoint["epoch"]) + 1
    if checkpoint["optimizer"] is None or done >= values["epochs"]:
        return _close(settings, values, checkpoint)
    device_name(settings.device)
    data = read_data(Path(str(settings.data)), settings.images)
    names = tuple(checkpoint["ema"].names.values())
    if names != data.names:
        msg = f"data={settings.data}: its classes {data.names} are not the run's {names}"
        raise ConfigError(msg)
    parts = replace(_read_parts(settings, values, data), checkpoint=checkpoint)
    LOG.info("resuming after epoch %d of %d; with a new random state", done, values["epochs"])
    trim_results(settings.out / "results.csv", done)
    return _run(settings, values, parts)


def _close(
    settings: DetectTrain, values: dict[str, Any], checkpoint: dict[str, Any]
) -> TrainingResult:
    """Write the weights of a run that was killed after its last epoch."""
    folder = settings.out / "weights"
    wanted = [f"{n}.safetensors" for n in ("last", "best") if (folder / f"{n}.pt").exists()]
    if checkpoint["optimizer"] is None and all((folder / name).exists() for name in wanted):
        raise run_finished(folder / "last.pt", values["epochs"])
    LOG.info("all epochs were trained; writing the weights (`spineline detect val` draws plots)")
    epochs = finish_checkpoint(checkpoint, folder / "last.pt")
    return _write_weights(settings, values["imgsz"], epochs, {})


def _read_parts(settings: DetectTrain, values: dict[str, Any], data: YoloData) -> TrainingParts:
    train_images = data.part_images("train")
    val_images = data.part_images("val")
    LOG.info("data: %d images to train on, %d to validate on", len(train_images), len(val_images))
    counts = class_counts(train_images, len(data.names))
    warn_of_absent_classes(data.names, counts)
    if not val_images:
        LOG.warning(
            "the val part is empty: no validation, the weights of the last epoch are the result"
        )
    architecture = str(settings.model)
    return TrainingParts(
        architecture=architecture,
        description=package_yaml(architecture),
        names=data.names,
        train=train_images,
        val=val_images,
        label_smoothing=values["label_smoothing"],
        scanner_looks=values["scanner_looks"],
        cut_view=values["cut_view"],
        progressive=values["progressive"],
        bf16=settings.amp and device_name(settings.device) == "cpu" and cpu_has_bf16(),
        val_every=settings.val_every,
        cache=settings.cache == "ram",
        tensorboard=settings.tensorboard,
    )


def _start_network(settings: DetectTrain) -> nn.Module | None:
    if settings.download:
        return network_from_pickle(_download(str(settings.model)), trust=True)[0]
    if settings.weights is None:
        return None
    file = resolve_weights(settings.weights, task="detect", trust=settings.trust).path
    LOG.info("starting from %s", file)
    if file.suffix == ".safetensors":
        return network_from_safetensors(file)[0]
    return network_from_pickle(file, trust=settings.trust)[0]


def _download(architecture: str) -> Path:
    """The official COCO weights, downloaded at the user's request."""
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


def _run(settings: DetectTrain, values: dict[str, Any], parts: TrainingParts) -> TrainingResult:
    with kept_generators():
        trainer = SpineDetectionTrainer(parts, trainer_arguments(settings, values))
        if settings.verbose:
            logging.getLogger("ultralytics").setLevel(logging.INFO)
        try:
            trainer.train()
        except ValueError as error:
            raise ConfigError(f"ultralytics refuses these settings: {error}") from error
        except (RuntimeError, OSError) as error:  # out of memory, disk full, loss not finite
            msg = f"out={settings.out}: training stopped ({first_line(error)}); "
            raise SpinelineError(f"{msg}resume=true continues it") from error
        networks = trainer.strip_last()
        return _write_weights(settings, values["imgsz"], trainer.epoch + 1, networks)


def trainer_arguments(settings: DetectTrain, values: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments for Ultralytics' trainer.

    Args:
        settings: the command's keys.
        values: the training values from [spineline.detect.recipe.resolve_recipe][].
    """
    taken = {
        name.removeprefix(PREFIX): value for name, value in values.items() if name not in OWN_KEYS
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
    """``bf16`` or off, because the package's check of fp16 downloads a network."""
    if device_name(settings.device) == "cpu" or not settings.amp:
        return False
    return "bf16" if torch.cuda.is_bf16_supported() else False


def _write_weights(
    settings: DetectTrain, imgsz: int, epochs: int, networks: Mapping[str, nn.Module]
) -> TrainingResult:
    """Write the finished checkpoints of a run as safetensors.

    Args:
        settings: of the run.
        imgsz: size of the images.
        epochs: epochs that were trained.
        networks: networks in memory by the names of their checkpoints, which are not read again.
    """
    folder = settings.out / "weights"
    for name in ("last", "best"):
        file = folder / f"{name}.pt"
        if not file.exists():
            continue
        network = networks.get(name) or network_from_pickle(file, trust=True)[0]
        meta = yolo_meta(network, str(settings.model), imgsz)
        save_safetensors(network, meta, file.with_suffix(".safetensors"))
    last, best = folder / "last.safetensors", folder / "best.safetensors"
    if not last.exists():
        raise SpinelineError(f"{folder}: no weights were written")
    chosen = best if best.exists() else last
    LOG.info("done: %d epochs; weights: %s", epochs, chosen)
    return TrainingResult(settings.out, chosen, last, epochs)
