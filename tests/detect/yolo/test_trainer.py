from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.networks.tensors import write_checkpoint
from spineline.detect.checkpoints import load_pickle
from spineline.detect.settings import DetectTrain
from spineline.detect.train import train
from spineline.detect.yolo.trainer import (
    CheckedDataset,
    SmoothedBCE,
    SpineDetectionTrainer,
    compute_in_bf16,
    kept_generators,
)


def test_smoothed_targets_worked_out_by_hand() -> None:
    # One-hot with alignment 1 and 0.5, and a place without label; smoothing 0.1.
    target = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
    wanted = [[0.95, 0.05, 0.05], [0.025, 0.475, 0.025], [0.0, 0.0, 0.0]]
    torch.testing.assert_close(SmoothedBCE(0.1).smooth(target), torch.tensor(wanted))


def test_smoothed_loss_worked_out_by_hand() -> None:
    # At logit 0 the loss is log 2 whatever the target; at logit x it is log(1 + e^x) - t x.
    loss = SmoothedBCE(0.1)
    logits = torch.tensor([[2.0, -1.0]])
    found = loss(logits, torch.tensor([[1.0, 0.0]]))
    wanted = torch.log1p(torch.exp(logits)) - torch.tensor([[0.95, 0.05]]) * logits
    torch.testing.assert_close(found, wanted)


def test_no_smoothing_is_the_packages_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = (torch.rand(4, 7, 11, generator=generator) for _ in range(2))
    wanted = torch.nn.BCEWithLogitsLoss(reduction="none")(logits, target)
    torch.testing.assert_close(SmoothedBCE(0.0)(logits, target), wanted)


