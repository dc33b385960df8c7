"""Faster R-CNN with a feature pyramid, through torchvision, behind the detectors' interface.

An image is scaled so that its longer side is ``imgsz``, divided by 255, normalised by the mean and
standard deviation of the images it was trained on, and padded with zeros to multiples of 32.
Coordinates are continuous, origin at the top left corner of the image. Class 0 of the network is
the background; it exists inside the network alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from spineline.datasets.devices import device_name
from spineline.datasets.errors import WeightsError
from spineline.detect.architectures import FASTERRCNN, FASTERRCNN_BACKBONES
from spineline.detect.batches import batches_by_shape, check_image, fit_longer_side
from spineline.detect.checkpoints import DetectorMeta, read_safetensors, save_safetensors
from spineline.detect.results import Detections, no_detections

LARGEST_HALF = 65504.0
"""The largest number that 16 bits hold."""


@dataclass(frozen=True, slots=True)
class Description:
    """What is needed to build a network, apart from its classes.

    Attributes:
        backbone: one of [FASTERRCNN_BACKBONES][spineline.detect.architectures].
        channels: 1, or 3 (the grey image three times).
        mean: of the grey images trained on, pixels in 0 … 1.
        std: their standard deviation.
    """

    backbone: str
    channels: int
    mean: float
    std: float


def build_network(
    description: Description,
    classes: int,
    imgsz: int,
    *,
    seed: int = 0,
    proposals: int = 2000,
    rois: int = 512,
) -> nn.Module:
    """Torchvision's Faster R-CNN with fresh weights; nothing is downloaded.

    The network takes images that are scaled already, float32 (channels, h, w) in 0 … 1.

    Args:
        description: backbone, channels and normalisation.
        classes: number of classes, without the background.
        imgsz: longer side of its images; in training they may be smaller, such as crops.
        seed: of the initial weights.
        proposals: of training: kept per image; no part of the weights.
        rois: of training: regions per image that the heads' losses see.
    """
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.rpn import AnchorGenerator

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        backbone = _backbone(description.backbone)
        if description.channels != 3:
            _set_channels(backbone.body, description.channels)
        anchors = None  # torchvision's: one size per level of the pyramid
        if description.backbone.startswith("mobilenet"):
            anchors = AnchorGenerator(((32, 64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3)
        network: nn.Module = FasterRCNN(
            backbone,
            num_classes=classes + 1,
            rpn_anchor_generator=anchors,
            image_mean=[description.mean] * description.channels,
            image_std=[description.std] * description.channels,
            min_size=imgsz,  # of images of that size already: nothing is scaled twice
            max_size=imgsz,
            rpn_post_nms_top_n_train=proposals,
            box_batch_size_per_image=rois,
            _skip_resize=True,  # in training, where there are crops
        )
    return network


def _backbone(name: str) -> Any:
    """Every layer trainable and batch normalisation live, as torchvision does without weights."""
    from torchvision.models.detection import backbone_utils

    options = {"backbone_name": name, "weights": None, "norm_layer": nn.BatchNorm2d}
    if name.startswith("resnet"):
        return backbone_utils.resnet_fpn_backbone(trainable_layers=5, **options)
    return backbone_utils.mobilenet_backbone(fpn=True, trainable_layers=6, **options)


def _set_channels(body: nn.Module, channels: int) -> None:
    """Give the first convolution another number of input channels, and fresh weights."""
    name, old = next((n, m) for n, m in body.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        channels,
        old.out_channels,
        kernel_size=old.kernel_size,
        stride=old.stride,
        padding=old.padding,
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    parent, _, last = name.rpartition(".")
    setattr(body.get_submodule(parent), last, new)


class FasterRCNNDetector:
    """A Faster R-CNN behind [spineline.detect.backend.Detector][].

    Attributes:
        network: torchvision's network.
        meta: what its weights file says of it.
    """

    def __init__(self, network: nn.Module, meta: DetectorMeta, *, device: str = "cpu") -> None:
        self.network: Any = network
        self.meta = meta
        self.device = torch.device(device_name(device))
        self.network.to(self.device)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names."""
        return self.meta.names

    @property
    def imgsz(self) -> int:
        """Longer side, in pixels, that images are scaled to."""
        return self.meta.imgsz

    def detect(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        *,
        confidence: float = 0.25,
        iou: float = 0.8,
        max_detections: int = 300,
        batch: int = 16,
    ) -> list[Detections]:
        """See [spineline.detect.backend.Detector.detect][]; the network is left in evaluation."""
        for image in images:
            check_image(image)
        self.network.eval()
        heads = self.network.roi_heads
        heads.score_thresh, heads.nms_thresh = confidence, iou
        heads.detections_per_img = max_detections
        found: list[Detections] = [no_detections(self.names)] * len(images)
        for indices in batches_by_shape(images, batch):
            fitted = [fit_longer_side(images[i], self.imgsz) for i in indices]
            with torch.inference_mode():
                pixels = torch.from_numpy(np.stack([image for image, _ in fitted]))
                rows = self.network(list(as_input(pixels.to(self.device), self.meta.channels)))
            for row, index, (_, scale) in zip(rows, indices, fitted, strict=True):
                found[index] = self._native(row, scale, images[index].shape)
        return found

    def _native(
        self, row: dict[str, torch.Tensor], scale_xy: tuple[float, float], shape: tuple[int, ...]
    ) -> Detections:
        boxes = row["boxes"].float().cpu().numpy().copy()
        boxes[:, 0::2] = (boxes[:, 0::2] / scale_xy[0]).clip(0, shape[1])
        boxes[:, 1::2] = (boxes[:, 1::2] / scale_xy[1]).clip(0, shape[0])
        confidence = row["scores"].float().cpu().numpy()
        class_index = row["labels"].cpu().numpy().astype(np.int64) - 1
        return Detections(boxes, confidence, class_index, self.names)


