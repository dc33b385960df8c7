"""The loop of every training, with the smallest network there is."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from spineline.datasets.common.errors import OutputExistsError, SpinelineError, WeightsError
from spineline.datasets.networks import training
from spineline.datasets.networks.tensors import pack_described, write_checkpoint
from spineline.datasets.networks.training import (
    ResultRow,
    Trainer,
    append_row,
    check_new_run,
    read_checkpoint,
    trim_results,
)

SCORES = ((0.1, 0.5), (0.4, 0.2), (0.3, 0.3), (0.2, 0.6))
"""Of each epoch, by metric ``a`` and ``b``."""


class Line(Trainer):
    """Learns a random vector by heart; its scores are written down."""

    best_files: ClassVar = {"a": ("best_a", "best"), "b": ("best_b",)}

    def __init__(self, out: Path, *, epochs: int = 4, val_every: int = 1) -> None:
        network = torch.nn.Linear(3, 1)
        torch.nn.init.constant_(network.weight, 1.0)
        torch.nn.init.constant_(network.bias, 0.0)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
        super().__init__(out, network, optimizer, epochs=epochs, val_every=val_every)
        self.ended = 0
        self.weights: list[bytes] = []

    def train_epoch(self) -> dict[str, float]:
        torch.manual_seed(self.done)
        loss = (self.network(torch.rand(5, 3)) - 2).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": float(loss.detach())}

    def validate(self) -> dict[str, float]:
        return dict(zip("ab", SCORES[self.done - 1], strict=True))

    def scores(self, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        return metrics

    def row(self, trained: Mapping[str, float], metrics: Mapping[str, Any] | None) -> ResultRow:
        return {**trained, "a": None if metrics is None else metrics["a"]}

    def summary(self, row: ResultRow) -> str:
        return f"loss {row['loss']:.3f}"

    def stored_weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.network.state_dict().items()}

    def pack_weights(self, weights: dict[str, torch.Tensor]) -> bytes:
        return pack_described(weights, "{}", half=False)

    def on_epoch_end(self, row: ResultRow) -> None:
        self.weights.append(self.pack_weights(self.stored_weights()))

    def on_train_end(self) -> None:
        self.ended += 1


class Killed(Line):
    """Is killed after its third epoch is in ``results.csv`` and before its checkpoint."""

    def on_epoch_end(self, row: ResultRow) -> None:
        if self.done == 3:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints of every epoch, however short."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)


def files_of(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.suffix != ".pt"
    }


def test_a_run_and_one_that_is_resumed(tmp_path: Path) -> None:
    """The best weights of each metric are kept, and the generators are as they were."""
    (tmp_path / "whole").mkdir()
    whole = Line(tmp_path / "whole")
    before = torch.get_rng_state()
    result = whole.run()
    assert torch.equal(before, torch.get_rng_state())
    assert (result.epochs, result.best_epoch, whole.ended) == (4, 2, 1)
    assert result.weights == tmp_path / "whole" / "weights" / "best.safetensors"
    for name, epoch in {"best_a": 2, "best": 2, "best_b": 4, "last": 4}.items():
        assert whole.weights_file(name).read_bytes() == whole.weights[epoch - 1]
    assert result.weights.stat().st_nlink == 2  # with best_a

    out = tmp_path / "broken"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        Killed(out).run()
    with (out / "results.csv").open("a") as file:
        file.write("4,0.5")  # a half-written line
    resumed = Line(out)
    resumed.restore(read_checkpoint(out / "weights" / "last.pt"))
    assert resumed.done == 2
    resumed.run()
    assert files_of(out) == files_of(tmp_path / "whole")

    closed = Line(out)  # killed after its last epoch
    closed.restore(read_checkpoint(out / "weights" / "last.pt"))
    assert closed.run() == result.__class__(
        out, out / "weights" / "best.safetensors", out / "weights" / "last.safetensors", 4, 2
    )
    assert closed.ended == 1


def noted(monkeypatch: pytest.MonkeyPatch, wait: threading.Event | None = None) -> list[int]:
    """Epochs whose checkpoint is written; the first one waits for an event."""
    written: list[int] = []

    def write(content: Any, path: Path) -> None:
        written.append(content["done"])
        if wait is not None and len(written) == 1:
            assert wait.wait(250)
        write_checkpoint(content, path)

    monkeypatch.setattr(training, "write_checkpoint", write)
    return written


def test_checkpoints_keep_their_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of milliseconds write once, then the last; each is in the results."""
    written = noted(monkeypatch)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 600.0)
    Line(tmp_path, val_every=0).run()
    assert written == [1, 4]
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 5


