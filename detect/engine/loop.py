"""Our own training loop, for networks that have losses as torchvision's detectors have them.

Chance is seeded anew for each image and each step, from the run's seed, the epoch and the place in
it: a run that is resumed gives the numbers of an unbroken one. ``weights/last.pt`` holds what a
resumed run needs (tensors and numbers, no objects); the ``.safetensors`` files are the results.
They are written beside training, at most every ten seconds and no faster than the disk takes them:
an epoch that ends before is passed over, unless it is a best one or the last.

Under ``torchrun`` each process takes a share of every batch and gradients are averaged. The first
process alone validates and writes.
"""

from __future__ import annotations

import csv
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from spineline.datasets.common.background import Background
from spineline.datasets.common.errors import (
    ConfigError,
    RunFinishedError,
    SpinelineError,
    WeightsError,
)
from spineline.datasets.common.files import link_file, write_bytes
from spineline.datasets.common.log import LOG
from spineline.datasets.labels import LEVELS
from spineline.detect.checkpoints import (
    DetectorMeta,
    packed_safetensors,
    read_safetensors,
    write_checkpoint,
)
from spineline.detect.engine.compiling import compile_backbone
from spineline.detect.engine.dataset import (
    YoloData,
    YoloImage,
    class_counts,
    read_data,
    read_images,
    warn_of_absent_classes,
)
from spineline.detect.engine.distributed import ALONE, Group, joined
from spineline.detect.engine.images import Sample, measure, read_sample
from spineline.detect.engine.loader import (
    EpochBatches,
    Example,
    TrainingImages,
    make_loader,
    seed_generators,
    seed_of,
)
from spineline.detect.engine.networks import Family, family_of, make_optimizer
from spineline.detect.engine.results_csv import append_row, trim_results
from spineline.detect.engine.scaling import ScaledDetector, as_input, as_stored, largest
from spineline.detect.engine.validation import (
    COLUMNS,
    METRICS,
    Validation,
    labels_of,
    pictured,
)
from spineline.detect.results import Detections
from spineline.detect.settings import DetectTrain
from spineline.detect.train import TrainResult

if TYPE_CHECKING:
    from spineline.detect.engine.tensorboard import Board

WARMUP_START = 1e-3
"""First learning rate of the warm-up, as a share of ``lr0``."""

