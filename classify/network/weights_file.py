"""Weights files of classifiers: the network's description, and one or several networks.

A file is safetensors, with a JSON description in its metadata. A file of several classifiers holds
their combination too; see [spineline.classify.combined][].
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spineline.classify.combined import (
    Combination,
    combination_from_json,
    heads_together,
)
from spineline.classify.network.build import build_network
from spineline.classify.network.layers import MIN_TEMPERATURE, Network, NetworkConfig
from spineline.classify.recipe import HEADS, MAX_BLOCKS, MAX_MEMBERS, MAX_POOL
from spineline.classify.trunks.pretrained import Origin
from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.common.files import write_bytes
from spineline.datasets.crops.grey_range import GreyRange
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import BINARY_NAMES, LEVELS, SEVEN_NAMES
from spineline.datasets.networks.tensors import pack_described, read_described


def network_metadata(config: NetworkConfig) -> dict[str, Any]:
    """The metadata of a weights file, as plain values.

    Keys that only some networks need are left out for the others.
    """
    more = {
        "components": (config.components, 0),
        "members": (config.members, 1),
        "feature_dropout": (config.feature_dropout, 0.0),
        "temperature": (
            {"seven": config.temperature_seven, "binary": config.temperature_binary},
            {"seven": 1.0, "binary": 1.0},
        ),
        "greys": (None if config.greys is None else asdict(config.greys), None),
        "level_input": (config.level_input, False),
        "keep_blocks": (config.keep_blocks, 0),
        "pool": (config.pool, 1),
        "pretrained": (None if config.origin is None else asdict(config.origin), None),
    }
    return {
        "task": "classify",
        "model": config.model,
        "head": config.head,
        "hidden": config.hidden,
        "dropout": config.dropout,
        "crop": {
            "size": config.crop.size,
            "margin": config.crop.margin,
            "align": config.crop.align,
        },
        "mean": config.mean,
        "std": config.std,
        "channels": config.channels,
        "names": [name for classes in config.outputs().values() for name in classes],
        **{name: value for name, (value, usual) in more.items() if value != usual},
    }


def config_from_metadata(metadata: Any, where: str) -> NetworkConfig:
    """The inverse of [network_metadata][]; ``where`` is named in messages.

    Raises:
        WeightsError: not a classifier's metadata, or classes in an unexpected order.
    """
    if not isinstance(metadata, dict) or metadata.get("task") != "classify":
        task = metadata.get("task") if isinstance(metadata, dict) else None
        found = f"weights for task {task!r:.100}" if task else "no description of a classifier"
        raise WeightsError(f"{where}: holds {found}; wanted weights of spineline classify train")
    try:
        crop = metadata["crop"]
        temperature = metadata.get("temperature", {})
        greys = metadata.get("greys")
        ends = None if greys is None else [tuple(map(float, greys[e])) for e in ("low", "high")]
        config = NetworkConfig(
            model=str(metadata["model"]),
            head=next(head for head in HEADS if head == metadata["head"]),
            hidden=int(metadata["hidden"]),
            dropout=float(metadata["dropout"]),
            channels=int(metadata["channels"]),
            crop=CropSpec(int(crop["size"]), float(crop["margin"]), crop["align"]),
            mean=float(metadata["mean"]),
            std=float(metadata["std"]),
            components=int(metadata.get("components", 0)),
            members=int(metadata.get("members", 1)),
            feature_dropout=float(metadata.get("feature_dropout", 0.0)),
            temperature_seven=float(temperature.get("seven", 1.0)),
            temperature_binary=float(temperature.get("binary", 1.0)),
            greys=None if ends is None else GreyRange(*ends),
            level_input=_yes_or_no(metadata.get("level_input", False)),
            keep_blocks=int(metadata.get("keep_blocks", 0)),
            pool=int(metadata.get("pool", 1)),
            origin=_origin(metadata.get("pretrained")),
        )
        if metadata["names"] != network_metadata(config)["names"]:
            raise ValueError(f"classes {metadata['names']}")
        _check_config(config)
    except (
        KeyError, TypeError, ValueError, AttributeError, OverflowError, StopIteration, ConfigError
    ) as error:  # fmt: skip
        raise WeightsError(f"{where}: its description is damaged ({error!r:.300})") from error
    return config


def _origin(value: Any) -> Origin | None:
    """The source of the trunk's weights; ``weights strip`` removes one that is an address."""
    if value is None:
        return None
    return Origin(str(value.get("source", "unknown")), str(value["licence"]))


