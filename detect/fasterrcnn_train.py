"""Training a Faster R-CNN: torchvision's network and losses, our loop around them.

Chance is seeded anew for each image and each step, from the run's seed, the epoch and the place in
it: a run that is resumed gives the numbers of an unbroken one. ``weights/last.pt`` holds what a
resumed run needs (tensors and numbers, no objects); the ``.safetensors`` files are the results.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from spineline.datasets.boxes import cxcywhn_to_xyxy, xyxy_to_xywh
from spineline.datasets.devices import device_name
from spineline.datasets.errors import ConfigError, RunFinishedError, SpinelineError, WeightsError
from spineline.datasets.files import write_bytes
from spineline.datasets.images import read_uint8_image
from spineline.datasets.labels import LEVELS
from spineline.datasets.runs import LOG
from spineline.detect.checkpoints import write_checkpoint
from spineline.detect.compiling import compile_backbone
from spineline.detect.fasterrcnn import (
    Description,
    FasterRCNNDetector,
    as_input,
    build_network,
    make_meta,
    network_from_file,
    save_network,
)
from spineline.detect.fasterrcnn_backbones import check_network
from spineline.detect.fasterrcnn_data import (
    Sample,
    make_transform,
    measure,
    read_sample,
    transformed,
)
from spineline.detect.fasterrcnn_losses import training_weights
from spineline.detect.metrics import CocoFigures, coco_figures, coco_results
from spineline.detect.results_csv import trim_results
from spineline.detect.settings import DetectTrain
from spineline.detect.train import TrainResult
from spineline.detect.yolo_data import (
    YoloData,
    YoloImage,
    class_counts,
    read_data,
    read_images,
)

LOSSES = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
"""torchvision's losses; their sum is trained on."""

MAP50, MAP = "metrics/mAP50(B)", "metrics/mAP50-95(B)"
WARMUP_START = 1e-3
"""First learning rate of the warm-up, as a share of ``lr0``."""

Batch = tuple[list[torch.Tensor], list[dict[str, torch.Tensor]], list[str]]


@dataclass(frozen=True, slots=True)
class Job:
    """What a run trains with.

    Attributes:
        settings: the command's keys.
        values: what they and the recipe resolve to.
        names: class names.
        train: images to train on, at the network's scale.
        val: images to validate on; without any nothing is validated.
        description: of the network.
        start: tensors that the network starts from, where it does not start from scratch.
    """

    settings: DetectTrain
    values: Mapping[str, Any]
    names: tuple[str, ...]
    train: tuple[YoloImage, ...]
    val: tuple[YoloImage, ...]
    description: Description
    start: dict[str, torch.Tensor] | None = None

    @property
    def weights(self) -> Path:
        """The folder of the weights."""
        return self.settings.out / "weights"


@dataclass(slots=True)
class State:
    """How far a run is.

    Attributes:
        network, optimizer: as trained so far.
        done: epochs trained.
        best: best mAP50 so far; below zero before there is one.
        best_epoch: epoch of it, from 1; 0 before there is one.
    """

    network: Any
    optimizer: torch.optim.Optimizer
    done: int = 0
    best: float = -1.0
    best_epoch: int = 0
    samples: dict[int, Sample] = field(default_factory=dict)


def make_job(settings: DetectTrain, values: Mapping[str, Any], data: YoloData) -> Job:
    """Read and check the images, and the weights to start from.

    Raises:
        AnnotationError: images or labels that cannot be used.
        ConfigError: a key that a Faster R-CNN has no use for.
        WeightsError: weights to start from that cannot be used.
    """
    if settings.download:
        raise ConfigError("download=true: model=fasterrcnn is trained from scratch or weights=…")
    check_network(values["backbone"], values["channels"])
    train = read_images(data.train, data.names, part="train")
    val = read_images(data.val, data.names, part="val") if data.val else ()
    training_weights(values, data.names, class_counts(train, len(data.names)).tolist())
    size = values["imgsz"]
    mean, std, dropped = measure(read_sample(image, size) for image in train)
    if dropped:
        LOG.warning("train: %d degenerate boxes dropped (a side < 1 px at imgsz=%d)", dropped, size)
    description = Description(values["backbone"], values["channels"], mean, std)
    _announce(data, train, val, values, description)
    start = None if settings.weights is None else _start(settings, description)
    return Job(settings, values, data.names, train, val, description, start)


