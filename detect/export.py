"""``spineline detect export``: a detector as ONNX or TorchScript, compared with the original.

The exported network takes float32 (N, channels, h, w) in 0 … 1, letterboxed, and gives the raw
output, float32 (N, 4 + classes, places): centre and size in pixels of the input, then a score per
class. Suppression is the caller's. A Faster R-CNN is another thing: see
[spineline.detect.fasterrcnn.export][]. The file carries the same description as our weights files,
under the key ``spineline``.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.files import check_output, write_bytes
from spineline.datasets.common.log import LOG
from spineline.detect.settings import DetectExport

if TYPE_CHECKING:
    from spineline.detect.checkpoints import DetectorMeta
    from spineline.detect.fasterrcnn.model import FasterRCNNDetector
    from spineline.detect.yolo.backend import UltralyticsDetector

FloatArray = npt.NDArray[np.float32]
Run = Callable[[FloatArray], FloatArray]

BOX_TOLERANCE_PX = 0.05
SCORE_TOLERANCE = 1e-3
"""How far an exported network may be off the original, in pixels of its input and in score."""


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What ``detect export`` wrote.

    Attributes:
        out: the file.
        box_error_px: largest difference of a box to the original's, pixels of the input; None where
            it could not be compared.
        score_error: largest difference of a score; None likewise.
    """

    out: Path
    box_error_px: float | None
    score_error: float | None


def export(settings: DetectExport) -> ExportResult:
    """Write a detector as ONNX or TorchScript and compare it with the original.

    Raises:
        ConfigError: an input size that does not fit, or a package that is not installed.
        WeightsError: the weights cannot be used.
        SpinelineError: the exported network does not agree with the original; nothing is kept.
    """
    from spineline.detect.yolo.backend import UltralyticsDetector
    from spineline.weights import resolve

    check_output(settings.out, overwrite=settings.overwrite)
    if settings.out.is_dir():
        raise ConfigError(f"out={settings.out}: is a folder, wanted a file such as detector.onnx")
    if settings.imgsz is not None and settings.imgsz % 32:
        raise ConfigError(f"imgsz={settings.imgsz}: wanted a multiple of 32")
    weights = resolve(settings.model, task="detect", trust=settings.trust)
    detector = _load(weights.path, trust=settings.trust)
    size = settings.imgsz or detector.imgsz
    if not isinstance(detector, UltralyticsDetector):
        return _written(settings, *_fasterrcnn(detector, size, settings))
    if settings.format == "onnx":
        content = onnx_bytes(detector, size, opset=settings.opset, dynamic=settings.dynamic)
    else:
        content = torchscript_bytes(detector, size)
    run = (_run_onnx if settings.format == "onnx" else _run_torchscript)(content)
    errors = None if run is None else _compare(detector, run, size)
    return _written(settings, content, errors)


def _written(
    settings: DetectExport, content: bytes, errors: tuple[float, float] | None
) -> ExportResult:
    write_bytes(settings.out, content)
    if errors is None:
        LOG.warning("not compared: onnxruntime is not installed (pip install 'spineline[export]')")
        return ExportResult(settings.out, None, None)
    LOG.info(
        "%s: %s; largest difference to the original: box %.2g px, score %.2g",
        settings.out,
        settings.format,
        *errors,
    )
    return ExportResult(settings.out, *errors)


def _load(weights: Path, *, trust: bool) -> UltralyticsDetector | FasterRCNNDetector:
    from spineline.detect import load_detector
    from spineline.detect.fasterrcnn.model import FasterRCNNDetector
    from spineline.detect.yolo.backend import UltralyticsDetector

    detector = load_detector(weights, trust=trust)
    if not isinstance(detector, (UltralyticsDetector, FasterRCNNDetector)):
        raise ConfigError(f"{weights}: networks of this backend cannot be exported")
    return detector


