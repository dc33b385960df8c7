"""``spineline naming train``: training of the level reader.

Training uses labelled spines only. A strip is laid along some of the labelled points, which are
moved a little. It is prolonged at its ends in a straight line, as along a chain of detections. It
starts up to two vertebrae too high or too low, so a rank's place in the strip reveals nothing.
Ranks of the strip above T12-L1 and below L5-S1 carry the labels ``above`` and ``below``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import AnnotationError, SpinelineError, WeightsError
from spineline.datasets.common.files import staged_folder, write_bytes, write_json
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.common.settings import refuse_output_around
from spineline.datasets.dataset import Dataset, load_dataset
from spineline.datasets.images import read_uint8_image
from spineline.datasets.labels import LEVELS, SEGMENT_RANKS
from spineline.datasets.networks.training import ResultRow, Trainer, TrainingResult
from spineline.datasets.scanner_looks import scanner_look
from spineline.datasets.splits import Part
from spineline.datasets.straighten import Distortion, StripSpec, prolonged, straighten
from spineline.datasets.types import ImageRecord
from spineline.detect.level_reader.model import (
    LevelReaderConfig,
    LevelReaderNetwork,
    TorchLevelReader,
    build_level_reader,
    level_reader_bytes,
    load_level_reader,
)
from spineline.detect.level_reader.settings import NamingTrain
from spineline.weights import resolve

WEIGHTS_FILE = "namer.safetensors"

_LEAST = 3  # fewest labelled ranks of a usable spine
_WARM_UP = 0.1  # fraction of the steps


@dataclass(frozen=True, slots=True)
class Spine:
    """One labelled image: its pixels, and points (N, 2) in pixels of ranks (N,), top to bottom."""

    image: npt.NDArray[np.uint8]
    points_xy: npt.NDArray[np.float64]
    ranks: npt.NDArray[np.int64]


def train(settings: NamingTrain) -> TrainingResult:
    """Train a level reader; the weights of the last epoch are the result.

    Raises:
        AnnotationError: the dataset cannot be read, has images that cannot be used, or has no
            labelled spine for training.
        OutputExistsError: ``out`` exists and ``overwrite`` is not set.
        SpinelineError: the loss became NaN or infinite.
        WeightsError: the initial weights cannot be used, or belong to another network.
    """
    refuse_output_around(settings)
    device = torch.device(device_name(settings.device))
    dataset = load_dataset(settings.data)
    dataset.check_whole(settings.data)
    spines = load_spines(dataset, "train")
    if not spines:
        msg = (
            f"data={settings.data}: no image of the train part has {_LEAST} labelled levels; "
            "wanted a dataset converted with labels=level"
        )
        raise AnnotationError(msg)
    config = LevelReaderConfig(settings.width, settings.hidden, settings.dropout)
    start = None if settings.weights is None else _start_network(settings.weights, config)
    LOG.info("data: %d spines to train on", len(spines))
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        trainer = LevelReaderTrainer(spines, config, settings, stage, device, start)
        trainer.run()
        network = trainer.network.eval()
        write_bytes(stage / WEIGHTS_FILE, level_reader_bytes(network, config))
        reader = TorchLevelReader(network, config, str(device))
        metrics = shares_right(reader, load_spines(dataset, "val"))
        write_json(stage / "metrics.json", metrics)
        write_run_record(stage, "naming train", settings)
    for name, value in metrics.items():
        LOG.info("val %s: %.4g", name, value)
    file = settings.out / WEIGHTS_FILE
    LOG.info("done: %d epochs; weights: %s", settings.epochs, file)
    return TrainingResult(settings.out, file, file, settings.epochs, metrics=metrics)


def load_spines(dataset: Dataset, part: Part) -> list[Spine]:
    """Load the labelled spines of a part that have enough levels, with whole images."""
    return [
        spine for record in dataset.records[part] if (spine := _spine(dataset, record)) is not None
    ]


def draw_strip(
    rng: np.random.Generator, spine: Spine, spec: StripSpec, *, scanner_looks: float = 0.0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Draw a random strip for training, and the class of each of its ranks.

    Args:
        rng: source of all randomness.
        spine: a labelled spine.
        spec: size and range of the strip.
        scanner_looks: probability of simulating another scanner.

    Returns:
        (K * rank_px, W) float32, about 0 … 1, and (K,) indices of `RANK_NAMES`.
    """
    kept = _part(rng, len(spine.ranks))
    points, ranks = spine.points_xy[kept], spine.ranks[kept]
    gap = _gap(spine)
    points = points + rng.normal(0, 0.08 * gap, points.shape)
    shift = SEGMENT_RANKS * int(rng.integers(-2, 3))
    first, last = shift - spec.above, shift + len(LEVELS) - 1 + spec.below
    start, stop = min(first, int(ranks[0])), max(last, int(ranks[-1]))
    curve = prolonged(points, ranks, start, stop)[first - start : last - start + 1]
    distortion = Distortion(
        rng.normal(0, 0.25), rng.normal(0, 0.08), float(np.exp(rng.normal(0, 0.1)))
    )
    strip = straighten(spine.image, curve, spec, distortion)
    if rng.random() < scanner_looks:
        grey = np.clip(np.rint(strip * 255), 0, 255).astype(np.uint8)
        strip = scanner_look(grey, rng).astype(np.float32) / np.float32(255)
    return _shaded(rng, strip), classes_of(np.arange(first, last + 1))


