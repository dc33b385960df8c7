"""Names of devices, for all packages; imports torch only to count CUDA devices."""

from __future__ import annotations

import os
import re

from spineline.datasets.common.errors import ConfigError


def check_device(device: str) -> str:
    """Return the name without blanks, lower case: ``cpu``, ``mps``, ``cuda``, ``cuda:N``, ``N``.

    [device_name][] checks whether the device exists.

    Raises:
        ConfigError: it is not the name of a single device.
    """
    text = device.strip().lower()
    if "," in text:
        msg = f"device={device}: wanted one device, such as device=0; several are not supported"
        raise ConfigError(msg)
    if not re.fullmatch(r"cpu|mps|cuda|(cuda:)?\d{1,3}", text):
        raise ConfigError(f"device={device}: not a device; allowed: cpu, cuda, mps, or a number")
    return text


def device_name(device: str) -> str:
    """Return the name of an existing device as torch writes it: ``cpu``, ``mps`` or ``cuda:N``.

    >>> device_name(" CPU")
    'cpu'

    Raises:
        ConfigError: as for [check_device][], or the device does not exist.
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
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
