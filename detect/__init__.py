"""Detection networks behind one small interface, with one result type.

Each command is a function of its settings, in the module of its name:

    from spineline.detect import DetectTrain
    from spineline.detect.train import train

    result = train(DetectTrain(data=Path("dataset"), out=Path("run"), model="yolov8n"))

Heavy imports happen on use: importing this package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spineline.detect.backend import Detector, load_detector
    from spineline.detect.ensemble import EnsembleDetector, load_ensemble
    from spineline.detect.results import Detections
    from spineline.detect.settings import (
        DetectExport,
        DetectPredict,
        DetectTrain,
        DetectVal,
    )

__all__ = [
    "DetectExport",
    "DetectPredict",
    "DetectTrain",
    "DetectVal",
    "Detections",
    "Detector",
    "EnsembleDetector",
    "load_detector",
    "load_ensemble",
]

_PLACES = {
    "DetectExport": "settings",
    "DetectPredict": "settings",
    "DetectTrain": "settings",
    "DetectVal": "settings",
    "Detections": "results",
    "Detector": "backend",
    "EnsembleDetector": "ensemble",
    "load_detector": "backend",
    "load_ensemble": "ensemble",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
