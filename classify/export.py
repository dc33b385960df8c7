"""``spineline classify export``: export to ONNX or TorchScript, compared with the original.

The exported network takes ``crops`` (N, size, size) float32 grey levels 0 … 255 and normalises them
itself. It returns the probabilities ``seven`` (N, 7) and ``binary`` (N,), without regard to kind. A
network with ``level_input`` also takes ``levels``, (N,) float32: the index of each crop's level
among the eleven, -1 if unknown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spineline.classify.exported import groups_alike
from spineline.classify.network.layers import GradientNetworks, Network, NetworkConfig
from spineline.classify.network.weights_file import (
    load_network,
    network_metadata,
    network_state,
    read_members,
    read_weights,
    save_weights,
)
from spineline.classify.settings import ClassifyExport
from spineline.datasets.common.errors import ConfigError, SpinelineError, first_line
from spineline.datasets.common.files import check_output, write_bytes, write_json
from spineline.datasets.common.log import LOG
from spineline.datasets.networks.exporting import (
    open_exported,
    random_input,
    to_graph,
    to_onnx,
    to_torchscript,
)
from spineline.datasets.networks.runtimes import Session
from spineline.weights import resolve

TOLERANCE = 1e-4
_SUFFIX = {"onnx": ".onnx", "torchscript": ".torchscript", "safetensors": ".safetensors"}


@dataclass(frozen=True, slots=True)
class ClassifyExportResult:
    """The output of ``classify export``.

    Attributes:
        out: the file.
        largest_difference: between its probabilities and the original's, on random crops.
    """

    out: Path
    largest_difference: float


class ExportNetwork(nn.Module):
    """A network, or several on the same histograms, from grey levels to probabilities.

    Attributes:
        outputs: names of the outputs.
        level_input: whether levels are a second input.
    """

    def __init__(self, *networks: Network) -> None:
        super().__init__()
        self.network = networks[0] if len(networks) == 1 else GradientNetworks(networks)
        self.level_input = any(network.config.level_input for network in networks)
        names = [list(network.config.outputs()) for network in networks]
        self.outputs = (
            names[0]
            if len(networks) == 1
            else [f"{name}{n}" for n, own in enumerate(names) for name in own]
        )

    @property
    def networks(self) -> list[Network]:
        """All networks."""
        several = isinstance(self.network, GradientNetworks)
        found: Any = self.network.networks if several else [self.network]
        return list(found)

    def forward(self, crops: Tensor, levels: Tensor | None = None) -> tuple[Tensor, ...]:
        """(N, S, S) float32 in 0 … 255 to (N, 7) and (N,) of each network, for the heads it has."""
        given = self.network(crops.unsqueeze(1) / 255, levels)
        found: list[Tensor] = []
        for seven, binary in [given] if isinstance(self.network, Network) else given:
            if seven is not None:
                found.append(seven.softmax(dim=1))
            if binary is not None:
                found.append(binary.softmax(dim=1)[:, 1])
        return tuple(found)


def export(settings: ClassifyExport) -> ClassifyExportResult:
    """Write a network in another format and compare its predictions on random crops.

    Raises:
        ConfigError: the suffix of ``out`` does not match the format, or a package is missing.
        WeightsError: the weights cannot be used.
        OutputExistsError: ``out`` exists.
        SpinelineError: the predictions of the exported network differ from the original's.
    """
    suffix = _SUFFIX[settings.format]
    if settings.out.suffix != suffix:
        raise ConfigError(f"out={settings.out}: format={settings.format} wants a {suffix} file")
    if settings.half and settings.format != "safetensors":
        raise ConfigError("half=true: only for format=safetensors")
    check_output(settings.out, overwrite=settings.overwrite)
    weights = resolve(settings.model, task="classify", trust=settings.trust)
    state, config = read_weights(weights.path, trust=settings.trust)
    network = load_network(state, config, str(weights.path)).eval().requires_grad_(False)
    part = settings.out.with_name(f".{settings.out.stem}.partial{suffix}")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        run = _write(settings, network, part)
        difference = largest_difference(network, run)
        limit = 0.02 if settings.half else TOLERANCE
        if not difference <= limit:
            msg = f"{settings.out}: differs from {weights.name} by {difference:.2g}; not written"
            raise SpinelineError(msg)
        part.replace(settings.out)
    except OSError as error:
        raise SpinelineError(f"{settings.out}: cannot be written ({first_line(error)})") from error
    finally:
        part.unlink(missing_ok=True)
    description = {
        "format": settings.format,
        "largest_difference": float(f"{difference:.1e}"),
        **network_metadata(config),
    }
    write_json(settings.out.with_suffix(".json"), description)
    LOG.info("%s written; differs from %s by %.1e", settings.out, weights.name, difference)
    return ClassifyExportResult(settings.out, difference)


def largest_difference(network: Network, run: Session) -> float:
    """The largest difference in probability between a network and its exported form.

    It uses batches of 1 and 5 random crops, so that a batch size frozen by tracing is noticed.
    """
    rng = np.random.default_rng(0)
    size = network.config.crop.size
    original = ExportNetwork(network).eval()
    worst = 0.0
    for count in (1, 5):
        inputs = [rng.integers(0, 256, (count, size, size)).astype(np.float32)]
        if network.config.level_input:
            inputs.append(np.arange(-1, count - 1, dtype=np.float32) * 3)
        with torch.inference_mode():
            wanted = [tensor.numpy() for tensor in original(*map(torch.from_numpy, inputs))]
        for mine, other in zip(wanted, run(*inputs), strict=True):
            if mine.shape != other.shape:
                return float("inf")
            worst = max(worst, float(np.abs(mine - other).max()))
    return worst


def _write(settings: ClassifyExport, network: Network, path: Path) -> Session:
    """Write the file and return the session that runs it."""
    if settings.format == "safetensors":
        save_weights(path, network_state(network), network.config, half=settings.half)
        state, config = read_weights(path)
        copy = ExportNetwork(load_network(state, config, str(path)).eval())
        return lambda *inputs: _run_torch(copy, inputs)
    (write_onnx if settings.format == "onnx" else write_torchscript)(network, path)
    return open_exported(path.read_bytes(), settings.format, str(settings.out))


def write_onnx(network: Network, path: Path) -> None:
    """Write a network as ONNX, for any number of crops; the output is not compared.

    Raises:
        ConfigError: the onnx package is not installed.
    """
    description = json.dumps(network_metadata(network.config))
    module = ExportNetwork(network).eval()  # else the exporter leaves all of it in training mode
    write_bytes(path, _onnx_of(module, description, fold=True))


def classifier_graphs(weights: Path) -> list[bytes]:
    """The graphs of the classifiers in a weights file, see [spineline.datasets.networks.graphs][].

    There is one graph for each group of [spineline.classify.exported.groups_alike][]; its outputs
    are those of its members in turn.

    Raises:
        ConfigError: the onnx package is not installed.
        WeightsError: the weights cannot be used.
    """
    members, combination = read_members(weights)
    networks = [
        load_network(state, config, str(weights)).eval().requires_grad_(False)
        for state, config in members
    ]
    graphs = []
    for numbers in groups_alike([network_metadata(config) for _, config in members]):
        module = ExportNetwork(*(networks[n] for n in numbers)).eval()
        size = networks[numbers[0]].config.crop.size
        inputs = [random_input(3, size, size, largest=255), torch.tensor([-1.0, 0.0, 4.0])]
        before = [f"member{n}." if combination else "" for n in numbers]
        content = _onnx_of(module, None, fold=False)
        given = inputs if module.level_input else inputs[:1]
        graphs.append(to_graph(module, content, weights, partial(_name_in_file, before), given))
    return graphs


def _name_in_file(before: Sequence[str], name: str) -> str:
    """The file's name of ``network.trunk.…``, or of ``network.networks.N.trunk.…`` if several."""
    name = name.removeprefix("network.")
    if len(before) == 1 or not name.startswith("networks."):
        return before[0] + name
    number, _, own = name.removeprefix("networks.").partition(".")
    return before[int(number)] + own


