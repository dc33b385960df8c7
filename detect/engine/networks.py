"""The architectures that our own loop trains, and their optimizers.

To add one: a module such as [spineline.detect.unet.model][], a class here, its name in
[OWN_LOOP][spineline.detect.architectures] and, for its weights, in
[BACKENDS][spineline.detect.backend].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from spineline.datasets.common.errors import WeightsError
from spineline.datasets.common.log import LOG
from spineline.detect.architectures import FASTERRCNN, UNET
from spineline.detect.checkpoints import DetectorMeta, parse_meta, read_safetensors
from spineline.detect.engine.class_rows import HeadTensor
from spineline.detect.engine.scaling import ScaledDetector, network_with
from spineline.detect.fasterrcnn import model as fasterrcnn
from spineline.detect.fasterrcnn.backbones import check_network, timm_name
from spineline.detect.fasterrcnn.losses import training_weights
from spineline.detect.fasterrcnn.pretrained import (
    download_backbone,
    fitted_backbone,
    grey_normalisation,
    read_backbone_weights,
)
from spineline.detect.settings import DetectTrain
from spineline.detect.unet import model as unet

Values = Mapping[str, Any]
"""What a run trains with, by key."""


class Architecture(ABC):
    """A kind of network, as the loop, the weights files and the detectors need to know it.

    A network's description is a frozen dataclass of plain values, ``channels`` among them, that
    with the names of the classes and the size of the images is all that is needed to build it. The
    network's costly part is its attribute ``backbone``.

    Attributes:
        name: by which ``model=`` and weights files call it.
        losses: names of the network's losses; their sum is trained on.
        shaping: fields of the description that decide the shapes of the weights.
        heads: tensors of the network with rows of classes.
        description: its class.
        detector: its class behind the detectors' interface.
    """

    name: ClassVar[str]
    losses: ClassVar[tuple[str, ...]]
    shaping: ClassVar[tuple[str, ...]]
    heads: ClassVar[Mapping[str, HeadTensor]]
    description: ClassVar[Callable[..., Any]]
    detector: ClassVar[type[ScaledDetector]]

    @abstractmethod
    def check(self, values: Values, names: Sequence[str], counts: Sequence[int]) -> None:
        """Refuse values that no network can be built or trained with.

        Args:
            values: what a run trains with.
            names: class names.
            counts: training labels of each class.

        Raises:
            ConfigError: so.
        """

    @abstractmethod
    def describe(self, values: Values, mean: float, std: float) -> Any:
        """The description, from values, and mean and deviation of the training images."""

    @abstractmethod
    def check_description(self, meta: DetectorMeta, where: str) -> Any:
        """The description in a weights file.

        Raises:
            WeightsError: it is none.
        """

    @abstractmethod
    def build(
        self,
        description: Any,
        names: Sequence[str],
        imgsz: int,
        *,
        seed: int = 0,
        values: Values | None = None,
        counts: Sequence[int] = (),
    ) -> nn.Module:
        """A network with fresh weights.

        Args:
            description: what to build.
            names: class names.
            imgsz: longer side of its images, in pixels.
            seed: of the weights.
            values: what it is trained with; None for one that is not.
            counts: training labels of each class.
        """

    def input_defaults(self, settings: DetectTrain, values: Values) -> Values:  # noqa: ARG002
        """Values of ``mean`` and ``std`` that are not the data's, where none are given."""
        return {}

    def start_backbone(
        self,
        settings: DetectTrain,  # noqa: ARG002
        description: Any,  # noqa: ARG002
    ) -> dict[str, torch.Tensor] | None:
        """Pretrained weights of the backbone alone, where the settings ask for them."""
        return None

    def holds_weights_alone(self, description: Any) -> bool:  # noqa: ARG002
        """Whether all tensors of such a network are in its files; timm's may hold others."""
        return False

    def network_of(
        self, meta: DetectorMeta, tensors: Mapping[str, torch.Tensor], where: str
    ) -> tuple[nn.Module, Any]:
        """A network with a file's weights, in float32, and its description.

        Args:
            meta: what the file says.
            tensors: its weights.
            where: named in messages.

        Raises:
            WeightsError: another architecture's, or weights that do not fit the description.
        """
        if meta.backend != self.name:
            msg = f"{where}: weights for backend {meta.backend!r}, wanted {self.name!r}"
            raise WeightsError(msg)
        description = self.check_description(meta, where)
        network = network_with(
            lambda: self.build(description, meta.names, meta.imgsz),
            tensors,
            where,
            complete=self.holds_weights_alone(description),
        )
        return network.eval(), description


