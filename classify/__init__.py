"""Classification: timm networks that grade crops, behind one small interface.

Commands are functions of their settings, in modules of their names:

    from spineline.classify import ClassifyTrain
    from spineline.classify.train import train

    result = train(ClassifyTrain(data=Path("dataset"), out=Path("run")))

Heavy imports happen when used: importing this package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spineline.classify.combined import Combination, CombinedClassifier
    from spineline.classify.grades import Grades
    from spineline.classify.model import Classifier, load_classifier
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
    "Combination",
    "CombinedClassifier",
    "Grades",
    "load_classifier",
]

_PLACES = {
    "Classifier": "model",
    "ClassifyExport": "settings",
    "ClassifyPredict": "settings",
    "ClassifyTrain": "settings",
    "ClassifyVal": "settings",
    "Combination": "combined",
    "CombinedClassifier": "combined",
    "Grades": "grades",
    "load_classifier": "model",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