def test_smoothing_reaches_the_networks_loss(untrained: Callable[..., Any]) -> None:
    """The class loss of a whole network changes by the smoothed targets, the rest stays."""
    from ultralytics.utils.loss import v8DetectionLoss

    network = untrained().train()
    network.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    batch = {
        "img": torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
        "batch_idx": torch.zeros(2),
        "cls": torch.tensor([[3.0], [7.0]]),
        "bboxes": torch.tensor([[0.5, 0.3, 0.4, 0.2], [0.5, 0.7, 0.4, 0.2]]),
    }
    predictions = network(batch["img"])
    plain, smoothed = v8DetectionLoss(network), v8DetectionLoss(network)
    smoothed.bce = SmoothedBCE(0.2)
    seen: list[torch.Tensor] = []

    def record(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen[:] = [logits, target]
        return torch.nn.functional.binary_cross_entropy_with_logits(
            logits, target, reduction="none"
        )

    plain.bce = record
    wanted, _ = plain(predictions, batch)
    found, _ = smoothed(predictions, batch)
    torch.testing.assert_close(found[[0, 2]], wanted[[0, 2]])
    logits, target = seen
    matched = target.amax(-1, keepdim=True)
    assert (matched > 0).sum() > 2
    # Cross-entropy is linear in the target: it changes by -logit times the target's change.
    change = (-logits * (0.1 * matched - 0.2 * target)).sum() / target.sum().clamp(min=1) * 0.5
    assert abs(change.item()) > 1e-5
    torch.testing.assert_close(found[1].double(), (wanted[1] + change).double(), rtol=1e-6, atol=0)


def test_other_looks_and_views_keep_boxes_on_their_structures(dataset: Path) -> None:
    from ultralytics.cfg import get_cfg

    from spineline.detect.engine.dataset import read_data, read_images

    data = read_data(dataset)
    images = read_images(data.train, data.names, part="train")
    description = {"names": dict(enumerate(data.names)), "nc": len(data.names), "channels": 3}
    common = {"data": description, "task": "detect", "imgsz": 256, "hyp": get_cfg()}
    plain = CheckedDataset(images, **common)
    cut = CheckedDataset(images, cut_view=1.0, **common)
    shown = CheckedDataset(images, scanner_looks=1.0, **common)
    random.seed(0)
    whole = plain.get_image_and_label(0)
    heights = set()
    for _ in range(12):
        part = cut.get_image_and_label(0)
        height, width = part["img"].shape[:2]
        heights.add(height)
        assert part["resized_shape"] == (height, width)
        assert len(part["cls"]) == len(part["instances"].bboxes) > 2
        part["instances"].convert_bbox("xyxy")
        part["instances"].denormalize(width, height)
        for level, (left, top, right, bottom) in zip(
            part["cls"][:, 0], part["instances"].bboxes, strict=True
        ):
            inner = part["img"][round(top) : round(bottom), round(left) : round(right)]
            assert _holds(whole, float(level), inner)
    assert len(heights) > 3
    look = shown.get_image_and_label(0)
    assert look["img"].shape == whole["img"].shape
    assert (look["img"] != whole["img"]).any()
    assert (look["instances"].bboxes == plain.get_image_and_label(0)["instances"].bboxes).all()


def _holds(whole: dict[str, Any], level: float, inner: npt.NDArray[np.uint8]) -> bool:
    """Whether the box of a level in the whole image shows what ``inner`` does, but for its edge."""
    boxes = deepcopy(whole["instances"])
    boxes.convert_bbox("xyxy")
    boxes.denormalize(*whole["img"].shape[1::-1])
    left, top, right, bottom = boxes.bboxes[whole["cls"][:, 0] == level][0]
    shown = whole["img"][int(top) : int(bottom) + 2, int(left) : int(right) + 2]
    rows, columns = inner.shape[:2]
    places = (
        (y, x)
        for y in range(shown.shape[0] - rows + 1)
        for x in range(shown.shape[1] - columns + 1)
    )
    return any((shown[y : y + rows, x : x + columns] == inner).all() for y, x in places)


def test_augmentation_is_the_same_with_and_without_albumentations(dataset: Path) -> None:
    from ultralytics.cfg import get_cfg

    from spineline.detect.engine.dataset import read_data, read_images

    data = read_data(dataset)
    images = read_images(data.train, data.names, part="train")
    description = {"names": dict(enumerate(data.names)), "nc": len(data.names), "channels": 3}
    options = get_cfg()
    found = CheckedDataset(images, data=description, task="detect", imgsz=64, hyp=options)
    for _ in range(2):
        names = [type(step).__name__ for step in found.transforms.transforms]
        assert {"RandomHSV", "RandomFlip"} <= set(names)
        assert "Albumentations" not in names
        found.close_mosaic(options)


def test_a_write_that_fails_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    write_checkpoint({"epoch": 1}, path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(SpinelineError, match="disk full"):
        write_checkpoint({"epoch": 2}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_best_weights_are_drawn_and_the_last_are_kept(tmp_path: Path) -> None:
    best, last = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    write_checkpoint({"model": best}, tmp_path / "best.pt")
    drawn = []

    def draw(trainer: Any) -> None:
        drawn.append(trainer.ema.ema.weight.item())

    draw.args = SimpleNamespace()  # type: ignore[attr-defined]
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(plots=True), parts=SimpleNamespace(val=("image",)), device="cpu",
        best=tmp_path / "best.pt", ema=SimpleNamespace(ema=deepcopy(last)),
        stopper=SimpleNamespace(), validator=draw,
    )  # fmt: skip
    SpineDetectionTrainer.final_eval(trainer)
    assert drawn == [best.weight.item()]
    assert trainer.ema.ema.weight == last.weight


def test_generators_are_as_before() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    with contextlib.suppress(ValueError), kept_generators():
        random.seed(9)
        np.random.seed(9)  # noqa: NPY002
        torch.manual_seed(9)
        raise ValueError("inside")
    after = (random.random(), np.random.random(), torch.rand(1).item())  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert after == (random.random(), np.random.random(), torch.rand(1).item())  # noqa: NPY002


def test_checkpoints_hold_no_path_and_no_repository(finished: Any, dataset: Path) -> None:
    for name in ("last.pt", "best.pt"):
        path = finished.out / "weights" / name
        checkpoint = load_pickle(path, trust=True)
        assert checkpoint["epoch"] == -1
        assert checkpoint["optimizer"] is None
        assert not {"git", "date"} & set(checkpoint)
        content = path.read_bytes()
        for secret in (str(dataset), str(finished.out), "github.com", str(Path.home()) + "/"):
            assert secret.encode() not in content


@pytest.mark.slow
def test_bfloat16_changes_the_loss_by_its_rounding_alone(untrained: Callable[..., Any]) -> None:
    """Each of some 64 layers rounds by 2⁻⁸, which adds up to 2⁻⁵ or so: twice that is allowed."""
    network = untrained().train()
    network.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    generator = torch.Generator().manual_seed(0)
    batch = {
        "img": torch.rand(2, 3, 64, 64, generator=generator),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[3.0], [7.0]]),
        "bboxes": torch.tensor([[0.5, 0.3, 0.4, 0.2], [0.5, 0.7, 0.4, 0.2]]),
    }
    plain = deepcopy(network)
    wanted, _ = plain(batch)
    wanted.sum().backward()
    compute_in_bf16(SimpleNamespace(model=network))
    assert network.predict(batch["img"])["scores"].dtype == torch.float32
    found, _ = network(batch)
    found.sum().backward()
    torch.testing.assert_close(found, wanted, rtol=2**-4, atol=0)
    assert not torch.equal(found, wanted)
    assert {own.dtype for own in network.parameters()} == {torch.float32}
    gradients = [own.grad for own in network.parameters() if own.grad is not None]
    assert len(gradients) == len([p for p in plain.parameters() if p.grad is not None])
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