def _yes_or_no(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r:.40}, wanted true or false")
    return value


def _check_config(config: NetworkConfig) -> None:
    if not 0 <= config.hidden <= 65536 or not 1 <= config.channels <= 3:
        raise ValueError(f"hidden {config.hidden}, channels {config.channels}")
    if not math.isfinite(config.mean) or not (math.isfinite(config.std) and config.std > 0):
        raise ValueError(f"mean {config.mean}, std {config.std}")
    if not 0 <= config.dropout < 1 or not 0 <= config.feature_dropout < 1:
        raise ValueError(f"dropout {config.dropout}, of features {config.feature_dropout}")
    for temperature in (config.temperature_seven, config.temperature_binary):
        if not MIN_TEMPERATURE <= temperature <= 1 / MIN_TEMPERATURE:
            raise ValueError(f"temperature {temperature}")
    if not 0 <= config.keep_blocks <= MAX_BLOCKS or not 1 <= config.pool <= MAX_POOL:
        raise ValueError(f"keep_blocks {config.keep_blocks}, pool {config.pool}")
    if not 1 <= config.members <= MAX_MEMBERS or config.components < 0:
        raise ValueError(f"members {config.members}, components {config.components}")


def network_state(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the network's tensors on the CPU, in row-major order."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in network.state_dict().items()
    }


def save_weights(
    path: Path, state: Mapping[str, Tensor], config: NetworkConfig, *, half: bool = False
) -> None:
    """Write a weights file atomically.

    Args:
        path: ``.safetensors`` file.
        state: from [network_state][].
        config: written into its metadata.
        half: store 16-bit floats.

    Raises:
        WeightsError: a number is too large for 16 bits.
    """
    if half:
        _check_half(path, state)
    write_bytes(path, weights_bytes(state, config, half=half))


def _check_half(path: Path, state: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.half()).all():
            raise WeightsError(f"{path}: {name} does not fit 16-bit floats; use half=false")


def weights_bytes(
    state: Mapping[str, Tensor], config: NetworkConfig, *, half: bool = False
) -> bytes:
    """The content of a weights file; see [save_weights][]."""
    return pack_described(state, json.dumps(network_metadata(config)), half=half)


def read_weights(path: Path, *, trust: bool = False) -> tuple[dict[str, Tensor], NetworkConfig]:
    """Tensors (floats as float32) and configuration of a weights file.

    A ``.pt`` file is a run's ``checkpoint.pt``. Even if trusted, it is read without running code.

    Raises:
        WeightsError: missing, damaged, not a classifier's, or a pickle without ``trust``.
    """
    if path.suffix == ".safetensors":
        metadata, state = read_described(path)
    elif not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    elif not trust:
        msg = (
            f"{path}: a pickle, which can run code when it is loaded; use a .safetensors file, or "
            "trust=true if you know where it comes from"
        )
        raise WeightsError(msg)
    else:
        state, metadata = _read_pickle(path)
    if isinstance(metadata, dict) and "combined" in metadata:
        msg = f"{path}: holds several combined classifiers; wanted a single one"
        raise WeightsError(msg)
    metadata, state = _by_our_names(metadata, state)
    config = config_from_metadata(metadata, str(path))
    return {n: t.float() if t.is_floating_point() else t for n, t in state.items()}, config