def _announce(
    data: YoloData,
    train: tuple[YoloImage, ...],
    val: tuple[YoloImage, ...],
    values: Mapping[str, Any],
    description: Description,
) -> None:
    LOG.info("data: %d images to train on, %d to validate on", len(train), len(val))
    LOG.info(
        "normalisation: mean %g, std %g of the training images (pixels in 0 … 1)",
        description.mean,
        description.std,
    )
    if not val:
        LOG.warning(
            "the val part is empty: no validation, the weights of the last epoch are the result"
        )
    turned = values["quarter_turns"] or values["flipud"]
    if turned and set(data.names) <= set(LEVELS):
        LOG.warning("classes are levels, which quarter_turns and flipud take from their place")


def _start(settings: DetectTrain, description: Description) -> dict[str, torch.Tensor]:
    from spineline.weights import resolve as resolve_weights

    file = resolve_weights(str(settings.weights), task="detect", trust=settings.trust).path
    network, _, found = network_from_file(file)
    if (found.backbone, found.channels) != (description.backbone, description.channels):
        msg = (
            f"weights={file}: a {found.backbone} of {found.channels} channels, wanted "
            f"{description.backbone} of {description.channels}; give backbone= and channels= so"
        )
        raise WeightsError(msg)
    LOG.info("starting from %s", file)
    return dict(network.state_dict())


def run(job: Job) -> TrainResult:
    """Train from the start.

    Raises:
        SpinelineError: the loss is no number, or memory or disk do not suffice.
    """
    network = _network(job, seed=job.settings.seed)
    if job.start is not None:
        own = network.state_dict()
        taken = {k: v for k, v in job.start.items() if own[k].shape == v.shape}
        LOG.info("taken over: %d of %d tensors", len(taken), len(own))
        network.load_state_dict({**own, **taken})
    return _fit(job, _state(job, network))


def _network(job: Job, *, seed: int = 0) -> nn.Module:
    counts = class_counts(job.train, len(job.names)).tolist()
    weights = training_weights(job.values, job.names, counts)
    if weights:
        words = ", ".join(f"{n} {w:.3g}" for n, w in zip(job.names, weights, strict=True))
        LOG.info("class weights: %s", words)
    network = build_network(
        job.description,
        len(job.names),
        job.values["imgsz"],
        seed=seed,
        proposals=job.values["proposals"],
        rois=job.values["rois"],
        class_weights=weights,
        focal_gamma=job.values["focal_gamma"],
    )
    if job.settings.compile:
        compile_backbone(network)
    return network


def resume(settings: DetectTrain, values: Mapping[str, Any]) -> TrainResult:
    """Go on with a run that was stopped, to the numbers of an unbroken one (on the CPU).

    Raises:
        WeightsError: nothing to go on with.
        ConfigError: the dataset's classes are not the run's.
    """
    last = settings.out / "weights" / "last.pt"
    content = _read_checkpoint(last)
    if content["optimizer"] is None:
        msg = (
            f"{last}: the run is finished ({content['done']} epochs), there is nothing to resume; "
            f"to train on, start another run with weights={last.with_suffix('.safetensors')}"
        )
        raise RunFinishedError(msg)
    data = read_data(Path(str(settings.data)))
    if list(data.names) != content["names"]:
        msg = f"data={settings.data}: its classes {data.names} are not the run's {content['names']}"
        raise ConfigError(msg)
    train = read_images(data.train, data.names, part="train")
    val = read_images(data.val, data.names, part="val") if data.val else ()
    description = Description(**content["description"])
    job = Job(settings, values, data.names, train, val, description)
    network = _network(job)
    network.load_state_dict(content["network"])
    state = _state(job, network)
    state.optimizer.load_state_dict(content["optimizer"])
    state.done, state.best = content["done"], content["best"]
    state.best_epoch = content["best_epoch"]
    LOG.info("resuming after epoch %d of %d", state.done, values["epochs"])
    trim_results(settings.out / "results.csv", state.done)
    return _fit(job, state)


