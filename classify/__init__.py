"""Classification: timm networks that grade crops, behind one small interface.

Commands are functions of their settings, in modules of their names:

    from spineline.classify import ClassifyTrain
    from spineline.classify.train import train

    result = train(ClassifyTrain(data=Path("dataset"), out=Path("run")))

Heavy imports happen when used: importing this package imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spineline.classify.grades import Grades
    from spineline.classify.model import Classifier
    from spineline.classify.settings import (
        ClassifyExport,
        ClassifyPredict,
        ClassifyTrain,
        ClassifyVal,
    )

__all__ = [
    "Classifier",
    "ClassifyExport",
    "ClassifyPredict",
    "ClassifyTrain",
    "ClassifyVal",
    "Grades",
    "load_classifier",
]

_PLACES = {
    "Classifier": "model",
    "ClassifyExport": "settings",
    "ClassifyPredict": "settings",
    "ClassifyTrain": "settings",
    "ClassifyVal": "settings",
    "Grades": "grades",
}


def load_classifier(weights: Path, *, device: str = "cpu", trust: bool = False) -> Classifier:
    """Load a classifier from a weights file; see [spineline.classify.model.load_classifier][].

    Args:
        weights: a ``.safetensors`` file written by ``spineline classify train``, or a run's
            ``checkpoint.pt``.
        device: ``cpu``, ``cuda`` or the number of a CUDA device.
        trust: allow a ``.pt`` file, which is a pickle.

    Raises:
        WeightsError: the file is missing, damaged, not a classifier's, or a pickle without
            ``trust``.
    """
    from spineline.classify.model import load_classifier as load

    return load(weights, device=device, trust=trust)


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
