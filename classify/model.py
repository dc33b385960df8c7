"""Trained classifiers: loading from weights files, and the grades of crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spineline.classify.combined import (
    Combination,
    CombinedClassifier,
    equal_shares,
    has_head,
)
from spineline.classify.exported import groups_alike
from spineline.classify.grades import Grades
from spineline.classify.network.layers import CROPS_PER_PASS, GradientNetworks, Network, Outputs
from spineline.classify.network.weights_file import load_network, network_metadata, read_members
from spineline.classify.recipe import Head
from spineline.classify.trunks.folding import fold_norms, multiply_pixels
from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.crops.grey_range import GreyRange
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import BINARY_NAMES, SEVEN_NAMES, Kind
from spineline.datasets.metrics.kind_masks import allowed_codes


@dataclass(frozen=True)
class Classifier:
    """A trained network, ready to grade crops.

    Attributes:
        network: in evaluation mode, on ``device``.
        device: where it computes.
    """

    network: Network
    device: torch.device

    @property
    def head(self) -> Head:
        """``seven``, ``binary`` or ``both``."""
        return self.network.config.head

    @property
    def crop(self) -> CropSpec:
        """How its crops are cut."""
        return self.network.config.crop

    @property
    def level_input(self) -> bool:
        """Whether grades depend on the given levels."""
        return self.network.config.level_input

    @property
    def greys(self) -> GreyRange | None:
        """Grey range of the training images; None if it was not stored."""
        return self.network.config.greys

    def grade(
        self,
        crops: npt.NDArray[np.uint8],
        kinds: Sequence[Kind | None] | None = None,
        *,
        levels: npt.NDArray[np.int64] | None = None,
        batch: int = CROPS_PER_PASS,
    ) -> Grades:
        """Grade crops.

        Args:
            crops: (N, size, size) uint8.
            kinds: kind of each crop, if known from its level. Classes of the other kind get
                probability zero and the rest add up to one; a vertebra has no v5.
            levels: (N,) index of each crop's level among the eleven, -1 if unknown; ignored by a
                network without ``level_input``.
            batch: crops per forward pass.

        Raises:
            ValueError: crops with an unexpected shape or dtype, or a wrong number of kinds or
                levels.
            WeightsError: the network's output is not a number.
        """
        crops = _checked_crops(crops, self.crop, levels)
        if kinds is not None and len(kinds) != len(crops):
            raise ValueError(f"{len(crops)} crops but {len(kinds)} kinds")
        return _finite_grades(self.logits(crops, levels, batch=batch), kinds)

    def logits(
        self,
        crops: npt.NDArray[np.uint8],
        levels: npt.NDArray[np.int64] | None = None,
        *,
        batch: int = CROPS_PER_PASS,
    ) -> Outputs:
        """Logits of (N, size, size) uint8 crops, on the CPU, float32: (N, 7) and (N, 2) or None."""
        network = self.network
        (found,) = _logits(
            lambda *given: [network(*given)], [self.head], crops, levels, batch, self.device
        )
        return found


@dataclass(frozen=True)
class GradientClassifiers:
    """Classifiers on the same histograms, which are computed once for all of them.

    Attributes:
        network: in evaluation mode, on ``device``.
        device: where it computes.
    """

    network: GradientNetworks
    device: torch.device

    def grades(
        self,
        crops: npt.NDArray[np.uint8],
        *,
        levels: npt.NDArray[np.int64] | None = None,
        batch: int = CROPS_PER_PASS,
    ) -> list[Grades]:
        """The grades of each classifier, without regard to kind; see [Classifier.grade][]."""
        configs = self.network.configs
        crops = _checked_crops(crops, configs[0].crop, levels)
        heads = [config.head for config in configs]
        found = _logits(self.network, heads, crops, levels, batch, self.device)
        return [_finite_grades(logits, None) for logits in found]


def _checked_crops(
    crops: npt.NDArray[np.uint8], spec: CropSpec, levels: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.uint8]:
    size, crops = spec.size, np.asarray(crops)
    if crops.dtype != np.uint8 or crops.shape[1:] != (size, size):
        msg = f"wanted (N, {size}, {size}) uint8 crops, found {crops.shape} {crops.dtype}"
        raise ValueError(msg)
    if levels is not None and np.shape(levels) != (len(crops),):
        raise ValueError(f"{len(crops)} crops but levels of shape {np.shape(levels)}")
    return crops


def _logits(
    network: Callable[[Tensor, Tensor], Sequence[Outputs]],
    heads: Sequence[Head],
    crops: npt.NDArray[np.uint8],
    levels: npt.NDArray[np.int64] | None,
    batch: int,
    device: torch.device,
) -> list[Outputs]:
    """Logits of (N, size, size) crops, on the CPU, float32, one pair for each of ``heads``."""
    places = torch.tensor(np.full(len(crops), -1) if levels is None else levels).float()
    empty = [
        (
            torch.empty((0, len(SEVEN_NAMES))) if has_head(head, "seven") else None,
            torch.empty((0, len(BINARY_NAMES))) if has_head(head, "binary") else None,
        )
        for head in heads
    ]
    parts: list[Sequence[Outputs]] = [empty]
    with torch.inference_mode():
        for start in range(0, len(crops), batch):
            pixels = torch.tensor(crops[start : start + batch], device=device)
            known = places[start : start + batch].to(device)
            parts.append(network(pixels.unsqueeze(1).float() / 255, known))
        return [(_joined([p[n][0] for p in parts]), _joined([p[n][1] for p in parts]))
                for n in range(len(heads))]  # fmt: skip


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    found = [part.float().cpu() for part in parts if part is not None]
    return torch.cat(found) if found else None


def _finite_grades(logits: Outputs, kinds: Sequence[Kind | None] | None) -> Grades:
    if not all(each is None or bool(each.isfinite().all()) for each in logits):
        raise WeightsError("the classifier's answer is not a number: its weights are damaged")
    return grades_of(logits, kinds)


def grades_of(logits: Outputs, kinds: Sequence[Kind | None] | None) -> Grades:
    """Probabilities from logits (N, 7) and (N, 2), given the kinds where they are known."""
    seven, binary = logits
    allowed = None if seven is None else allowed_classes(kinds, len(seven))
    return Grades(
        None if seven is None or allowed is None else seven_probabilities(seven, allowed).numpy(),
        None if binary is None else binary_probability(binary, kinds).numpy(),
    )


def allowed_classes(kinds: Sequence[Kind | None] | None, count: int) -> Tensor:
    """(count, 7) bool: the classes that each crop's kind allows; all if the kind is unknown."""
    return torch.from_numpy(allowed_codes([None] * count if kinds is None else kinds))


