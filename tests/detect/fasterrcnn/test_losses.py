"""The class loss against torchvision's, hand-worked values, and ultralytics' weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss

from spineline.datasets.common.errors import ConfigError
from spineline.detect.engine import loop
from spineline.detect.fasterrcnn.heads import ClassWeightedHeads
from spineline.detect.fasterrcnn.losses import (
    class_loss,
    inverse_frequency,
    training_weights,
)
from spineline.detect.fasterrcnn.model import FasterRCNNDescription, build_fasterrcnn
from spineline.detect.settings import DetectTrain
from spineline.detect.train import train

pytestmark = pytest.mark.usefixtures("small_box_heads")

SMALL = FasterRCNNDescription("mobilenet_v3_small", 1, 0.25, 0.5)
NAMES = ("healthy", "sick", "other")


def head_output(regions: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(regions, 4, generator=generator) * 3
    return logits, torch.randint(0, 4, (regions,), generator=generator)


def test_the_neutral_loss_is_torchvisions_to_the_digit() -> None:
    logits, labels = head_output()
    wanted, _ = fastrcnn_loss(logits, torch.zeros(50, 16), [labels], [torch.zeros(50, 4)])
    assert torch.equal(class_loss(logits, labels), wanted)
    ones = class_loss(logits, labels, weights=torch.ones(4))
    torch.testing.assert_close(ones, wanted, rtol=1e-6, atol=0)


def test_values_worked_out_by_hand() -> None:
    # Logits ln(3), 0 give p = 3/4 and 1/4; two regions, of the background and of class 1.
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
    labels = torch.tensor([0, 1])
    first, second = -math.log(3 / 4), -math.log(1 / 4)
    cases = [
        ({}, (first + second) / 2),
        ({"gamma": 2.0}, (first / 16 + second * 9 / 16) / 2),
        ({"weights": torch.tensor([1.0, 3.0])}, (first + 3 * second) / 2),
        ({"gamma": 1.0, "weights": torch.tensor([1.0, 3.0])}, (first / 4 + 3 * second * 3 / 4) / 2),
    ]
    for options, wanted in cases:
        assert float(class_loss(logits, labels, **options)) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_gradients_are_those_of_the_formula(gamma: float) -> None:
    logits, labels = head_output(8)
    doubled = logits.double().requires_grad_()
    p = torch.softmax(doubled, 1)[torch.arange(8), labels]
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0])
    wanted = (weights[labels] * (1 - p) ** gamma * -p.log()).mean()
    (slope,) = torch.autograd.grad(wanted, doubled)
    own = logits.clone().requires_grad_()
    loss = class_loss(own, labels, weights=weights, gamma=gamma)
    loss.backward()
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-7)
    assert own.grad is not None
    torch.testing.assert_close(own.grad.double(), slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_certain_regions_have_finite_gradients(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0], [30.0, 0.0]], requires_grad=True)
    class_loss(logits, torch.tensor([0, 0, 0]), gamma=gamma).backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    assert float(logits.grad[1].abs().max()) > 0.1  # certain and wrong
    assert float(logits.grad[0].abs().max()) == 0.0  # certain and right


def losses_of(network: Any) -> dict[str, float]:
    """Losses of a network in training on two frames, with chance seeded."""
    generator = torch.Generator().manual_seed(0)
    images = list(torch.rand(2, 1, 64, 64, generator=generator))
    boxes = torch.tensor([[4.0, 4.0, 40.0, 20.0], [10.0, 30.0, 60.0, 60.0]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2])} for _ in images]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return {k: float(v.detach()) for k, v in network.train()(images, targets).items()}


def test_a_network_trains_on_the_loss_that_it_is_given() -> None:
    given = {"proposals": 40, "rois": 64}
    plain: Any = build_fasterrcnn(SMALL, 3, 64, seed=1, **given)
    focal: Any = build_fasterrcnn(SMALL, 3, 64, seed=1, **given, focal_gamma=2.0)
    heavy: Any = build_fasterrcnn(SMALL, 3, 64, seed=1, **given, class_weights=(5.0, 1.0, 1.0))
    assert type(plain.roi_heads) is RoIHeads
    assert list(focal.state_dict()) == list(plain.state_dict()) == list(heavy.state_dict())
    wanted, found, weighted = losses_of(plain), losses_of(focal), losses_of(heavy)
    assert found["loss_classifier"] < 0.8 * wanted["loss_classifier"]
    assert weighted["loss_classifier"] > 1.01 * wanted["loss_classifier"]
    for name in ("loss_box_reg", "loss_objectness", "loss_rpn_box_reg"):
        assert found[name] == weighted[name] == wanted[name]


def test_heads_with_a_neutral_loss_are_torchvisions() -> None:
    network: Any = build_fasterrcnn(SMALL, 3, 64, seed=1, proposals=40, rois=64)
    wanted = losses_of(network)
    network.roi_heads = ClassWeightedHeads(network.roi_heads)
    assert losses_of(network) == wanted
    image = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(1))
    network.rpn._post_nms_top_n["testing"] = 40
    with torch.no_grad():
        found = network.eval()([image])[0]
        network.roi_heads.__class__ = RoIHeads
        again = network([image])[0]
    assert torch.equal(found["scores"], again["scores"])


@pytest.mark.parametrize("power", [0.25, 1.0])
def test_cls_pw_is_that_of_ultralytics(power: float) -> None:
    from spineline.detect.yolo.environment import import_ultralytics

    import_ultralytics()
    from ultralytics.models.yolo.detect import DetectionTrainer

    counts = [100, 4, 0, 25]
    trainer: Any = SimpleNamespace(args=SimpleNamespace(cls_pw=power))
    wanted = DetectionTrainer.compute_class_weights(trainer, np.array(counts, np.float32))
    wanted = wanted / wanted.mean()
    np.testing.assert_allclose(inverse_frequency(counts, power), wanted, rtol=1e-6)


def test_weights_of_a_run() -> None:
    counts = [1, 4, 1]
    none: dict[str, Any] = {"class_weights": (), "cls_pw": 0.0}
    assert training_weights(none, NAMES, counts) == ()
    assert training_weights({**none, "class_weights": (1.0, 1.0, 1.0)}, NAMES, counts) == ()
    assert training_weights({**none, "class_weights": (1, 2, 3)}, NAMES, counts) == (1, 2, 3)
    both = training_weights({"class_weights": (1.0, 2.0, 1.0), "cls_pw": 0.5}, NAMES, counts)
    np.testing.assert_allclose(both, (1.2, 1.2, 1.2))
    assert training_weights({**none, "cls_pw": 1.0}, NAMES, [0, 0, 0]) == ()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0, 2.0), "2 weights for 3 classes; wanted one each for healthy, sick, other"),
        ((1.0, -2.0, 1.0), "wanted numbers of 0 or more"),
        ((1.0, float("inf"), 1.0), "wanted numbers of 0 or more"),
        ((1.0, float("nan"), 1.0), "wanted numbers of 0 or more"),
        ((0.0, 0.0, 0.0), "one above 0"),
    ],
    ids=["count", "negative", "infinite", "nan", "zero"],
)
def test_weights_that_cannot_be_used(weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        training_weights({"class_weights": weights, "cls_pw": 0.0}, NAMES, [1, 1, 1])


TINY: dict[str, Any] = {
    "model": "fasterrcnn", "backbone": "test_resnet", "imgsz": 64, "epochs": 1, "batch": 3,
    "channels": 1, "plots": False, "val": False, "proposals": 40, "rois": 64,
}  # fmt: skip


@pytest.mark.slow
def test_a_run_trains_on_them_and_a_resumed_one_again(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = (2.0, *(1.0,) * 10)
    seen: list[Any] = []

    def stopped(network: Any, batch: Any) -> Any:
        seen.append(network.roi_heads)
        if len(seen) in (4, 6):  # in the second epoch, and once more in the resumed run
            raise KeyboardInterrupt
        return losses(network, batch)

    losses = loop.network_losses
    monkeypatch.setattr(loop, "network_losses", stopped)
    given = {**TINY, "epochs": 2, "focal_gamma": 1.5, "class_weights": weights, "cls_pw": 0.5}
    with pytest.raises(KeyboardInterrupt):
        train(DetectTrain(out=tmp_path / "run", data=dataset, **given))
    with pytest.raises(KeyboardInterrupt):
        train(DetectTrain(out=tmp_path / "run", resume=True))
    assert len(seen) == 6
    assert seen[0] is not seen[5]
    for heads in (seen[0], seen[5]):
        assert isinstance(heads, ClassWeightedHeads)
        assert heads.gamma == 1.5
        assert heads.class_weights is not None
        assert heads.class_weights.tolist() == [1.0, *weights]  # as many boxes of each


def test_a_wrong_number_of_weights_writes_nothing(
    dataset: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    words = [f"{k}={v}" for k, v in TINY.items()]
    out = tmp_path / "run"
    code, _, errors = run_cli(
        "detect", "train", *words, f"data={dataset}", f"out={out}", "class_weights=1,2"
    )
    assert code == 2
    assert "2 weights for 11 classes; wanted one each for T12-L1, L1" in errors
    assert not out.exists()
