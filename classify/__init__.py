"""Classification: timm networks that grade crops, behind one small interface.

Heavy imports happen when used: importing this package imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spineline.classify.model import Classifier, Grades

__all__ = ["Classifier", "Grades", "load_classifier"]


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
    if name in ("Classifier", "Grades"):
        from spineline.classify import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
