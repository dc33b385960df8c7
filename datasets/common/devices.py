"""Names of devices, for every room; imports torch only to count CUDA devices."""

from __future__ import annotations

import os
import re

from spineline.datasets.common.errors import ConfigError


def check_device(device: str) -> str:
    """The text without blanks and in lower case: ``cpu``, ``mps``, ``cuda``, ``cuda:N`` or ``N``.

    Whether there is such a device here is asked by [device_name][].

    Raises:
        ConfigError: no name of a device, or several.
    """
    text = device.strip().lower()
    if "," in text:
        msg = f"device={device}: wanted one device, such as device=0; several are not supported"
        raise ConfigError(msg)
    if not re.fullmatch(r"cpu|mps|cuda|(cuda:)?\d{1,3}", text):
        raise ConfigError(f"device={device}: not a device; allowed: cpu, cuda, mps, or a number")
    return text


def device_name(device: str) -> str:
    """The name of a device that is here, as torch writes it: ``cpu``, ``mps`` or ``cuda:N``.

    >>> device_name(" CPU")
    'cpu'

    Raises:
        ConfigError: see [check_device][], or there is no such device here.
    """
    text = check_device(device)
    if text == "cpu":
        return text
    import torch

    if text == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError(f"device={device}: there is no Apple GPU here; use device=cpu")
        return text
    number = int(text.removeprefix("cuda").removeprefix(":") or 0)
    count = torch.cuda.device_count()
    if number >= count:
        msg = f"device={device}: no such CUDA device, there are {count} here; use device=cpu"
        raise ConfigError(msg)
    return f"cuda:{number}"


def cores_here() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
