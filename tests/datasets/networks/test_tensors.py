"""Safetensors files with a description, sound and damaged."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spineline.datasets.common.errors import WeightsError
from spineline.datasets.networks.tensors import (
    parse_description,
    read_described,
    read_description,
    without_memory,
)

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(2, dtype=torch.int64)}


def write(path: Path, text: str | None) -> Path:
    save_file(TENSORS, path, None if text is None else {"spineline": text})
    return path


def raw(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


@pytest.mark.parametrize("text", ['{"task": "x"}', "[1]", "null", None])
def test_tensors_and_what_they_are(tmp_path: Path, text: str | None) -> None:
    path = write(tmp_path / "a.safetensors", text)
    found, tensors = read_described(path)
    assert found == read_description(path) == (None if text is None else json.loads(text))
    assert list(tensors) == ["a", "b"]
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize(
    "text", ["{", "", "[" * 100_000, "9" * 5000], ids=["cut", "empty", "deep", "long"]
)
def test_a_description_that_is_no_json(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.safetensors", text)
    for read in (read_described, read_description):
        with pytest.raises(WeightsError, match=r"a\.safetensors: its description is") as caught:
            read(path)
        assert len(str(caught.value)) < 400 + len(str(path))
    with pytest.raises(WeightsError, match="here: its description is not as expected: no JSON"):
        parse_description(text, "here")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot be read as .* \(no such weights file\)"):
        read_described(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="is a folder; name the weights file in it"):
        read_described(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 30, -1], ids=str)
def test_a_file_that_is_cut(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "a.safetensors", "{}")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"cannot be read as safetensors .*not a whole safe"):
        read_description(path)


ENTRY = b'{"a": {"dtype": "%s", "shape": [%d], "data_offsets": [0, 4]}}'


@pytest.mark.parametrize(
    "header",
    [
        b'{"' + b"x" * 70_000 + b'": 5}',
        b"\xff" * 70_000,
        ENTRY % (b"x" * 70_000, 1),
        ENTRY % (b"F32", 2**64 - 1),
        ENTRY % (b"F32", 2**63),
        b'{"__metadata__": {"spineline": 5}}',
        b"[" * 5000,
    ],
    ids=["entry", "bytes", "dtype", "shape", "half of that", "metadata", "deep"],
)
def test_a_header_that_cannot_be(tmp_path: Path, header: bytes) -> None:
    path = raw(tmp_path / "a.safetensors", header, b"\0" * 4)
    with pytest.raises(WeightsError, match="cannot be read as safetensors") as caught:
        read_described(path)
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize(
    ("dtype", "size", "of_torch"),
    [("F8_E8M0", 4, "float8_e8m0fnu"), ("F4", 2, "float4_e2m1fn_x2"), ("F6_E2M3", 3, "float6")],
    ids=["F8_E8M0", "F4", "F6_E2M3"],
)
def test_numbers_that_torch_may_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, size: int, of_torch: str
) -> None:
    monkeypatch.delattr(torch, of_torch, raising=False)
    header = (ENTRY % (dtype.encode(), 4)).replace(b"[0, 4]", b"[0, %d]" % size)
    path = raw(tmp_path / "a.safetensors", header, b"\0" * size)
    with pytest.raises(WeightsError, match=f"{of_torch}|Dtype not understood: {dtype}"):
        read_described(path)


def test_a_network_without_memory_has_its_shapes_and_types() -> None:
    def build() -> torch.nn.Module:
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Linear(8, 2).half()
        )
        torch.nn.init.trunc_normal_(network[0].weight, std=0.02)
        torch.nn.init.zeros_(tensor=network[2].bias)
        return network

    before = torch.get_rng_state()
    with without_memory():
        network = build()
        made = torch.ones(2, device="cpu").mul_(3)
    assert torch.equal(before, torch.get_rng_state())
    assert made.tolist() == [3, 3]
    wanted = build().state_dict()
    found = network.state_dict()
    assert {t.device.type for t in found.values()} == {"meta"}
    assert {n: (t.shape, t.dtype) for n, t in found.items()} == {
        n: (t.shape, t.dtype) for n, t in wanted.items()
    }
