"""Safetensors files: a network's weights, and in their metadata what they are, as JSON.

Nothing in such a file can run, but it may be damaged and say anything: whatever is wrong with it
becomes a [spineline.datasets.common.errors.WeightsError][] of one short line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spineline.datasets.common.errors import WeightsError, first_line

if TYPE_CHECKING:
    from torch import Tensor

METADATA_KEY = "spineline"
"""Entry of the metadata that holds the description."""


def read_described(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """The description of a file, as [read_description][], and its tensors by name, on the CPU.

    Raises:
        WeightsError: missing, damaged, or its description is not JSON.
    """
    with _opened(path) as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    return _described(metadata, path), tensors


def read_description(path: Path) -> Any:
    """What a file says of itself, any JSON value, or None where it says nothing; no tensor is read.

    Raises:
        WeightsError: missing, damaged, or its description is not JSON.
    """
    with _opened(path) as file:
        metadata = file.metadata()
    return _described(metadata, path)


def parse_description(text: str, where: str) -> Any:
    """The JSON of a description.

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

    if not path.is_file():
        msg = f"{path}: cannot be read as safetensors (no such weights file); check the path"
        raise WeightsError(f"{msg} or train one")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            yield file
    except ImportError:  # torch is not there
        raise
    except OSError as error:
        msg = f"{path}: cannot be read as safetensors ({first_line(error)})"
        raise WeightsError(msg) from error
    except Exception as error:  # besides its own errors, torch's of types and sizes that are none
        msg = (
            f"{path}: cannot be read as safetensors (damaged, or not a whole safetensors file: "
            f"{first_line(error)}); fetch or train it again"
        )
        raise WeightsError(msg) from error


def _described(metadata: dict[str, str] | None, path: Path) -> Any:
    text = (metadata or {}).get(METADATA_KEY)
    return None if text is None else parse_description(text, str(path))
