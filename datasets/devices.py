"""Names of devices, for every room; imports torch only to count CUDA devices."""

from __future__ import annotations

import re

from spineline.datasets.errors import ConfigError


def device_name(device: str) -> str:
    """The name of a device that is here, as torch writes it: ``cpu`` or ``cuda:N``.

    >>> device_name(" CPU")
    'cpu'

    Raises:
        ConfigError: not ``cpu``, ``cuda``, ``cuda:N`` or ``N``, several, or no such CUDA device.
    """
    text = device.strip().lower()
    if text == "cpu":
        return text
    if "," in text:
        msg = f"device={device}: wanted one device, such as device=0; several are not supported"
        raise ConfigError(msg)
    if not re.fullmatch(r"cuda|(cuda:)?\d{1,3}", text):
        raise ConfigError(f"device={device}: not a device; allowed: cpu, cuda, or a number")
    import torch

    number = int(text.removeprefix("cuda").removeprefix(":") or 0)
    count = torch.cuda.device_count()
    if number >= count:
        msg = f"device={device}: no such CUDA device, there are {count} here; use device=cpu"
        raise ConfigError(msg)
    return f"cuda:{number}"