CHECKPOINT_SECONDS = 10.0
"""Least time from one checkpoint to the next: what a killed run may have to train again."""

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
        description: of the network, its family's.
        start: tensors that the network starts from, where it does not start from scratch.
        samples: training images at the network's scale that are in memory, by index.
        group: this process's place among those that train together.
    """

    settings: DetectTrain
    values: Mapping[str, Any]
    names: tuple[str, ...]
    train: tuple[YoloImage, ...]
    val: tuple[YoloImage, ...]
    description: Any
    start: dict[str, torch.Tensor] | None = None
    samples: Mapping[int, Sample] = field(default_factory=dict)
    group: Group = ALONE

    @property
    def family(self) -> Family:
        """The kind of the network."""
        return family_of(str(self.settings.model))

    @property
    def meta(self) -> DetectorMeta:
        """What a weights file says of the network."""
        return self.family.make_meta(self.description, self.names, self.values["imgsz"])

    @property
    def device(self) -> str:
        """Of this process."""
        return self.group.device(self.settings.device)

    @property
    def weights(self) -> Path:
        """The folder of the weights."""
        return self.settings.out / "weights"


class Copies:
    """Copies of what is trained in place, in memory that is taken once, as taking it costs most."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, torch.Size, torch.dtype], torch.Tensor] = {}

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy; the next one of the same memory takes its place."""
        place = (tensor.data_ptr(), tensor.shape, tensor.dtype)
        kept = self._kept.get(place)
        if kept is None:
            kept = self._kept[place] = torch.empty_like(tensor)
        return kept.copy_(tensor.detach())


@dataclass(slots=True)
class State:
    """How far a run is.

    Attributes:
        network, optimizer: as trained so far.
        trained: what a batch is given to: the network, or what joins it with other processes.
        done: epochs trained.
        saved: epochs that ``last.pt`` holds.
        best: best mAP50 so far; below zero before there is one.
        best_epoch: epoch of it, from 1; 0 before there is one.
        bests: best value of each of [METRICS][spineline.detect.engine.validation] so far.
        validation: of the first process.
        board: for TensorBoard, where it is asked for.
        writer: writes weights and checkpoints beside training.
        copies: what it writes from.
        written: when it last began to, by the clock that only goes forward.
    """

    network: Any
    optimizer: torch.optim.Optimizer
    trained: Any
    done: int = 0
    saved: int = 0
    best: float = -1.0
    best_epoch: int = 0
    bests: dict[str, float] = field(default_factory=dict)
    validation: Validation | None = None
    board: Board | None = None
    writer: Background = field(default_factory=Background)
    copies: Copies = field(default_factory=Copies)
    written: float = -math.inf


def make_job(
    settings: DetectTrain, values: Mapping[str, Any], data: YoloData, group: Group = ALONE
) -> Job:
    """Read and check the images, and the weights to start from.

    Raises:
        AnnotationError: images or labels that cannot be used.
        ConfigError: a key that the network has no use for.
        WeightsError: weights to start from that cannot be used.
    """
    if settings.download:
        model = settings.model
        raise ConfigError(f"download=true: model={model} is trained from scratch or weights=…")
    family = family_of(str(settings.model))
    train = read_images(data.train, data.names, part="train")
    val = read_images(data.val, data.names, part="val") if data.val else ()
    counts = class_counts(train, len(data.names))
    family.check(values, data.names, counts.tolist())
    warn_of_absent_classes(data.names, counts)
    size = values["imgsz"]
    samples: dict[int, Sample] = {}
    mean, std, dropped = measure(_read_samples(settings, train, size, samples))
    if dropped:
        LOG.warning("train: %d degenerate boxes dropped (a side < 1 px at imgsz=%d)", dropped, size)
    mean = mean if values["mean"] is None else values["mean"]
    std = std if values["std"] is None else values["std"]
    description = family.describe(values, mean, std)
    _announce(data, train, val, values, description)
    start = None if settings.weights is None else _start(settings, family, description)
    return Job(settings, values, data.names, train, val, description, start, samples, group)


def check_group(settings: DetectTrain, values: Mapping[str, Any], group: Group) -> None:
    """Refuse what several processes cannot train together.

    Raises:
        ConfigError: a batch that they cannot share, or one device for all of them.
    """
    if values["batch"] % group.size:
        near = max(values["batch"] // group.size, 1) * group.size
        msg = (
            f"batch={values['batch']}: is the batch of all {group.size} processes of torchrun, "
            f"which they cannot share evenly; give batch={near} or another multiple"
        )
        raise ConfigError(msg)
    group.device(settings.device)


def _read_samples(
    settings: DetectTrain, images: Sequence[YoloImage], size: int, samples: dict[int, Sample]
) -> Iterator[Sample]:
    """The images at the network's scale; with ``cache=ram`` they are left in ``samples``."""
    for index, image in enumerate(images):
        sample = read_sample(image, size)
        if settings.cache == "ram":
            samples[index] = sample
        yield sample


def _announce(
    data: YoloData,
    train: tuple[YoloImage, ...],
    val: tuple[YoloImage, ...],
    values: Mapping[str, Any],
    description: Any,
) -> None:
    LOG.info("data: %d images to train on, %d to validate on", len(train), len(val))
    LOG.info("normalisation: mean %g, std %g (pixels in 0 … 1)", description.mean, description.std)
    if not val:
        LOG.warning(
            "the val part is empty: no validation, the weights of the last epoch are the result"
        )
    turned = values["quarter_turns"] or values["flipud"]
    if turned and set(data.names) <= set(LEVELS):
        LOG.warning("classes are levels, which quarter_turns and flipud take from their place")