@pytest.mark.parametrize(
    ("has", "amp", "wanted"),
    [(True, True, True), (True, False, False), (False, True, False)],
    ids=["supported", "amp=false", "unsupported"],
)
def test_bfloat16_is_for_cpus_that_multiply_it(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *,
    has: bool, amp: bool, wanted: bool,
) -> None:  # fmt: skip
    trainers = _noted_trainers(monkeypatch)
    monkeypatch.setattr("spineline.detect.yolo.train.cpu_has_bf16", lambda: has)
    with pytest.raises(_Trained):
        train(DetectTrain(data=dataset, out=tmp_path / "run", amp=amp, **TINY, epochs=1))
    assert trainers[0].parts.bf16 is wanted
    assert ("predict" in vars(trainers[0].model)) is wanted
    assert "predict" not in vars(trainers[0].ema.ema)  # what is written computes in float32


@pytest.mark.slow
def test_the_first_epochs_see_small_images(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers = _noted_trainers(monkeypatch)
    with pytest.raises(_Trained):
        train(
            DetectTrain(
                data=dataset, out=tmp_path / "run", progressive=0.5, epochs=3,
                **{**TINY, "imgsz": 128, "batch": 6},
            )
        )  # fmt: skip
    assert list(dict.fromkeys(trainers[0].sizes)) == [(0, 96), (1, 96), (2, 128)]


def test_adams_one_kernel_takes_the_steps_of_the_formula(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside torch's plain loop, from the same gradients."""
    trainers = _noted_trainers(monkeypatch)
    with pytest.raises(_Trained):
        train(DetectTrain(data=dataset, out=tmp_path / "run", optimizer="AdamW", epochs=1, **TINY))
    groups = trainers[0].optimizer.param_groups
    assert all(group["fused"] for group in groups)
    assert isinstance(trainers[0].optimizer, torch.optim.AdamW)
    start = torch.rand(7, 5, generator=torch.Generator().manual_seed(0))
    found = []
    for options in ({}, {"fused": True}):
        weight = torch.nn.Parameter(start.clone())
        optimizer = torch.optim.AdamW([weight], lr=0.01, weight_decay=0.1, foreach=False)
        optimizer.param_groups[0].update(options)
        for step in range(5):
            weight.grad = torch.cos(weight.detach() + step)
            optimizer.step()
        found.append(weight.detach())
    torch.testing.assert_close(*found)


TINY: dict[str, Any] = {
    "model": "yolov8n", "imgsz": 64, "batch": 3, "plots": False, "val": False,
}  # fmt: skip


class _Trained(BaseException):
    """Ends a run after its last epoch, before anything is written."""


def _noted_trainers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The trainers that are made; each notes its batches' sizes by epoch, and writes nothing."""
    made: list[Any] = []

    class Noted(SpineDetectionTrainer):
        def __init__(self, *arguments: Any) -> None:
            self.sizes: list[tuple[int, int]] = []
            made.append(self)
            super().__init__(*arguments)

        def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
            found = super().preprocess_batch(batch)
            self.sizes.append((self.epoch, found["img"].shape[-1]))
            assert found["img"].shape[-1] == found["img"].shape[-2]
            return found

        def save_model(self) -> bool:
            if self.epoch + 1 == self.epochs:
                raise _Trained
            return True

    monkeypatch.setattr("spineline.detect.yolo.train.SpineDetectionTrainer", Noted)
    return made
