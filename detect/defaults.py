"""Default training values of each kind of network, used where no key or recipe sets one."""

from __future__ import annotations

from typing import Any

from spineline.detect.architectures import FASTERRCNN, UNET

YOLO = "yolo"
"""Stands for the architectures that ``ultralytics`` trains."""

DEFAULTS: dict[str, Any] = {
    "epochs": 100, "imgsz": 640, "batch": 16, "patience": 100, "optimizer": "auto",
    "cos_lr": False, "lr0": 0.01, "lrf": 0.01, "momentum": 0.937, "weight_decay": 0.0005,
    "warmup_epochs": 3.0, "warmup_momentum": 0.8, "warmup_bias_lr": 0.1, "box": 7.5, "cls": 0.5,
    "dfl": 1.5, "cls_pw": 0.0, "label_smoothing": 0.0, "nbs": 64, "hsv_v": 0.4,
    "degrees": 0.0, "translate": 0.1, "scale": 0.5, "shear": 0.0, "perspective": 0.0,
    "flipud": 0.0, "fliplr": 0.5, "mosaic": 1.0, "close_mosaic": 10, "mixup": 0.0, "cutmix": 0.0,
    "multi_scale": 0.0, "rect": False, "freeze": None, "scanner_looks": 0.0, "cut_view": 0.0,
    "progressive": 0.0,
}  # fmt: skip
"""The keys a recipe can hold, with the defaults of ``ultralytics`` (a test compares them)."""

OWN_KEYS = ("label_smoothing", "scanner_looks", "cut_view", "progressive")
"""Keys among them that are our own: ``ultralytics`` has no argument for them."""

FASTERRCNN_DEFAULTS: dict[str, Any] = {
    "epochs": 100, "imgsz": 640, "batch": 8, "patience": 100, "optimizer": "SGD", "lr0": 0.005,
    "lrf": 0.1, "momentum": 0.9, "weight_decay": 0.0001, "warmup_epochs": 1.0,
    "backbone": "resnet50", "channels": 3, "mean": None, "std": None, "crop": 0,
    "distortion_min": 0.0, "distortion_max": 0.0, "distortion_p": 0.0, "degrees": 0.0,
    "degrees_p": 1.0, "quarter_turns": False, "fliplr": 0.5, "flipud": 0.0, "brightness": 0.0,
    "contrast": 0.0, "brightness_contrast_p": 0.0, "min_visibility": 0.0, "proposals": 2000,
    "rois": 512, "cls_pw": 0.0, "focal_gamma": 0.0, "class_weights": (),
}  # fmt: skip
"""Defaults for ``model=fasterrcnn``; learning rate, momentum and weight decay are those of the
older cervical project."""

UNET_DEFAULTS: dict[str, Any] = {
    "epochs": 100, "imgsz": 256, "batch": 8, "patience": 100, "optimizer": "AdamW", "lr0": 0.001,
    "lrf": 0.01, "momentum": 0.9, "weight_decay": 0.01, "warmup_epochs": 1.0,
    "encoder": "resnet18", "channels": 1, "mean": None, "std": None, "heatmap": "gaussian",
    "sigma": 3.0, "crop": 0,
    "distortion_min": 0.0, "distortion_max": 0.0, "distortion_p": 0.0, "degrees": 10.0,
    "degrees_p": 0.7, "quarter_turns": False, "translate": 0.05, "scale": 0.2, "fliplr": 0.0,
    "flipud": 0.0, "brightness": 0.2, "contrast": 0.2, "brightness_contrast_p": 0.5,
    "min_visibility": 0.75,
}  # fmt: skip
"""Defaults for ``model=unet``. The least visibility is high because cutting a box moves its
centre, which is the point."""

DEFAULTS_OF: dict[str, dict[str, Any]] = {
    YOLO: DEFAULTS,
    FASTERRCNN: FASTERRCNN_DEFAULTS,
    UNET: UNET_DEFAULTS,
}


def model_defaults(model: str | None) -> dict[str, Any]:
    """Return the keys that a recipe for a model can hold, with their defaults.

    >>> model_defaults("unet")["imgsz"], model_defaults("yolov8n")["imgsz"]
    (256, 640)
    """
    return DEFAULTS_OF.get(str(model), DEFAULTS)
