"""``spineline detect export``: a detector as ONNX or TorchScript, compared with the original.

The modules [spineline.detect.yolo.export][] and [spineline.detect.fasterrcnn.export][] describe
the inputs and outputs of the file. It carries the description of our weights files, under the key
``spineline``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.files import check_output, write_bytes
from spineline.datasets.common.log import LOG
from spineline.datasets.networks.exporting import open_exported
from spineline.datasets.networks.runtimes import Session
from spineline.detect.backend import load_detector
from spineline.detect.fasterrcnn.export import (
    exported_copy,
    fasterrcnn_to_onnx,
    fasterrcnn_to_torchscript,
    largest_fasterrcnn_errors,
)
from spineline.detect.fasterrcnn.model import FasterRCNNDetector
from spineline.detect.settings import DetectExport
from spineline.detect.yolo.backend import UltralyticsDetector
from spineline.detect.yolo.export import largest_yolo_errors, yolo_to_onnx, yolo_to_torchscript
from spineline.weights import resolve

BOX_TOLERANCE_PX = 0.05
SCORE_TOLERANCE = 1e-3
"""Largest allowed difference of an exported network, in pixels of its input and in score."""

Errors = tuple[float, float]


@dataclass(frozen=True, slots=True)
class DetectExportResult:
    """What ``detect export`` wrote.

    Attributes:
        out: the file.
        box_error_px: largest difference of a box from the original's, in pixels of the input; None
            if it could not be compared.
        score_error: largest difference of a score; None in the same case.
    """

    out: Path
    box_error_px: float | None
    score_error: float | None


def export(settings: DetectExport) -> DetectExportResult:
    """Write a detector as ONNX or TorchScript and compare it with the original.

    Raises:
        ConfigError: the input size does not fit, or a package is not installed.
        WeightsError: the weights cannot be used.
        SpinelineError: the exported network does not agree with the original; nothing is written.
    """
    check_output(settings.out, overwrite=settings.overwrite)
    if settings.out.is_dir():
        raise ConfigError(f"out={settings.out}: is a folder, wanted a file such as detector.onnx")
    if settings.imgsz is not None and settings.imgsz % 32:
        raise ConfigError(f"imgsz={settings.imgsz}: wanted a multiple of 32")
    weights = resolve(settings.model, task="detect", trust=settings.trust)
    detector = load_detector(weights.path, trust=settings.trust)
    if isinstance(detector, UltralyticsDetector):
        content, errors = _yolo(detector, settings)
    elif isinstance(detector, FasterRCNNDetector):
        content, errors = _fasterrcnn(detector, settings)
    else:
        raise ConfigError(f"{weights.path}: networks of this backend cannot be exported")
    if errors is not None:
        _check_errors(*errors)
    return _written(settings, content, errors)


def _yolo(detector: UltralyticsDetector, settings: DetectExport) -> tuple[bytes, Errors | None]:
    size = settings.imgsz or detector.imgsz
    if settings.format == "onnx":
        content = yolo_to_onnx(detector, size, opset=settings.opset, dynamic=settings.dynamic)
    else:
        content = yolo_to_torchscript(detector, size)
    session = _session(content, settings)
    return content, session and largest_yolo_errors(detector, session, _images(size))


def _fasterrcnn(
    detector: FasterRCNNDetector, settings: DetectExport
) -> tuple[bytes, Errors | None]:
    size, channels = settings.imgsz or detector.imgsz, detector.meta.channels
    network, text = exported_copy(detector, size), replace(detector.meta, imgsz=size).to_json()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of scripting
        if settings.format == "onnx":
            content = fasterrcnn_to_onnx(
                network, text, channels=channels, size=size, opset=settings.opset
            )
        else:
            content = fasterrcnn_to_torchscript(network, text, channels=channels, size=size)
    session = _session(content, settings)
    images = _images(size)
    return content, session and largest_fasterrcnn_errors(network, session, images, channels)


def _session(content: bytes, settings: DetectExport) -> Session | None:
    """The exported network, or None if its runtime is not installed."""
    try:
        return open_exported(content, settings.format, str(settings.out))
    except ConfigError:
        return None


def _written(
    settings: DetectExport, content: bytes, errors: tuple[float, float] | None
) -> DetectExportResult:
    write_bytes(settings.out, content)
    if errors is None:
        LOG.warning("not compared: onnxruntime is not installed (pip install 'spineline[export]')")
        return DetectExportResult(settings.out, None, None)
    LOG.info(
        "%s: %s; largest difference to the original: box %.2g px, score %.2g",
        settings.out,
        settings.format,
        *errors,
    )
    return DetectExportResult(settings.out, *errors)


def _check_errors(box_error: float, score_error: float) -> None:
    if not (box_error <= BOX_TOLERANCE_PX and score_error <= SCORE_TOLERANCE):
        msg = (
            f"export: the exported network is off by {box_error:.3g} px and {score_error:.3g} in "
            "score; it was not written"
        )
        raise SpinelineError(msg)


def _images(size: int) -> list[npt.NDArray[np.uint8]]:
    """An image with structure and a blank one."""
    return [_pattern(size), np.full((size, size), 114, dtype=np.uint8)]


def _pattern(size: int) -> npt.NDArray[np.uint8]:
    """Bright blocks on a dark, noisy background, a little like a spine; always the same."""
    image = np.random.default_rng(0).integers(0, 40, (size, size), dtype=np.uint8)
    step = size // 8
    for top in range(step // 2, size - step // 2, step):
        image[top : top + step // 2, size // 3 : size // 3 * 2] += 150
    return image