def as_input(pixels: torch.Tensor, channels: int) -> torch.Tensor:
    """uint8 (N, h, w) as the network takes it: float32 (N, channels, h, w) in 0 … 1."""
    return pixels.unsqueeze(1).float().div_(255).expand(-1, channels, -1, -1)


def make_meta(description: Description, names: tuple[str, ...], imgsz: int) -> DetectorMeta:
    """What a weights file says of a network."""
    return DetectorMeta(
        backend=FASTERRCNN,
        model=FASTERRCNN,
        names=names,
        imgsz=imgsz,
        channels=description.channels,
        yaml=asdict(description),
    )


def save_network(network: nn.Module, meta: DetectorMeta, path: Path) -> None:
    """Write weights, in 16 bits where they fit; the file appears whole."""
    numbers = [t for t in network.state_dict().values() if t.is_floating_point()]
    half = all(float(t.abs().max()) < LARGEST_HALF for t in numbers if t.numel())
    save_safetensors(network, meta, path, half=half)


def check_description(meta: DetectorMeta, where: str) -> Description:
    """The description in a weights file, held to known backbones and plain numbers.

    Raises:
        WeightsError: anything else in it.
    """
    found = meta.yaml
    if sorted(found) != ["backbone", "channels", "mean", "std"]:
        raise WeightsError(f"{where}: no description of a Faster R-CNN")
    backbone, mean, std = found["backbone"], found["mean"], found["std"]
    if backbone not in FASTERRCNN_BACKBONES:
        known = ", ".join(FASTERRCNN_BACKBONES)
        raise WeightsError(f"{where}: unknown backbone {backbone!r}; known: {known}")
    numbers = all(isinstance(n, float) and math.isfinite(n) for n in (mean, std))
    if found["channels"] != meta.channels or not numbers or std <= 0:
        raise WeightsError(f"{where}: its channels, mean or std are out of range")
    return Description(backbone, meta.channels, mean, std)


def network_from_file(path: Path) -> tuple[nn.Module, DetectorMeta, Description]:
    """A Faster R-CNN with the weights of a safetensors file, in float32.

    Raises:
        WeightsError: missing, damaged, another backend's, or weights that do not fit the
            description.
    """
    meta, tensors = read_safetensors(path)
    if meta.backend != FASTERRCNN:
        raise WeightsError(f"{path}: weights for backend {meta.backend!r}, wanted {FASTERRCNN!r}")
    description = check_description(meta, str(path))
    network = build_network(description, len(meta.names), meta.imgsz)
    try:
        network.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
        )
    except RuntimeError as error:
        raise WeightsError(f"{path}: its weights do not fit its description ({error})") from error
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values() if t.is_floating_point()):
        raise WeightsError(f"{path}: holds weights that are no finite numbers; train it again")
    return network.eval(), meta, description


def load(
    weights: Path,
    *,
    device: str = "cpu",
    trust: bool = False,  # noqa: ARG001 (there are no pickles of this backend)
) -> FasterRCNNDetector:
    """A detector from a weights file; see [spineline.detect.backend.load_detector][]."""
    network, meta, _ = network_from_file(weights)
    return FasterRCNNDetector(network, meta, device=device)
