"""Runtimes of exported networks: what is refused, and what is kept from the network."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.networks.runtimes import (
    FORMS,
    PACKAGES,
    SUFFIXES,
    check_output_shape,
    default_threads,
    import_runtime,
    open_session,
)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_network_is_refused(form: Any) -> None:
    pytest.importorskip(PACKAGES[form])
    contents = [b"no network"] * len(SUFFIXES[form])
    message = rf"^here: {PACKAGES[form]} cannot load it \(.+\); export it again$"
    with pytest.raises(WeightsError, match=message):
        open_session(contents, form, "here")


@pytest.mark.parametrize("package", list(PACKAGES.values()))
def test_a_missing_package_says_how_to_get_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package} is not installed.*pip install"):
        import_runtime(package)


def test_a_network_that_fails_tells_of_it_in_one_line() -> None:
    """A network of one operation, the product with a matrix of ones."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    kind, helper = onnx.TensorProto.FLOAT, onnx.helper
    given, found = (
        helper.make_tensor_value_info(name, kind, ["n", size])
        for name, size in (("x", 3), ("y", 2))
    )
    ones = helper.make_tensor("w", kind, [3, 2], [1.0] * 6)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", [given], [found], [ones])
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    run = open_session([model.SerializeToString()], "onnx", "here")
    (output,) = run(np.ones((1, 3), np.float32))
    assert (output.tolist(), output.dtype) == ([[3.0, 3.0]], np.float32)
    with pytest.raises(RuntimeError, match=r"^here: fails on an input of shape \(1, 4\) \(.+\)$"):
        run(np.ones((1, 4), np.float32))


@pytest.mark.parametrize(
    ("value", "wanted"), [("3", 3), ("", 0), ("many", 0), ("-1", 0), ("²", 0), (None, 0)]
)
def test_threads(value: str | None, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if value is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert default_threads() == wanted


def test_openvino_is_imported_without_its_reports() -> None:
    """Its import sends an event over the network; the package that does is hidden from it."""
    pytest.importorskip("openvino")
    code = (
        "import sys\n"
        "from spineline.datasets.networks.runtimes import import_runtime\n"
        "import_runtime('openvino').Core()\n"
        "sys.exit(any(name.startswith('openvino_telemetry') for name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (np.zeros(3), r"here: gives an output of shape \(3,\), wanted \(1, any\); export it again"),
        (np.zeros((2, 3)), r"wanted \(1, any\)"),
        (np.full((1, 3), np.nan), "here: gives numbers that are not finite"),
        (np.zeros((1, 3)), None),
    ],
    ids=["axes", "length", "not finite", "fits"],
)
def test_what_a_network_must_give(found: np.ndarray, message: str | None) -> None:
    if message is None:
        check_output_shape(found, (1, None), "here")
        return
    with pytest.raises(WeightsError, match=message):
        check_output_shape(found, (1, None), "here")
