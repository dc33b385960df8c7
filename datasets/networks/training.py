"""The shared training loop: epochs, results, checkpoints, and resuming after a kill.

A run folder holds ``results.csv`` with a line per epoch, the weights that are best by each metric,
those of the last epoch, and a checkpoint to resume from. Each file is written atomically, and the
checkpoint last. An epoch that a kill interrupts is trained again, to the same numbers.
"""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from spineline.datasets.common.background import Background
from spineline.datasets.common.errors import (
    OutputExistsError,
    RunFinishedError,
    SpinelineError,
    WeightsError,
    first_line,
)
from spineline.datasets.common.files import (
    check_output,
    clear_unfinished,
    link_file,
    write_bytes,
    write_text,
)
from spineline.datasets.common.log import LOG
from spineline.datasets.networks.tensors import largest_magnitude, write_checkpoint

if TYPE_CHECKING:
    import torch

CHECKPOINT_SECONDS = 10.0
"""Shortest time between checkpoints: a killed run repeats at most about this much training."""

Cell = float | int | str | None
ResultRow = dict[str, Cell]
"""One line of ``results.csv``, by column."""

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Result of a training run.

    Attributes:
        out: the run folder.
        weights: the weights to use: the best by validation, or the last without validation.
        last: the weights of the last epoch.
        epochs: number of epochs trained.
        best_epoch: the epoch of the best weights, from 1; 0 without validation.
        history: a line of ``results.csv`` per epoch, if the training keeps them.
        metrics: the content of ``metrics.json``, if the training writes it.
    """

    out: Path
    weights: Path
    last: Path
    epochs: int
    best_epoch: int = 0
    history: tuple[ResultRow, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)


class Trainer(ABC):
    """Trains a network epoch by epoch; a subclass defines an epoch.

    After `train_epoch`, the writing process calls `validate` if it is due, adds a line to
    ``results.csv``, and calls `on_epoch_end` and `save_checkpoint`. Weights and checkpoints are
    written in a background thread, at most every `CHECKPOINT_SECONDS` and as fast as the disk
    allows. Epochs in between are not saved, unless they are the best or the last.

    Args:
        out: the run folder.
        network: the network, on its device.
        optimizer: the optimizer of its weights.
        epochs: planned number of epochs.
        val_every: number of epochs between validations; 0: only after the last epoch.

    Attributes:
        done: number of epochs trained.
        saved: number of epochs in the checkpoint.
        bests: the best value of each metric so far.
        best_epoch: the epoch of the best weights, from 1; 0 before there is one.
    """

    best_files: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Names of the best weights files, without suffix, by metric."""

    checkpoint_name: ClassVar[str] = "weights/last.pt"
    """The checkpoint in the run folder; empty if the training is too short to be resumed."""

    rate_key: ClassVar[str] = "lr"
    """Key of the learning rate, for messages."""

    def __init__(
        self,
        out: Path,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        epochs: int,
        val_every: int = 1,
    ) -> None:
        self.out = out
        self.network = network
        self.optimizer = optimizer
        self.epochs = epochs
        self.val_every = val_every
        self.done = self.saved = self.best_epoch = 0
        self.bests: dict[str, float] = {}
        self._writer = Background()
        self._copies = TensorCopies()
        self._written = -math.inf

    # Methods for subclasses

    @property
    def writes(self) -> bool:
        """Whether this process writes the run folder; of several processes, only one does."""
        return True

    @abstractmethod
    def train_epoch(self) -> Mapping[str, float]:
        """Train on each example once; the epoch is ``done + 1``.

        Returns:
            Means over the epoch, such as losses.

        Raises:
            SpinelineError: a loss is not a finite number.
        """

    def validate(self) -> Mapping[str, Any] | None:
        """Return metrics on the validation part, or None without such a part."""
        return None

    def scores(self, metrics: Mapping[str, Any]) -> Mapping[str, float | None]:  # noqa: ARG002
        """Return the values of the metrics of `best_files`; None for an undefined one."""
        return {}

    @abstractmethod
    def row(self, trained: Mapping[str, float], metrics: Mapping[str, Any] | None) -> ResultRow:
        """Return the columns of ``results.csv`` for the results of `train_epoch` and `validate`."""

    @abstractmethod
    def summary(self, row: ResultRow) -> str:
        """Return the log line of an epoch."""

    def pack_weights(self, weights: Any) -> bytes:
        """Return a weights file's content from `stored_weights`; runs in a background thread."""
        raise NotImplementedError

    def stored_weights(self) -> Any:
        """Return a copy of the weights as they are stored."""
        raise NotImplementedError

    def description(self) -> Mapping[str, Any]:
        """Return plain values that a checkpoint holds beside the state."""
        return {}

    def should_stop(self) -> bool:
        """Return whether to stop before the planned number of epochs."""
        return False

    def on_train_start(self) -> None:  # noqa: B027
        """Called before the first epoch, with the random generators of the epochs."""

    def on_epoch_end(self, row: ResultRow) -> None:  # noqa: B027
        """Called when an epoch is in ``results.csv`` but not yet in a checkpoint."""

    def on_train_end(self) -> None:  # noqa: B027
        """Called after the last epoch, when its checkpoint has been written."""

    # The loop

    def run(self) -> TrainingResult:
        """Train up to the last epoch; the caller's random generators are left unchanged.

        Raises:
            SpinelineError: a loss or weight is not a finite number, or memory or disk runs out.
        """
        import torch

        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices):
            try:
                self.on_train_start()
                while self.done < self.epochs and not self.should_stop():
                    trained = self.train_epoch()
                    self.done += 1
                    self._check_weights()
                    if self.writes:
                        self._close_epoch(trained)
                self._writer.wait()
                if self.writes and self.saved < self.done:
                    self.save_checkpoint(force=True)
            except (RuntimeError, OSError, ValueError) as error:  # out of memory, disk full
                again = "; resume=true continues it" if self.checkpoint_name else ""
                msg = f"out={self.out}: training stopped ({first_line(error)}){again}"
                raise SpinelineError(msg) from error
            finally:
                self._writer.close()
        if self.writes:
            self.on_train_end()
        if self.writes and self.checkpoint_name:
            LOG.info("done: %d epochs; weights: %s", self.done, self.result().weights)
        return self.result()

    def result(self) -> TrainingResult:
        """Return the result of the run so far."""
        best, last = self.weights_file("best"), self.weights_file("last")
        chosen = best if best.exists() else last
        return TrainingResult(self.out, chosen, last, self.done, self.best_epoch)

    def weights_file(self, name: str) -> Path:
        """Return the path of the weights file of a name, such as ``last``."""
        return self.out / "weights" / f"{name}.safetensors"

    def shown(self, steps: Sequence[_Item] | Iterable[_Item], total: int) -> Iterable[_Item]:
        """Iterate over the steps of an epoch, with a progress bar on a terminal."""
        if not self.writes or not sys.stderr.isatty():
            return steps
        from tqdm import tqdm

        bar: Iterable[_Item] = tqdm(steps, total=total, desc=f"epoch {self.done + 1}", leave=False)
        return bar

    def kept(self) -> str:
        """Describe what remains of a run that stops now, for messages."""
        self._writer.wait()
        file = self.out / self.checkpoint_name
        return f"{file} holds epoch {self.saved}" if self.saved else "no epoch was finished"

    def _check_weights(self) -> None:
        if not math.isfinite(largest_magnitude(self.network.state_dict())):
            msg = (
                f"epoch {self.done}: the weights are no longer finite numbers; {self.kept()}; "
                f"lower {self.rate_key}"
            )
            raise SpinelineError(msg)

    def _close_epoch(self, trained: Mapping[str, float]) -> None:
        """Validate, then write results, weights and checkpoint."""
        last = self.done == self.epochs
        due = last or (self.val_every > 0 and self.done % self.val_every == 0)
        metrics = self.validate() if due else None
        row = {"epoch": self.done, **self.row(trained, metrics)}
        append_row(self.out / "results.csv", row)
        improved = [] if metrics is None else self._improved(self.scores(metrics))
        self.on_epoch_end(row)
        self.save_checkpoint(improved)
        LOG.info("epoch %d/%d: %s", self.done, self.epochs, self.summary(row))

    def _improved(self, scores: Mapping[str, float | None]) -> list[str]:
        """Names of the weights files for which this epoch is the best; records its values."""
        names: list[str] = []
        for metric, files in self.best_files.items():
            value = scores[metric]
            if value is not None and value > self.bests.get(metric, -math.inf):
                self.bests[metric] = value
                names += files
        if "best" in names:
            self.best_epoch = self.done
        return names

    # Checkpoints

    def save_checkpoint(self, names: Sequence[str] = (), *, force: bool = False) -> None:
        """Write an epoch's weights and checkpoint in a background thread.

        The thread only copies and writes. Arithmetic in it would start its own OpenMP threads,
        which would take cores from every later step.

        Args:
            names: weights files besides ``last`` for which this epoch is the best.
            force: write even if the last checkpoint is recent.
        """
        recent = time.monotonic() - self._written < CHECKPOINT_SECONDS
        wanted = force or names or self.done == self.epochs
        if not self.checkpoint_name or ((recent or self._writer.busy) and not wanted):
            return
        self._written = time.monotonic()
        weights = self.stored_weights()
        content = self.checkpoint()
        self._writer.wait()  # it still reads the copies
        copied = each_tensor(content, self._copies.copy)

        def write() -> None:
            first, *others = (self.weights_file(name) for name in (*names, "last"))
            write_bytes(first, self.pack_weights(weights))
            for other in others:
                link_file(first, other)
            write_checkpoint(moved_to_cpu(copied), self.out / self.checkpoint_name)
            self.saved = copied["done"]

        self._writer.submit(write)

    def checkpoint(self) -> dict[str, Any]:
        """Return the state for resuming: tensors and plain values, which run no code when read."""
        return {
            **self.description(),
            "done": self.done,
            "bests": dict(self.bests),
            "best_epoch": self.best_epoch,
            "network": dict(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, content: Mapping[str, Any]) -> None:
        """Continue from a checkpoint of [read_checkpoint][], to the numbers of an unbroken run."""
        self.network.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.done = self.saved = content["done"]
        self.bests, self.best_epoch = dict(content["bests"]), content["best_epoch"]
        LOG.info("resuming after epoch %d of %d", self.done, self.epochs)
        if self.writes:
            trim_results(self.out / "results.csv", self.done)


class TensorCopies:
    """Copies of tensors that are trained in place; their memory is allocated once, to save time."""

    def __init__(self) -> None:
        self._kept: dict[Any, torch.Tensor] = {}

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy, which the next copy of the same tensor overwrites."""
        place = (tensor.data_ptr(), tensor.shape, tensor.dtype)
        kept = self._kept.get(place)
        if kept is None:
            import torch

            kept = self._kept[place] = torch.empty_like(tensor)
        return kept.copy_(tensor.detach())


def each_tensor(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Copy nested dicts and lists, with every tensor changed."""
    if isinstance(value, dict):
        return {name: each_tensor(one, change) for name, one in value.items()}
    if isinstance(value, list):
        return [each_tensor(one, change) for one in value]
    return change(value) if hasattr(value, "data_ptr") else value


def moved_to_cpu(value: Any) -> Any:
    """Copy nested dicts and lists, with every tensor on the CPU."""
    return each_tensor(value, lambda tensor: tensor.cpu())


def read_checkpoint(file: Path, keys: Iterable[str] = ()) -> dict[str, Any]:
    """Read a run's checkpoint as tensors and plain values only, so that no code in it can run.

    Args:
        file: the checkpoint.
        keys: keys that it must have besides those of every checkpoint.

    Raises:
        WeightsError: the file is missing, damaged, or not a checkpoint.
    """
    check_there_is_a_checkpoint(file)
    import torch

    try:
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        missing = {"done", "bests", "network", "optimizer", *keys} - set(content)
    except Exception as error:  # a damaged file makes the unpickler raise anything
        raise WeightsError(
            f"{file}: damaged, no checkpoint of this run ({error!r:.300})"
        ) from error
    if missing:
        raise WeightsError(f"{file}: no checkpoint of this run, lacks {', '.join(sorted(missing))}")
    return content


def check_there_is_a_checkpoint(file: Path) -> None:
    """Refuse to resume a run that has no checkpoint.

    Raises:
        WeightsError: there is none.
    """
    if not file.is_file():
        msg = (
            f"{file}: nothing to resume, no epoch was finished; start from scratch with "
            f"overwrite=true"
        )
        raise WeightsError(msg)


def run_finished(last: Path, epochs: int) -> RunFinishedError:
    """Make the error for a run that has already finished, by its last checkpoint."""
    return RunFinishedError(
        f"{last}: the run is finished ({epochs} epochs), there is nothing to resume; "
        f"to train on, start another run with weights={last.with_suffix('.safetensors')}"
    )


def clear_half_written(out: Path) -> None:
    """Remove the unfinished files that a killed run left in its folder."""
    for folder in (out, out / "weights"):
        clear_unfinished(folder)


def check_new_run(out: Path, *, overwrite: bool) -> None:
    """Refuse a run folder that exists already.

    Raises:
        OutputExistsError: it is not empty, and ``overwrite`` is not set.
        SpinelineError: it cannot be written.
    """
    try:
        check_output(out, overwrite=overwrite)
    except OutputExistsError as error:
        msg = f"{out}: exists already; choose another out=, or add overwrite=true or resume=true"
        raise OutputExistsError(msg) from error


def append_row(file: Path, row: Mapping[str, Cell]) -> None:
    """Append a line to ``results.csv``, and a header first if there is none.

    Columns are those of the header. A column that the row lacks is ``nan``, and one that only the
    row has is left out. None is an empty cell.
    """
    columns = list(row)
    head = ""
    if file.exists():
        with file.open(encoding="utf-8") as stream:
            columns = stream.readline().strip().split(",")
    else:
        head = ",".join(columns) + "\n"
    values = ",".join(_cell(row.get(name, math.nan)) for name in columns)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"{head}{values}\n")


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.6g}"


def trim_results(file: Path, epochs: int) -> None:
    """Keep the header and the first ``epochs`` complete lines of a killed run's ``results.csv``."""
    if not file.exists():
        return
    lines = file.read_text(encoding="utf-8").split("\n")
    columns = lines[0].count(",")
    kept = [line for line in lines[1:] if line.count(",") == columns and line]
    kept = [line for line in kept if int(line.split(",")[0]) <= epochs]
    write_text(file, "\n".join([lines[0], *kept]) + "\n")
