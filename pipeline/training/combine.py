"""The classifiers of a run as one file, and the members of such a file as starting weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from spineline.classify.combined import Combination, equal_shares
from spineline.classify.network.weights_file import (
    read_members,
    read_weights,
    save_combined,
    save_weights,
)
from spineline.datasets.common.errors import WeightsError
from spineline.datasets.common.log import LOG
from spineline.datasets.dataset import load_dataset
from spineline.datasets.labels import SEVEN_NAMES, encode_seven
from spineline.weights import resolve

SHIPPED = "lumbar-grades"
"""The combined classifier of the default bundle."""


def combine_as_shipped(files: Sequence[Path], data: Path, out: Path) -> None:
    """Combine classifiers into one file by their mean, with the calibration of `SHIPPED`.

    Out-of-fold predictions of the same trainings would calibrate better, at the cost of a
    cross-validation: see `classify calibrate`. The class counts are those of the data.

    Args:
        files: weights of single classifiers.
        data: dataset that they were trained on.
        out: file to write.
    """
    members = [read_weights(file) for file in files]
    shipped = read_members(resolve(SHIPPED, task="classify").path)[1] or Combination({})
    heads = [config.head for _, config in members]
    combination = replace(shipped, shares=equal_shares(heads), counts=_class_counts(data))
    save_combined(out, members, combination, half=True)
    LOG.info(
        "%s: %d classifiers that answer as one; temperature, class adjustment and threshold of v5 "
        "are those of %s, not fitted on this data (classify calibrate does that)",
        out, len(members), SHIPPED,
    )  # fmt: skip


def write_members(weights: str, names: Sequence[str], folder: Path) -> dict[str, Path]:
    """Write each member of a combined classifier as a separate weights file.

    Args:
        weights: name or file of the combined classifier.
        names: of its members, in their order.
        folder: to write NAME-start.safetensors into.

    Raises:
        WeightsError: it has another number of members.
    """
    members, _ = read_members(resolve(weights, task="classify").path)
    if len(members) != len(names):
        msg = f"weights={weights}: holds {len(members)} classifiers, wanted {', '.join(names)}"
        raise WeightsError(f"{msg}: {len(names)}, in this order")
    found = {}
    for name, (state, config) in zip(names, members, strict=True):
        found[name] = folder / f"{name}-start.safetensors"
        save_weights(found[name], state, config)
    return found


def _class_counts(data: Path) -> tuple[int, ...]:
    """Number of structures of each of the seven classes in the train part."""
    dataset = load_dataset(data)
    found = Counter(
        encode_seven(structure.kind, structure.pathology)
        for record in dataset.records["train"]
        for structure in record.structures
    )
    return tuple(found[code] for code in range(len(SEVEN_NAMES)))
