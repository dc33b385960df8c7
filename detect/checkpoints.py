"""Weights on disk: our safetensors files, and the checkpoints of ``ultralytics``.

A safetensors file cannot run code, but its description of the network is built into layers. So the
description is first checked: it may hold only the few layers and argument types that YOLOv3, v5
and v8 use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spineline.datasets.common.errors import WeightsError, first_line
from spineline.datasets.common.files import write_bytes
from spineline.datasets.networks.tensors import (
    pack_described,
    parse_description,
    read_described,
    read_description,
)
from spineline.detect.yolo.environment import import_ultralytics

_LAYERS = (
    "Conv", "Bottleneck", "C2f", "C3", "SPPF", "SPP", "Concat", "Detect", "nn.Upsample",
    "nn.MaxPool2d", "nn.ZeroPad2d",
)  # fmt: skip
_YAML_KEYS = (
    "nc", "ch", "channels", "scale", "scales", "backbone", "head", "yaml_file", "depth_multiple",
    "width_multiple", "reg_max",
)  # fmt: skip
_WORDS = ("nc", "None", "nearest", "bilinear")
_LARGEST = 4096  # real networks have at most 1024 channels; far more takes endless time or memory
_LARGEST_STEP = 16  # of kernels, strides and paddings
_MOST_LAYERS, _MOST_REPEATS = 256, 64


@dataclass(frozen=True, slots=True)
class DetectorMeta:
    """A detector's description in its weights file: the JSON in the safetensors metadata."""

    backend: str
    model: str
    names: tuple[str, ...]
    imgsz: int
    channels: int
    yaml: dict[str, Any]
    task: str = "detect"

    def to_json(self) -> str:
        """The metadata as JSON, keys in a fixed order."""
        return json.dumps(
            {
                "task": self.task,
                "backend": self.backend,
                "model": self.model,
                "names": list(self.names),
                "imgsz": self.imgsz,
                "channels": self.channels,
                "yaml": self.yaml,
            }
        )


def build_yolo(description: str | dict[str, Any], *, classes: int, channels: int = 3) -> nn.Module:
    """Build an Ultralytics detection network with fresh weights.

    Args:
        description: a file of the package, such as ``yolov8n.yaml``, or a description from a
            weights file, which must have passed [check_description][].
        classes: number of classes.
        channels: channels of the input.
    """
    import_ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    network: nn.Module = DetectionModel(description, ch=channels, nc=classes, verbose=False)
    return network


def check_description(description: object, where: str) -> dict[str, Any]:
    """Check that a network's description has only known layers and plain arguments, and return it.

    Raises:
        WeightsError: the description holds anything else.
    """
    if not isinstance(description, dict) or not {"backbone", "head"} <= set(description):
        raise WeightsError(f"{where}: no description of a network (yaml with backbone and head)")
    says = f"{where}: the network's description"
    for name, value in description.items():
        if name not in _YAML_KEYS:
            raise WeightsError(f"{says} has an unknown key {name!r:.100}")
        layers = name in ("backbone", "head")
        if layers and not (isinstance(value, list) and len(value) <= _MOST_LAYERS):
            raise WeightsError(f"{says} has no list of up to {_MOST_LAYERS} layers as {name}")
        if not layers and not _is_plain(value, _LARGEST):
            raise WeightsError(f"{says} has an odd value for {name!r}")
    for layer in (*description["backbone"], *description["head"]):
        if not _is_layer(layer):
            raise WeightsError(f"{says} has an unknown layer {layer!r:.200}")
    return description


def _is_layer(layer: object) -> bool:
    if not isinstance(layer, list) or len(layer) != 4:
        return False
    source, repeats, module, arguments = layer
    return (
        module in _LAYERS
        and isinstance(repeats, int)
        and 0 < repeats <= _MOST_REPEATS
        and isinstance(arguments, list)
        and _is_plain(source, _MOST_LAYERS)
        and all(_is_argument(a, _LARGEST_STEP if n else _LARGEST) for n, a in enumerate(arguments))
    )


