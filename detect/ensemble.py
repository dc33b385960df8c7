"""Several detectors that act as one: their boxes are fused, image by image.

Input and output boxes are in native pixels. In between, the fusion works with fractions of the
image's width and height (0 … 1), one list per detector.

``wbf``: weighted box fusion (Solovyev, Wang and Gabruseva 2021, doi:10.1016/j.imavis.2021.104117).
    Overlapping boxes of one class become their mean, weighted by confidence. The confidence is
    the mean over the detectors, so a box found by one of two detectors keeps half of it.
``nmw``: non-maximum weighted. Boxes are averaged too, and the greatest confidence is kept.
``nms``: plain suppression. The most confident box is kept unchanged.

The first two come from the package ``ensemble-boxes``, an extra of this project. Its soft
suppression gives boxes the confidences of other boxes, so it is not offered.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.detect.backend import Detector, load_detector
from spineline.detect.results import Detections, no_detections
from spineline.detect.settings import FUSIONS, DetectPredict, DetectVal
from spineline.weights import resolve

_MEMBER_CONFIDENCE = 0.1
"""For wbf, detectors return boxes down to this fraction of the confidence wanted of the mean."""


class EnsembleDetector:
    """Several detectors of the same classes with the interface of a single one.

    See [spineline.detect.backend.Detector][].

    Attributes:
        detectors: the members, of any backends.
        fusion: ``wbf``, ``nmw`` or ``nms``.
        fusion_iou: boxes of one class that overlap by more than this are merged.
        model_weights: weight of each member.
    """

    def __init__(
        self,
        detectors: Sequence[Detector],
        *,
        fusion: str = "wbf",
        fusion_iou: float = 0.55,
        model_weights: Sequence[float] | None = None,
    ) -> None:
        """Combine detectors.

        Args:
            detectors: one or more.
            fusion: ``wbf``, ``nmw`` or ``nms``; see the module.
            fusion_iou: 0 … 1.
            model_weights: one number above zero per detector; only their ratios count. None: all 1.

        Raises:
            ConfigError: there is no detector, the weights do not fit, the fusion is unknown, or it
                needs a package that is not installed.
            WeightsError: the classes of two detectors differ.
        """
        self.detectors = tuple(detectors)
        if not self.detectors:
            raise ConfigError("an ensemble needs detectors, found none")
        labels = [f"detector {number}" for number in range(1, len(self.detectors) + 1)]
        _check_classes(self.detectors, labels)
        _check_fusion(fusion, fusion_iou)
        self.fusion = fusion
        self.fusion_iou = fusion_iou
        self.model_weights = _checked_weights(model_weights, len(self.detectors))

    @property
    def names(self) -> tuple[str, ...]:
        """Class names."""
        return self.detectors[0].names

    @property
    def imgsz(self) -> int:
        """The largest ``imgsz`` of the members: the longer side of scaled images, in pixels."""
        return max(detector.imgsz for detector in self.detectors)

    def detect(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        *,
        confidence: float = 0.25,
        iou: float = 0.8,
        max_detections: int = 300,
        batch: int = 16,
    ) -> list[Detections]:
        """See [spineline.detect.backend.Detector.detect][]; ``confidence`` applies after fusion.

        If boxes of one detector and class overlap by more than ``fusion_iou``, only the most
        confident one is fused, because the others would count as boxes of further detectors.
        """
        least = confidence * _MEMBER_CONFIDENCE if self.fusion == "wbf" else confidence
        answers = [
            detector.detect(
                images,
                confidence=least,
                iou=min(iou, self.fusion_iou),
                max_detections=max_detections,
                batch=batch,
            )
            for detector in self.detectors
        ]
        found = []
        for index, image in enumerate(images):
            fused = fuse(
                [_by_suppression([answer[index]], self.fusion_iou) for answer in answers],
                image.shape[:2],
                fusion=self.fusion,
                fusion_iou=self.fusion_iou,
                model_weights=self.model_weights,
            )
            found.append(fused.at_least(confidence).first(max_detections))
        return found


def fuse(
    found: Sequence[Detections],
    size_hw: tuple[int, ...],
    *,
    fusion: str = "wbf",
    fusion_iou: float = 0.55,
    model_weights: Sequence[float] | None = None,
) -> Detections:
    """Fuse the boxes that several detectors found in one image.

    Args:
        found: one result per detector, of the same classes; boxes (N, 4) in native pixels. Boxes
            without area are left out.
        size_hw: height and width of the image in pixels.
        fusion: ``wbf``, ``nmw`` or ``nms``; see the module.
        fusion_iou: boxes of one class that overlap by more than this are merged.
        model_weights: weight of each detector. With ``wbf``, a confidence is their weighted mean.
            Otherwise a detector's confidences are multiplied by its weight over the largest weight.

    Returns:
        Boxes by falling confidence, in native pixels, clipped to the image.

    Raises:
        ConfigError: the weights do not fit, the fusion is unknown, or it needs a package that is
            not installed.
    """
    _check_fusion(fusion, fusion_iou)
    weights = _checked_weights(model_weights, len(found))
    names = found[0].names
    found = [_with_area(each) for each in found]
    if not any(len(each) for each in found):
        return no_detections(names)
    if fusion == "nms":
        shares = [weight / max(weights) for weight in weights]
        return _by_suppression(
            [_scaled(f, s) for f, s in zip(found, shares, strict=True)], fusion_iou
        )
    height, width = size_hw
    native = np.array([width, height, width, height], np.float64)
    boxes, confidence, classes = _library_function(fusion)(
        [(each.boxes_xyxy / native).clip(0, 1) for each in found],
        [each.confidence.astype(np.float64) for each in found],
        [each.class_index for each in found],
        weights=weights,
        iou_thr=fusion_iou,
    )
    return Detections(
        (boxes * native).clip(0, native).astype(np.float32),
        np.asarray(confidence).clip(0, 1).astype(np.float32),
        np.asarray(classes).astype(np.int64),
        names,
    ).by_confidence()


def load_ensemble(
    weights: Sequence[Path | str],
    *,
    fusion: str = "wbf",
    fusion_iou: float = 0.55,
    model_weights: Sequence[float] | None = None,
    device: str = "cpu",
    trust: bool = False,
) -> EnsembleDetector:
    """Load several detectors as one.

    Args:
        weights: one file per detector, of any backends; see [spineline.detect.load_detector][].
        fusion: ``wbf``, ``nmw`` or ``nms``; see the module.
        fusion_iou: boxes of one class that overlap by more than this are merged.
        model_weights: one number above zero per file. None: all 1.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``N``.
        trust: allow ``.pt`` files.

    Raises:
        ConfigError: there is no file, the weights do not fit, the fusion is unknown, or it needs a
            package that is not installed.
        WeightsError: a file cannot be used, or the classes of two files differ.
    """
    _check_fusion(fusion, fusion_iou)
    _checked_weights(model_weights, len(weights))
    detectors = [load_detector(path, device=device, trust=trust) for path in weights]
    _check_classes(detectors, [str(path) for path in weights])
    return EnsembleDetector(
        detectors, fusion=fusion, fusion_iou=fusion_iou, model_weights=model_weights
    )


@dataclass(frozen=True, slots=True)
class Chosen:
    """The detector that a command's keys select.

    Attributes:
        detector: the detector of ``model=``, or the ensemble of ``weights=``.
        record: entry for the run's record: name and hash of the file, or a list of them.
    """

    detector: Detector
    record: dict[str, str] | list[dict[str, str]]


def load_chosen(settings: DetectVal | DetectPredict) -> Chosen:
    """Load the detector of ``model=``, or the ensemble of ``weights=``.

    Raises:
        ConfigError: not exactly one of the two is given, or keys of the ensemble do not fit.
        WeightsError: weights cannot be used, or their classes differ.
    """
    check_choice(settings)
    names = [settings.model] if settings.model is not None else settings.weights or ()
    files = [resolve(name, task="detect", trust=settings.trust) for name in names]
    record = [{"name": file.name, "sha256": file.sha256} for file in files]
    if settings.model is not None:
        path = files[0].path
        one = load_detector(path, device=settings.device, trust=settings.trust)
        return Chosen(one, record[0])
    ensemble = load_ensemble(
        [file.path for file in files],
        fusion=settings.fusion,
        fusion_iou=settings.fusion_iou,
        model_weights=settings.model_weights,
        device=settings.device,
        trust=settings.trust,
    )
    return Chosen(ensemble, record)


def check_choice(settings: DetectVal | DetectPredict) -> None:
    """Refuse keys that select no detector, two of them, or an ensemble of fewer than two.

    Raises:
        ConfigError: the keys do so.
    """
    if settings.model is None and settings.weights is None:
        raise ConfigError("missing model=FILE (one detector) or weights=FILE,FILE (an ensemble)")
    if settings.weights is None:
        changed = [
            spec.name
            for spec in fields(settings)
            if spec.name in ("fusion", "fusion_iou", "model_weights")
            and getattr(settings, spec.name) != spec.default
        ]
        if changed:
            msg = f"{changed[0]}=: is for an ensemble, and model= names one detector"
            raise ConfigError(f"{msg}; name several by weights=FILE,FILE, or leave it out")
        return
    shown = ",".join(settings.weights)
    if settings.model is not None:
        msg = f"model={settings.model} and weights={shown}: give one of the two"
        raise ConfigError(f"{msg}; use only weights= for an ensemble")
    if len(settings.weights) < 2:
        msg = f"weights={shown}: an ensemble needs two files or more, found {len(settings.weights)}"
        raise ConfigError(f"{msg}; model=FILE for one detector")
    _checked_weights(settings.model_weights, len(settings.weights))


def _check_classes(detectors: Sequence[Detector], labels: Sequence[str]) -> None:
    first = detectors[0].names
    for detector, label in zip(detectors[1:], labels[1:], strict=True):
        if detector.names != first:
            msg = (
                f"{labels[0]} and {label}: an ensemble needs the same classes in the same order, "
                f"found {', '.join(first)} and {', '.join(detector.names)}"
            )
            raise WeightsError(msg)


def _check_fusion(fusion: str, fusion_iou: float) -> None:
    if fusion not in FUSIONS:
        raise ConfigError(f"fusion={fusion}: not an allowed value; allowed: {', '.join(FUSIONS)}")
    if not 0 <= fusion_iou <= 1:
        raise ConfigError(f"fusion_iou={fusion_iou}: out of range, allowed 0 … 1")
    if fusion != "nms":
        _library_function(fusion)


def _checked_weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    if weights is None:
        return (1.0,) * count
    shown = f"model_weights={','.join(f'{weight:g}' for weight in weights)}"
    if len(weights) != count:
        msg = f"{shown}: {len(weights)} numbers for {count} detectors; give one each"
        raise ConfigError(msg)
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ConfigError(f"{shown}: wanted finite numbers above 0; leave out a detector instead")
    return tuple(float(weight) for weight in weights)


def _library_function(fusion: str) -> Any:
    try:
        library = importlib.import_module("ensemble_boxes")
    except ImportError as error:
        msg = (
            f"fusion={fusion}: needs the package ensemble-boxes, which cannot be imported "
            f"({error}); pip install 'spineline[ensemble]', or fusion=nms, which needs nothing"
        )
        raise ConfigError(msg) from error
    return {"wbf": library.weighted_boxes_fusion, "nmw": library.non_maximum_weighted}[fusion]


def _with_area(found: Detections) -> Detections:
    sides = found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]
    return found.where(np.asarray((sides > 0).all(axis=1)))


def _scaled(found: Detections, share: float) -> Detections:
    confidence = (found.confidence * share).astype(np.float32)
    return Detections(found.boxes_xyxy, confidence, found.class_index, found.names)


def _by_suppression(found: Sequence[Detections], iou: float) -> Detections:
    """Suppress per class over all boxes, as torchvision does; by falling confidence."""
    import torch
    from torchvision.ops import batched_nms

    together = Detections(
        np.concatenate([each.boxes_xyxy for each in found]),
        np.concatenate([each.confidence for each in found]),
        np.concatenate([each.class_index for each in found]),
        found[0].names,
    ).by_confidence()
    kept = batched_nms(
        torch.from_numpy(together.boxes_xyxy),
        torch.from_numpy(together.confidence),
        torch.from_numpy(together.class_index),
        iou,
    )
    mask = np.zeros(len(together), np.bool_)
    mask[kept.numpy()] = True
    return together.where(mask)
