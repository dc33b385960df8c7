"""Training of networks that return losses as torchvision's detectors do.

Random generators are seeded for each image and each step, from the run's seed, the epoch and the
place in it. So a resumed run gives the numbers of an uninterrupted one. ``weights/last.pt`` holds
what a resumed run needs (tensors and numbers, no objects). The ``.safetensors`` files are the
results.

Under ``torchrun``, each process takes a share of every batch and gradients are averaged. Only the
first process validates and writes.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from spineline.datasets.common.errors import ConfigError, SpinelineError, WeightsError
from spineline.datasets.common.files import write_bytes
from spineline.datasets.common.log import LOG
from spineline.datasets.labels import LEVELS
from spineline.datasets.networks.tensors import write_checkpoint
from spineline.datasets.networks.training import (
    ResultRow,
    Trainer,
    TrainingResult,
    moved_to_cpu,
    read_checkpoint,
    run_finished,
)
from spineline.detect.checkpoints import DetectorMeta, packed_safetensors, read_safetensors
from spineline.detect.engine.class_rows import ClassRows, log_rows, matched_rows, taken_over
from spineline.detect.engine.compiling import compile_backbone
from spineline.detect.engine.dataset import (
    YoloData,
    YoloImage,
    class_counts,
    read_data,
    warn_of_absent_classes,
)
from spineline.detect.engine.distributed import ALONE, ProcessGroup, joined_processes
from spineline.detect.engine.images import Sample, measure, read_sample
from spineline.detect.engine.loader import (
    EpochBatches,
    Example,
    TrainingImages,
    make_loader,
    seed_generators,
    seed_of,
)
from spineline.detect.engine.networks import Architecture, architecture_of, make_detector_optimizer
from spineline.detect.engine.scaling import ScaledDetector, as_input, as_stored, make_meta
from spineline.detect.engine.tensorboard import Board, comparison
from spineline.detect.engine.validation import (
    COLUMNS,
    METRICS,
    Validation,
    labels_of,
    pictured,
)
from spineline.detect.results import Detections
from spineline.detect.settings import DetectTrain
from spineline.weights import resolve as resolve_weights

WARMUP_START = 1e-3
"""Initial learning rate of the warm-up, as a fraction of ``lr0``."""

Batch = tuple[list[torch.Tensor], list[dict[str, torch.Tensor]], list[str]]


@dataclass(frozen=True, slots=True)
class StartWeights:
    """Initial weights: tensors by name, and the names of their classes, if any."""

    tensors: Mapping[str, torch.Tensor]
    names: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Everything that a run trains with.

    Attributes:
        settings: the command's keys.
        values: the training values from keys and recipe.
        names: class names.
        train: training images.
        val: validation images; without any, nothing is validated.
        description: description of the network, in its architecture's class.
        start: initial weights, or None to start from scratch.
        samples: training images at the network's scale that are in memory, by index.
        group: this process's place among those that train together.
    """

    settings: DetectTrain
    values: Mapping[str, Any]
    names: tuple[str, ...]
    train: tuple[YoloImage, ...]
    val: tuple[YoloImage, ...]
    description: Any
    start: StartWeights | None = None
    samples: Mapping[int, Sample] = field(default_factory=dict)
    group: ProcessGroup = ALONE

    @property
    def architecture(self) -> Architecture:
        """The architecture of the network."""
        return architecture_of(str(self.settings.model))

    @property
    def meta(self) -> DetectorMeta:
        """The network's description for its weights file."""
        return make_meta(self.description, self.names, self.values["imgsz"])

    @property
    def device(self) -> str:
        """The device of this process."""
        return self.group.device(self.settings.device)


def make_plan(
    settings: DetectTrain, values: Mapping[str, Any], data: YoloData, group: ProcessGroup = ALONE
) -> TrainingPlan:
    """Read and check the images and the initial weights.

    Raises:
        AnnotationError: images or labels cannot be used.
        ConfigError: a key does not apply to the network.
        WeightsError: the initial weights cannot be used.
    """
    architecture = architecture_of(str(settings.model))
    values = {**values, **architecture.input_defaults(settings, values)}
    train = data.part_images("train")
    val = data.part_images("val")
    counts = class_counts(train, len(data.names))
    architecture.check(values, data.names, counts.tolist())
    warn_of_absent_classes(data.names, counts)
    size = values["imgsz"]
    samples: dict[int, Sample] = {}
    mean, std, dropped = measure(_read_samples(settings, train, size, samples))
    if dropped:
        LOG.warning("train: %d degenerate boxes dropped (a side < 1 px at imgsz=%d)", dropped, size)
    mean = mean if values["mean"] is None else values["mean"]
    std = std if values["std"] is None else values["std"]
    description = architecture.describe(values, mean, std)
    _announce(data, train, val, values, description)
    start = _start(settings, architecture, description)
    return TrainingPlan(
        settings, values, data.names, train, val, description, start, samples, group
    )


