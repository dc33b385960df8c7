"""``spineline weights strip``: convert a checkpoint to safetensors with only the network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.common.files import check_output, write_bytes
from spineline.datasets.common.log import LOG
from spineline.datasets.networks.tensors import read_described
from spineline.detect.checkpoints import network_from_pickle
from spineline.detect.engine.networks import checkpoint_weights
from spineline.pipeline.training.settings import WeightsStrip
from spineline.weights.registry import WrittenWeights, is_pickle, read_metadata, sha256_of

_FP16_MAX = 65504.0
_PRIVATE = re.compile(r"^(/|~|[A-Za-z]:\\|\\\\)|://|git@")


def strip_weights(settings: WeightsStrip) -> WrittenWeights:
    """Convert a checkpoint to safetensors with only the network.

    Optimizer state, absolute paths and addresses are left out; ``half`` stores floating point
    tensors as fp16.

    Raises:
        WeightsError: the checkpoint cannot be read, is a pickle without ``trust``, or has numbers
            outside the range of fp16.
        ConfigError: ``out`` is not a ``.safetensors`` file.
    """
    weights, out = settings.weights, settings.out
    if out.suffix != ".safetensors":
        raise ConfigError(f"out={out}: wanted a file that ends in .safetensors")
    check_output(out, overwrite=settings.overwrite)
    if not weights.is_file():
        raise WeightsError(f"{weights}: no such weights file")
    if is_pickle(weights):
        tensors, metadata = _read_pickle(weights, trust=settings.trust)
    else:
        metadata = read_metadata(weights)
        _, tensors = read_described(weights)
    kept = {name: _stored(name, tensors[name], half=settings.half) for name in sorted(tensors)}
    text = json.dumps(_without_private(metadata), ensure_ascii=False)
    write_bytes(out, save(kept, {"spineline": text}))
    size = out.stat().st_size
    LOG.info("%s: %d tensors, %.1f MB", out, len(kept), size / 1e6)
    return WrittenWeights(out, sha256_of(out), size)


def _read_pickle(path: Path, *, trust: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a run's checkpoint.

    The checkpoint of a Faster R-CNN or a U-Net is read as tensors and numbers only, which runs no
    code; any other is an ultralytics pickle.
    """
    found = checkpoint_weights(path)
    if found is not None:
        return found[0], json.loads(found[1].to_json())

    network, meta = network_from_pickle(path, trust=trust)
    return dict(network.state_dict()), json.loads(meta.to_json())


def _stored(name: str, tensor: Tensor, *, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if not tensor.is_floating_point():
        return tensor
    if half and tensor.numel() and float(tensor.abs().max()) > _FP16_MAX:
        raise WeightsError(f"{name}: holds numbers beyond fp16's {_FP16_MAX:.0f}; add half=false")
    return tensor.to(torch.float16 if half else torch.float32)


def _without_private(value: Any) -> Any:
    """A copy of JSON values without texts that name a place: absolute paths and addresses."""
    if isinstance(value, dict):
        return {k: _without_private(v) for k, v in value.items() if not _is_private(v)}
    if isinstance(value, list):
        return [_without_private(v) for v in value if not _is_private(v)]
    return value


def _is_private(value: object) -> bool:
    return isinstance(value, str) and _PRIVATE.search(value) is not None