def _read_checkpoint(last: Path) -> dict[str, Any]:
    if not last.is_file():
        msg = f"{last}: nothing to resume, no epoch was finished; start it anew with overwrite=true"
        raise WeightsError(msg)
    try:
        content: dict[str, Any] = torch.load(last, map_location="cpu", weights_only=True)
        missing = {"done", "network", "optimizer", "names", "description"} - set(content)
    except Exception as error:  # a damaged file makes the unpickler raise anything
        raise WeightsError(f"{last}: not a checkpoint of this run ({error!r:.300})") from error
    if missing:
        raise WeightsError(f"{last}: not a checkpoint of this run")
    return content


def _state(job: Job, network: nn.Module) -> State:
    network.to(device_name(job.settings.device))
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=job.values["lr0"],
        momentum=job.values["momentum"],
        weight_decay=job.values["weight_decay"],
    )
    return State(network, optimizer)


def _fit(job: Job, state: State) -> TrainResult:
    with torch.random.fork_rng():
        try:
            while state.done < job.values["epochs"] and not _has_settled(job, state):
                losses = _train_epoch(job, state)
                state.done += 1
                _close_epoch(job, state, losses)
        except (RuntimeError, OSError, ValueError) as error:  # out of memory, disk full
            msg = f"out={job.settings.out}: training stopped ({error}); resume=true goes on with it"
            raise SpinelineError(msg) from error
    return _finish(job, state)


def _has_settled(job: Job, state: State) -> bool:
    patience = job.values["patience"]
    if not patience or not state.best_epoch or state.done - state.best_epoch < patience:
        return False
    LOG.info("no better validation in %d epochs: stopped", patience)
    return True


def seed_of(*numbers: int) -> int:
    """A seed for a place in a run: of the run's seed, the epoch, and a number in it."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def learning_rate(values: Mapping[str, Any], epochs: float) -> float:
    """The learning rate after so many epochs: linear warm-up, then linear to ``lr0 * lrf``."""
    warmup = values["warmup_epochs"]
    share = 1.0 - epochs / values["epochs"] * (1.0 - values["lrf"])
    if epochs < warmup:
        share *= WARMUP_START + (1.0 - WARMUP_START) * epochs / warmup
    return float(values["lr0"] * share)


def _train_epoch(job: Job, state: State) -> dict[str, float]:
    """One epoch; the mean of each loss over its steps."""
    state.network.train()
    heads = state.network.roi_heads
    heads.score_thresh, heads.nms_thresh, heads.detections_per_img = 0.05, 0.5, 100
    settings, size = job.settings, job.values["batch"]
    generator = torch.Generator().manual_seed(seed_of(settings.seed, state.done, 0))
    order = torch.randperm(len(job.train), generator=generator).tolist()
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    transform = make_transform(job.values)
    sums = dict.fromkeys(LOSSES, 0.0)
    for step, indices in enumerate(_shown(batches, f"epoch {state.done + 1}")):
        rate = learning_rate(job.values, state.done + step / len(batches))
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        batch = _read_batch(job, state, indices, transform)
        torch.manual_seed(seed_of(settings.seed, state.done, 2, step))
        losses = _step(job, state, batch, step)
        sums = {name: sums[name] + losses[name] for name in LOSSES}
    return {name: total / len(batches) for name, total in sums.items()}


def _shown(batches: list[list[int]], description: str) -> Iterable[list[int]]:
    if not sys.stderr.isatty():
        return batches
    from tqdm import tqdm

    return tqdm(batches, desc=description, leave=False)


def _read_batch(job: Job, state: State, indices: list[int], transform: Any) -> Batch:
    device = device_name(job.settings.device)
    images, targets, names = [], [], []
    for index in indices:
        sample = state.samples.get(index) or read_sample(job.train[index], job.values["imgsz"])
        if job.settings.cache == "ram":
            state.samples[index] = sample
        torch.manual_seed(seed_of(job.settings.seed, state.done, 1, index))
        pixels, boxes, classes = transformed(
            sample, transform, min_visibility=job.values["min_visibility"]
        )
        images.append(as_input(pixels[None].to(device), job.description.channels)[0])
        targets.append({"boxes": boxes.to(device), "labels": classes.to(device) + 1})
        names.append(sample.name)
    return images, targets, names


def network_losses(network: Any, batch: Batch) -> dict[str, torch.Tensor]:
    """Torchvision's losses of a batch."""
    losses: dict[str, torch.Tensor] = network(batch[0], batch[1])
    return losses