class FasterRCNNArchitecture(Architecture):
    """torchvision's Faster R-CNN with a feature pyramid."""

    name = FASTERRCNN
    losses = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
    shaping = ("backbone", "channels")
    heads = fasterrcnn.FASTERRCNN_HEADS
    description = fasterrcnn.FasterRCNNDescription
    detector = fasterrcnn.FasterRCNNDetector

    def check(self, values: Values, names: Sequence[str], counts: Sequence[int]) -> None:
        """Refuse a backbone or class weights that do not fit."""
        check_network(values["backbone"], values["channels"])
        training_weights(values, names, counts)

    def describe(self, values: Values, mean: float, std: float) -> Any:
        """The description."""
        return self.description(values["backbone"], values["channels"], mean, std)

    def check_description(self, meta: DetectorMeta, where: str) -> Any:
        """The description in a weights file, held to known backbones and plain numbers."""
        return fasterrcnn.read_fasterrcnn_description(meta, where)

    def build(
        self,
        description: Any,
        names: Sequence[str],
        imgsz: int,
        *,
        seed: int = 0,
        values: Values | None = None,
        counts: Sequence[int] = (),
    ) -> nn.Module:
        """A network with fresh weights and the loss that the values ask for."""
        if values is None:
            return fasterrcnn.build_fasterrcnn(description, len(names), imgsz, seed=seed)
        weights = training_weights(values, names, counts)
        if weights:
            words = ", ".join(f"{n} {w:.3g}" for n, w in zip(names, weights, strict=True))
            LOG.info("class weights: %s", words)
        return fasterrcnn.build_fasterrcnn(
            description,
            len(names),
            imgsz,
            seed=seed,
            proposals=values["proposals"],
            rois=values["rois"],
            class_weights=weights,
            focal_gamma=values["focal_gamma"],
        )

    def input_defaults(self, settings: DetectTrain, values: Values) -> Values:
        """With a pretrained backbone the input is normalised as its was."""
        if settings.backbone_weights is None and not settings.download:
            return {}
        mean, std = grey_normalisation(values["backbone"])
        given = {"mean": mean, "std": std}
        return {name: value for name, value in given.items() if values[name] is None}

    def start_backbone(
        self, settings: DetectTrain, description: Any
    ) -> dict[str, torch.Tensor] | None:
        """From ``backbone_weights=``, or fetched with ``download=true``."""
        file, trust = settings.backbone_weights, settings.trust
        if settings.download:
            file, trust = download_backbone(description.backbone), True
        if file is None:
            return None
        tensors = fitted_backbone(
            read_backbone_weights(file, trust=trust),
            description.backbone,
            description.channels,
            mean=description.mean,
            std=description.std,
            where=f"backbone_weights={file}",
        )
        LOG.info("the backbone starts from %s", file)
        return tensors

    def holds_weights_alone(self, description: Any) -> bool:
        """So with torchvision's backbones."""
        return timm_name(description.backbone) is None


class UNetArchitecture(Architecture):
    """The U-Net of segmentation-models-pytorch, which draws a heat map of points per class."""

    name = UNET
    losses = unet.LOSSES
    shaping = ("encoder", "channels")
    heads = unet.UNET_HEADS
    description = unet.UNetDescription
    detector = unet.UNetDetector

    def check(self, values: Values, names: Sequence[str], counts: Sequence[int]) -> None:  # noqa: ARG002
        """Refuse an encoder that does not fit."""
        unet.check_encoder(values["encoder"], values["channels"])

    def describe(self, values: Values, mean: float, std: float) -> Any:
        """The description."""
        return self.description(
            values["encoder"],
            values["channels"],
            values["heatmap"],
            float(values["sigma"]),
            mean,
            std,
        )

    def check_description(self, meta: DetectorMeta, where: str) -> Any:
        """The description in a weights file, held to timm's encoders and plain numbers."""
        return unet.read_unet_description(meta, where)

    def build(
        self,
        description: Any,
        names: Sequence[str],
        imgsz: int,
        *,
        seed: int = 0,
        values: Values | None = None,  # noqa: ARG002
        counts: Sequence[int] = (),  # noqa: ARG002
    ) -> nn.Module:
        """A network with fresh weights."""
        return unet.build_unet(description, len(names), imgsz, seed=seed)


_ARCHITECTURES: dict[str, Architecture] = {
    each.name: each for each in (FasterRCNNArchitecture(), UNetArchitecture())
}


def architecture_of(model: str) -> Architecture:
    """The architecture of a canonical name."""
    return _ARCHITECTURES[model]


def load(
    weights: Path,
    *,
    device: str = "cpu",
    trust: bool = False,  # noqa: ARG001 (there are no pickles of these)
) -> ScaledDetector:
    """A detector from a weights file; see [spineline.detect.backend.load_detector][]."""
    meta, tensors = read_safetensors(weights)
    architecture = architecture_of(meta.backend)
    network, _ = architecture.network_of(meta, tensors, str(weights))
    return architecture.detector(network, meta, device=device)


def make_detector_optimizer(network: nn.Module, values: Values) -> torch.optim.Optimizer:
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
        network, _ = architecture_of(backend).network_of(meta, dict(content["network"]), str(path))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        msg = f"{path}: no whole checkpoint ({error!r:.200}); give the last.safetensors beside it"
        raise WeightsError(msg) from error
    return dict(network.state_dict()), meta