def seven_probabilities(logits: Tensor, allowed: Tensor) -> Tensor:
    """(N, 7) softmax over the allowed classes, zero elsewhere."""
    return logits.masked_fill(~allowed, -torch.inf).softmax(dim=1)


def binary_probability(logits: Tensor, kinds: Sequence[Kind | None] | None) -> Tensor:
    """(N,) probability of v5; zero for a known vertebra."""
    probability = logits.softmax(dim=1)[:, 1]
    if kinds is None:
        return probability
    vertebra = torch.tensor([kind == "vertebra" for kind in kinds], dtype=torch.bool)
    return probability.masked_fill(vertebra, 0.0)


def load_classifier(
    weights: Path | str | Sequence[Path | str], *, device: str = "cpu", trust: bool = False
) -> Classifier | CombinedClassifier:
    """Load a classifier from a weights file, or combine several.

    Args:
        weights: ``.safetensors`` file of one classifier or of a combination, or a run's
            ``checkpoint.pt``; or several files of single classifiers, which get equal shares.
        device: ``cpu``, ``cuda`` or the number of a CUDA device.
        trust: allow a ``.pt`` file, which is a pickle.

    Raises:
        WeightsError: missing, damaged, not a classifier's, or a pickle without ``trust``; or a
            combination among several files.
        ConfigError: no such device, or no file.
    """
    target = torch.device(device_name(device))
    files = [Path(f) for f in ([weights] if isinstance(weights, (Path, str)) else weights)]
    if not files:
        raise ConfigError("no weights file of a classifier is named")
    combination: Combination | None = None
    members: list[Classifier] = []
    for file in files:
        found, combination = read_members(file, trust=trust)
        if combination is not None and len(files) > 1:
            msg = f"{file}: already holds several combined classifiers; give only this file, "
            raise WeightsError(msg + "or name the weights of single classifiers")
        for n, (state, config) in enumerate(found):
            where = str(file) if combination is None else f"{file}, member {n}"
            members.append(ready_classifier(load_network(state, config, where), target))
    if len(files) == 1 and combination is None:
        return members[0]
    if combination is None:
        combination = Combination(equal_shares([member.head for member in members]))
    return CombinedClassifier(tuple(members), combination, _groups(members))


def ready_classifier(network: Network, device: torch.device) -> Classifier:
    """Prepare a trained network for inference, in place: folded, in channels-last order."""
    network.eval()
    fold_norms(network.trunk)
    multiply_pixels(network.trunk)
    return Classifier(network.to(device).to(memory_format=torch.channels_last), device)


def _groups(
    members: Sequence[Classifier],
) -> tuple[tuple[tuple[int, ...], GradientClassifiers], ...]:
    """Numbers of the members with identical histograms, and the object that computes them once."""
    found = []
    for numbers in groups_alike([network_metadata(member.network.config) for member in members]):
        if len(numbers) > 1:
            networks = GradientNetworks([members[n].network for n in numbers]).eval()
            found.append((numbers, GradientClassifiers(networks, members[numbers[0]].device)))
    return tuple(found)