def _step(job: Job, state: State, batch: Batch, step: int) -> dict[str, float]:
    """One step of the optimizer.

    Raises:
        SpinelineError: the loss is no finite number; nothing was changed by this step.
    """
    device = torch.device(device_name(job.settings.device))
    half = device.type == "cuda" and job.settings.amp and torch.cuda.is_bf16_supported()
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        losses = network_losses(state.network, batch)
    total = torch.stack([losses[name].float() for name in LOSSES]).sum()
    numbers = {name: float(losses[name].detach()) for name in LOSSES}
    if not all(math.isfinite(number) for number in numbers.values()):
        raise SpinelineError(_not_finite(job, state, batch[2], step, numbers))
    state.optimizer.zero_grad()
    total.backward()
    state.optimizer.step()
    return numbers


def _not_finite(
    job: Job, state: State, files: list[str], step: int, numbers: Mapping[str, float]
) -> str:
    wrong = ", ".join(f"{k}={v:g}" for k, v in numbers.items() if not math.isfinite(v))
    last = job.weights / "last.pt"
    kept = f"{last} holds epoch {state.done}" if state.done else "no epoch was finished"
    return (
        f"epoch {state.done + 1}, batch {step + 1}: the loss is no finite number ({wrong}); its "
        f"images: {', '.join(files)}; {kept}; look at their labels, or lower lr0"
    )


def _close_epoch(job: Job, state: State, losses: Mapping[str, float]) -> None:
    """Validate, then write: results, weights, and last what a resumed run starts from."""
    weights = [t for t in state.network.state_dict().values() if t.is_floating_point()]
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights):
        msg = f"epoch {state.done}: the weights are no longer finite numbers; lower lr0"
        raise SpinelineError(msg)
    every, last = job.settings.val_every, state.done == job.values["epochs"]
    due = last or (job.settings.val and state.done % every == 0)
    figures = _validate(job, state) if job.val and due else None
    row: dict[str, float] = {f"train/{name}": value for name, value in losses.items()}
    row["lr/pg0"] = state.optimizer.param_groups[0]["lr"]
    if job.val:
        row[MAP50] = _number(figures.map50 if figures else None)
        row[MAP] = _number(figures.map50_95 if figures else None)
    _append_row(job.settings.out / "results.csv", {"epoch": state.done, **row})
    meta = make_meta(job.description, job.names, job.values["imgsz"])
    if figures is not None and row[MAP50] > state.best:
        state.best, state.best_epoch = row[MAP50], state.done
        save_network(state.network, meta, job.weights / "best.safetensors")
    save_network(state.network, meta, job.weights / "last.safetensors")
    write_checkpoint(_checkpoint(job, state, finished=False), job.weights / "last.pt")
    _say(job, state, losses, figures)