def test_a_slow_disk_holds_no_epoch_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs that end while another is still being written are passed over; the last is not."""
    release = threading.Event()
    written = noted(monkeypatch, release)

    class Quick(Line):
        def on_epoch_end(self, row: ResultRow) -> None:
            if self.done == 4:
                release.set()

    Quick(tmp_path, val_every=0).run()
    assert written == [1, 4]


def test_a_run_that_ends_early_keeps_its_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Patient(Line):
        def should_stop(self) -> bool:
            return self.done == 3

    written = noted(monkeypatch)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 600.0)
    trainer = Patient(tmp_path, val_every=0)
    assert trainer.run().epochs == 3
    assert written == [1, 3]
    assert trainer.weights_file("last").read_bytes() == trainer.weights[2]


@pytest.mark.parametrize(
    ("epoch", "kept"), [(1, "no epoch was finished"), (2, r"last\.pt holds epoch 1")]
)
def test_weights_that_are_no_numbers_end_the_run(tmp_path: Path, epoch: int, kept: str) -> None:
    class Exploding(Line):
        def train_epoch(self) -> dict[str, float]:
            trained = super().train_epoch()
            if self.done + 1 == epoch:
                self.network.weight.data[0, 1] = float("inf")
            return trained

    message = f"epoch {epoch}: the weights are no longer finite numbers; .*{kept}; lower lr"
    with pytest.raises(SpinelineError, match=message):
        Exploding(tmp_path).run()


@pytest.mark.parametrize("kind", [RuntimeError, OSError])
def test_a_training_that_breaks_off_says_so(tmp_path: Path, kind: type[Exception]) -> None:
    class Broken(Line):
        def validate(self) -> dict[str, float]:
            raise kind("out of memory")

    said = r"stopped \(out of memory\); resume=true continues it"
    with pytest.raises(SpinelineError, match=said):
        Broken(tmp_path).run()


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights" / "last.pt"
    with pytest.raises(WeightsError, match="no epoch was finished; start from scratch"):
        read_checkpoint(path)
    Line(tmp_path, epochs=1).run()
    with pytest.raises(WeightsError, match="no checkpoint of this run, lacks names"):
        read_checkpoint(path, ("names",))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(WeightsError, match="damaged"):
        read_checkpoint(path)


def test_a_run_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    check_new_run(tmp_path, overwrite=True)
    with pytest.raises(OutputExistsError, match="overwrite=true or resume=true"):
        check_new_run(tmp_path, overwrite=False)


def test_rows_stand_below_one_header(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    append_row(file, {"epoch": 1, "a": 0.5, "b": float("nan")})
    append_row(file, {"epoch": 2, "a": 1 / 3, "b": None})
    append_row(file, {"epoch": 3, "a": "0.250", "b": 1e-7})
    assert file.read_text() == "epoch,a,b\n1,0.5,nan\n2,0.333333,\n3,0.250,1e-07\n"


def test_columns_are_those_of_the_header(tmp_path: Path) -> None:
    """A run of an earlier version that is resumed keeps its columns."""
    file = tmp_path / "results.csv"
    file.write_text("epoch,b,a\n1,2,3\n")
    append_row(file, {"epoch": 2, "a": 5, "new": 7})
    assert file.read_text() == "epoch,b,a\n1,2,3\n2,nan,5\n"


def test_results_of_a_killed_run_are_trimmed(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    file.write_text("epoch,a,b\n1,0.5,0.5\n2,0.4,0.4\n3,0.3,0.3\n4,0.2")
    trim_results(file, 2)
    assert file.read_text() == "epoch,a,b\n1,0.5,0.5\n2,0.4,0.4\n"
    trim_results(tmp_path / "none.csv", 2)
