"""Tensors on disk: safetensors files with a JSON description in their metadata, and checkpoints.

Nothing in a safetensors file can run, but it may be damaged or hold anything. Every problem becomes
a one-line [spineline.datasets.common.errors.WeightsError][].
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spineline.datasets.common.errors import WeightsError, first_line
from spineline.datasets.common.files import write_through

if TYPE_CHECKING:
    from torch import Tensor

METADATA_KEY = "spineline"
"""Key of the description in the metadata."""


def pack_described(tensors: Mapping[str, Tensor], text: str, *, half: bool) -> bytes:
    """Make the content of a safetensors file.

    Args:
        tensors: tensors by name.
        text: the description, as JSON.
        half: store floating-point numbers in 16 bits.
    """
    from safetensors.torch import save

    stored = {
        name: (t.half() if half and t.is_floating_point() else t).detach().cpu().contiguous()
        for name, t in tensors.items()
    }
    return save(stored, metadata={METADATA_KEY: text})


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint pickle atomically.

    torch writes it by its path instead of a buffer, which lets other threads work meanwhile.
    """
    import torch

    write_through(path, lambda partial: torch.save(content, str(partial)))


_FILLS = ("normal_", "uniform_", "erfinv_", "fill_", "zero_", "mul_", "add_", "clamp_")
"""Tensor methods with which networks initialise their weights."""


@contextmanager
def without_memory() -> Iterator[None]:
    """Build networks in this block with shapes and types of weights, but without numbers.

    Weights are on torch's ``meta`` device, and their initialisation, which takes most of the time,
    is skipped.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    fills = {getattr(torch.Tensor, name) for name in _FILLS}

    class Unfilled(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            given = kwargs or {}
            if function in fills or getattr(function, "__module__", "") == "torch.nn.init":
                filled = args[0] if args else given.get("tensor")
                if isinstance(filled, torch.Tensor) and filled.is_meta:
                    return filled
            return function(*args, **given)

    with torch.device("meta"), Unfilled():
        yield


def largest_magnitude(tensors: Mapping[str, Tensor]) -> float:
    """Return the greatest absolute number in tensors; NaN if there is a NaN."""
    from torch.nn.utils import get_total_norm

    numbers = [t for t in tensors.values() if t.is_floating_point() and t.numel()]
    return float(get_total_norm(numbers, math.inf))


def read_described(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """Read the description of a file, as [read_description][], and its tensors by name, on the CPU.

    Raises:
        WeightsError: the file is missing or damaged, or its description is not JSON.
    """
    with _opened(path) as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    return _described(metadata, path), tensors


def read_description(path: Path) -> Any:
    """Read the description of a file, any JSON value or None, without its tensors.

    Raises:
        WeightsError: the file is missing or damaged, or its description is not JSON.
    """
    with _opened(path) as file:
        metadata = file.metadata()
    return _described(metadata, path)


def parse_description(text: str, where: str) -> Any:
    """Parse the JSON of a description.

    Raises:
        WeightsError: it is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"{where}: its description is not as expected: no JSON ({first_line(error)})"
        raise WeightsError(msg) from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import safe_open

    if path.is_dir():
        raise WeightsError(f"{path}: is a folder; name the weights file in it")
    if not path.is_file():
        msg = f"{path}: cannot be read as safetensors (no such weights file); check the path"
        raise WeightsError(f"{msg} or train one")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            yield file
    except ImportError:  # torch is not installed
        raise
    except OSError as error:
        msg = f"{path}: cannot be read as safetensors ({first_line(error)})"
        raise WeightsError(msg) from error
    except Exception as error:  # includes torch's own errors for invalid types and sizes
        msg = (
            f"{path}: cannot be read as safetensors (damaged, or not a whole safetensors file: "
            f"{first_line(error)}); fetch or train it again"
        )
        raise WeightsError(msg) from error


def _described(metadata: dict[str, str] | None, path: Path) -> Any:
    text = (metadata or {}).get(METADATA_KEY)
    return None if text is None else parse_description(text, str(path))
