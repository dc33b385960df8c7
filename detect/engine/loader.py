"""Batches for our own training loop, made by this process or by loader processes beside it.

Chance is seeded anew for each image, from the run's seed, the epoch and the image's index: the
numbers are the same whoever makes a batch, and in whatever order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from spineline.detect.engine.dataset import YoloImage
from spineline.detect.engine.distributed import ProcessGroup
from spineline.detect.engine.images import Sample, make_transform, read_sample, transformed


def seed_of(*numbers: int) -> int:
    """A seed for a place in a run: of the run's seed, the epoch, and a number in it."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One image to train on.

    Attributes:
        name: the file's name.
        pixels: uint8 (h, w).
        boxes_xyxy: float32 (N, 4), pixels of this image.
        class_index: int64 (N,), from 0.
    """

    name: str
    pixels: torch.Tensor
    boxes_xyxy: torch.Tensor
    class_index: torch.Tensor


def seed_generators(seed: int) -> None:
    """Seed torch's global generators, those of CUDA where it is in use.

    ``torch.manual_seed`` notes the whole call stack for devices that may come to be used later,
    which takes longer than to change an image.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


class TrainingImages(Dataset[Example]):
    """The images to train on, by epoch and index, changed by chance.

    Args:
        images: files and labels.
        values: what the run trains with.
        seed: the run's.
        samples: images that were read already, by index.
        keep: keep in ``samples`` what is read.
    """

    def __init__(
        self,
        images: Sequence[YoloImage],
        values: Mapping[str, Any],
        *,
        seed: int,
        samples: Mapping[int, Sample],
        keep: bool,
    ) -> None:
        self.images = images
        self.values = values
        self.seed = seed
        self.samples = dict(samples)
        self.keep = keep
        self.transform = make_transform(values)

    def __getitem__(self, place: tuple[int, int]) -> Example:
        """An image of an epoch; seeds torch's global generator of the CPU in this process."""
        epoch, index = place
        sample = self.samples.get(index)
        if sample is None:
            sample = read_sample(self.images[index], self.values["imgsz"])
            if self.keep:
                self.samples[index] = sample
        torch.default_generator.manual_seed(seed_of(self.seed, epoch, 1, index))
        changed = transformed(sample, self.transform, min_visibility=self.values["min_visibility"])
        return Example(sample.name, *changed)


class EpochBatches:
    """The batches of one epoch after the other; ``epoch`` says which comes next.

    Args:
        count: number of images.
        size: images in a batch, of all processes together.
        seed: the run's.
        group: the processes; a last batch that they cannot share is filled up from the first.
    """

    def __init__(self, count: int, size: int, *, seed: int, group: ProcessGroup) -> None:
        self.count, self.size, self.seed, self.group = count, size, seed, group
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(self.count / self.size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch, 0))
        order = torch.randperm(self.count, generator=generator).tolist()
        while len(order) % self.size % self.group.size:
            order.append(order[len(order) % self.count])
        for start in range(0, len(order), self.size):
            share = self.group.share(order[start : start + self.size])
            yield [(self.epoch, index) for index in share]


def make_loader(
    images: TrainingImages, batches: EpochBatches, *, workers: int
) -> DataLoader[Example]:
    """A loader that gives lists of examples; its processes stay from one epoch to the next."""
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=list,
        persistent_workers=workers > 0,
    )