def _say(job: Job, state: State, losses: Mapping[str, float], figures: CocoFigures | None) -> None:
    words = " ".join(f"{name.removeprefix('loss_')} {v:.3f}" for name, v in losses.items())
    found = ""
    if figures is not None:
        found = f"; val mAP50 {_number(figures.map50):.3f} mAP50-95 {_number(figures.map50_95):.3f}"
    LOG.info("epoch %d/%d: %s%s", state.done, job.values["epochs"], words, found)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _validate(job: Job, state: State) -> CocoFigures:
    """COCO figures on the val part, with the settings of ``detect val``."""
    meta = make_meta(job.description, job.names, job.values["imgsz"])
    detector = FasterRCNNDetector(state.network, meta, device=job.settings.device)
    found = []
    for start in range(0, len(job.val), 16):
        images = [read_uint8_image(image.file) for image in job.val[start : start + 16]]
        found += detector.detect(images, confidence=0.001, iou=0.7, max_detections=300)
    truth = coco_truth(job.val, job.names)
    results = coco_results(
        [image["id"] for image in truth["images"]], found, [c["id"] for c in truth["categories"]]
    )
    return coco_figures(truth, results)


def coco_truth(images: tuple[YoloImage, ...], names: tuple[str, ...]) -> dict[str, Any]:
    """The labels of images as a COCO dict; ids count from 1."""
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        height, width = image.size_hw
        boxes = cxcywhn_to_xyxy(image.box_cxcywhn.astype(np.float64), width, height)
        for box, index in zip(xyxy_to_xywh(boxes).tolist(), image.class_index, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(index) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return {
        "images": [
            {"id": n, "file_name": i.file.name, "height": i.size_hw[0], "width": i.size_hw[1]}
            for n, i in enumerate(images, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, 1)],
    }


def _append_row(file: Path, row: Mapping[str, float]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not file.exists():
        writer.writerow(row)
    writer.writerow([f"{value:.6g}" for value in row.values()])
    with file.open("a", encoding="utf-8") as stream:
        stream.write(text.getvalue())


def _checkpoint(job: Job, state: State, *, finished: bool) -> dict[str, Any]:
    return {
        "done": state.done,
        "best": state.best,
        "best_epoch": state.best_epoch,
        "names": list(job.names),
        "imgsz": job.values["imgsz"],
        "description": asdict(job.description),
        "network": {k: v.cpu() for k, v in state.network.state_dict().items()},
        "optimizer": None if finished else state.optimizer.state_dict(),
    }


def _finish(job: Job, state: State) -> TrainResult:
    out, best = job.settings.out, job.weights / "best.safetensors"
    if job.settings.plots:
        write_bytes(out / "results.png", _curves_png(out / "results.csv"))
    write_checkpoint(_checkpoint(job, state, finished=True), job.weights / "last.pt")
    last = job.weights / "last.safetensors"
    chosen = best if best.exists() else last
    LOG.info("done: %d epochs; weights: %s", state.done, chosen)
    return TrainResult(out, chosen, last, state.done)


def _curves_png(results: Path) -> bytes:
    """Losses on the left, validation on the right."""
    from spineline.datasets.figures import figure_png, new_figure

    with results.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row["epoch"]) for row in rows]
    figure = new_figure(10, 4)
    losses = figure.add_subplot(1, 2, 1, xlabel="epoch", ylabel="loss")
    scores = figure.add_subplot(1, 2, 2, xlabel="epoch", ylabel="validation", ylim=(0, 1))
    for name in rows[0]:
        if name.startswith(("train/", "metrics/")):
            axes = losses if name.startswith("train/") else scores
            label = name.removeprefix("train/").removeprefix("metrics/").removesuffix("(B)")
            axes.plot(epochs, [float(row[name]) for row in rows], marker=".", label=label)
    losses.legend()
    if scores.lines:
        scores.legend()
    return figure_png(figure)