def classes_of(ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return indices of `RANK_NAMES`: 0 above T12-L1, 1 … 11 the levels, 12 below L5-S1.

    >>> classes_of(np.array([-5, -1, 0, 10, 11, 16])).tolist()
    [0, 0, 1, 11, 12, 12]
    """
    return np.clip(ranks, -1, len(LEVELS)) + 1


def shares_right(reader: TorchLevelReader, spines: Sequence[Spine]) -> dict[str, float | int]:
    """Measure how well names are read from labelled spines.

    ``rank_accuracy`` is the fraction of labelled ranks whose most likely class is right. For
    ``offset_accuracy``, each spine is read as labelled, and as if named one vertebra too high and
    too low. It is the fraction of readings in which the right offset among -2 … 2 vertebrae has the
    highest sum of log probabilities.
    """
    if not spines:
        return {}
    reader.network.eval()
    right = total = hits = 0
    for spine in spines:
        for shift in (-1, 0, 1):
            shares, first = _read_shifted(reader, spine, shift)
            at = spine.ranks + SEGMENT_RANKS * shift - first
            right += int((shares[at].argmax(axis=1) == classes_of(spine.ranks)).sum())
            total += len(at)
            sums = {
                offset: float(
                    shares[at, classes_of(spine.ranks + SEGMENT_RANKS * (shift + offset))].sum()
                )
                for offset in (-2, -1, 0, 1, 2)
            }
            hits += max(sums, key=sums.__getitem__) == -shift
    return {
        "rank_accuracy": right / total,
        "offset_accuracy": hits / (3 * len(spines)),
        "spines": len(spines),
    }


def _start_network(weights: str, config: LevelReaderConfig) -> LevelReaderNetwork:
    """Load the initial network, whose description must match ``config`` except for dropout."""
    found = load_level_reader(resolve(weights, task="name").path)
    theirs = replace(found.config, dropout=config.dropout)
    if theirs != config:
        msg = (
            f"weights={weights}: a level reader of width={theirs.width} hidden={theirs.hidden} and "
            f"{theirs.strip}; wanted width={config.width} hidden={config.hidden} and {config.strip}"
        )
        raise WeightsError(msg)
    LOG.info("starting from %s", weights)
    return found.network


def _spine(dataset: Dataset, record: ImageRecord) -> Spine | None:
    found = {s.level: s.point_xy for s in record.structures if s.level in LEVELS}
    ranks = [rank for rank, level in enumerate(LEVELS) if level in found]
    if len(ranks) < _LEAST:
        return None
    image = read_uint8_image(dataset.image_path(record))
    points = np.array([found[LEVELS[rank]] for rank in ranks], dtype=np.float64)
    return Spine(image, points, np.array(ranks, dtype=np.int64))


def _read_shifted(
    reader: TorchLevelReader, spine: Spine, shift: int
) -> tuple[npt.NDArray[np.float64], int]:
    """Log probabilities (K, 13) of a spine named ``shift`` vertebrae too low, and first rank."""
    named = spine.ranks + SEGMENT_RANKS * shift
    first = min(-reader.strip.above, int(named[0]))
    last = max(len(LEVELS) - 1 + reader.strip.below, int(named[-1]))
    return reader.read(spine.image, prolonged(spine.points_xy, named, first, last)), first


def _gap(spine: Spine) -> float:
    """Mean distance from one rank to the next, in pixels."""
    whole = np.hypot(*np.diff(spine.points_xy, axis=0).T).sum()
    return float(whole / (spine.ranks[-1] - spine.ranks[0]))


def _part(rng: np.random.Generator, count: int) -> slice:
    """Random part of a chain: often without some upper structures, sometimes without the lowest."""
    top = int(rng.integers(0, 5)) if rng.random() < 0.7 else 0
    bottom = int(rng.integers(0, 3)) if rng.random() < 0.5 else 0
    return slice(top, count - bottom) if count - bottom - top >= _LEAST else slice(0, count)


def _shaded(rng: np.random.Generator, strip: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Change contrast and brightness, add noise, and sometimes fade an end as far from the coil."""
    strip = strip ** np.float32(np.exp(rng.normal(0, 0.25)))
    strip = strip * np.float32(np.exp(rng.normal(0, 0.15)))
    strip = strip + rng.normal(0, 0.02, strip.shape).astype(np.float32)
    if rng.random() < 0.3:
        fade = np.linspace(rng.uniform(0.3, 1), 1, len(strip), dtype=np.float32)[:, None]
        strip = strip * (fade if rng.random() < 0.5 else fade[::-1])
    return strip


class LevelReaderTrainer(Trainer):
    """Trains a level reader within minutes and without checkpoints; only the results are written.

    Args:
        spines: spines to train on.
        config: description of the network.
        settings: the command's keys.
        out: folder of ``results.csv``.
        device: device to train on.
        start: network whose weights are copied, or None.
    """

    checkpoint_name = ""

    def __init__(
        self,
        spines: Sequence[Spine],
        config: LevelReaderConfig,
        settings: NamingTrain,
        out: Path,
        device: torch.device,
        start: LevelReaderNetwork | None = None,
    ) -> None:
        network = build_level_reader(config, seed=settings.seed)
        if start is not None:
            network.load_state_dict(start.state_dict())
        network.to(device).train()
        optimizer = torch.optim.AdamW(
            network.parameters(), settings.lr, weight_decay=settings.weight_decay
        )
        super().__init__(out, network, optimizer, epochs=settings.epochs)
        self.network: LevelReaderNetwork = network
        self.spines, self.settings, self.device = spines, settings, device
        steps = settings.epochs * math.ceil(len(spines) / settings.batch)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: _one_cycle(step, steps)
        )
        self._rng = np.random.default_rng(settings.seed)

    def on_train_start(self) -> None:
        """Seed torch's generators, which dropout uses."""
        torch.manual_seed(self.settings.seed)

    def train_epoch(self) -> dict[str, float]:
        """Train on each spine once and return the mean loss."""
        rng, size, spec = self._rng, self.settings.batch, self.network.config.strip
        order, losses = rng.permutation(len(self.spines)), []
        for start in range(0, len(order), size):
            looks = self.settings.scanner_looks
            drawn = [
                draw_strip(rng, self.spines[n], spec, scanner_looks=looks)
                for n in order[start : start + size]
            ]
            strips = torch.from_numpy(np.stack([strip for strip, _ in drawn]))[:, None]
            classes = torch.from_numpy(np.stack([labels for _, labels in drawn]))
            loss: Tensor = functional.cross_entropy(
                self.network(strips.to(self.device)),
                classes.to(self.device),
                label_smoothing=self.settings.label_smoothing,
            )
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
            self.optimizer.step()
            self._schedule.step()
            losses.append(float(loss.detach()))
        mean = float(np.mean(losses))
        if not math.isfinite(mean):
            raise SpinelineError(f"the loss of epoch {self.done + 1} is {mean}; try a smaller lr=")
        return {"loss": mean}

    def row(self, trained: Mapping[str, float], metrics: Mapping[str, Any] | None) -> ResultRow:  # noqa: ARG002
        """Return the loss for the row of ``results.csv``."""
        return {"loss": f"{trained['loss']:.6f}"}

    def summary(self, row: ResultRow) -> str:
        """Return the loss for the log."""
        return f"loss {row['loss']}"


def _one_cycle(step: int, steps: int) -> float:
    """Fraction of the highest learning rate: up linearly, down along a cosine."""
    done = min(step / max(steps, 1), 1.0)
    if done < _WARM_UP:
        return 0.05 + 0.95 * done / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))