def _by_our_names(metadata: Any, state: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """Bring a head's rows into our class order, if the file has the same classes in another order.

    Rows belong to their classes by name. Everything else is left unchanged, so that
    [config_from_metadata][] can refuse it.
    """
    names = metadata.get("names") if isinstance(metadata, dict) else None
    if not isinstance(names, list):
        return metadata, state
    rows: dict[str, list[int]] = {}
    ours: list[str] = []
    start = 0
    for head, classes in (("seven", SEVEN_NAMES), ("binary", BINARY_NAMES)):
        found = names[start : start + len(classes)]
        if set(map(str, found)) == set(classes):
            rows[head] = [found.index(name) for name in classes]
            ours += classes
            start += len(classes)
    if len(ours) != len(names) or ours == names:
        return metadata, state
    moved = {
        name: tensor[rows[head]]
        for name, tensor in state.items()
        for head in rows
        if f"heads.{head}." in name and len(tensor) == len(rows[head])
    }
    return {**metadata, "names": ours}, {**state, **moved}


def _read_pickle(path: Path) -> tuple[dict[str, Tensor], Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return dict(content["network"]), json.loads(content["metadata"])
    except Exception as error:  # unpickling a damaged or hostile file can raise anything
        msg = f"{path}: not a checkpoint of spineline classify train ({type(error).__name__})"
        raise WeightsError(msg) from error


def load_network(state: dict[str, Tensor], config: NetworkConfig, where: str) -> Network:
    """A network with the given weights.

    Raises:
        WeightsError: the weights do not fit the configuration, or are not finite.
    """
    _check_hidden(state, config, where)
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        msg = f"{where}: {broken[0]:.100} holds numbers that are not finite; train it again"
        raise WeightsError(msg)
    try:
        network = build_network(config)
        network.load_state_dict(state)
    except (ConfigError, RuntimeError) as error:
        msg = f"{where}: its weights do not fit its description ({error!s:.1000})"
        raise WeightsError(msg) from error
    return network


def _check_hidden(state: Mapping[str, Tensor], config: NetworkConfig, where: str) -> None:
    """Refuse hidden layers that the file does not have, before their memory is allocated."""
    for number in range(config.members if config.hidden else 0):
        name = f"others.{number - 1}.hidden.0.weight" if number else "hidden.0.weight"
        shape = tuple(state[name].shape) if name in state else ()
        width = config.components + (len(LEVELS) if config.level_input else 0)
        whole = not config.components or shape[1:] == (width,)
        if shape[:1] != (config.hidden,) or not whole:
            msg = f"{where}: its weights do not fit its description ({name}: {shape or 'missing'})"
            raise WeightsError(msg)


def save_combined(
    path: Path,
    members: Sequence[tuple[Mapping[str, Tensor], NetworkConfig]],
    combination: Combination,
    *,
    half: bool = False,
) -> None:
    """Write a weights file of several classifiers and their combination, atomically.

    Args:
        path: ``.safetensors`` file.
        members: state and configuration of each.
        combination: how they are combined.
        half: store 16-bit floats.

    Raises:
        WeightsError: a number is too large for 16 bits.
    """
    known = {name: of for _, config in members for name, of in config.outputs().items()}
    heads = heads_together([config.head for _, config in members])
    description = {
        "task": "classify",
        "model": ", ".join(config.model for _, config in members),
        "names": [name for head in heads for name in known[head]],
        "combined": [network_metadata(config) for _, config in members],
        "combination": combination.to_json(),
    }
    tensors = {
        f"member{n}.{name}": tensor
        for n, (state, _) in enumerate(members)
        for name, tensor in state.items()
    }
    if half:
        _check_half(path, tensors)
    write_bytes(path, pack_described(tensors, json.dumps(description), half=half))


def read_members(
    path: Path, *, trust: bool = False
) -> tuple[list[tuple[dict[str, Tensor], NetworkConfig]], Combination | None]:
    """Tensors and configuration of each classifier of a weights file, and their combination.

    For a file of a single classifier, the combination is None.

    Raises:
        WeightsError: missing, damaged, not a classifier's, or a pickle without ``trust``.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        return [read_weights(path, trust=trust)], None
    metadata, state = read_described(path)
    if not isinstance(metadata, dict) or "combined" not in metadata:
        return [read_weights(path)], None
    described = metadata["combined"]
    described = described if isinstance(described, list) else []
    states: list[dict[str, Tensor]] = [{} for _ in described]
    for name, tensor in state.items():
        member, _, own = name.partition(".")
        number = member.removeprefix("member")
        if not (number.isdecimal() and int(number) < len(states)):
            msg = f"{path}: its description is damaged: {name:.100} is of no member"
            raise WeightsError(msg)
        states[int(number)][own] = tensor.float() if tensor.is_floating_point() else tensor
    members: list[tuple[dict[str, Tensor], NetworkConfig]] = []
    for n, (said, own_state) in enumerate(zip(described, states, strict=True)):
        ours, sorted_state = _by_our_names(said, own_state)
        members.append((sorted_state, config_from_metadata(ours, f"{path}, member {n}")))
    try:
        heads = [config.head for _, config in members]
        return members, combination_from_json(metadata["combination"], heads)
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise WeightsError(f"{path}: its description is damaged ({error!r:.300})") from error