def _start(settings: DetectTrain, family: Family, description: Any) -> dict[str, torch.Tensor]:
    from spineline.weights import resolve as resolve_weights

    file = resolve_weights(str(settings.weights), task="detect", trust=settings.trust).path
    network, found = family.network_of(*read_safetensors(file), str(file))
    has, wanted = (
        " ".join(f"{name}={getattr(one, name)}" for name in family.shaping)
        for one in (found, description)
    )
    if has != wanted:
        keys = " and ".join(f"{name}=" for name in family.shaping)
        raise WeightsError(f"weights={file}: a network of {has}, wanted {wanted}; give {keys} so")
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
    network = job.family.build(job.description, job.values, job.names, counts, seed)
    if job.settings.compile:
        compile_backbone(network)
    return network


def resume(settings: DetectTrain, values: Mapping[str, Any], group: Group = ALONE) -> TrainResult:
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
    description = family_of(str(settings.model)).description(**content["description"])
    samples: dict[int, Sample] = {}
    if settings.cache == "ram":
        for _ in _read_samples(settings, train, values["imgsz"], samples):
            pass
    job = Job(settings, values, data.names, train, val, description, None, samples, group)
    network = _network(job)
    network.load_state_dict(content["network"])
    state = _state(job, network)
    state.optimizer.load_state_dict(content["optimizer"])
    state.done = state.saved = content["done"]
    state.best, state.best_epoch = content["best"], content["best_epoch"]
    state.bests = dict(content.get("bests") or {})
    LOG.info("resuming after epoch %d of %d", state.done, values["epochs"])
    if group.first:
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
    network.to(job.device)
    return State(network, make_optimizer(network, job.values), network)


def _fit(job: Job, state: State) -> TrainResult:
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with joined(job.group, job.device), torch.random.fork_rng(devices):
        try:
            _begin(job, state)
            batches = EpochBatches(
                len(job.train), job.values["batch"], seed=job.settings.seed, group=job.group
            )
            loader = _loader(job, batches)
            while state.done < job.values["epochs"] and not _has_settled(job, state):
                batches.epoch = state.done
                losses = _train_epoch(job, state, loader)
                state.done += 1
                _close_epoch(job, state, losses)
        except (RuntimeError, OSError, ValueError) as error:  # out of memory, disk full
            msg = f"out={job.settings.out}: training stopped ({error}); resume=true goes on with it"
            raise SpinelineError(msg) from error
        finally:
            state.writer.close()
        if job.group.first:
            _finish(job, state)
    return _result(job, state)


def _begin(job: Job, state: State) -> None:
    """What trains: the network joined with those of the other processes; where figures go."""
    if not job.group.alone:
        state.trained = _joined_network(job, state.network)
    if not job.group.first:
        return
    if job.val:
        state.validation = Validation(job.val, job.names, keep=job.settings.cache == "ram")
    if job.settings.tensorboard:
        from spineline.detect.engine.tensorboard import Board

        state.board = Board(job.settings.out, state.done)


def _joined_network(job: Job, network: nn.Module) -> nn.Module:
    """The network, with gradients averaged over the processes.

    On CUDA batch normalisation sees the whole batch; on the CPU each process normalises its share,
    and the running statistics are those of the first one.
    """
    from torch.nn.parallel import DistributedDataParallel

    if not job.device.startswith("cuda"):
        return DistributedDataParallel(network)
    nn.SyncBatchNorm.convert_sync_batchnorm(network)
    device = torch.device(job.device)
    return DistributedDataParallel(network, device_ids=[device], output_device=device)