def _is_argument(value: object, largest: int) -> bool:
    """Whether a value may be an argument; the package looks strings up or evaluates them."""
    return value in _WORDS if isinstance(value, str) else _is_plain(value, largest)


def _is_plain(value: object, largest: int, *, depth: int = 3) -> bool:
    if isinstance(value, (dict, list)) and not depth:
        return False
    if isinstance(value, dict):
        return all(
            isinstance(k, str) and _is_plain(v, largest, depth=depth - 1) for k, v in value.items()
        )
    if isinstance(value, list):
        return all(_is_plain(v, largest, depth=depth - 1) for v in value)
    if isinstance(value, str):
        return value in _WORDS or re.fullmatch(r"[a-z0-9.-]{0,32}", value) is not None
    return value is None or (isinstance(value, (int, float)) and abs(value) <= largest)


def save_safetensors(
    network: nn.Module, meta: DetectorMeta, path: Path, *, half: bool = True
) -> None:
    """Write a network's weights with their description, atomically.

    Args:
        network: the network; its weights are read, not changed.
        meta: the description.
        path: file to write.
        half: store floating-point numbers in 16 bits, at half the size; inference uses 32 bits.
    """
    write_bytes(path, packed_safetensors(network.state_dict(), meta, half=half))


def packed_safetensors(
    tensors: Mapping[str, torch.Tensor], meta: DetectorMeta, *, half: bool = True
) -> bytes:
    """The content of a safetensors file; see [save_safetensors][]."""
    return pack_described(tensors, meta.to_json(), half=half)


def read_safetensors(path: Path) -> tuple[DetectorMeta, dict[str, torch.Tensor]]:
    """Read a detector's description and weights.

    Raises:
        WeightsError: the file is missing, damaged or not a detector.
    """
    found, tensors = read_described(path)
    return _meta_of(found, str(path)), tensors


def read_meta(path: Path) -> DetectorMeta:
    """Read the description in a safetensors file without its weights.

    Raises:
        WeightsError: the file is missing, damaged or not a detector.
    """
    return _meta_of(read_description(path), str(path))


def parse_meta(text: str, where: str) -> DetectorMeta:
    """Parse and check the description of a weights file.

    Raises:
        WeightsError: it is not JSON, or the weights are for another task.
    """
    return _meta_of(parse_description(text, where), where)


def _meta_of(found: Any, where: str) -> DetectorMeta:
    if found is None:
        msg = (
            f"{where}: was not written by spineline (no description); give a file from detect train"
        )
        raise WeightsError(msg)
    try:
        task = found["task"]
        if task != "detect":
            raise WeightsError(f"{where}: weights of task {task!r:.100}, wanted a detector's")
        backend = found["backend"]
        names = tuple(str(name) for name in found["names"])
        imgsz, channels = int(found["imgsz"]), int(found["channels"])
        model, description = str(found["model"]), found["yaml"]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        msg = f"{where}: its description is not as expected ({error!r:.300})"
        raise WeightsError(msg) from error
    if not names or channels not in (1, 3) or not 32 <= imgsz <= 4096:
        raise WeightsError(f"{where}: its description is out of range (names, channels or imgsz)")
    if not isinstance(description, dict):
        raise WeightsError(f"{where}: its description of the network is not as expected")
    return DetectorMeta(str(backend), model, names, imgsz, channels, description)


