"""Names of the networks that can be trained; imports nothing heavy."""

from __future__ import annotations

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.settings import close_match

SIZES = ("n", "s", "m", "l", "x")

YOLOV3: tuple[str, ...] = ("yolov3u", "yolov3-tinyu", "yolov3-sppu")
YOLOV5: tuple[str, ...] = tuple(f"yolov5{size}u" for size in SIZES)
YOLOV8: tuple[str, ...] = tuple(f"yolov8{size}" for size in SIZES)
ARCHITECTURES: tuple[str, ...] = (*YOLOV3, *YOLOV5, *YOLOV8)
"""Canonical names. ``yolov5nu`` is YOLOv5's network with the anchor-free head of the
``ultralytics`` package (the ``u``), and ``yolov5n`` is accepted for it. The same holds for YOLOv3,
which has a full, a small (``tiny``) and a spatial pyramid pooling (``spp``) network."""

FASTERRCNN = "fasterrcnn"
"""torchvision's Faster R-CNN with a feature pyramid."""

UNET = "unet"
"""A U-Net that predicts a heat map of points for each class."""

OWN_LOOP = (FASTERRCNN, UNET)
"""Models trained by our own loop; ``ultralytics`` trains the others."""

FASTERRCNN_BACKBONES: tuple[str, ...] = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d",
    "resnext101_32x8d", "wide_resnet50_2", "mobilenet_v2", "mobilenet_v3_small",
    "mobilenet_v3_large",
)  # fmt: skip
"""Backbones of torchvision; any other name is a timm feature extractor."""

TIMM_PREFIX = "timm/"
"""Prefix that selects timm's model if torchvision has a model of the same name."""


def canonical_name(model: str) -> str:
    """Return the canonical name of an architecture.

    >>> canonical_name("yolov5x"), canonical_name("YOLOv8n.yaml"), canonical_name("fasterrcnn")
    ('yolov5xu', 'yolov8n', 'fasterrcnn')

    Raises:
        ConfigError: there is no such architecture; the message suggests the closest one.
    """
    name = model.strip().lower().removesuffix(".yaml")
    if name in (*ARCHITECTURES, *OWN_LOOP):
        return name
    if f"{name}u" in ARCHITECTURES:
        return f"{name}u"
    if name.endswith((".pt", ".safetensors")):
        msg = (
            f"model={model}: names an architecture here, such as yolov8n; to start from a weights "
            f"file give weights={model}"
        )
        raise ConfigError(msg)
    known = (*ARCHITECTURES, *OWN_LOOP)
    hint = close_match(name, known)
    allowed = "" if "allowed" in hint else f" (allowed: {', '.join(known)})"
    raise ConfigError(f"model={model}: no such architecture{hint}{allowed}")


def package_yaml(model: str) -> str:
    """Return the ``ultralytics`` name for the layer description of a canonical architecture.

    >>> package_yaml("yolov5nu"), package_yaml("yolov8x"), package_yaml("yolov3-tinyu")
    ('yolov5n.yaml', 'yolov8x.yaml', 'yolov3-tiny.yaml')
    """
    return f"{model.removesuffix('u')}.yaml"
