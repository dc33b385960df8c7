from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
import torch

from spineline.detect.defaults import FASTERRCNN_DEFAULTS
from spineline.detect.engine.dataset import read_data, read_images
from spineline.detect.engine.distributed import ALONE, ProcessGroup
from spineline.detect.engine.loader import EpochBatches, TrainingImages, make_loader

VALUES = {**FASTERRCNN_DEFAULTS, "imgsz": 64, "degrees": 20.0, "distortion_p": 0.5,
          "distortion_max": 0.3, "brightness": 0.3, "brightness_contrast_p": 0.5}  # fmt: skip


def epoch_of(batches: EpochBatches, epoch: int) -> list[list[int]]:
    batches.epoch = epoch
    found = list(batches)
    assert all(place[0] == epoch for batch in found for place in batch)
    return [[index for _, index in batch] for batch in found]


def test_an_epoch_has_every_image_once_in_another_order() -> None:
    batches = EpochBatches(10, 4, seed=3, group=ALONE)
    first, again, second = (epoch_of(batches, epoch) for epoch in (0, 0, 1))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(10))
    assert first == again != second
    assert len(batches) == 3


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9])
@pytest.mark.parametrize("size", [2, 4])
def test_processes_share_the_batches_of_one(count: int, size: int) -> None:
    whole = epoch_of(EpochBatches(count, 4, seed=3, group=ALONE), 5)
    parts = [
        epoch_of(EpochBatches(count, 4, seed=3, group=ProcessGroup(rank, size)), 5)
        for rank in range(size)
    ]
    for number, batch in enumerate(whole):
        shares = [part[number] for part in parts]
        assert len({len(share) for share in shares}) == 1  # else a process would wait for ever
        together = sorted(chain(*shares))
        if len(batch) % size == 0:
            assert together == sorted(batch)
        else:
            assert set(batch) <= set(together)
            assert len(together) - len(batch) < size


def test_numbers_do_not_depend_on_who_makes_a_batch(dataset: Path) -> None:
    data = read_data(dataset)
    images = read_images(data.train, data.names, part="train")

    def examples(workers: int, *, keep: bool) -> list[list[tuple[str, torch.Tensor, torch.Tensor]]]:
        parts = TrainingImages(images, VALUES, seed=1, samples={}, keep=keep)
        batches = EpochBatches(len(images), 3, seed=1, group=ALONE)
        loader = make_loader(parts, batches, workers=workers)
        found = []
        for batches.epoch in (0, 1):
            found += [[(e.name, e.pixels, e.boxes_xyxy) for e in batch] for batch in loader]
        return found

    with torch.random.fork_rng():
        alone, helped = examples(0, keep=True), examples(2, keep=False)
    assert len(alone) == len(helped) == 4
    for one, other in zip(chain(*alone), chain(*helped), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
        assert torch.equal(one[2], other[2])
    epochs = [{e[0]: e[1] for batch in alone[k : k + 2] for e in batch} for k in (0, 2)]
    assert any(not torch.equal(epochs[0][name], epochs[1][name]) for name in epochs[0])
