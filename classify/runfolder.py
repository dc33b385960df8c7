"""The run folder of a training: what is in it, and how it comes through a kill at any moment.

``checkpoint.pt`` is the truth. It is replaced whole once an epoch, before anything else; every
other file follows from it and is written again on resume.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spineline.classify.model import NetworkConfig, network_metadata, save_weights
from spineline.datasets.common.errors import ConfigError, OutputExistsError, WeightsError
from spineline.datasets.common.files import check_output, write_bytes, write_text
from spineline.datasets.common.run_record import clear_partial

Row = dict[str, float | int | None]

COLUMNS: tuple[str, ...] = (
    "epoch", "lr", "train_loss", "train_accuracy", "val_loss", "seven_accuracy", "macro_f1",
    "auc_disc", "auc_vertebra", "binary_accuracy", "binary_sensitivity", "binary_specificity",
    "binary_auc", "score",
)  # fmt: skip

_FILES = (
    "checkpoint.pt", "weights/last.safetensors", "weights/best.safetensors", "results.csv",
    "curves.png", "confusion.png", "metrics.json", "recipe.json", "run.yaml",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run after an epoch.

    Attributes:
        epoch: epochs done.
        network: its tensors.
        optimizer: its state.
        history: a row per epoch.
        best_epoch, best_score: the best epoch on val so far; 0 and None before there is one.
        identity: what a resumed run must agree with: recipe and data.
    """

    epoch: int
    network: dict[str, Tensor]
    optimizer: dict[str, Any]
    history: list[Row]
    best_epoch: int
    best_score: float | None
    identity: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths and writers of a run folder."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """The state that a run resumes from; a pickle of plain values and tensors."""
        return self.path / "checkpoint.pt"

    @property
    def last(self) -> Path:
        """Weights of the last epoch."""
        return self.path / "weights" / "last.safetensors"

    @property
    def best(self) -> Path:
        """Weights of the best epoch on val."""
        return self.path / "weights" / "best.safetensors"

    def check_new(self, *, overwrite: bool) -> None:
        """Refuse a folder that holds something.

        Raises:
            OutputExistsError: it does, and ``overwrite`` is not set.
        """
        try:
            check_output(self.path, overwrite=overwrite)
        except OutputExistsError as error:
            msg = f"{self.path}: exists already; choose another out=, or add overwrite=true"
            raise OutputExistsError(f"{msg} or resume=true") from error

    def prepare(self, *, overwrite: bool) -> None:
        """Make room for a new run: an earlier run's files are removed, other files stay.

        Raises:
            OutputExistsError: the folder holds something and ``overwrite`` is not set.
        """
        self.check_new(overwrite=overwrite)
        self.clear_partial()
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)

    def clear_partial(self) -> None:
        """Remove half-written files that a killed run left behind."""
        clear_partial(self.path, _FILES)

    def save(self, checkpoint: Checkpoint, config: NetworkConfig) -> None:
        """Write the checkpoint, then the files that follow from it."""
        content = {
            "metadata": json.dumps(network_metadata(config)),
            "network": checkpoint.network,
            "optimizer": checkpoint.optimizer,
            "epoch": checkpoint.epoch,
            "history": checkpoint.history,
            "best_epoch": checkpoint.best_epoch,
            "best_score": checkpoint.best_score,
            "identity": json.dumps(checkpoint.identity),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_bytes(self.checkpoint, buffer.getvalue())
        self.write_derived(checkpoint, config)

    def write_derived(self, checkpoint: Checkpoint, config: NetworkConfig) -> None:
        """Weights and results of a checkpoint; the best weights where it is the best."""
        if checkpoint.best_epoch == checkpoint.epoch:
            save_weights(self.best, checkpoint.network, config)
        save_weights(self.last, checkpoint.network, config)
        write_text(self.path / "results.csv", results_csv(checkpoint.history))

    def load(self) -> Checkpoint:
        """Read the checkpoint back, without running code.

        Raises:
            ConfigError: there is none.
            WeightsError: it is damaged.
        """
        if not self.checkpoint.is_file():
            msg = f"resume=true: {self.checkpoint} is not there; leave resume= out to begin a run"
            raise ConfigError(msg)
        try:
            content = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            return Checkpoint(
                epoch=content["epoch"],
                network=content["network"],
                optimizer=content["optimizer"],
                history=content["history"],
                best_epoch=content["best_epoch"],
                best_score=content["best_score"],
                identity=json.loads(content["identity"]),
            )
        except Exception as error:  # a damaged or hostile pickle can raise anything
            msg = f"{self.checkpoint}: damaged ({type(error).__name__}); begin with overwrite=true"
            raise WeightsError(msg) from error


def result_row(
    epoch: int, rate: float, train: Mapping[str, float], val: Mapping[str, Any], score: float | None
) -> Row:
    """A line of ``results.csv`` from the figures of an epoch; None where there is no figure."""
    seven, binary = val.get("seven", {}), val.get("binary", {})
    abnormal = val.get("abnormal", {})
    return {
        "epoch": epoch,
        "lr": rate,
        "train_loss": train["loss"],
        "train_accuracy": train["accuracy"],
        "val_loss": val.get("loss"),
        "seven_accuracy": seven.get("accuracy"),
        "macro_f1": seven.get("macro_f1"),
        "auc_disc": abnormal.get("auc_disc"),
        "auc_vertebra": abnormal.get("auc_vertebra"),
        **{f"binary_{n}": binary.get(n) for n in ("accuracy", "sensitivity", "specificity", "auc")},
        "score": score,
    }


def results_csv(history: Sequence[Row]) -> str:
    """The text of ``results.csv``; empty where there is no figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in history:
        writer.writerow([_cell(row[name]) for name in COLUMNS])
    return text.getvalue()


def _cell(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.6g}"
