"""Names of devices; imports torch only to count CUDA devices."""

from __future__ import annotations

import re

from spineline.datasets.errors import ConfigError


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ConfigError: not ``cpu``, ``cuda``, ``cuda:N`` or ``N``, several, or no such CUDA device.
    """
    text = device.strip().lower()
    if text == "cpu":
        return
    if "," in text:
        msg = f"device={device}: wanted one device, such as device=0; several are not supported"
        raise ConfigError(msg)
    if not re.fullmatch(r"cuda|(cuda:)?\d{1,3}", text):
        raise ConfigError(f"device={device}: not a device; allowed: cpu, cuda, or a number")
    import torch

    count = torch.cuda.device_count()
    if int(text.removeprefix("cuda").removeprefix(":") or 0) >= count:
        raise ConfigError(f"device={device}: no such CUDA device ({count} here); use device=cpu")


def ultralytics_device(device: str) -> str:
    """The device as the ``ultralytics`` package wants it.

    >>> ultralytics_device("cuda"), ultralytics_device("cuda:1"), ultralytics_device("cpu")
    ('0', '1', 'cpu')
    """
    text = device.strip().lower()
    return text if text == "cpu" else text.removeprefix("cuda").removeprefix(":") or "0"
