"""``spineline classify train``: crops in memory, augmentation of whole batches, resumable.

The seed and the number of an epoch determine all of its randomness. So a run resumed after a
complete epoch gives the numbers of an unbroken one (on the CPU, with as many threads).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from spineline.classify.augment import Mix, augment, draw_mix
from spineline.classify.data import balanced_encoding, load_training_data
from spineline.classify.metrics import score, selection_score
from spineline.classify.model import Classifier, grades_of, ready_classifier
from spineline.classify.network.build import build_network, check_model_name
from spineline.classify.network.layers import Network, NetworkConfig, Outputs
from spineline.classify.network.weights_file import (
    config_from_metadata,
    load_network,
    network_metadata,
    network_state,
    read_weights,
    weights_bytes,
)
from spineline.classify.recipe import Recipe, load_recipe, overrides_of
from spineline.classify.settings import ClassifyTrain
from spineline.classify.training.fixed_trunk import fit_heads, kept_features
from spineline.classify.training.losses import CropLoss, count_right, mixed_loss
from spineline.classify.training.plan import ClassifierPlan, CropTensors, batches, epoch_order
from spineline.classify.training.start import start_network
from spineline.classify.trunks.blocks import check_blocks, freeze
from spineline.classify.trunks.folding import fold_frozen_norms
from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.files import write_json
from spineline.datasets.common.locks import held_folder
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import resumed_settings, write_run_record
from spineline.datasets.common.settings import parse_settings, settings_to_dict
from spineline.datasets.labels import SEVEN_NAMES
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

_MAY_CHANGE = ("resume", "data", "out", "device", "threads", "plots", "trust", "overwrite")
"""Keys that may differ in a resumed run."""

_CHECKPOINT = "checkpoint.pt"
"""The checkpoint in a run folder."""

_FILES = (
    _CHECKPOINT, "weights/last.safetensors", "weights/best.safetensors", "results.csv",
    "curves.png", "confusion.png", "metrics.json", "recipe.json", "run.yaml",
)  # fmt: skip
"""The files that a run writes into its folder."""


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
    data = load_training_data(
        settings.data, recipe, given=overrides_of(settings), seed=settings.seed
    )
    if resuming:
        network = build_network(_begun_config(out), seed=settings.seed)
    else:
        data, network = start_network(settings, data)
    plan = ClassifierPlan(data, network.config, settings.seed, device, settings.val_every)
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


def _begun_config(out: Path) -> NetworkConfig:
    """The network of the run that is resumed."""
    file = out / _CHECKPOINT
    text = read_checkpoint(file, ("history", "identity", "metadata"))["metadata"]
    return config_from_metadata(parse_description(text, str(file)), str(file))


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
        self.tensors = CropTensors.of(plan.data.train)

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
        return number, count_right(members[0], seven, binary)

    def validate(self) -> dict[str, Any] | None:
        """Loss and metrics on val."""
        if self.plan.data.val is None:
            return None
        classifier = Classifier(self.network.eval(), self.plan.device)
        return evaluate_on_val(self.plan, classifier, self.loss)

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
            network = load_network(*read_weights(best), where=str(best))
            classifier = ready_classifier(network, self.plan.device)
            chosen = {"epoch": self.best_epoch, "selected_by": self.plan.recipe.select_by}
            self.metrics = {**chosen, **evaluate_on_val(self.plan, classifier, self.loss)}
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
    tensors: CropTensors,
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


def evaluate_on_val(plan: ClassifierPlan, classifier: Classifier, loss: CropLoss) -> dict[str, Any]:
    """Metrics and loss on val."""
    table = plan.data.val
    if table is None:
        return {}
    kinds = table.kind if plan.recipe.mask_kind else None
    outputs = classifier.logits(table.windows(), table.level)
    grades = grades_of(outputs, kinds)
    tensors = CropTensors.of(table)
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