def _read_samples(
    settings: DetectTrain, images: Sequence[YoloImage], size: int, samples: dict[int, Sample]
) -> Iterator[Sample]:
    """Images at the network's scale; ``cache=ram`` keeps them in ``samples``."""
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


def _start(
    settings: DetectTrain, architecture: Architecture, description: Any
) -> StartWeights | None:
    backbone = architecture.start_backbone(settings, description)
    if backbone is not None:
        return StartWeights(backbone)
    if settings.weights is None:
        return None
    file = resolve_weights(str(settings.weights), task="detect", trust=settings.trust).path
    meta, tensors = read_safetensors(file)
    network, found = architecture.network_of(meta, tensors, str(file))
    has, wanted = (
        " ".join(f"{name}={getattr(one, name)}" for name in architecture.shaping)
        for one in (found, description)
    )
    if has != wanted:
        keys = " and ".join(f"{name}=" for name in architecture.shaping)
        raise WeightsError(f"weights={file}: a network of {has}, wanted {wanted}; give {keys} so")
    LOG.info("starting from %s", file)
    return StartWeights(network.state_dict(), meta.names)


def run_training(plan: TrainingPlan) -> TrainingResult:
    """Train from the start.

    Raises:
        SpinelineError: the loss is not a finite number, or memory or disk space runs out.
    """
    return DetectorTrainer(plan, first_network(plan)).run()


def first_network(plan: TrainingPlan) -> nn.Module:
    """Build the initial network: with fresh weights, or with those of the plan."""
    network = _network(plan, seed=plan.settings.seed)
    if plan.start is not None:
        rows: ClassRows = ()
        if plan.start.names is not None:
            rows = matched_rows(plan.start.names, plan.names)
            log_rows(plan.start.names, plan.names, rows)
        heads = plan.architecture.heads
        network.load_state_dict(taken_over(network.state_dict(), plan.start.tensors, heads, rows))
    return network


def _network(plan: TrainingPlan, *, seed: int = 0) -> nn.Module:
    network = plan.architecture.build(
        plan.description,
        plan.names,
        plan.values["imgsz"],
        seed=seed,
        values=plan.values,
        counts=class_counts(plan.train, len(plan.names)).tolist(),
    )
    if plan.settings.compile:
        compile_backbone(network)
    return network


def resume_training(
    settings: DetectTrain, values: Mapping[str, Any], group: ProcessGroup = ALONE
) -> TrainingResult:
    """Continue a run that was stopped; on the CPU, numbers equal those of an uninterrupted run.

    Raises:
        WeightsError: there is nothing to continue.
        ConfigError: the dataset's classes are not the run's.
    """
    last = settings.out / Trainer.checkpoint_name
    content = read_checkpoint(last, ("names", "description"))
    if content["optimizer"] is None:
        raise run_finished(last, content["done"])
    data = read_data(Path(str(settings.data)), settings.images)
    if list(data.names) != content["names"]:
        msg = f"data={settings.data}: its classes {data.names} are not the run's {content['names']}"
        raise ConfigError(msg)
    train = data.part_images("train")
    val = data.part_images("val")
    description = architecture_of(str(settings.model)).description(**content["description"])
    samples: dict[int, Sample] = {}
    if settings.cache == "ram":
        for _ in _read_samples(settings, train, values["imgsz"], samples):
            pass
    plan = TrainingPlan(settings, values, data.names, train, val, description, None, samples, group)
    trainer = DetectorTrainer(plan, _network(plan))
    trainer.restore(content)
    return trainer.run()


