"""``spineline classify train``: crops in memory, augmentation of whole batches, resumable.

The seed and the number of an epoch determine all of its randomness. So a run resumed after a
complete epoch gives the numbers of an unbroken one (on the CPU, with as many threads).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from spineline.classify.augment import Mix, augment, draw_mix, to_float
from spineline.classify.data import TrainingData, balanced_encoding, load_training_data
from spineline.classify.metrics import score, selection_score
from spineline.classify.model import (
    Classifier,
    Network,
    NetworkConfig,
    Outputs,
    allowed_classes,
    build_network,
    check_model_name,
    config_from_metadata,
    grades_of,
    load_network,
    network_metadata,
    network_state,
    read_weights,
    weights_bytes,
)
from spineline.classify.recipe import Head, Recipe, load_recipe, overrides_of
from spineline.classify.settings import ClassifyTrain
from spineline.classify.trunks.blocks import check_blocks, freeze
from spineline.classify.trunks.components import ComponentTrunk
from spineline.classify.trunks.folding import fold_frozen_norms
from spineline.classify.trunks.gradients import GRADIENTS
from spineline.classify.trunks.logistic import fit_logistic
from spineline.classify.trunks.pretrained import (
    IMAGENET,
    Origin,
    PretrainedTrunk,
    fetched_trunk,
    packaged_trunk,
    trunk_of_file,
)
from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import ConfigError, SpinelineError, WeightsError
from spineline.datasets.common.files import write_json
from spineline.datasets.common.locks import held_folder
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import resumed_settings, write_run_record
from spineline.datasets.common.settings import parse_settings, settings_to_dict
from spineline.datasets.crops.grey_range import grey_range
from spineline.datasets.crops.table import CropTable
from spineline.datasets.labels import KINDS, SEVEN_NAMES
from spineline.datasets.networks.tensors import parse_description
from spineline.datasets.networks.training import (
    ResultRow,
    Trainer,
    TrainingResult,
    check_new_run,
    check_there_is_a_checkpoint,
    clear_half_written,
    read_checkpoint,
)
from spineline.weights import resolve

_MAY_CHANGE = ("resume", "data", "out", "device", "threads", "plots", "trust", "overwrite")
"""Keys that may differ in a resumed run."""

_CHECKPOINT = "checkpoint.pt"
"""The checkpoint in a run folder."""

_FILES = (
    _CHECKPOINT, "weights/last.safetensors", "weights/best.safetensors", "results.csv",
    "curves.png", "confusion.png", "metrics.json", "recipe.json", "run.yaml",
)  # fmt: skip
"""The files that a run writes into its folder."""


@dataclass(frozen=True, slots=True)
class ClassifierPlan:
    """A training that is ready to start."""

    data: TrainingData
    config: NetworkConfig
    seed: int
    device: torch.device
    val_every: int

    @property
    def recipe(self) -> Recipe:
        """The recipe as it applies to the data."""
        return self.data.recipe


def train(settings: ClassifyTrain) -> TrainingResult:
    """Train a classifier.

    Raises:
        ConfigError: a key, recipe, model or device that is not allowed, or a resumed run that
            started with other settings.
        AnnotationError: the data cannot be read, or has no training crop.
        OutputExistsError: ``out`` is not empty, and neither ``overwrite`` nor ``resume`` is set.
        SpinelineError: the loss is no longer a number.
    """
    out, resuming = settings.out, settings.resume
    if resuming:
        settings, begun = resumed_settings(settings, out, resolved="recipe", may_change=_MAY_CHANGE)
        settings = replace(settings, out=out, resume=True)
        recipe = parse_settings(Recipe, begun, where=str(out / "run.yaml"))
        check_there_is_a_checkpoint(out / _CHECKPOINT)
    else:
        check_new_run(out, overwrite=settings.overwrite)
        recipe = load_recipe(settings.hyp or "report", overrides_of(settings))
    if settings.data is None:
        raise ConfigError("missing data=… (a converted dataset, or a folder of data crops)")
    device = torch.device(device_name(settings.device))
    check_model_name(recipe.model)
    _check_fit(recipe)
    given = overrides_of(settings)
    data = load_training_data(settings.data, recipe, given=given, seed=settings.seed)
    start = None if resuming else _pretrained_trunk(settings, data.recipe)
    own = None if resuming or start is not None else _own_weights(settings)
    if not resuming and own is None and "components" not in given:
        data = _with_fewer_components(data)
    config = _begun_config(out) if resuming else _network_config(data, start, own)
    plan = ClassifierPlan(data, config, settings.seed, device, settings.val_every)
    network = _start_network(plan.config, settings, start, own)
    if not resuming and own is None:
        fit_trunk(network, data.train, whiten=recipe.whiten)
    if recipe.freeze_blocks:
        key = f"freeze_blocks={recipe.freeze_blocks}"
        check_blocks(network.trunk, recipe.freeze_blocks, key, recipe.model)
    out.mkdir(parents=True, exist_ok=True)
    with _threads(settings.threads), held_folder(out):
        clear_half_written(out)
        trainer = ClassifierTrainer(plan, network, out, plots=settings.plots)
        if resuming:
            trainer.restore(read_checkpoint(out / _CHECKPOINT, ("history", "identity")))
        else:
            check_new_run(out, overwrite=settings.overwrite)
            for name in _FILES:  # of an earlier run; other files stay
                (out / name).unlink(missing_ok=True)
            _write_records(out, settings, plan)
        _announce(plan)
        return trainer.run()


def _check_fit(recipe: Recipe) -> None:
    """Refuse keys that have no meaning for heads fitted in one step."""
    for name, wanted in (("hidden", 0), ("members", 1), ("epochs", 1)):
        value = getattr(recipe, name)
        if recipe.fit == "logistic" and value != wanted:
            msg = f"{name}={value}: fit=logistic fits the heads once, on the trunk's own features"
            raise ConfigError(f"{msg}; use {name}={wanted}, or fit=epochs")


def _with_fewer_components(data: TrainingData) -> TrainingData:
    """The data with the recipe's components lowered, with a warning, if it has too few crops."""
    recipe, crops = data.recipe, sum(not row.variant for row in data.train.rows)
    most = max(crops // 2 if recipe.whiten else crops - 1, 1)  # whitened noise would drown the rest
    if not _is_fixed(recipe) or recipe.components < len(data.train):
        return data
    LOG.warning(
        "components: %d instead of %d, because there are few crops", most, recipe.components
    )
    return replace(data, recipe=replace(recipe, components=most))


def _is_fixed(recipe: Recipe) -> bool:
    """Whether the features are principal components of what a fixed trunk measures."""
    return recipe.model == GRADIENTS or recipe.keep_blocks > 0


def _begun_config(out: Path) -> NetworkConfig:
    """The network of the run that is resumed."""
    file = out / _CHECKPOINT
    text = read_checkpoint(file, ("history", "identity", "metadata"))["metadata"]
    return config_from_metadata(parse_description(text, str(file)), str(file))


def _pretrained_trunk(settings: ClassifyTrain, recipe: Recipe) -> PretrainedTrunk | None:
    """Weights of a timm model to start from, if requested.

    Raises:
        ConfigError: there are none for the model, or keys contradict each other.
        WeightsError: a file that cannot be read.
    """
    weights = settings.weights
    if settings.download:
        if weights not in (None, IMAGENET):
            raise ConfigError(f"download=true: starts from timm's weights, not weights={weights}")
        if recipe.model == GRADIENTS:
            raise ConfigError(f"download=true: model={GRADIENTS} has no pretrained weights")
        return fetched_trunk(recipe.model)
    if weights == IMAGENET or (weights is None and recipe.pretrained == IMAGENET):
        return packaged_trunk(recipe.model)
    if weights is None or not Path(weights).is_file() or recipe.model == GRADIENTS:
        return None
    return trunk_of_file(Path(weights), recipe.model, trust=settings.trust)


OwnWeights = tuple[dict[str, Tensor], NetworkConfig]
"""Tensors of a classifier's weights file, and its network."""


def _own_weights(settings: ClassifyTrain) -> OwnWeights | None:
    """Weights of an earlier classifier to start from, if requested.

    Raises:
        WeightsError: they cannot be used.
    """
    if settings.weights is None:
        return None
    file = resolve(settings.weights, task="classify", trust=settings.trust)
    return read_weights(file.path, trust=settings.trust)


def _network_config(
    data: TrainingData, start: PretrainedTrunk | None, own: OwnWeights | None
) -> NetworkConfig:
    """The network that the recipe describes; pretrained trunks keep their own input settings."""
    recipe = data.recipe
    head: Head = "both"
    if recipe.head in ("seven", "binary"):
        head = "seven" if recipe.head == "seven" else "binary"
    mean, std = mean_and_std(data.train) if recipe.normalise else (0.0, 1.0)
    origin: Origin | None = None
    if start is not None:
        mean, std, origin = start.mean, start.std, start.origin
    elif own is not None and own[1].origin is not None:
        mean, std, origin = own[1].mean, own[1].std, own[1].origin
    same_crops = own is not None and own[1].crop == recipe.crop()
    known = own[1].greys if own is not None and same_crops else None
    return NetworkConfig(
        model=recipe.model,
        head=head,
        hidden=recipe.hidden,
        dropout=recipe.dropout,
        channels=recipe.channels,
        crop=recipe.crop(),
        mean=mean,
        std=std,
        components=recipe.components if _is_fixed(recipe) else 0,
        members=recipe.members,
        feature_dropout=recipe.feature_dropout,
        greys=grey_range(data.train, known),
        level_input=recipe.level_input,
        keep_blocks=recipe.keep_blocks,
        pool=recipe.pool if recipe.keep_blocks else 1,
        origin=origin,
    )


def mean_and_std(table: CropTable) -> tuple[float, float]:
    """Mean and nonzero standard deviation of all pixels of the windows, in 0 … 1."""
    counts = np.zeros(256, dtype=np.int64)
    for window in table.windows():  # one by one: all of them as floats would be large
        counts += np.bincount(window.ravel(), minlength=256)
    greys = np.arange(256) / 255
    mean = float((counts * greys).sum() / counts.sum())
    variance = float((counts * (greys - mean) ** 2).sum() / counts.sum())
    return mean, max(math.sqrt(variance), 1e-3)


def _start_network(
    config: NetworkConfig,
    settings: ClassifyTrain,
    start: PretrainedTrunk | None,
    own: OwnWeights | None,
) -> Network:
    """The initial network: pretrained, from an earlier classifier's weights, or random."""
    if start is not None:
        LOG.info("the trunk starts from %s (%s)", start.origin.source, start.origin.licence)
        pretrained = start.state is None
        return build_network(
            config, seed=settings.seed, pretrained=pretrained, trunk_state=start.state
        )
    network = build_network(config, seed=settings.seed)
    if own is not None:
        start_from(network, *own, where=str(settings.weights))
    return network


def fit_trunk(network: Network, train: CropTable, *, whiten: bool = True) -> None:
    """Fit a fixed trunk's principal components to the training crops, in place.

    Any other trunk is left unchanged.

    Raises:
        ConfigError: fewer crops than components.
    """
    trunk = network.trunk
    if not isinstance(trunk, ComponentTrunk):
        return
    windows = train.windows()
    with torch.no_grad():
        found = [
            trunk.measure(network.normalised(torch.tensor(part).unsqueeze(1).float() / 255))
            for part in np.array_split(windows, math.ceil(len(windows) / 256))
        ]
    trunk.fit(torch.cat(found), whiten=whiten)


def start_from(
    network: Network, state: dict[str, Tensor], config: NetworkConfig, *, where: str
) -> None:
    """Copy weights into a network in place: the trunk, and hidden layer and heads if they fit.

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
        LOG.info("weights=%s: %s start with new weights", where, ", ".join(missing))


def _write_records(out: Path, settings: ClassifyTrain, plan: ClassifierPlan) -> None:
    by = balanced_encoding(plan.recipe)
    counts = {"before": plan.data.counts_before, "after": plan.data.train.counts(by)}
    resolved = settings_to_dict(plan.recipe)
    write_json(out / "recipe.json", resolved)
    write_run_record(out, "classify train", settings, recipe=resolved, counts=counts)


def _announce(plan: ClassifierPlan) -> None:
    data = plan.data
    val = f"{len(data.val)} to validate on" if data.val is not None else "no val part"
    LOG.info("%d crops to train on, %s", len(data.train), val)
    if data.val is None:
        LOG.warning("no labelled crop in val: the last epoch is kept, and no best one is chosen")


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
    """The learning rate after a number of epochs, which may be a fraction.

    ``step`` falls between epochs like ``torch.optim.lr_scheduler.StepLR``; ``cosine`` falls to zero
    along half a cosine. The warm-up scales both, linearly from zero.
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
    """The recipe's optimizer for the trainable parameters."""
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
    """Split an order into batches; a single last crop joins the batch before (batch norm)."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


class CropLoss(nn.Module):
    """The recipe's cross-entropy over one or both heads."""

    allowed: Tensor
    seven_weight: Tensor
    binary_weight: Tensor

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
    """The tensors of a table: pixels (N, P, P) uint8, codes and levels (N,), ``disc`` (N,) bool.

    ``features`` (copies, N, F) are those of augmented copies; None if they are computed in every
    epoch.
    """

    pixels: Tensor
    seven: Tensor
    binary: Tensor
    disc: Tensor
    levels: Tensor
    features: Tensor | None = None

    @classmethod
    def of(cls, table: CropTable) -> Batches:
        """The tensors of a table."""
        return cls(
            torch.from_numpy(np.ascontiguousarray(table.pixels)),
            torch.from_numpy(table.seven),
            torch.from_numpy(table.binary),
            torch.tensor([kind == "disc" for kind in table.kind], dtype=torch.bool),
            torch.from_numpy(table.level).float(),
        )


class ClassifierTrainer(Trainer):
    """Trains a classifier on crops in memory.

    Args:
        plan: the data and settings.
        network: with its initial weights.
        out: the run folder.
        plots: draw curves and the confusion matrix at the end.
    """

    best_files: ClassVar = {"score": ("best",)}
    checkpoint_name = _CHECKPOINT

    def __init__(self, plan: ClassifierPlan, network: Network, out: Path, *, plots: bool) -> None:
        network.to(plan.device).to(memory_format=torch.channels_last)
        if plan.recipe.freeze_trunk:
            network.trunk.requires_grad_(requires_grad=False)
        recipe = plan.recipe
        blocks, norm = recipe.freeze_blocks, recipe.freeze_norm
        self.frozen = freeze(network.trunk, blocks, norm=norm, name=recipe.model)
        optimizer = make_optimizer(network, plan.recipe)
        epochs = plan.recipe.epochs
        super().__init__(out, network, optimizer, epochs=epochs, val_every=plan.val_every)
        self.network: Network = network
        self.plan = plan
        self.plots = plots
        self.history: list[ResultRow] = []
        self.metrics: dict[str, Any] = {}
        self.loss = CropLoss(plan.recipe, plan.data.train).to(plan.device)
        self.tensors = Batches.of(plan.data.train)

    def on_train_start(self) -> None:
        """Fold frozen batch norms; compute features of augmented copies, if the recipe has some."""
        if self.frozen:
            fold_frozen_norms(self.network.trunk)
        features = kept_features(self.plan, self.network, self.tensors.pixels)
        self.tensors = replace(self.tensors, features=features)

    def train_epoch(self) -> dict[str, float]:
        """One pass over the crops; seed and epoch determine the global generators (dropout)."""
        plan, epoch = self.plan, self.done
        if plan.recipe.fit == "logistic":
            return fit_heads(plan, self.network, self.tensors)
        generator = torch.Generator().manual_seed(_epoch_seed(plan.seed, epoch))
        torch.manual_seed(_epoch_seed(plan.seed, epoch) + 1)
        self.network.train()
        if plan.recipe.freeze_trunk:
            self.network.trunk.eval()
        for module in self.frozen:
            module.eval()
        parts = batches(epoch_order(plan.data.train, plan.recipe, generator), plan.recipe.batch)
        total, hits, seen = 0.0, 0, 0
        for step, chosen in enumerate(self.shown(parts, len(parts))):
            moment = _moment(plan.recipe, epoch, step, len(parts))
            rate = learning_rate(plan.recipe, moment)
            value, right = self._step(chosen, rate, generator)
            if not math.isfinite(value):
                msg = (
                    f"epoch {epoch + 1}, step {step + 1}: the loss is {value} at a learning rate "
                    f"of {rate:.3g}; {self.kept()}. Try a smaller lr="
                )
                raise SpinelineError(msg)
            total, hits, seen = total + value * len(chosen), hits + right, seen + len(chosen)
        return {"loss": total / seen, "accuracy": hits / seen}

    def _step(self, chosen: Tensor, rate: float, generator: torch.Generator) -> tuple[float, int]:
        """One optimizer step; returns the loss and the number of correct crops."""
        plan, tensors = self.plan, self.tensors
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        seven = tensors.seven[chosen].to(plan.device)
        binary = tensors.binary[chosen].to(plan.device)
        with torch.autocast(plan.device.type, dtype=torch.bfloat16, enabled=plan.recipe.amp):
            members, mix = _member_logits(plan, self.network, tensors, chosen, generator)
            targets = (seven, binary, tensors.disc[chosen].to(plan.device))
            value = torch.stack(
                [mixed_loss(self.loss, each, targets, mix) for each in members]
            ).mean()
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        number = float(value.detach())
        if math.isfinite(number):
            self.optimizer.step()
        return number, _right(members[0], seven, binary)

    def validate(self) -> dict[str, Any] | None:
        """Loss and metrics on val."""
        if self.plan.data.val is None:
            return None
        return evaluate_on_val(self.plan, self.network, self.loss)

    def scores(self, metrics: Mapping[str, Any]) -> dict[str, float | None]:
        """The score that the recipe selects the best epoch by."""
        return {"score": selection_score(dict(metrics), self.plan.recipe.select_by)}

    def row(self, trained: Mapping[str, float], metrics: Mapping[str, Any] | None) -> ResultRow:
        """The columns of ``results.csv``; None where there is no value."""
        rate, found = float(self.optimizer.param_groups[0]["lr"]), metrics or {}
        return result_row(rate, trained, found, self.scores(found)["score"])

    def on_epoch_end(self, row: ResultRow) -> None:
        """Store the row for the curves."""
        self.history.append(row)

    def summary(self, row: ResultRow) -> str:
        """Losses and metrics."""
        names = ("train_loss", "val_loss", "seven_accuracy", "macro_f1", "auc_disc",
                 "auc_vertebra", "binary_auc")  # fmt: skip
        return "  ".join(f"{name} {row[name]:.4f}" for name in names if row[name] is not None)

    def description(self) -> dict[str, Any]:
        """The network's metadata, the rows so far, and what a resumed run must share."""
        return {
            "metadata": json.dumps(network_metadata(self.plan.config)),
            "history": list(self.history),
            "identity": json.dumps({"data": self.plan.data.fingerprint()}),
        }

    def restore(self, content: Mapping[str, Any]) -> None:
        """Continue from a checkpoint, see [Trainer][spineline.datasets.networks.training].

        Raises:
            ConfigError: the data differ from those of the checkpoint.
        """
        if json.loads(content["identity"])["data"] != self.plan.data.fingerprint():
            raise ConfigError("resume=true: data= holds other crops than the run began with")
        super().restore(content)
        self.history = list(content["history"])

    def stored_weights(self) -> dict[str, Tensor]:
        """A copy of the weights on the CPU."""
        return network_state(self.network)

    def pack_weights(self, weights: dict[str, Tensor]) -> bytes:
        """The content of a weights file."""
        return weights_bytes(weights, self.plan.config)

    def on_train_end(self) -> None:
        """Write the metrics of the best epoch, and the plots."""
        if self.plan.data.val is not None:
            best = self.weights_file("best")
            network = load_network(*read_weights(best), where=str(best)).to(self.plan.device)
            chosen = {"epoch": self.best_epoch, "selected_by": self.plan.recipe.select_by}
            self.metrics = {**chosen, **evaluate_on_val(self.plan, network, self.loss)}
            write_json(self.out / "metrics.json", self.metrics)
        if self.plots:
            self._plot()

    def _plot(self) -> None:
        from spineline.classify.plots import plot_confusion, plot_curves  # matplotlib

        plot_curves(self.history, self.out / "curves.png")
        if "seven" in self.metrics:
            confusion, title = self.metrics["seven"]["confusion"], f"val, epoch {self.best_epoch}"
            plot_confusion(confusion, SEVEN_NAMES, title, self.out / "confusion.png")

    def result(self) -> TrainingResult:
        """The output of the run so far, with its rows and metrics."""
        return replace(super().result(), history=tuple(self.history), metrics=self.metrics)


def _epoch_seed(seed: int, epoch: int) -> int:
    """A seed for each epoch, far from those of neighbouring epochs."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]) >> 1


def _moment(recipe: Recipe, epoch: int, step: int, steps: int) -> float:
    """Progress in epochs at a step: fractional for smooth schedules, whole for ``step``."""
    smooth = recipe.scheduler == "cosine" or epoch < recipe.warmup_epochs
    return epoch + (step + 0.5) / steps if smooth else float(epoch)


def _member_logits(
    plan: ClassifierPlan,
    network: Network,
    tensors: Batches,
    chosen: Tensor,
    generator: torch.Generator,
) -> tuple[list[Outputs], Mix | None]:
    """Logits of the chosen crops, augmented and mixed, from their pixels or stored features."""
    levels = tensors.levels[chosen].to(plan.device)
    if tensors.features is None:
        images = augment(tensors.pixels[chosen], plan.recipe, generator, plan.device)
        mix = draw_mix(plan.recipe.mixup, len(chosen), generator)
        images = images if mix is None else mix.images(images)
        images = images.contiguous(memory_format=torch.channels_last)
        return network.member_logits(images, levels), mix
    copy = torch.randint(len(tensors.features), (len(chosen),), generator=generator)
    features = tensors.features[copy, chosen].to(plan.device)
    mix = draw_mix(plan.recipe.mixup, len(chosen), generator)
    features = features if mix is None else mix.images(features)
    return network.logits_of_features(features, levels), mix


def kept_features(plan: ClassifierPlan, network: Network, pixels: Tensor) -> Tensor | None:
    """Features of ``copies`` augmented copies of the training crops, (copies, N, F) on the CPU.

    There are no more copies than epochs, because an epoch shows each crop once; only a fit in one
    step takes all. None if the recipe wants fresh copies, or if the trunk learns. The seed
    determines the copies.
    """
    recipe = plan.recipe
    if not recipe.copies:
        return None
    if recipe.trunk_learns:
        LOG.warning("copies=%d: not applied, the trunk of %s learns", recipe.copies, recipe.model)
        return None
    copies = recipe.copies if recipe.fit == "logistic" else min(recipe.copies, recipe.epochs)
    network.trunk.eval()
    found: list[Tensor] = []
    with torch.no_grad():
        for copy in range(copies):
            generator = torch.Generator().manual_seed(_copy_seed(plan.seed, copy))
            parts = [
                network.features(augment(part, recipe, generator, plan.device)).float().cpu()
                for part in pixels.split(256)
            ]
            found.append(torch.cat(parts))
            LOG.info("augmented copies: %d of %d", copy + 1, copies)
    return torch.stack(found)


def fit_heads(plan: ClassifierPlan, network: Network, tensors: Batches) -> dict[str, float]:
    """Fit the heads by logistic regression on the trunk's features of the training crops, in place.

    Augmented copies, if the recipe has some, count together as much as the crops alone.

    Returns:
        The loss and accuracy on these features.
    """
    recipe, table = plan.recipe, plan.data.train
    copies = tensors.features
    if copies is None:
        network.eval()
        windows = torch.from_numpy(np.ascontiguousarray(table.windows()))
        with torch.no_grad():
            parts = [network.features(to_float(p.to(plan.device))) for p in windows.split(256)]
        copies = torch.cat(parts).float().cpu()[None]
    times = len(copies)
    levels = tensors.levels.repeat(times).to(plan.device)
    features = copies.flatten(0, 1).to(plan.device)
    wide = network.with_levels(features, levels).cpu().numpy()
    disc = tensors.disc.repeat(times)
    targets = tensors.seven.repeat(times), tensors.binary.repeat(times)
    for rows, name, codes, classes in _fits(recipe, targets, disc, list(network.heads)):
        weight = class_weights(codes.numpy(), 7, recipe.class_weights)[codes] / times
        head = fit_logistic(
            wide[rows], codes[rows].numpy(), classes,
            c=recipe.logistic_c, weights=weight[rows].double().numpy(),
        )  # fmt: skip
        layer = cast(nn.Linear, network.heads[name])
        with torch.no_grad():
            layer.weight[classes] = torch.tensor(head.weight).to(layer.weight)
            layer.bias[classes] = torch.tensor(head.bias).to(layer.bias)
    network.eval()
    with torch.no_grad():
        (outputs,) = network.logits_of_features(features, levels)
        seven, binary = (target.to(plan.device) for target in targets)
        loss = CropLoss(recipe, table).to(plan.device)
        value = float(loss(outputs, seven, binary, disc.to(plan.device)))
    return {"loss": value, "accuracy": _right(outputs, seven, binary) / len(wide)}


def _fits(
    recipe: Recipe, targets: tuple[Tensor, Tensor], disc: Tensor, heads: Sequence[str]
) -> Iterator[tuple[npt.NDArray[np.bool_], str, Tensor, list[int]]]:
    """The separate fits: rows of crops, the head, all codes, and the rows of the head.

    With ``kind_loss``, the classes of discs and of vertebrae are fitted separately.
    """
    seven, binary = targets
    everything = torch.ones_like(disc)
    if "seven" in heads and recipe.kind_loss:
        for kind, allowed in zip(KINDS, allowed_classes(KINDS, len(KINDS)), strict=True):
            rows = disc if kind == "disc" else ~disc
            yield rows.numpy(), "seven", seven, allowed.nonzero()[:, 0].tolist()
    elif "seven" in heads:
        yield everything.numpy(), "seven", seven, list(range(len(SEVEN_NAMES)))
    if "binary" in heads:
        rows = disc if recipe.binary_on == "disc" else everything
        yield rows.numpy(), "binary", binary, [0, 1]


def _copy_seed(seed: int, copy: int) -> int:
    """A seed for each copy, different from those of the epochs."""
    return int(np.random.SeedSequence([seed, copy, 1]).generate_state(1, np.uint64)[0]) >> 1


def _right(outputs: Outputs, seven: Tensor, binary: Tensor) -> int:
    """The number of crops that the first available head grades correctly."""
    for logits, target in zip(outputs, (seven, binary), strict=True):
        if logits is not None:
            return int((logits.detach().argmax(dim=1) == target).sum())
    return 0


def mixed_loss(
    loss: CropLoss, outputs: Outputs, targets: tuple[Tensor, Tensor, Tensor], mix: Mix | None
) -> Tensor:
    """The loss of mixed crops: of their own and of their partners' targets, weighted by share."""
    value: Tensor = loss(outputs, *targets)
    if mix is None:
        return value
    partner = mix.partner.to(value.device)
    other: Tensor = loss(outputs, *(target[partner] for target in targets))
    return mix.share * value + (1 - mix.share) * other


def evaluate_on_val(plan: ClassifierPlan, network: Network, loss: CropLoss) -> dict[str, Any]:
    """Metrics and loss on val; the network is left in evaluation mode."""
    table = plan.data.val
    if table is None:
        return {}
    network.eval()
    classifier = Classifier(network, plan.device)
    kinds = table.kind if plan.recipe.mask_kind else None
    outputs = classifier.logits(table.windows(), table.level, batch=256)
    grades = grades_of(outputs, kinds)
    tensors = Batches.of(table)
    on_cpu = loss.to("cpu")
    value = float(on_cpu(outputs, tensors.seven, tensors.binary, tensors.disc))
    loss.to(plan.device)
    figures = score(table.seven, table.binary, table.kind, grades.seven, grades.binary)
    return {"loss": value, **figures}


def result_row(
    rate: float, trained: Mapping[str, float], val: Mapping[str, Any], score: float | None
) -> ResultRow:
    """The columns of ``results.csv`` from the metrics of an epoch; None for missing values."""
    seven, binary = val.get("seven", {}), val.get("binary", {})
    abnormal = val.get("abnormal", {})
    return {
        "lr": rate,
        "train_loss": trained["loss"],
        "train_accuracy": trained["accuracy"],
        "val_loss": val.get("loss"),
        "seven_accuracy": seven.get("accuracy"),
        "macro_f1": seven.get("macro_f1"),
        "auc_disc": abnormal.get("auc_disc"),
        "auc_vertebra": abnormal.get("auc_vertebra"),
        **{f"binary_{n}": binary.get(n) for n in ("accuracy", "sensitivity", "specificity", "auc")},
        "score": score,
    }
