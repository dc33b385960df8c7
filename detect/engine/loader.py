"""Batches for our own training loop, made by this process or by loader processes.

Random generators are seeded for each image from the run's seed, the epoch and the image's index.
So the numbers do not depend on which process makes a batch, or in which order.
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
    """Derive a seed from the run's seed, the epoch, and a number within the epoch."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One training image.

    Attributes:
        name: name of the file.
        pixels: uint8 (h, w).
        boxes_xyxy: float32 (N, 4), pixels of this image.
        class_index: int64 (N,), from 0.
    """

    name: str
    pixels: torch.Tensor
    boxes_xyxy: torch.Tensor
    class_index: torch.Tensor


def seed_generators(seed: int) -> None:
    """Seed torch's global generators, including CUDA's if it is in use.

    ``torch.manual_seed`` records the whole call stack for devices that are initialised later, which
    takes longer than to augment an image.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


class TrainingImages(Dataset[Example]):
    """The training images with augmentation, by epoch and index.

    Args:
        images: files and labels.
        values: the training values.
        seed: the run's seed.
        samples: images that were already read, by index.
        keep: whether images that are read are kept in ``samples``.
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
        """Return an image of an epoch; seeds torch's global CPU generator in this process."""
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
    """The batches of one epoch after another; ``epoch`` is the next one.

    Args:
        count: number of images.
        size: images in a batch, over all processes.
        seed: the run's seed.
        group: the processes; a last batch that does not divide among them is filled up with images
            from the start of the epoch.
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
    """Make a loader of lists of examples; its processes live on from one epoch to the next."""
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=list,
        persistent_workers=workers > 0,
    )
