"""A YOLO network as ONNX or TorchScript, and the errors of such a file.

The exported network takes letterboxed images, float32 (N, channels, h, w) in 0 … 1. It returns
the raw output, float32 (N, 4 + classes, places): centre and size in pixels of the input, then a
score per class. Suppression is left to the caller.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.networks.exporting import (
    OPSET,
    random_input,
    to_graph,
    to_onnx,
    to_torchscript,
)
from spineline.datasets.networks.runtimes import Session
from spineline.detect.checkpoints import network_from_safetensors
from spineline.detect.yolo.backend import UltralyticsDetector

_AXES = {"images": {0: "batch", 2: "height", 3: "width"}, "output": {0: "batch", 2: "places"}}


def yolo_to_onnx(
    detector: UltralyticsDetector, size: int, *, opset: int = OPSET, dynamic: bool = True
) -> bytes:
    """Export the network as ONNX, with input ``images`` and output ``output``.

    Args:
        detector: a detector with its network on the CPU.
        size: image size, the only one allowed unless it is dynamic.
        opset: operator set version.
        dynamic: allow any batch, height and width.

    Raises:
        ConfigError: the onnx package is not installed.
    """
    return to_onnx(
        _raw_network(detector, "onnx", dynamic=dynamic),
        _example(detector, size),
        inputs=["images"],
        outputs=["output"],
        axes=_AXES if dynamic else None,
        description=replace(detector.meta, imgsz=size).to_json(),
        opset=opset,
    )


def yolo_graph(weights: Path) -> bytes:
    """Build the graph of a weights file's network; see [spineline.datasets.networks.graphs][].

    Input and output are those of [yolo_to_onnx][]; batch, height and width are free.

    Raises:
        ConfigError: the onnx package is not installed.
        WeightsError: the weights cannot be used.
    """
    network, meta = network_from_safetensors(weights)
    raw = _for_export(network.float(), "onnx", dynamic=True)
    content = to_onnx(
        raw,
        torch.zeros(1, meta.channels, meta.imgsz, meta.imgsz),
        inputs=["images"],
        outputs=["output"],
        axes=_AXES,
        description=None,
        fold=False,
    )
    return to_graph(raw, content, weights, str, [random_input(2, meta.channels, 96, 64)])


def yolo_to_torchscript(detector: UltralyticsDetector, size: int) -> bytes:
    """Export the network as TorchScript; arguments are as for [yolo_to_onnx][]."""
    network = _raw_network(detector, "torchscript", dynamic=False)
    example = _example(detector, size)
    with torch.inference_mode(mode=False), torch.no_grad():
        network(example)  # builds the anchors of this size
    description = replace(detector.meta, imgsz=size).to_json()
    return to_torchscript(network, example, description=description, strict=False)


def largest_yolo_errors(
    detector: UltralyticsDetector, session: Session, images: Iterable[npt.NDArray[np.uint8]]
) -> tuple[float, float]:
    """Return the largest differences from the original in boxes (pixels) and scores.

    Raises:
        SpinelineError: the shape of an output differs.
    """
    box_error = score_error = 0.0
    for image in images:
        wanted = detector.forward(image[None]).numpy()
        grey = image[None, None].astype(np.float32) / np.float32(255)
        found = session(np.repeat(grey, detector.meta.channels, axis=1))[0]
        if found.shape != wanted.shape:
            raise SpinelineError(f"export: output of shape {found.shape}, wanted {wanted.shape}")
        difference = np.abs(found - wanted)
        box_error = max(box_error, float(difference[:, :4].max()))
        score_error = max(score_error, float(difference[:, 4:].max()))
    return box_error, score_error


def _example(detector: UltralyticsDetector, size: int) -> torch.Tensor:
    return torch.zeros(1, detector.meta.channels, size, size)


def _raw_network(detector: UltralyticsDetector, form: str, *, dynamic: bool) -> Any:
    """The network as the package prepares it for export, with only its raw output."""
    return _for_export(deepcopy(detector.network), form, dynamic=dynamic)


def _for_export(network: Any, form: str, *, dynamic: bool) -> Any:
    head = network.model[-1]
    head.export, head.format, head.dynamic = True, form, dynamic
    return network