def _onnx_of(module: ExportNetwork, description: str | None, *, fold: bool) -> bytes:
    inputs = ["crops", "levels"] if module.level_input else ["crops"]
    return to_onnx(
        module,
        _example(module.networks[0].config, levels=module.level_input),
        inputs=inputs,
        outputs=module.outputs,
        axes={name: {0: "count"} for name in (*inputs, *module.outputs)},
        description=description,
        fold=fold,
    )


def write_torchscript(network: Network, path: Path) -> None:
    """Write a network as TorchScript, for any number of crops; the output is not compared."""
    description = json.dumps(network_metadata(network.config))
    traced = ExportNetwork(network).eval()
    example = _example(network.config, levels=traced.level_input)
    write_bytes(path, to_torchscript(traced, example, description=description))


def _example(config: NetworkConfig, *, levels: bool) -> tuple[Tensor, ...]:
    crops = torch.zeros((2, config.crop.size, config.crop.size))
    return (crops, torch.tensor([-1.0, 0.0])) if levels else (crops,)


def _run_torch(
    module: nn.Module, inputs: Sequence[npt.NDArray[np.float32]]
) -> list[npt.NDArray[np.float32]]:
    with torch.inference_mode():
        return [tensor.numpy() for tensor in module(*map(torch.from_numpy, inputs))]
