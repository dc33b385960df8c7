"""The weights that a YOLO network starts from.

The package's own ``load`` takes class rows over by name too, but by place where no name is shared;
and it widens a head to that of weights of 64 classes and more, so that a network no longer is what
its description says. Here every layer keeps its shape, and what has another is left out.
"""

from __future__ import annotations

from typing import Any

from spineline.detect.engine.class_rows import HeadTensor, log_rows, matched_rows, taken_over


def take_over_yolo(network: Any, start: Any) -> None:
    """Give a network the weights of another, in place; rows of classes by class name.

    Args:
        network: an Ultralytics detection network with its ``names``.
        start: another; it is left as it is.
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