def network_from_safetensors(path: Path) -> tuple[nn.Module, DetectorMeta]:
    """Load an Ultralytics network from a safetensors file, in float32, for evaluation.

    Raises:
        WeightsError: the file is missing, damaged or for another backend, or the weights do not
            fit the description.
    """
    meta, tensors = read_safetensors(path)
    if meta.backend != "ultralytics":
        raise WeightsError(f"{path}: weights for backend {meta.backend!r}, wanted 'ultralytics'")
    description = check_description(meta.yaml, str(path))
    try:
        network = build_yolo(description, classes=len(meta.names), channels=meta.channels)
        network.load_state_dict({k: _float(v) for k, v in tensors.items()})
    except (RuntimeError, KeyError, IndexError, TypeError, ValueError) as error:
        msg = f"{path}: its weights do not fit its description ({error!s:.1000})"
        raise WeightsError(msg) from error
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values() if t.is_floating_point()):
        raise WeightsError(f"{path}: holds weights that are not finite numbers; train it again")
    network.names = dict(enumerate(meta.names))  # type: ignore[assignment]  # as ultralytics does
    return network.eval(), meta


def load_pickle(path: Path, *, trust: bool) -> dict[str, Any]:
    """Read an Ultralytics checkpoint with a restricted unpickler, which knows only its classes.

    Raises:
        WeightsError: the file is not trusted, missing or damaged, or holds other classes.
    """
    if not trust:
        msg = (
            f"{path}: is a pickle, which can run code; add trust=true if you trust who made it, or "
            "give the .safetensors file beside it"
        )
        raise WeightsError(msg)
    _check_file(path)
    import_ultralytics()
    from ultralytics.nn.tasks import torch_safe_load

    try:
        checkpoint, _ = torch_safe_load(str(path), safe_only=True)
    except Exception as error:  # a pickle can make the unpickler raise anything
        first = first_line(error, 300)
        msg = f"{path}: not an Ultralytics checkpoint, or damaged, or unsafe ({first})"
        raise WeightsError(msg) from error
    if not isinstance(checkpoint, dict) or not isinstance(_network_in(checkpoint), nn.Module):
        raise WeightsError(f"{path}: holds no network")
    return checkpoint


def network_from_pickle(path: Path, *, trust: bool) -> tuple[nn.Module, DetectorMeta]:
    """Load the detection network of an Ultralytics checkpoint, in float32, for evaluation.

    Raises:
        WeightsError: as for [load_pickle][], or the network is for another task.
    """
    checkpoint = load_pickle(path, trust=trust)
    network = _network_in(checkpoint)
    assert_detection(network, path)
    network = network.float().eval()
    try:
        return network, _meta_in(checkpoint, network, path.stem)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        msg = f"{path}: what it says of its network is not as expected ({error!r:.300})"
        raise WeightsError(msg) from error


def _meta_in(checkpoint: dict[str, Any], network: Any, name: str) -> DetectorMeta:
    """The description of a checkpoint's network; ``name`` is used if it has no name."""
    arguments = checkpoint.get("train_args") or {}
    names = network.names
    names = tuple(names.values()) if isinstance(names, dict) else tuple(names)
    model = str(arguments.get("model") or name)
    return DetectorMeta(
        backend="ultralytics",
        model=Path(model).name.removesuffix(".yaml").removesuffix(".pt"),
        names=tuple(str(name) for name in names),
        imgsz=int(arguments.get("imgsz") or 640),
        channels=int(network.yaml.get("channels") or network.yaml.get("ch") or 3),
        yaml=plain_description(network.yaml),
    )


def assert_detection(network: nn.Module, path: Path) -> None:
    """Refuse a network for another task.

    Raises:
        WeightsError: it is not a plain detection network.
    """
    from ultralytics.nn.tasks import DetectionModel

    if type(network) is not DetectionModel:
        raise WeightsError(f"{path}: holds a {type(network).__name__}, wanted a detection network")


def plain_description(description: dict[str, Any]) -> dict[str, Any]:
    """A network's description as it is stored: only known keys, and no path."""
    kept = {k: v for k, v in description.items() if k in _YAML_KEYS}
    if "yaml_file" in kept:
        kept["yaml_file"] = Path(str(kept["yaml_file"])).name
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    return plain


def _network_in(checkpoint: dict[str, Any]) -> Any:
    return checkpoint.get("ema") or checkpoint.get("model")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file; check the path or train one")


def _float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