class DetectorTrainer(Trainer):
    """Trains a network of our architectures, alone or together with other processes.

    Args:
        plan: everything that it trains with.
        network: the network with its initial weights.
    """

    best_files: ClassVar = {name: (f"best_{name}",) for name in METRICS} | {
        "map50": ("best_map50", "best")
    }
    rate_key = "lr0"

    def __init__(self, plan: TrainingPlan, network: nn.Module) -> None:
        network.to(plan.device)
        super().__init__(
            plan.settings.out,
            network,
            make_detector_optimizer(network, plan.values),
            epochs=plan.values["epochs"],
            val_every=plan.settings.val_every if plan.settings.val else 0,
        )
        self.plan = plan
        self.trained: nn.Module = network
        """The callable that takes a batch: the network, or its wrapper for several processes."""
        self.batches = EpochBatches(
            len(plan.train), plan.values["batch"], seed=plan.settings.seed, group=plan.group
        )
        self._loader: Iterable[list[Example]] = ()
        self._validation: Validation | None = None
        self._board: Board | None = None
        self._found: Detections | None = None

    @property
    def writes(self) -> bool:
        """Whether this is the first process."""
        return self.plan.group.first

    def run(self) -> TrainingResult:
        """See `spineline.datasets.networks.training`; joins the other processes."""
        with joined_processes(self.plan.group, self.plan.device):
            return super().run()

    def on_train_start(self) -> None:
        """Join the other processes' networks, and create the loader and the validation."""
        plan, cached = self.plan, self.plan.settings.cache == "ram"
        if not plan.group.alone:
            self.trained = _joined_network(plan, self.network)
        images = TrainingImages(
            plan.train, plan.values, seed=plan.settings.seed, samples=plan.samples, keep=cached
        )
        # Loader processes help beside a CUDA device; on the CPU they would compete for its cores.
        cores = max(1, (os.cpu_count() or 1) // plan.group.size)
        workers = 0 if plan.device == "cpu" else min(plan.settings.workers, cores)
        self._loader = make_loader(images, self.batches, workers=workers)
        if self.writes and plan.val:
            self._validation = Validation(plan.val, plan.names, keep=cached)
        if self.writes and plan.settings.tensorboard:
            self._board = Board(self.out, self.done)

    def should_stop(self) -> bool:
        """Whether ``patience`` is used up, as the first process decides."""
        patience = self.plan.values["patience"]
        waited = self.done - self.best_epoch if self.best_epoch else 0
        settled = bool(self.plan.group.from_first(bool(patience) and waited >= patience))
        if settled:
            LOG.info("no better validation in %d epochs: stopped", patience)
        return settled

    def train_epoch(self) -> dict[str, float]:
        """Train one epoch and return the mean of each loss over its steps."""
        self._detector().limit(confidence=0.05, iou=0.5, max_detections=100)
        self.trained.train()
        plan, group = self.plan, self.plan.group
        self.batches.epoch = self.done
        steps = len(self.batches)
        place = (group.rank,) if group.rank else ()
        sums = dict.fromkeys(plan.architecture.losses, 0.0)
        for step, examples in enumerate(self.shown(self._loader, steps)):
            rate = detector_learning_rate(plan.values, self.done + step / steps)
            for param_group in self.optimizer.param_groups:
                param_group["lr"] = rate
            batch = _on_device(plan, examples)
            seed_generators(seed_of(plan.settings.seed, self.done, 2, step, *place))
            losses = self._step(batch, step)
            sums = {name: total + losses[name] for name, total in sums.items()}
        group.share_buffers(self.network)
        return {name: total / steps for name, total in sums.items()}

    def _step(self, batch: Batch, step: int) -> dict[str, float]:
        """Take one step of the optimizer and return the losses, averaged over the processes.

        Raises:
            SpinelineError: the loss of a process is not a finite number. It is raised in all
                processes, and this step changes no weight.
        """
        plan, device = self.plan, torch.device(self.plan.device)
        half = device.type == "cuda" and plan.settings.amp and torch.cuda.is_bf16_supported()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            losses = network_losses(self.trained, batch)
        names = plan.architecture.losses
        each = torch.stack([losses[name].float() for name in names])
        self.optimizer.zero_grad()
        each.sum().backward()
        own = each.detach()
        mean = (plan.group.total(own) / plan.group.size).tolist()  # the only wait for the device
        if not all(math.isfinite(number) for number in mean):
            numbers = dict(zip(names, own.tolist(), strict=True))
            raise SpinelineError(self._not_finite(plan.group.gathered((batch[2], numbers)), step))
        self.optimizer.step()
        return dict(zip(names, mean, strict=True))

    def _not_finite(self, found: Sequence[tuple[list[str], dict[str, float]]], step: int) -> str:
        """The message about losses that are not finite.

        Args:
            found: the files and losses of each process.
            step: number of the batch, from 0.
        """
        files: list[str] = []
        words: list[str] = []
        for names, numbers in found:
            wrong = [f"{k}={v:g}" for k, v in numbers.items() if not math.isfinite(v)]
            words += wrong
            files += names if wrong else []
        return (
            f"epoch {self.done + 1}, batch {step + 1}: the loss is not a finite number "
            f"({', '.join(words)}); its images: {', '.join(files)}; "
            f"{self.plan.group.from_first(self.kept())}; check their labels, or lower lr0"
        )

    def validate(self) -> dict[str, float] | None:
        """Return the metrics of the validation part, by column."""
        if self._validation is None:
            return None
        found = self._validation.detect(self._detector(), range(len(self.plan.val)))
        self._found = found[pictured(self.plan.val)]
        return self._validation.metrics(found)

    def scores(self, metrics: Mapping[str, Any]) -> dict[str, float | None]:
        """Return the metrics whose best weights are kept."""
        return {name: metrics[column] for name, column in METRICS.items()}

    def row(self, trained: Mapping[str, float], metrics: Mapping[str, Any] | None) -> ResultRow:
        """Return losses, metrics and learning rate; ``nan`` for metrics without a validation."""
        row: ResultRow = {f"train/{name}": value for name, value in trained.items()}
        if self.plan.val:
            row |= dict.fromkeys(COLUMNS, math.nan) if metrics is None else metrics
        row["lr/pg0"] = self.optimizer.param_groups[0]["lr"]
        return row

    def on_epoch_end(self, row: ResultRow) -> None:
        """With ``tensorboard=true``, write the same numbers and a picture there."""
        found, self._found = self._found, None
        if self._board is None:
            return
        self._board.scalars(self.done, {k: float(v or 0) for k, v in row.items() if k != "epoch"})
        if self._validation is None:
            return
        index = pictured(self.plan.val)
        found = found or self._validation.detect(self._detector(), [index])[0]
        image, pixels = self.plan.val[index], self._validation.pixels(index)
        picture = comparison(pixels, labels_of(image), found, title=image.file.stem)
        self._board.picture(self.done, picture)

    def summary(self, row: ResultRow) -> str:
        """Return the losses and, if there are any, the metrics."""
        losses = self.plan.architecture.losses
        words = " ".join(f"{n.removeprefix('loss_')} {row[f'train/{n}']:.3f}" for n in losses)
        shown = (("mAP50", "map50"), ("mAP50-95", "map50_95"), ("F1", "f1"))
        found = [(word, float(row.get(METRICS[name]) or 0)) for word, name in shown]
        if METRICS["map50"] not in row or all(math.isnan(value) for _, value in found):
            return words
        return f"{words}; val " + " ".join(f"{word} {value:.3f}" for word, value in found)

    def description(self) -> dict[str, Any]:
        """Return what `weights strip` reads: the network's description, class names, image size."""
        return {
            "backend": self.plan.architecture.name,
            "names": list(self.plan.names),
            "imgsz": self.plan.values["imgsz"],
            "description": asdict(self.plan.description),
        }

    def stored_weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of the weights, in 16 bits where the numbers fit."""
        return as_stored(self.network.state_dict())

    def pack_weights(self, weights: Mapping[str, torch.Tensor]) -> bytes:
        """Return the content of a weights file."""
        return packed_safetensors(weights, self.plan.meta, half=False)

    def on_train_end(self) -> None:
        """Draw the curves and strip the checkpoint of what only a resumed run needs."""
        if self.plan.settings.plots:
            write_bytes(self.out / "results.png", _curves_png(self.out / "results.csv"))
        content = {**moved_to_cpu(self.checkpoint()), "optimizer": None}
        write_checkpoint(content, self.out / self.checkpoint_name)

    def _detector(self) -> ScaledDetector:
        plan = self.plan
        return plan.architecture.detector(self.network, plan.meta, device=plan.device)


def _joined_network(plan: TrainingPlan, network: nn.Module) -> nn.Module:
    """Wrap the network so that gradients are averaged over the processes.

    On CUDA, batch normalisation sees the whole batch. On the CPU, each process normalises its
    share, and the running statistics are those of the first one.
    """
    from torch.nn.parallel import DistributedDataParallel

    if not plan.device.startswith("cuda"):
        return DistributedDataParallel(network)
    nn.SyncBatchNorm.convert_sync_batchnorm(network)
    device = torch.device(plan.device)
    return DistributedDataParallel(network, device_ids=[device], output_device=device)


def detector_learning_rate(values: Mapping[str, Any], epochs: float) -> float:
    """Return the learning rate after an epoch: linear warm-up, then linear to ``lr0 * lrf``."""
    warmup = values["warmup_epochs"]
    share = 1.0 - epochs / values["epochs"] * (1.0 - values["lrf"])
    if epochs < warmup:
        share *= WARMUP_START + (1.0 - WARMUP_START) * epochs / warmup
    return float(values["lr0"] * share)


def _on_device(plan: TrainingPlan, examples: Sequence[Example]) -> Batch:
    device, channels = plan.device, plan.description.channels
    images = [as_input(one.pixels[None].to(device), channels)[0] for one in examples]
    targets = [
        {"boxes": one.boxes_xyxy.to(device), "labels": one.class_index.to(device) + 1}
        for one in examples
    ]
    return images, targets, [one.name for one in examples]


def network_losses(network: Any, batch: Batch) -> dict[str, torch.Tensor]:
    """Return the network's losses for a batch, by name."""
    losses: dict[str, torch.Tensor] = network(batch[0], batch[1])
    return losses


def _curves_png(results: Path) -> bytes:
    """Plot losses on the left, validation on the right."""
    from spineline.datasets.common.plots import figure_png, new_figure  # matplotlib

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
