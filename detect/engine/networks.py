"""The kinds of network that our own loop trains, behind one description.

To add a kind: a module such as [spineline.detect.unet.model][], its entry here, its name in
[OWN_LOOP][spineline.detect.architectures] and, for its weights, in
[BACKENDS][spineline.detect.backend].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spineline.datasets.common.errors import WeightsError
from spineline.datasets.common.log import LOG
from spineline.detect.architectures import FASTERRCNN, UNET
from spineline.detect.checkpoints import DetectorMeta, parse_meta
from spineline.detect.engine.scaling import ScaledDetector
from spineline.detect.fasterrcnn import model as fasterrcnn
from spineline.detect.fasterrcnn.backbones import check_network
from spineline.detect.fasterrcnn.losses import training_weights
from spineline.detect.unet import model as unet

Values = Mapping[str, Any]
"""What a run trains with, by key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What the loop needs to know of a kind of network.

    A network's description is a frozen dataclass of plain values, ``channels`` among them, that
    with the names of the classes and the size of the images is all that is needed to build it. The
    network's costly part is its attribute ``backbone``.

    Attributes:
        name: by which ``model=`` and weights files call it.
        losses: names of the network's losses; their sum is trained on.
        shaping: fields of the description that decide the shapes of the weights.
        description: its class.
        check: refuses values that no network can be built or trained with (a ConfigError), given
            them, the class names and the training labels of each class.
        describe: the description, from values, and mean and deviation of the training images.
        build: a network with fresh weights, given its description, values, class names, labels of
            each class, and a seed.
        make_meta: what a weights file says, given the description, class names and image size.
        network_of: a network with a file's weights and its description, given what the file says,
            the weights, and a name for messages.
        detector: its class behind the detectors' interface.
    """

    name: str
    losses: tuple[str, ...]
    shaping: tuple[str, ...]
    description: Callable[..., Any]
    check: Callable[[Values, Sequence[str], Sequence[int]], None]
    describe: Callable[[Values, float, float], Any]
    build: Callable[[Any, Values, Sequence[str], Sequence[int], int], nn.Module]
    make_meta: Callable[[Any, tuple[str, ...], int], DetectorMeta]
    network_of: Callable[[DetectorMeta, Mapping[str, torch.Tensor], str], tuple[nn.Module, Any]]
    detector: type[ScaledDetector]


def _check_fasterrcnn(values: Values, names: Sequence[str], counts: Sequence[int]) -> None:
    check_network(values["backbone"], values["channels"])
    training_weights(values, names, counts)


def _describe_fasterrcnn(values: Values, mean: float, std: float) -> fasterrcnn.Description:
    return fasterrcnn.Description(values["backbone"], values["channels"], mean, std)


def _build_fasterrcnn(
    description: fasterrcnn.Description,
    values: Values,
    names: Sequence[str],
    counts: Sequence[int],
    seed: int,
) -> nn.Module:
    weights = training_weights(values, names, counts)
    if weights:
        words = ", ".join(f"{n} {w:.3g}" for n, w in zip(names, weights, strict=True))
        LOG.info("class weights: %s", words)
    return fasterrcnn.build_network(
        description,
        len(names),
        values["imgsz"],
        seed=seed,
        proposals=values["proposals"],
        rois=values["rois"],
        class_weights=weights,
        focal_gamma=values["focal_gamma"],
    )


def _check_unet(values: Values, _names: Sequence[str], _counts: Sequence[int]) -> None:
    unet.check_encoder(values["encoder"], values["channels"])


def _describe_unet(values: Values, mean: float, std: float) -> unet.Description:
    return unet.Description(
        encoder=values["encoder"],
        channels=values["channels"],
        heatmap=values["heatmap"],
        sigma=float(values["sigma"]),
        mean=mean,
        std=std,
    )


def _build_unet(
    description: unet.Description,
    values: Values,
    names: Sequence[str],
    _counts: Sequence[int],
    seed: int,
) -> nn.Module:
    return unet.build_network(description, len(names), values["imgsz"], seed=seed)


_FAMILIES = {
    FASTERRCNN: Family(
        name=FASTERRCNN,
        losses=("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"),
        shaping=("backbone", "channels"),
        description=fasterrcnn.Description,
        check=_check_fasterrcnn,
        describe=_describe_fasterrcnn,
        build=_build_fasterrcnn,
        make_meta=fasterrcnn.make_meta,
        network_of=fasterrcnn.network_of,
        detector=fasterrcnn.FasterRCNNDetector,
    ),
    UNET: Family(
        name=UNET,
        losses=unet.LOSSES,
        shaping=("encoder", "channels"),
        description=unet.Description,
        check=_check_unet,
        describe=_describe_unet,
        build=_build_unet,
        make_meta=unet.make_meta,
        network_of=unet.network_of,
        detector=unet.UNetDetector,
    ),
}


def family_of(model: str) -> Family:
    """The family of an architecture's canonical name."""
    return _FAMILIES[model]


def make_optimizer(network: nn.Module, values: Values) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over all weights, as a run's values say.

    Each in its fused form, which goes once over the weights where the others go several times.
    """
    weights = network.parameters()
    rate, momentum, decay = values["lr0"], values["momentum"], values["weight_decay"]
    if values["optimizer"] == "SGD":
        return torch.optim.SGD(weights, lr=rate, momentum=momentum, weight_decay=decay, fused=True)
    kind = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[values["optimizer"]]
    return kind(weights, lr=rate, betas=(momentum, 0.999), weight_decay=decay, fused=True)


def checkpoint_weights(path: Path) -> tuple[dict[str, torch.Tensor], DetectorMeta] | None:
    """The weights in a run's ``last.pt``, and what their file would say of them.

    It is read as tensors and numbers alone; no code in it can run.

    Returns:
        Weights by name and their description; None where it is another thing than our loop's.

    Raises:
        WeightsError: it lacks something, or its weights do not fit its description.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # another's pickle, or a damaged file, raises anything
        return None
    if not isinstance(content, dict) or not {"network", "description"} <= set(content):
        return None
    try:
        backend = content.get("backend", FASTERRCNN)
        meta = DetectorMeta(
            backend=backend,
            model=backend,
            names=tuple(content["names"]),
            imgsz=content["imgsz"],
            channels=content["description"]["channels"],
            yaml=content["description"],
        )
        meta = parse_meta(meta.to_json(), str(path))
        network, _ = family_of(backend).network_of(meta, dict(content["network"]), str(path))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        msg = f"{path}: no whole checkpoint ({error!r:.200}); give the last.safetensors beside it"
        raise WeightsError(msg) from error
    return dict(network.state_dict()), meta
