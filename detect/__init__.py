"""Detection: networks behind one small interface, one result type.

Commands are functions of their settings, in modules of their names:

    from spineline.detect import DetectTrain
    from spineline.detect.train import train

    result = train(DetectTrain(data=Path("dataset"), out=Path("run"), model="yolov8n"))

Heavy imports happen when used: importing this package imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spineline.detect.backend import Detector
    from spineline.detect.ensemble import EnsembleDetector
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
}


def load_detector(weights: Path, *, device: str = "cpu", trust: bool = False) -> Detector:
    """Load a detector from a weights file; see [spineline.detect.backend.load_detector][].

    Args:
        weights: a ``.safetensors`` file written by ``spineline detect train``, or a ``.pt`` pickle.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        trust: allow a ``.pt`` file; a pickle can run code, so only for files from people you trust.

    Raises:
        WeightsError: the file is missing, damaged, not a detector's, or a pickle without ``trust``.
    """
    from spineline.detect.backend import load_detector as load

    return load(weights, device=device, trust=trust)


def load_ensemble(
    weights: Sequence[Path],
    *,
    fusion: str = "wbf",
    fusion_iou: float = 0.55,
    model_weights: Sequence[float] | None = None,
    device: str = "cpu",
    trust: bool = False,
) -> EnsembleDetector:
    """Load several detectors as one; see [spineline.detect.ensemble.load_ensemble][].

    Args:
        weights: one file per detector, of any backends and the same classes.
        fusion: ``wbf``, ``nmw`` or ``nms``; see [spineline.detect.ensemble][].
        fusion_iou: boxes of one class that overlap by more than this are one.
        model_weights: one number above zero per file. None: all 1.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        trust: allow ``.pt`` files.

    Raises:
        ConfigError: keys that do not fit the files, or a package is missing.
        WeightsError: a file cannot be used, or the classes of two files differ.
    """
    from spineline.detect.ensemble import load_ensemble as load

    return load(
        weights,
        fusion=fusion,
        fusion_iou=fusion_iou,
        model_weights=model_weights,
        device=device,
        trust=trust,
    )


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