def _loader(job: Job, batches: EpochBatches) -> Iterable[list[Example]]:
    """Made by processes of its own beside a CUDA device; on the CPU they would be in the way."""
    images = TrainingImages(
        job.train,
        job.values,
        seed=job.settings.seed,
        samples=job.samples,
        keep=job.settings.cache == "ram",
    )
    cores = max(1, (os.cpu_count() or 1) // job.group.size)
    workers = 0 if job.device == "cpu" else min(job.settings.workers, cores)
    return make_loader(images, batches, workers=workers)


def _has_settled(job: Job, state: State) -> bool:
    """Whether ``patience`` is used up, as the first process has it."""
    patience = job.values["patience"]
    waited = state.done - state.best_epoch if state.best_epoch else 0
    settled = bool(job.group.from_first(bool(patience) and waited >= patience))
    if settled:
        LOG.info("no better validation in %d epochs: stopped", patience)
    return settled


def learning_rate(values: Mapping[str, Any], epochs: float) -> float:
    """The learning rate after so many epochs: linear warm-up, then linear to ``lr0 * lrf``."""
    warmup = values["warmup_epochs"]
    share = 1.0 - epochs / values["epochs"] * (1.0 - values["lrf"])
    if epochs < warmup:
        share *= WARMUP_START + (1.0 - WARMUP_START) * epochs / warmup
    return float(values["lr0"] * share)


def _train_epoch(job: Job, state: State, loader: Iterable[list[Example]]) -> dict[str, float]:
    """One epoch; the mean of each loss over its steps."""
    _detector(job, state).limit(confidence=0.05, iou=0.5, max_detections=100)
    state.trained.train()
    settings, group, names = job.settings, job.group, job.family.losses
    steps = -(-len(job.train) // job.values["batch"])
    place = (group.rank,) if group.rank else ()
    sums = dict.fromkeys(names, 0.0)
    for step, examples in enumerate(_shown(loader, steps, f"epoch {state.done + 1}", group)):
        rate = learning_rate(job.values, state.done + step / steps)
        for param_group in state.optimizer.param_groups:
            param_group["lr"] = rate
        batch = _on_device(job, examples)
        seed_generators(seed_of(settings.seed, state.done, 2, step, *place))
        losses = _step(job, state, batch, step)
        sums = {name: sums[name] + losses[name] for name in names}
    group.share_buffers(state.network)
    return {name: total / steps for name, total in sums.items()}


def _shown(
    loader: Iterable[list[Example]], steps: int, description: str, group: Group
) -> Iterable[list[Example]]:
    if not group.first or not sys.stderr.isatty():
        return loader
    from tqdm import tqdm

    return tqdm(loader, total=steps, desc=description, leave=False)


def _on_device(job: Job, examples: Sequence[Example]) -> Batch:
    device, channels = job.device, job.description.channels
    images = [as_input(one.pixels[None].to(device), channels)[0] for one in examples]
    targets = [
        {"boxes": one.boxes_xyxy.to(device), "labels": one.class_index.to(device) + 1}
        for one in examples
    ]
    return images, targets, [one.name for one in examples]


def network_losses(network: Any, batch: Batch) -> dict[str, torch.Tensor]:
    """The network's losses of a batch."""
    losses: dict[str, torch.Tensor] = network(batch[0], batch[1])
    return losses


def _step(job: Job, state: State, batch: Batch, step: int) -> dict[str, float]:
    """One step of the optimizer; the losses, averaged over the processes.

    Raises:
        SpinelineError: the loss of a process is no finite number; raised in all of them, and no
            weight was changed by this step.
    """
    device = torch.device(job.device)
    half = device.type == "cuda" and job.settings.amp and torch.cuda.is_bf16_supported()
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        losses = network_losses(state.trained, batch)
    names = job.family.losses
    each = torch.stack([losses[name].float() for name in names])
    state.optimizer.zero_grad()
    each.sum().backward()
    own = each.detach()
    mean = (job.group.total(own) / job.group.size).tolist()  # the one wait for the device
    if not all(math.isfinite(number) for number in mean):
        numbers = dict(zip(names, own.tolist(), strict=True))
        found = job.group.gathered((batch[2], numbers))
        raise SpinelineError(_not_finite(job, state, found, step))
    state.optimizer.step()
    return dict(zip(names, mean, strict=True))


def _not_finite(
    job: Job, state: State, found: Sequence[tuple[list[str], dict[str, float]]], step: int
) -> str:
    """What to say of losses that are no numbers.

    Args:
        job: the run.
        state: how far it is.
        found: the files and losses of each process.
        step: number of the batch, from 0.
    """
    state.writer.wait()
    files: list[str] = []
    words: list[str] = []
    for names, numbers in found:
        wrong = [f"{k}={v:g}" for k, v in numbers.items() if not math.isfinite(v)]
        words += wrong
        files += names if wrong else []
    last = job.weights / "last.pt"
    saved = job.group.from_first(state.saved)
    kept = f"{last} holds epoch {saved}" if saved else "no epoch was finished"
    return (
        f"epoch {state.done + 1}, batch {step + 1}: the loss is no finite number "
        f"({', '.join(words)}); its images: {', '.join(files)}; {kept}; look at their labels, or "
        "lower lr0"
    )


def _close_epoch(job: Job, state: State, losses: Mapping[str, float]) -> None:
    """Validate, then write: results, weights, and what a resumed run starts from."""
    limit = largest(state.network.state_dict())
    if not math.isfinite(limit):
        msg = f"epoch {state.done}: the weights are no longer finite numbers; lower lr0"
        raise SpinelineError(msg)
    if not job.group.first:
        return
    figures, found = _validate(job, state)
    row: dict[str, float] = {f"train/{name}": value for name, value in losses.items()}
    if job.val:
        row |= dict.fromkeys(COLUMNS, float("nan")) if figures is None else figures
    row["lr/pg0"] = state.optimizer.param_groups[0]["lr"]
    append_row(job.settings.out / "results.csv", {"epoch": state.done, **row})
    if state.board is not None:
        state.board.scalars(state.done, row)
        if found is not None and state.validation is not None:
            state.board.picture(state.done, _picture(state.validation, found))
    _save(job, state, _improved(state, figures), limit)
    _say(job, state, losses, figures)


def _validate(job: Job, state: State) -> tuple[dict[str, float] | None, Detections | None]:
    """Figures on the val part when they are due, and what was found in the pictured image."""
    validation = state.validation
    if validation is None:
        return None, None
    detector = _detector(job, state)
    last = state.done == job.values["epochs"]
    if last or (job.settings.val and state.done % job.settings.val_every == 0):
        found = validation.detect(detector, range(len(job.val)))
        return validation.metrics(found), found[pictured(job.val)]
    if state.board is None:
        return None, None
    return None, validation.detect(detector, [pictured(job.val)])[0]


def _detector(job: Job, state: State) -> ScaledDetector:
    return job.family.detector(state.network, job.meta, device=job.device)


def _picture(validation: Validation, found: Detections) -> npt.NDArray[np.uint8]:
    from spineline.detect.engine.tensorboard import comparison

    index = pictured(validation.images)
    image = validation.images[index]
    return comparison(validation.pixels(index), labels_of(image), found, title=image.file.stem)


def _improved(state: State, figures: Mapping[str, float] | None) -> list[str]:
    """Names of the weights files that this epoch is the best for; takes note of its figures."""
    if figures is None:
        return []
    names: list[str] = []
    for metric, column in METRICS.items():
        if figures[column] > state.bests.get(metric, -1.0):
            state.bests[metric] = figures[column]
            names.append(f"best_{metric}")
    map50 = figures[METRICS["map50"]]
    if map50 > state.best:
        state.best, state.best_epoch = map50, state.done
        names.append("best")
    return names


def _save(job: Job, state: State, names: Sequence[str], limit: float) -> None:
    """Write an epoch's weights and checkpoint beside training.

    An epoch is passed over soon after an earlier one, or while that is still being written, unless
    it is a best one or the last. The thread beside training only moves and writes: arithmetic there
    would start OpenMP threads of its own, and those take cores from every later step.

    Args:
        job: the run.
        state: how far it is.
        names: weights files besides ``last`` that this epoch is the best for.
        limit: the greatest absolute number of the weights.
    """
    last = state.done == job.values["epochs"]
    recent = time.monotonic() - state.written < CHECKPOINT_SECONDS
    if (recent or state.writer.busy) and not names and not last:
        return
    state.written = time.monotonic()
    content = _checkpoint(job, state, finished=False)
    stored = as_stored(content["network"], limit)
    state.writer.wait()  # it reads the copies
    copied = _each_tensor(content, state.copies.copy)

    def write() -> None:
        _write_weights(job, stored, [*names, "last"])
        moved = _each_tensor(copied, torch.Tensor.cpu)
        write_checkpoint(moved, job.weights / "last.pt")
        state.saved = moved["done"]

    state.writer.submit(write)


def _write_weights(job: Job, stored: Mapping[str, torch.Tensor], names: Sequence[str]) -> None:
    """One file of weights, and its other names."""
    first, *others = (job.weights / f"{name}.safetensors" for name in names)
    write_bytes(first, packed_safetensors(stored, job.meta, half=False))
    for other in others:
        link_file(first, other)


def _each_tensor(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A copy of nested dicts and lists with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _each_tensor(one, change) for name, one in value.items()}
    return [_each_tensor(one, change) for one in value] if isinstance(value, list) else value


def _say(
    job: Job, state: State, losses: Mapping[str, float], figures: Mapping[str, float] | None
) -> None:
    words = " ".join(f"{name.removeprefix('loss_')} {v:.3f}" for name, v in losses.items())
    found = ""
    if figures is not None:
        shown = (("mAP50", "map50"), ("mAP50-95", "map50_95"), ("F1", "f1"))
        found = "; val " + " ".join(f"{word} {figures[METRICS[m]]:.3f}" for word, m in shown)
    LOG.info("epoch %d/%d: %s%s", state.done, job.values["epochs"], words, found)


def _checkpoint(job: Job, state: State, *, finished: bool) -> dict[str, Any]:
    return {
        "backend": job.family.name,
        "done": state.done,
        "best": state.best,
        "best_epoch": state.best_epoch,
        "bests": dict(state.bests),
        "names": list(job.names),
        "imgsz": job.values["imgsz"],
        "description": asdict(job.description),
        "network": dict(state.network.state_dict()),
        "optimizer": None if finished else state.optimizer.state_dict(),
    }


def _finish(job: Job, state: State) -> None:
    """Draw the curves and leave a checkpoint without what only a resumed run needs."""
    out = job.settings.out
    if job.settings.plots:
        write_bytes(out / "results.png", _curves_png(out / "results.csv"))
    content = _each_tensor(_checkpoint(job, state, finished=True), torch.Tensor.cpu)
    if state.saved < state.done:
        stored = as_stored(content["network"], largest(content["network"]))
        _write_weights(job, stored, ["last"])
    write_checkpoint(content, job.weights / "last.pt")
    LOG.info("done: %d epochs; weights: %s", state.done, _result(job, state).weights)


def _result(job: Job, state: State) -> TrainResult:
    best, last = (job.weights / f"{name}.safetensors" for name in ("best", "last"))
    chosen = best if best.exists() else last
    return TrainResult(job.settings.out, chosen, last, state.done)


def _curves_png(results: Path) -> bytes:
    """Losses on the left, validation on the right."""
    from spineline.datasets.common.plots import figure_png, new_figure

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
