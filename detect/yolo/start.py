"""The initial weights of a YOLO network.

The package's own ``load`` also matches class rows by name, but by index if no name is shared. It
also widens a head to fit weights of 64 or more classes, so the network no longer matches its
description. Here every layer keeps its shape, and tensors with another shape are left out.
"""

from __future__ import annotations

from typing import Any

from spineline.detect.engine.class_rows import HeadTensor, log_rows, matched_rows, taken_over


def take_over_yolo(network: Any, start: Any) -> None:
    """Copy the weights of another network, in place; rows of classes are matched by class name.

    Args:
        network: an Ultralytics detection network with its ``names``.
        start: the other network; it is not changed.
    """
    rows = matched_rows(_names(start), _names(network))
    log_rows(_names(start), _names(network), rows)
    last = len(network.model) - 1
    heads = {
        f"model.{last}.cv3.{level}.{len(branch) - 1}.{part}": HeadTensor()
        for level, branch in enumerate(network.model[-1].cv3)
        for part in ("weight", "bias")
    }
    weights = {name: tensor.float() for name, tensor in start.state_dict().items()}
    network.load_state_dict(taken_over(network.state_dict(), weights, heads, rows))


def _names(network: Any) -> tuple[str, ...]:
    names = network.names
    return tuple(str(name) for name in (names.values() if isinstance(names, dict) else names))
