"""Conversion between the tree of ``metrics.json`` and dotted keys, such as ``seven.accuracy``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Make a tree from dotted keys.

    >>> nested({"seven.accuracy": 0.5, "seven.ece": 0.1, "n": 4})
    {'seven': {'accuracy': 0.5, 'ece': 0.1}, 'n': 4}
    """
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, name = key.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[name] = value
    return tree


def flatten(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Return every ``{value, ci95, n}`` of a ``metrics.json`` by dotted key, in order.

    >>> flatten({"images": 2, "coco": {"map50": {"value": 0.5, "n": 4}}})
    {'coco.map50': {'value': 0.5, 'n': 4}}
    """
    flat: dict[str, dict[str, Any]] = {}
    for name, value in metrics.items():
        if not isinstance(value, Mapping):
            continue
        if "value" in value:
            flat[prefix + name] = {k: value[k] for k in value if not isinstance(value[k], Mapping)}
        flat |= flatten(value, f"{prefix}{name}.")
    return flat
