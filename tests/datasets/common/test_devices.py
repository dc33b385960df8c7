from __future__ import annotations

import pytest

from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import ConfigError


@pytest.mark.parametrize(
    ("device", "wanted"),
    [("cpu", "cpu"), (" CPU ", "cpu"), ("cuda", "cuda:0"), ("1", "cuda:1"), ("CUDA:1", "cuda:1")],
)
def test_one_name_per_device(monkeypatch: pytest.MonkeyPatch, device: str, wanted: str) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert device_name(device) == wanted


@pytest.mark.parametrize("here", [False, True])
def test_an_apple_gpu_is_used_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: here)
    if here:
        assert device_name("MPS") == "mps"
        return
    with pytest.raises(ConfigError, match="device=mps: there is no Apple GPU here; use device=cpu"):
        device_name("mps")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("", "not a device; allowed"),
        ("gpu", "not a device; allowed"),
        ("cuda:-1", "not a device; allowed"),
        ("0,1", "wanted one device"),
        ("2", "no such CUDA device, there are 2 here; use device=cpu"),
        ("cuda:99", "no such CUDA device"),
    ],
)
def test_other_devices_are_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, message: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ConfigError, match=message):
        device_name(device)
