"""Graphs and their tensors put together: what the onnx package and the runtimes make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from spineline.datasets.common.errors import SpinelineError, WeightsError
from spineline.datasets.networks import runtimes
from spineline.datasets.networks.graphs import read_tensors, with_tensors
from spineline.datasets.networks.runtimes import FORMS, PACKAGES, open_session

onnx = pytest.importorskip("onnx")

TENSORS = {
    "w": np.arange(6, dtype=np.float32).reshape(3, 2),
    "a.name.with.dots": np.array(1.5, np.float32),
    "many": np.random.default_rng(0).standard_normal((130, 3, 1, 300)).astype(np.float32),
    "none": np.empty((0, 4), np.float32),
}


def graph_of(product: str = "w") -> bytes:
    """``x`` (n, 3) times a tensor that it does not hold."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    given, found = (
        helper.make_tensor_value_info(name, kind, ["n", size])
        for name, size in (("x", 3), ("y", 2))
    )
    node = helper.make_node("MatMul", ["x", product], ["y"])
    opset = helper.make_opsetid("", 17)
    graph = helper.make_graph([node], "g", [given], [found])
    content: bytes = helper.make_model(
        graph, opset_imports=[opset], ir_version=8
    ).SerializeToString()
    return content


def test_onnx_reads_the_tensors_as_they_are() -> None:
    model = onnx.load_from_string(with_tensors(graph_of(), TENSORS))
    found = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    assert list(found) == list(TENSORS)
    for name, wanted in TENSORS.items():
        np.testing.assert_array_equal(found[name], wanted, strict=True)
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    onnx.checker.check_model(model)


def test_tensors_beside_the_model_are_named_as_files() -> None:
    model = onnx.load_from_string(with_tensors(graph_of(), TENSORS, beside=["many", "w"]))
    for each in model.graph.initializer:
        outside = each.data_location == onnx.TensorProto.EXTERNAL
        assert outside == (each.name in {"many", "w"})
        assert list(each.dims) == list(TENSORS[each.name].shape)
        if outside:
            assert [(e.key, e.value) for e in each.external_data] == [("location", each.name)]
            assert not each.raw_data


@pytest.mark.parametrize("old", [False, True], ids=["from-memory", "in-the-model"])
@pytest.mark.parametrize("large", [0, 1, 10**9])
@pytest.mark.parametrize("form", FORMS)
def test_runtimes_compute_with_the_tensors_that_the_graph_names(
    form: Any, large: int, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(PACKAGES[form])
    monkeypatch.setattr(runtimes, "_LARGE", large)
    if old:
        monkeypatch.setattr(runtimes, "_FROM_MEMORY", "what onnxruntime before 1.24 lacks")
    run = open_session([graph_of()], form, "here", threads=1, tensors=TENSORS)
    x = np.array([[1, 2, 3], [0, 0, 1]], np.float32)
    np.testing.assert_array_equal(run(x)[0], x @ TENSORS["w"])


@pytest.mark.skipif(
    not hasattr(pytest.importorskip("onnxruntime").SessionOptions, runtimes._FROM_MEMORY),
    reason="onnxruntime before 1.24",
)
def test_large_tensors_are_not_copied_into_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []

    def watched(graph: bytes, tensors: Any, *, beside: Any = ()) -> bytes:
        seen.append(set(beside))
        return with_tensors(graph, tensors, beside=beside)

    monkeypatch.setattr(runtimes, "with_tensors", watched)
    open_session([graph_of()], "onnx", "here", tensors=TENSORS)
    assert seen == [{"many"}]


def test_a_graph_without_its_tensor_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"^here: onnxruntime cannot load it"):
        open_session([graph_of("other")], "onnx", "here", tensors=TENSORS)


def test_floats_of_a_weights_file_are_read_in_32_bits() -> None:
    half = np.array([0.1, -65504, 6e-8], np.float16)
    content = save({"half": half, "count": np.array(3), "double": np.array([0.1])})
    found = read_tensors(content, "here")
    assert {name: array.dtype for name, array in found.items()} == dict.fromkeys(
        ("double", "half"), np.dtype(np.float32)
    )
    np.testing.assert_array_equal(found["half"], half.astype(np.float32))


@pytest.mark.parametrize("cut", [0, 5, -1])
def test_a_damaged_weights_file_is_refused(cut: int) -> None:
    with pytest.raises(WeightsError, match=r"^here: cannot be read as safetensors"):
        read_tensors(save(TENSORS)[:cut], "here")


def test_a_graph_that_gives_other_numbers_is_not_written(tmp_path: Path) -> None:
    """The network was changed after its ONNX model was written, but for its stored tensor."""
    torch = pytest.importorskip("torch")
    from spineline.datasets.networks.exporting import to_graph, to_onnx

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.by = torch.nn.Parameter(torch.tensor(TENSORS["w"])), 2.0

        def forward(self, x: Any) -> Any:
            return x @ self.w * self.by

    network = Scaled().eval()
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(save({"w": TENSORS["w"]}))
    names: Any = {"inputs": ["x"], "outputs": ["y"], "axes": {"x": {0: "n"}}}
    content = to_onnx(network, torch.ones(1, 3), **names, description=None, fold=False)
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    graph = to_graph(network, content, weights, str, [x])
    assert not onnx.load_from_string(graph).graph.initializer
    network.by = 3.0
    with pytest.raises(SpinelineError, match=r"w\.safetensors: its graph gives different numbers"):
        to_graph(network, content, weights, str, [x])
