"""``spineline classify train``: crops in memory, augmentation on whole batches, resumable.

All randomness of an epoch follows from the seed and the epoch's number, so that a run resumed after
its last whole epoch gives the numbers of an unbroken one (on the CPU, with as many threads).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from spineline.classify.augment import Mix, augment, draw_mix
from spineline.classify.data import TrainingData, balanced_encoding, load_training_data
from spineline.classify.gradients import GRADIENTS, GradientTrunk
from spineline.classify.metrics import score, selection_score
from spineline.classify.model import (
    Classifier,
    Network,
    NetworkConfig,
    Outputs,
    allowed_classes,
    build_network,
    check_model_name,
    grades_of,
    load_network,
    network_state,
    read_weights,
)
from spineline.classify.recipe import Head, Recipe, load_recipe, overrides_of
from spineline.classify.runfolder import Checkpoint, Row, RunFolder, result_row
from spineline.classify.settings import ClassifyTrain
from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import ConfigError, SpinelineError, WeightsError
from spineline.datasets.common.files import write_json
from spineline.datasets.common.locks import held_folder
from spineline.datasets.common.log import LOG, progress
from spineline.datasets.common.run_record import resumed_settings, write_run_record
from spineline.datasets.common.settings import parse_settings, settings_to_dict
from spineline.datasets.crops.table import CropTable
from spineline.datasets.labels import KINDS, SEVEN_NAMES

_MAY_CHANGE = ("resume", "data", "out", "device", "threads", "plots", "trust", "overwrite")
"""Keys that a resumed run may be given otherwise than the run it continues."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training left behind.

    Attributes:
        out: run folder.
        last: weights of the last epoch.
        best: weights of the best epoch on val; the same as ``last`` without a val part.
        best_epoch: 0 without a val part.
        history: a row per epoch, as in ``results.csv``.
        metrics: figures of ``best`` on val; empty without one.
    """

    out: Path
    last: Path
    best: Path
    best_epoch: int
    history: tuple[Row, ...]
    metrics: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """A training that is ready to begin."""

    data: TrainingData
    config: NetworkConfig
    seed: int
    device: torch.device
    val_every: int

    @property
    def recipe(self) -> Recipe:
        """The recipe as it applies to the data."""
        return self.data.recipe


def train(settings: ClassifyTrain) -> TrainResult:
    """Train a classifier.

    Raises:
        ConfigError: a key, recipe, model or device that is not allowed, or a resumed run that
            began otherwise.
        AnnotationError: the data cannot be read, or has nothing to train on.
        OutputExistsError: ``out`` holds something, and neither ``overwrite`` nor ``resume`` is set.
        SpinelineError: the loss is not a number any more.
    """
    run = RunFolder(settings.out)
    before = run.load() if settings.resume else None
    if before is None:
        run.check_new(overwrite=settings.overwrite)
        recipe = load_recipe(settings.hyp or "report", overrides_of(settings))
    else:
        settings = _as_begun(settings)
        recipe = parse_settings(Recipe, before.identity["recipe"], where=str(run.checkpoint))
    if settings.data is None:
        raise ConfigError("missing data=… (a converted dataset, or a folder of data crops)")
    device = torch.device(device_name(settings.device))
    check_model_name(recipe.model)
    given = overrides_of(settings)
    data = load_training_data(settings.data, recipe, given=given, seed=settings.seed)
    config = _network_config(data)
    job = Job(data, config, settings.seed, device, settings.val_every)
    network = _start_network(config, settings)
    if settings.weights is None and not settings.resume:
        fit_trunk(network, data.train)
    identity = {"recipe": settings_to_dict(job.recipe), "data": data.fingerprint()}
    run.path.mkdir(parents=True, exist_ok=True)
    with _threads(settings.threads), held_folder(run.path):
        if before is None:
            run.prepare(overwrite=settings.overwrite)
            _write_records(run, settings, job)
        else:
            if before.identity["data"] != identity["data"]:
                raise ConfigError("resume=true: data= holds other crops than the run began with")
            run.clear_partial()
        _announce(job)
        end = _fit(job, network, run, before, identity)
        return _finish(run, job, end, plots=settings.plots)


def _as_begun(given: ClassifyTrain) -> ClassifyTrain:
    """The settings of the run that is resumed, with what may change taken from ``given``."""
    settings, _ = resumed_settings(given, given.out, resolved="recipe", may_change=_MAY_CHANGE)
    return replace(settings, out=given.out, resume=True)


def _network_config(data: TrainingData) -> NetworkConfig:
    recipe = data.recipe
    head: Head = "both"
    if recipe.head in ("seven", "binary"):
        head = "seven" if recipe.head == "seven" else "binary"
    mean, std = mean_and_std(data.train) if recipe.normalise else (0.0, 1.0)
    return NetworkConfig(
        model=recipe.model,
        head=head,
        hidden=recipe.hidden,
        dropout=recipe.dropout,
        channels=recipe.channels,
        crop=recipe.crop(),
        mean=mean,
        std=std,
        components=recipe.components if recipe.model == GRADIENTS else 0,
        members=recipe.members,
        feature_dropout=recipe.feature_dropout,
    )


def mean_and_std(table: CropTable) -> tuple[float, float]:
    """Mean and standard deviation of all pixels of the windows, in 0 … 1; the latter not zero."""
    counts = np.zeros(256, dtype=np.int64)
    for window in table.windows():  # one by one: the whole in float would be large
        counts += np.bincount(window.ravel(), minlength=256)
    greys = np.arange(256) / 255
    mean = float((counts * greys).sum() / counts.sum())
    variance = float((counts * (greys - mean) ** 2).sum() / counts.sum())
    return mean, max(math.sqrt(variance), 1e-3)


def _start_network(config: NetworkConfig, settings: ClassifyTrain) -> Network:
    pretrained = settings.download and not settings.resume
    network = build_network(config, seed=settings.seed, pretrained=pretrained)
    if settings.weights is not None and not settings.resume:
        from spineline.weights import resolve

        file = resolve(settings.weights, task="classify", trust=settings.trust)
        start_from(network, *read_weights(file.path, trust=settings.trust), where=settings.weights)
    return network


def fit_trunk(network: Network, train: CropTable) -> None:
    """Let a trunk of gradients take the principal components of the training crops, in place.

    Any other trunk is left as it is.

    Raises:
        ConfigError: fewer crops than components.
    """
    trunk = network.trunk
    if not isinstance(trunk, GradientTrunk):
        return
    windows, mean, std = train.windows(), network.config.mean, network.config.std
    found = [
        trunk.histograms((torch.tensor(part).unsqueeze(1).float() / 255 - mean) / std)
        for part in np.array_split(windows, math.ceil(len(windows) / 256))
    ]
    trunk.fit(torch.cat(found))


def start_from(
    network: Network, state: dict[str, Tensor], config: NetworkConfig, *, where: str
) -> None:
    """Copy weights into a network in place: the trunk, and what fits of hidden layer and heads.

    Raises:
        WeightsError: the trunk is of another model or has another number of channels.
    """
    mine = network.config
    if (config.model, config.channels) != (mine.model, mine.channels):
        msg = (
            f"weights={where}: {config.model} with {config.channels} channels, but model="
            f"{mine.model} has {mine.channels}; give weights of the same model and channels"
        )
        raise WeightsError(msg)
    own = network.state_dict()
    fits = {n: t for n, t in state.items() if n in own and own[n].shape == t.shape}
    missing = sorted(name for name in own if name not in fits)
    if any(name.startswith("trunk.") for name in missing):
        raise WeightsError(f"weights={where}: {missing[0]} is missing or of another shape")
    network.load_state_dict({**own, **fits})
    if missing:
        LOG.info("weights=%s: %s start afresh", where, ", ".join(missing))


def _write_records(run: RunFolder, settings: ClassifyTrain, job: Job) -> None:
    by = balanced_encoding(job.recipe)
    counts = {"before": job.data.counts_before, "after": job.data.train.counts(by)}
    resolved = settings_to_dict(job.recipe)
    write_json(run.path / "recipe.json", resolved)
    write_run_record(run.path, "classify train", settings, recipe=resolved, counts=counts)


def _announce(job: Job) -> None:
    data = job.data
    val = f"{len(data.val)} to validate on" if data.val is not None else "no val part"
    LOG.info("%d crops to train on, %s", len(data.train), val)
    if data.val is None:
        LOG.warning("no labelled crop in val: the last epoch is kept, no best one is chosen")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


def learning_rate(recipe: Recipe, progress_epochs: float) -> float:
    """The learning rate after so many epochs (a fraction within one).

    ``step`` falls between epochs like ``torch.optim.lr_scheduler.StepLR``; ``cosine`` falls to zero
    along half a cosine; the warm-up scales either, linearly from zero.
    """
    rate = recipe.lr
    if recipe.scheduler == "step":
        rate *= recipe.gamma ** (int(progress_epochs) // recipe.step_size)
    elif recipe.scheduler == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * min(progress_epochs / recipe.epochs, 1.0)))
    if progress_epochs < recipe.warmup_epochs:
        rate *= progress_epochs / recipe.warmup_epochs
    return rate


def make_optimizer(network: Network, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over the parameters that are trained."""
    trained = [p for p in network.parameters() if p.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            trained, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(trained, lr=recipe.lr, weight_decay=recipe.weight_decay)


def epoch_order(table: CropTable, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """(N,) indices of an epoch's crops: a permutation, or with ``sampler`` a weighted draw."""
    if recipe.balance != "sampler":
        return torch.randperm(len(table), generator=generator)
    codes = table.binary if balanced_encoding(recipe) == "binary" else table.seven
    counts = np.bincount(codes, minlength=1).astype(np.float64)
    weights = torch.tensor(counts[codes] ** -recipe.sampler_power)
    return torch.multinomial(weights, len(table), replacement=True, generator=generator)


def batches(order: Tensor, size: int) -> list[Tensor]:
    """An order cut into batches; a last one of a single crop joins the one before (batch norm)."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


class CropLoss(nn.Module):
    """The recipe's cross-entropy over one or both heads."""

    def __init__(self, recipe: Recipe, train: CropTable) -> None:
        super().__init__()
        self.recipe = recipe
        self.register_buffer("allowed", allowed_classes(KINDS, len(KINDS)), persistent=False)
        self.register_buffer("seven_weight", class_weights(train.seven, 7, recipe.class_weights))
        self.register_buffer("binary_weight", class_weights(train.binary, 2, recipe.class_weights))

    def forward(self, outputs: Outputs, seven: Tensor, binary: Tensor, disc: Tensor) -> Tensor:
        """Mean loss of a batch; targets (B,), ``disc`` (B,) bool."""
        logits_seven, logits_binary = outputs
        smoothing = self.recipe.label_smoothing
        total = torch.zeros((), device=seven.device)
        if logits_seven is not None:
            total = total + self._of_seven(logits_seven, seven, disc)
        if logits_binary is None:
            return total
        counted = disc if self.recipe.binary_on == "disc" else torch.ones_like(disc)
        if not bool(counted.any()):
            return total + 0 * logits_binary.sum()
        share = self.recipe.binary_weight if logits_seven is not None else 1.0
        return total + share * functional.cross_entropy(
            logits_binary[counted], binary[counted], self.binary_weight, label_smoothing=smoothing
        )

    def _of_seven(self, logits: Tensor, target: Tensor, disc: Tensor) -> Tensor:
        smoothing = self.recipe.label_smoothing
        if not self.recipe.kind_loss:
            return functional.cross_entropy(
                logits, target, self.seven_weight, label_smoothing=smoothing
            )
        kinds = torch.where(disc, KINDS.index("disc"), KINDS.index("vertebra"))
        return masked_cross_entropy(
            logits, target, self.allowed[kinds], self.seven_weight, label_smoothing=smoothing
        )


def masked_cross_entropy(
    logits: Tensor, target: Tensor, allowed: Tensor, weight: Tensor, *, label_smoothing: float
) -> Tensor:
    """Cross-entropy over the classes that each crop may have.

    Args:
        logits: (B, C).
        target: (B,), each among the allowed.
        allowed: (B, C) bool.
        weight: (C,) of the classes; the mean is weighted by the targets'.
        label_smoothing: share of the target that is spread over the allowed classes.
    """
    logs = logits.masked_fill(~allowed, -torch.inf).log_softmax(dim=1)
    right = logs.gather(1, target[:, None])[:, 0]
    even = logs.masked_fill(~allowed, 0.0).sum(dim=1) / allowed.sum(dim=1)
    losses = -(1 - label_smoothing) * right - label_smoothing * even
    return (losses * weight[target]).sum() / weight[target].sum()


def class_weights(codes: np.ndarray[Any, Any], classes: int, mode: str) -> Tensor:
    """(classes,) float32 weights of mean one over the crops; absent classes get 1."""
    if mode == "none":
        return torch.ones(classes)
    counts = np.bincount(codes, minlength=classes).astype(np.float64)
    power = 1.0 if mode == "balanced" else 0.5
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -power, 1.0)
    mean = (weights * counts).sum() / counts.sum()
    return torch.tensor(np.where(counts > 0, weights / mean, 1.0), dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class Batches:
    """The tensors of a table: pixels (N, P, P) uint8, codes (N,), ``disc`` (N,) bool.

    ``features`` (copies, N, F) are those of augmented copies; None where they are made afresh.
    """

    pixels: Tensor
    seven: Tensor
    binary: Tensor
    disc: Tensor
    features: Tensor | None = None

    @classmethod
    def of(cls, table: CropTable) -> Batches:
        """The tensors of a table."""
        return cls(
            torch.from_numpy(np.ascontiguousarray(table.pixels)),
            torch.from_numpy(table.seven),
            torch.from_numpy(table.binary),
            torch.tensor([kind == "disc" for kind in table.kind], dtype=torch.bool),
        )


@dataclass(slots=True)
class _Progress:
    """What changes from epoch to epoch."""

    network: Network
    optimizer: torch.optim.Optimizer
    history: list[Row]
    best_epoch: int = 0
    best_score: float | None = None


def _fit(
    job: Job, network: Network, run: RunFolder, before: Checkpoint | None, identity: dict[str, Any]
) -> Checkpoint:
    """Train to the last epoch; a checkpoint after each."""
    network.to(job.device, memory_format=torch.channels_last)
    if job.recipe.freeze_trunk:
        network.trunk.requires_grad_(requires_grad=False)
    state = _Progress(network, make_optimizer(network, job.recipe), [])
    loss = CropLoss(job.recipe, job.data.train).to(job.device)
    tensors = Batches.of(job.data.train)
    end = before
    if before is not None:
        _restore(state, before)
        run.write_derived(before, job.config)
        LOG.info("resumed after epoch %d of %d", before.epoch, job.recipe.epochs)
    tensors = replace(tensors, features=kept_features(job, network, tensors.pixels))
    for epoch in _epochs(len(state.history), job.recipe.epochs):
        trained = _train_epoch(job, state, loss, tensors, epoch)
        end = _close_epoch(job, state, loss, epoch, trained, identity)
        run.save(end, job.config)
    if end is None:
        raise SpinelineError("nothing was trained: epochs must be at least 1")
    return end


def _epochs(start: int, stop: int) -> Iterable[int]:
    epochs = range(start, stop)
    return progress(epochs, description="epochs") if sys.stderr.isatty() else epochs


def _restore(state: _Progress, before: Checkpoint) -> None:
    state.network.load_state_dict(before.network)
    state.optimizer.load_state_dict(before.optimizer)
    state.history = list(before.history)
    state.best_epoch, state.best_score = before.best_epoch, before.best_score


def _train_epoch(
    job: Job, state: _Progress, loss: CropLoss, tensors: Batches, epoch: int
) -> dict[str, float]:
    """One pass; global generators (dropout) are forked and seeded by seed and epoch."""
    generator = torch.Generator().manual_seed(_epoch_seed(job.seed, epoch))
    with torch.random.fork_rng():
        torch.manual_seed(_epoch_seed(job.seed, epoch) + 1)
        state.network.train()
        if job.recipe.freeze_trunk:
            state.network.trunk.eval()
        parts = batches(epoch_order(job.data.train, job.recipe, generator), job.recipe.batch)
        total, hits, seen = 0.0, 0, 0
        for step, chosen in enumerate(parts):
            rate = learning_rate(job.recipe, _moment(job.recipe, epoch, step, len(parts)))
            value, right = _train_step(job, state, loss, tensors, chosen, rate, generator)
            _check_loss(value, epoch, step, rate)
            total, hits, seen = total + value * len(chosen), hits + right, seen + len(chosen)
    return {"loss": total / seen, "accuracy": hits / seen}


def _epoch_seed(seed: int, epoch: int) -> int:
    """A seed per epoch, far from those of neighbours."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def _moment(recipe: Recipe, epoch: int, step: int, steps: int) -> float:
    """Progress in epochs at a step: its middle for a smooth course, the epoch itself for steps."""
    smooth = recipe.scheduler == "cosine" or epoch < recipe.warmup_epochs
    return epoch + (step + 0.5) / steps if smooth else float(epoch)


def _train_step(
    job: Job,
    state: _Progress,
    loss: CropLoss,
    tensors: Batches,
    chosen: Tensor,
    rate: float,
    generator: torch.Generator,
) -> tuple[float, int]:
    """One step; returns the loss and how many crops were right."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    seven = tensors.seven[chosen].to(job.device)
    binary = tensors.binary[chosen].to(job.device)
    with torch.autocast(job.device.type, dtype=torch.bfloat16, enabled=job.recipe.amp):
        members, mix = _member_logits(job, state.network, tensors, chosen, generator)
        targets = (seven, binary, tensors.disc[chosen].to(job.device))
        value = torch.stack([mixed_loss(loss, each, targets, mix) for each in members]).mean()
    state.optimizer.zero_grad(set_to_none=True)
    value.backward()
    number = float(value.detach())
    if math.isfinite(number):
        state.optimizer.step()
    return number, _right(members[0], seven, binary)


def _member_logits(
    job: Job, network: Network, tensors: Batches, chosen: Tensor, generator: torch.Generator
) -> tuple[list[Outputs], Mix | None]:
    """Logits of chosen crops, augmented and mixed: pixels, or the features kept of them."""
    if tensors.features is None:
        images = augment(tensors.pixels[chosen], job.recipe, generator, job.device)
        mix = draw_mix(job.recipe.mixup, len(chosen), generator)
        images = images if mix is None else mix.images(images)
        return network.member_logits(images.contiguous(memory_format=torch.channels_last)), mix
    copy = torch.randint(len(tensors.features), (len(chosen),), generator=generator)
    features = tensors.features[copy, chosen].to(job.device)
    mix = draw_mix(job.recipe.mixup, len(chosen), generator)
    return network.logits_of_features(features if mix is None else mix.images(features)), mix


def kept_features(job: Job, network: Network, pixels: Tensor) -> Tensor | None:
    """Features of ``copies`` augmented copies of the training crops, (copies, N, F) on the CPU.

    None where the recipe wants fresh copies, or where the trunk learns; the seed decides them.
    """
    recipe = job.recipe
    if not recipe.copies:
        return None
    if recipe.model != GRADIENTS and not recipe.freeze_trunk:
        LOG.warning("copies=%d: not applied, the trunk of %s learns", recipe.copies, recipe.model)
        return None
    network.trunk.eval()
    found: list[Tensor] = []
    with torch.no_grad():
        for copy in range(recipe.copies):
            generator = torch.Generator().manual_seed(_copy_seed(job.seed, copy))
            parts = [
                network.features(augment(part, recipe, generator, job.device)).float().cpu()
                for part in pixels.split(256)
            ]
            found.append(torch.cat(parts))
            LOG.info("augmented copies: %d of %d", copy + 1, recipe.copies)
    return torch.stack(found)


def _copy_seed(seed: int, copy: int) -> int:
    """A seed per copy, none of which is an epoch's."""
    return int(np.random.SeedSequence([seed, copy, 1]).generate_state(1, np.uint64)[0] >> 1)


def _right(outputs: Outputs, seven: Tensor, binary: Tensor) -> int:
    """How many crops the first head there is gets right."""
    for logits, target in zip(outputs, (seven, binary), strict=True):
        if logits is not None:
            return int((logits.detach().argmax(dim=1) == target).sum())
    return 0


def mixed_loss(
    loss: CropLoss, outputs: Outputs, targets: tuple[Tensor, Tensor, Tensor], mix: Mix | None
) -> Tensor:
    """The loss of mixed crops: of their own targets and of their partners', by their shares."""
    value: Tensor = loss(outputs, *targets)
    if mix is None:
        return value
    partner = mix.partner.to(value.device)
    other: Tensor = loss(outputs, *(target[partner] for target in targets))
    return mix.share * value + (1 - mix.share) * other


def _check_loss(value: float, epoch: int, step: int, rate: float) -> None:
    if not math.isfinite(value):
        msg = (
            f"epoch {epoch + 1}, step {step + 1}: the loss is {value} at a learning rate of "
            f"{rate:.3g}; the checkpoint of the last whole epoch is kept. Try a smaller lr="
        )
        raise SpinelineError(msg)


def _check_network(network: Network, epoch: int) -> None:
    for name, parameter in network.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            msg = (
                f"epoch {epoch}: {name} is not finite any more; the checkpoint of the epoch before "
                "is kept. Try a smaller lr="
            )
            raise SpinelineError(msg)


def _close_epoch(
    job: Job,
    state: _Progress,
    loss: CropLoss,
    epoch: int,
    trained: dict[str, float],
    identity: dict[str, Any],
) -> Checkpoint:
    """Validate where it is time to, note the figures, and take the checkpoint."""
    number = epoch + 1
    _check_network(state.network, number)
    due = number % job.val_every == 0 or number == job.recipe.epochs
    figures = evaluate(job, state.network, loss) if due and job.data.val is not None else {}
    reached = selection_score(figures, job.recipe.select_by)
    rate = float(state.optimizer.param_groups[0]["lr"])
    row = result_row(number, rate, trained, figures, reached)
    state.history.append(row)
    if reached is not None and (state.best_score is None or reached > state.best_score):
        state.best_epoch, state.best_score = number, reached
    _log_epoch(row, job.recipe.epochs)
    return Checkpoint(
        epoch=number,
        network=network_state(state.network),
        optimizer=state.optimizer.state_dict(),
        history=state.history,
        best_epoch=state.best_epoch,
        best_score=state.best_score,
        identity=identity,
    )


def evaluate(job: Job, network: Network, loss: CropLoss) -> dict[str, Any]:
    """Figures on val, with its loss; the network is left in evaluation mode."""
    table = job.data.val
    if table is None:
        return {}
    network.eval()
    classifier = Classifier(network, job.device)
    kinds = table.kind if job.recipe.mask_kind else None
    outputs = classifier.logits(table.windows(), batch=256)
    grades = grades_of(outputs, kinds)
    tensors = Batches.of(table)
    on_cpu = loss.to("cpu")
    value = float(on_cpu(outputs, tensors.seven, tensors.binary, tensors.disc))
    loss.to(job.device)
    figures = score(table.seven, table.binary, table.kind, grades.seven, grades.binary)
    return {"loss": value, **figures}


def _log_epoch(row: Row, epochs: int) -> None:
    names = ("train_loss", "val_loss", "seven_accuracy", "macro_f1", "auc_disc", "auc_vertebra",
             "binary_auc")  # fmt: skip
    figures = "  ".join(f"{name} {row[name]:.4f}" for name in names if row[name] is not None)
    LOG.info("epoch %s/%d  %s", row["epoch"], epochs, figures)


def _finish(run: RunFolder, job: Job, end: Checkpoint, *, plots: bool) -> TrainResult:
    """Figures of the best epoch, and pictures."""
    metrics: dict[str, Any] = {}
    if job.data.val is not None:
        metrics = _final_metrics(run, job)
        metrics = {"epoch": end.best_epoch, "selected_by": job.recipe.select_by, **metrics}
        write_json(run.path / "metrics.json", metrics)
    if plots:
        _plot(run, end, metrics)
    best = run.best if end.best_epoch else run.last
    LOG.info("best epoch %s; weights in %s", end.best_epoch or "none", best)
    return TrainResult(run.path, run.last, best, end.best_epoch, tuple(end.history), metrics)


def _plot(run: RunFolder, end: Checkpoint, metrics: dict[str, Any]) -> None:
    from spineline.classify.plots import plot_confusion, plot_curves

    plot_curves(end.history, run.path / "curves.png")
    if "seven" in metrics:
        confusion, title = metrics["seven"]["confusion"], f"val, epoch {end.best_epoch}"
        plot_confusion(confusion, SEVEN_NAMES, title, run.path / "confusion.png")


def _final_metrics(run: RunFolder, job: Job) -> dict[str, Any]:
    network = load_network(*read_weights(run.best), where=str(run.best)).to(job.device)
    return evaluate(job, network, CropLoss(job.recipe, job.data.train).to(job.device))
