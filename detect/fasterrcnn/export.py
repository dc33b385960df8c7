"""A Faster R-CNN as ONNX or TorchScript, compared with the original.

The exported network takes one image, float32 (1, channels, size, size) in 0 … 1. It returns boxes
(N, 4) in pixels of that image, classes (N,) from 0, and scores (N,). Suppression is included, with
torchvision's settings: score over 0.05, overlap 0.5 within a class, at most 100 boxes.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, Tuple  # noqa: UP035 (TorchScript reads it)

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.networks.exporting import to_onnx, to_torchscript
from spineline.datasets.networks.runtimes import Session
from spineline.detect.engine.scaling import as_input
from spineline.detect.fasterrcnn.backbones import TimmBody
from spineline.detect.fasterrcnn.model import FasterRCNNDetector

OUTPUTS = ("boxes", "classes", "scores")


class _Traced(nn.Module):
    """The network with tensors in and out, for tracing."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> Any:
        found = self.network([images[0]])[0]
        return found["boxes"], found["labels"] - 1, found["scores"]


class _Scripted(nn.Module):
    """The same for TorchScript, where the network returns losses too."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # noqa: UP006
        found = self.network([images[0]])[1][0]
        return found["boxes"], found["labels"] - 1, found["scores"]


def exported_copy(detector: FasterRCNNDetector, size: int) -> Any:
    """A copy of the network for one size, with torchvision's suppression."""
    network: Any = deepcopy(detector.network).eval()
    heads = network.roi_heads
    heads.score_thresh, heads.nms_thresh, heads.detections_per_img = 0.05, 0.5, 100
    network.transform.min_size, network.transform.max_size = (size,), size
    return network


def fasterrcnn_to_torchscript(network: Any, description: str, *, channels: int, size: int) -> bytes:
    """Export the network as TorchScript; a timm body is traced, because not all can be scripted."""
    body = network.backbone.body
    if isinstance(body, TimmBody):
        with torch.no_grad():
            example = torch.zeros(1, channels, size, size)
            network.backbone.body = torch.jit.trace(body, example, strict=False)
    scripted = torch.jit.script(_Scripted(torch.jit.script(network)).eval())
    network.backbone.body = body
    return to_torchscript(scripted, None, description=description)


def fasterrcnn_to_onnx(
    network: Any, description: str, *, channels: int, size: int, opset: int
) -> bytes:
    """Export the network as ONNX.

    Raises:
        ConfigError: the onnx package is not installed.
    """
    # The example has some structure, so that every branch of the network has something to trace.
    example = torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))
    return to_onnx(
        _Traced(network).eval(),
        example,
        inputs=["images"],
        outputs=OUTPUTS,
        axes={name: {0: "found"} for name in OUTPUTS},
        description=description,
        opset=opset,
    )


def largest_fasterrcnn_errors(
    network: Any, session: Session, images: Iterable[npt.NDArray[np.uint8]], channels: int
) -> tuple[float, float]:
    """Return the largest differences from the original in boxes (pixels) and scores.

    Raises:
        SpinelineError: the number of boxes or the classes differ.
    """
    box_error = score_error = 0.0
    for image in images:
        pixels = as_input(torch.from_numpy(image)[None], channels).contiguous()
        with torch.no_grad():
            wanted = [output.numpy() for output in _Traced(network)(pixels)]
        found = session(pixels.numpy())
        if found[1].tolist() != wanted[1].tolist():
            raise SpinelineError("export: the exported network finds other boxes; not written")
        box_error = max(box_error, float(np.abs(found[0] - wanted[0]).max(initial=0)))
        score_error = max(score_error, float(np.abs(found[2] - wanted[2]).max(initial=0)))
    return box_error, score_error
