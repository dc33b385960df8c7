"""Initial weights from another run: rows of classes are matched by class name.

A detector's head holds rows for each class. If the classes of the data differ from those of the
weights in name or order, each class takes the rows of the class with its name. A class without one
keeps fresh rows. Names are compared as in ``ultralytics``, without case and outer spaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from spineline.datasets.common.log import LOG

ClassRows = tuple[int | None, ...]
"""For each class of the data, its index among the classes of the weights, or None."""


@dataclass(frozen=True, slots=True)
class HeadTensor:
    """Where a tensor of a head has the rows of its classes; rows after them are shared.

    Attributes:
        first: number of rows before them, such as the background's, which are shared.
        each: number of rows per class.
    """

    first: int = 0
    each: int = 1


def matched_rows(has: Sequence[str], wanted: Sequence[str]) -> ClassRows:
    """Return the index of each wanted class among those of the weights, or None.

    Numbers as names mean nothing: if the numbers of classes are equal, the classes are taken to be
    the same in the same order.

    >>> matched_rows(["L4", "L5", "S1"], ["S1", "T12", "l4"])
    (2, None, 0)
    >>> matched_rows(["0", "1"], ["L4", "L5"]), matched_rows(["0", "1"], ["L4"])
    ((0, 1), (None,))
    """
    if _is_numbered(has) or _is_numbered(wanted):
        by_place = len(has) == len(wanted)
        return tuple(range(len(wanted))) if by_place else (None,) * len(wanted)
    place = {_folded(name): n for n, name in enumerate(has)}
    return tuple(place.get(_folded(name)) for name in wanted)


def log_rows(has: Sequence[str], wanted: Sequence[str], rows: ClassRows) -> None:
    """Log which classes are reused, which start afresh, and which are left behind."""
    taken = [name for name, row in zip(wanted, rows, strict=True) if row is not None]
    afresh = [name for name, row in zip(wanted, rows, strict=True) if row is None]
    left = [name for n, name in enumerate(has) if n not in rows]
    if _is_numbered(has) or _is_numbered(wanted):
        which, how = (
            ("by place" if taken else "with new weights"),
            f"{len(has)} and {len(wanted)} classes",
        )
        LOG.warning(
            "classes have numbers instead of names: the head's rows are taken %s (%s)", which, how
        )
        return
    if not taken:
        LOG.warning(
            "no class of the weights (%s) is one of the data (%s): the head's class rows start "
            "with new weights", ", ".join(has), ", ".join(wanted),
        )  # fmt: skip
        return
    LOG.info("classes matched by name: %s", ", ".join(taken))
    if afresh:
        LOG.info("new classes, with new weights: %s", ", ".join(afresh))
    if left:
        LOG.info("classes of the weights that the data does not have: %s", ", ".join(left))


def taken_over(
    own: Mapping[str, torch.Tensor],
    start: Mapping[str, torch.Tensor],
    heads: Mapping[str, HeadTensor],
    rows: ClassRows,
) -> dict[str, torch.Tensor]:
    """Return the initial weights of a network, and log how many come from the other one.

    Args:
        own: the network's fresh weights, by name.
        start: the other network's weights; tensors with another shape are left out.
        heads: tensors with rows of classes.
        rows: from [matched_rows][].
    """
    found: dict[str, torch.Tensor] = {}
    for name, fresh in own.items():
        tensor = start.get(name)
        if tensor is None:
            continue
        if name in heads and tensor.shape[1:] == fresh.shape[1:]:
            found[name] = _with_rows(fresh, tensor, heads[name], rows)
        elif name not in heads and tensor.shape == fresh.shape:
            found[name] = tensor
    LOG.info("taken over: %d of %d tensors", len(found), len(own))
    return {**own, **found}


def _with_rows(
    fresh: torch.Tensor, start: torch.Tensor, head: HeadTensor, rows: ClassRows
) -> torch.Tensor:
    first, each = head.first, head.each
    result = fresh.clone()
    result[:first] = start[:first]
    shared = len(fresh) - first - each * len(rows)
    if shared:
        result[-shared:] = start[-shared:]
    for n, row in enumerate(rows):
        if row is not None:
            here, there = first + each * n, first + each * row
            result[here : here + each] = start[there : there + each]
    return result


def _is_numbered(names: Sequence[str]) -> bool:
    """Whether these are the default names of unnamed classes: 0, 1, …"""
    return all(name == str(n) for n, name in enumerate(names))


def _folded(name: str) -> str:
    return name.strip().lower()