def _fasterrcnn(
    detector: FasterRCNNDetector, size: int, settings: DetectExport
) -> tuple[bytes, tuple[float, float] | None]:
    from spineline.detect.fasterrcnn import export

    network, channels = export.exported_copy(detector, size), detector.meta.channels
    description = _description(detector.meta, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing, and of formats that will be replaced one day
        if settings.format == "onnx":
            content = export.onnx_bytes(
                network, description, channels=channels, size=size, opset=settings.opset
            )
        else:
            content = export.torchscript_bytes(network, description, channels=channels, size=size)
        images = [_pattern(size), np.full((size, size), 114, dtype=np.uint8)]
        errors = export.largest_differences(network, content, settings.format, images, channels)
    if errors is not None:
        _check_errors(*errors)
    return content, errors


def _example(detector: UltralyticsDetector, size: int) -> Any:
    import torch

    return torch.zeros(1, detector.meta.channels, size, size)


def _raw_network(detector: UltralyticsDetector) -> Any:
    """The network, giving its raw output alone, as the package prepares it for export."""
    from copy import deepcopy

    network: Any = deepcopy(detector.network)
    head = network.model[-1]
    head.export, head.format, head.dynamic = True, "torchscript", False
    return network


def torchscript_bytes(detector: UltralyticsDetector, size: int, *, dynamic: bool = False) -> bytes:
    """The network as TorchScript.

    Args:
        detector: with its network on the CPU.
        size: of its images, which is the only one where it is not dynamic.
        dynamic: free batch, height and width.
    """
    import torch

    with _quiet(), torch.inference_mode(False), torch.no_grad():
        network = _raw_network(detector)
        network.model[-1].dynamic = dynamic
        network(_example(detector, size))  # builds the anchors of this size
        traced = torch.jit.trace(network, _example(detector, size), strict=False)
        buffer = io.BytesIO()
        extra = {"spineline": _description(detector.meta, size)}
        torch.jit.save(traced, buffer, _extra_files=extra)
    return buffer.getvalue()


def onnx_bytes(
    detector: UltralyticsDetector, size: int, *, opset: int = 17, dynamic: bool = True
) -> bytes:
    """The network as ONNX, its input ``images`` and its output ``output``.

    Args:
        detector: with its network on the CPU.
        size: of its images, which is the only one where it is not dynamic.
        opset: operator set.
        dynamic: free batch, height and width.

    Raises:
        ConfigError: the onnx package is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigError(
            "format=onnx needs the onnx package: pip install 'spineline[export]'"
        ) from error
    import torch

    network = _raw_network(detector)
    head = network.model[-1]
    head.format, head.dynamic = "onnx", dynamic
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "output": {0: "batch", 2: "places"}}
    buffer = io.BytesIO()
    with _quiet(), torch.inference_mode(False), torch.no_grad():
        torch.onnx.export(
            network,
            (_example(detector, size),),
            buffer,
            dynamo=False,
            opset_version=opset,
            input_names=["images"],
            output_names=["output"],
            dynamic_axes=axes if dynamic else None,
        )
    model = onnx.load_from_string(buffer.getvalue())
    onnx.checker.check_model(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = "spineline", _description(detector.meta, size)
    serialised: bytes = model.SerializeToString()
    return serialised


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings that these formats will be replaced one day."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _description(meta: DetectorMeta, size: int) -> str:
    from dataclasses import replace

    return replace(meta, imgsz=size).to_json()


def _run_torchscript(content: bytes) -> Run:
    import torch

    with _quiet():
        network = torch.jit.load(io.BytesIO(content)).eval()

    def run(images: FloatArray) -> FloatArray:
        with torch.inference_mode():
            output = network(torch.from_numpy(images))
        output = output[0] if isinstance(output, (tuple, list)) else output
        return np.asarray(output.numpy())

    return run


def _run_onnx(content: bytes) -> Run | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images: FloatArray) -> FloatArray:
        return np.asarray(session.run(None, {"images": images})[0])

    return run


def _compare(detector: UltralyticsDetector, run: Run, size: int) -> tuple[float, float]:
    """Largest differences on an image with structure and on a blank one.

    Raises:
        SpinelineError: more than the tolerances.
    """
    box_error = score_error = 0.0
    for image in (_pattern(size), np.full((size, size), 114, dtype=np.uint8)):
        wanted = detector.forward(image[None]).numpy()
        grey = image[None, None].astype(np.float32) / np.float32(255)
        found = run(np.repeat(grey, detector.meta.channels, axis=1).astype(np.float32))
        if found.shape != wanted.shape:
            raise SpinelineError(f"export: output of shape {found.shape}, wanted {wanted.shape}")
        difference = np.abs(found - wanted)
        box_error = max(box_error, float(difference[:, :4].max()))
        score_error = max(score_error, float(difference[:, 4:].max()))
    _check_errors(box_error, score_error)
    return box_error, score_error


def _check_errors(box_error: float, score_error: float) -> None:
    if not (box_error <= BOX_TOLERANCE_PX and score_error <= SCORE_TOLERANCE):
        msg = (
            f"export: the exported network is off by {box_error:.3g} px and {score_error:.3g} in "
            "score; it was not written"
        )
        raise SpinelineError(msg)


def _pattern(size: int) -> npt.NDArray[np.uint8]:
    """Bright blocks on a dark ground with noise, a little like a spine; always the same."""
    image = np.random.default_rng(0).integers(0, 40, (size, size), dtype=np.uint8)
    step = size // 8
    for top in range(step // 2, size - step // 2, step):
        image[top : top + step // 2, size // 3 : size // 3 * 2] += 150
    return image
