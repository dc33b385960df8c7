"""The architectures that our own loop trains, and their optimizers.

To add one, write a module such as [spineline.detect.unet.model][] and a class here. Then add its
name to [OWN_LOOP][spineline.detect.architectures] and, for its weights, to
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
"""Training values, by key."""


class Architecture(ABC):
    """A kind of network: what the loop, the weights files and the detectors need to know of it.

    A network's description is a frozen dataclass of plain values, one of them ``channels``. The
    network is built from it, the class names and the image size. Its attribute ``backbone`` holds
    the part that is costly to run.

    Attributes:
        name: name of the architecture in ``model=`` and in weights files.
        losses: names of the network's losses; training minimises their sum.
        shaping: fields of the description that decide the shapes of the weights.
        heads: tensors of the network with rows of classes.
        description: class of the description.
        detector: class with the detectors' interface.
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
            values: the training values.
            names: class names.
            counts: training labels of each class.

        Raises:
            ConfigError: a value cannot be used.
        """

    @abstractmethod
    def describe(self, values: Values, mean: float, std: float) -> Any:
        """Make the description from values, and mean and deviation of the training images."""

    @abstractmethod
    def check_description(self, meta: DetectorMeta, where: str) -> Any:
        """Check and return the description in a weights file.

        Raises:
            WeightsError: the description is not valid.
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
        """Build a network with fresh weights.

        Args:
            description: description of the network.
            names: class names.
            imgsz: longer side of its images, in pixels.
            seed: random seed of the weights.
            values: the training values; None if it is not trained.
            counts: training labels of each class.
        """

    def input_defaults(self, settings: DetectTrain, values: Values) -> Values:  # noqa: ARG002
        """Default ``mean`` and ``std`` where they are not those of the data."""
        return {}

    def start_backbone(
        self,
        settings: DetectTrain,  # noqa: ARG002
        description: Any,  # noqa: ARG002
    ) -> dict[str, torch.Tensor] | None:
        """Pretrained weights for the backbone only, if the settings request them."""
        return None

    def holds_weights_alone(self, description: Any) -> bool:  # noqa: ARG002
        """Whether a network's files hold all of its tensors; timm's networks may have others."""
        return False

    def network_of(
        self, meta: DetectorMeta, tensors: Mapping[str, torch.Tensor], where: str
    ) -> tuple[nn.Module, Any]:
        """Build a network with a file's weights, in float32, and return its description too.

        Args:
            meta: description in the file.
            tensors: its weights.
            where: file name for messages.

        Raises:
            WeightsError: the file is for another architecture, or weights do not fit the
                description.
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
        """Make the description."""
        return self.description(values["backbone"], values["channels"], mean, std)

    def check_description(self, meta: DetectorMeta, where: str) -> Any:
        """Check and return the description: known backbones and plain numbers only."""
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
        """Build a network with fresh weights and the class loss of the values."""
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
        """Normalise the input of a pretrained backbone as in its own training."""
        if settings.backbone_weights is None and not settings.download:
            return {}
        mean, std = grey_normalisation(values["backbone"])
        given = {"mean": mean, "std": std}
        return {name: value for name, value in given.items() if values[name] is None}

    def start_backbone(
        self, settings: DetectTrain, description: Any
    ) -> dict[str, torch.Tensor] | None:
        """Weights from ``backbone_weights=``, or downloaded with ``download=true``."""
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
        """True for torchvision's backbones."""
        return timm_name(description.backbone) is None


class UNetArchitecture(Architecture):
    """The U-Net of segmentation-models-pytorch, which predicts a heat map of points per class."""

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
        """Make the description."""
        return self.description(
            values["encoder"],
            values["channels"],
            values["heatmap"],
            float(values["sigma"]),
            mean,
            std,
        )

    def check_description(self, meta: DetectorMeta, where: str) -> Any:
        """Check and return the description: timm's encoders and plain numbers only."""
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
        """Build a network with fresh weights."""
        return unet.build_unet(description, len(names), imgsz, seed=seed)


_ARCHITECTURES: dict[str, Architecture] = {
    each.name: each for each in (FasterRCNNArchitecture(), UNetArchitecture())
}


def architecture_of(model: str) -> Architecture:
    """Return the architecture of a canonical name."""
    return _ARCHITECTURES[model]


def load(
    weights: Path,
    *,
    device: str = "cpu",
    trust: bool = False,  # noqa: ARG001 (there are no pickles of these)
) -> ScaledDetector:
    """Load a detector from a weights file; see [spineline.detect.backend.load_detector][]."""
    meta, tensors = read_safetensors(weights)
    architecture = architecture_of(meta.backend)
    network, _ = architecture.network_of(meta, tensors, str(weights))
    return architecture.detector(network, meta, device=device)


def make_detector_optimizer(network: nn.Module, values: Values) -> torch.optim.Optimizer:
    """Make SGD, Adam or AdamW over all weights, according to the training values.

    The fused form goes over the weights once, where the other forms go several times.
    """
    weights = network.parameters()
    rate, momentum, decay = values["lr0"], values["momentum"], values["weight_decay"]
    if values["optimizer"] == "SGD":
        return torch.optim.SGD(weights, lr=rate, momentum=momentum, weight_decay=decay, fused=True)
    kind = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[values["optimizer"]]
    return kind(weights, lr=rate, betas=(momentum, 0.999), weight_decay=decay, fused=True)


def checkpoint_weights(path: Path) -> tuple[dict[str, torch.Tensor], DetectorMeta] | None:
    """Read the weights in a run's ``last.pt``, and their description.

    Only tensors and numbers are read, so no code in the file can run.

    Returns:
        Weights by name and their description; None if the file was not written by our loop.

    Raises:
        WeightsError: something is missing, or the weights do not fit the description.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # pickles of others and damaged files can raise anything
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
