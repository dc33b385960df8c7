"""Several classifiers that answer as one; nothing here imports torch.

Each member sees the structure in a crop of its own: its own margin, size and normalisation. For
each head the members' probabilities, with those of the other kind ruled out, are averaged by their
shares. The mean is then put through a temperature, so that it says how often it is right. The
class is chosen by the mean divided by the training class frequency to the power of tau (logit
adjustment: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021), and v5 is called
from a threshold on. The probabilities that are given stay those of the temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from spineline.classify.grades import Grades
from spineline.datasets.common.arrays import FloatArray, IntArray
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import SEVEN_NAMES, Kind
from spineline.datasets.metrics.grades import V5_THRESHOLD
from spineline.datasets.metrics.kind_masks import masked_seven

if TYPE_CHECKING:
    from spineline.classify.recipe import Head

HEAD_NAMES = ("seven", "binary")
Crops = npt.NDArray[np.uint8]


class MemberClassifier(Protocol):
    """What a member of a combination can do: a `Classifier`, or an exported one."""

    @property
    def crop(self) -> CropSpec: ...  # noqa: D102

    @property
    def head(self) -> Head: ...  # noqa: D102

    def grade(self, crops: Crops, *, levels: IntArray | None = None) -> Grades: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Combination:
    """How members answer as one.

    Attributes:
        shares: of the members, by head; those of a head add up to 1, and a member without the head
            has 0.
        temperature: by head; 1 leaves the mean as it is.
        tau: of the class adjustment; 0 chooses the most probable class.
        counts: training structures of each of the seven classes; empty where tau is 0.
        threshold: from which probability on v5 is called.
    """

    shares: Mapping[str, tuple[float, ...]]
    temperature: Mapping[str, float] = field(default_factory=dict)
    tau: float = 0.0
    counts: tuple[int, ...] = ()
    threshold: float = V5_THRESHOLD

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the description of a weights file or of a bundle."""
        return {
            "shares": {head: list(shares) for head, shares in self.shares.items()},
            "temperature": {head: self.temperature.get(head, 1.0) for head in self.shares},
            "tau": self.tau,
            "counts": list(self.counts),
            "threshold": self.threshold,
        }


def combination_from_json(value: Any, heads: Sequence[Head]) -> Combination:
    """The combination behind [Combination.to_json][].

    Args:
        value: plain values.
        heads: of the members, in their order.

    Raises:
        ValueError: a number that cannot be, or shares of other heads than the members have.
        KeyError, TypeError: something is missing, or of another type.
    """
    shares = {name: tuple(map(_number, row)) for name, row in value["shares"].items()}
    wanted = heads_together(heads)
    if list(shares) != list(wanted):
        raise ValueError(f"shares of {', '.join(shares)}, wanted {', '.join(wanted)}")
    for name, row in shares.items():
        check_shares(row, name, heads)
    temperature = {name: _number(value["temperature"][name]) for name in shares}
    tau, threshold = _number(value["tau"]), _number(value["threshold"])
    counts = tuple(value["counts"])
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError(f"counts {counts!r:.100}")
    if min(temperature.values()) <= 0 or tau < 0 or not 0 < threshold <= 1:
        raise ValueError(f"temperature {temperature}, tau {tau}, threshold {threshold}")
    if len(counts) != (len(SEVEN_NAMES) if tau else len(counts)):
        raise ValueError(f"tau {tau} with {len(counts)} counts, wanted {len(SEVEN_NAMES)}")
    return Combination(shares, temperature, tau, counts, threshold)


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.40}, wanted a number")
    return float(value)


def has_head(head: Head, name: str) -> bool:
    """Whether a classifier of this head answers ``name``, ``seven`` or ``binary``."""
    return head in (name, "both")


def heads_together(heads: Sequence[Head]) -> tuple[str, ...]:
    """The heads that members have together, in the order of the outputs."""
    return tuple(name for name in HEAD_NAMES if any(has_head(head, name) for head in heads))


def check_shares(shares: Sequence[float], name: str, heads: Sequence[Head]) -> None:
    """Refuse shares that do not fit the members.

    Raises:
        ValueError: says why.
    """
    if len(shares) != len(heads):
        raise ValueError(f"{len(shares)} shares of {name} for {len(heads)} members")
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-3:
        raise ValueError(f"shares of {name} {list(shares)}, wanted 0 or more that add up to 1")
    if any(share and not has_head(head, name) for share, head in zip(shares, heads, strict=True)):
        raise ValueError(f"a member without a {name} head has a share of it")


def given_shares(numbers: Sequence[float], heads: Sequence[Head]) -> dict[str, tuple[float, ...]]:
    """Shares by head in proportion to numbers, one for each member.

    Raises:
        ConfigError: another count, a negative number, or no positive one for a head.
    """
    shown = ",".join(f"{number:g}" for number in numbers)
    if len(numbers) != len(heads):
        msg = f"shares={shown}: {len(numbers)} numbers for {len(heads)} classifiers; give one each"
        raise ConfigError(msg)
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ConfigError(f"shares={shown}: wanted numbers of 0 or more")
    found: dict[str, tuple[float, ...]] = {}
    for name in heads_together(heads):
        pairs = zip(numbers, heads, strict=True)
        own = [number if has_head(head, name) else 0.0 for number, head in pairs]
        if not sum(own):
            raise ConfigError(f"shares={shown}: no classifier with a {name} head has a share")
        found[name] = tuple(number / sum(own) for number in own)
    return found


def equal_shares(heads: Sequence[Head]) -> dict[str, tuple[float, ...]]:
    """The same share of a head for each member that has it.

    >>> equal_shares(["both", "seven"])
    {'seven': (0.5, 0.5), 'binary': (1.0, 0.0)}
    """
    return given_shares([1.0] * len(heads), heads)


def mean_probabilities(tables: Sequence[FloatArray | None], shares: Sequence[float]) -> FloatArray:
    """(N, C) mean of the members' (N, C) probabilities; those without a share are not looked at."""
    pairs = [(t, s) for t, s in zip(tables, shares, strict=True) if s and t is not None]
    return np.asarray(sum(table * share for table, share in pairs), dtype=np.float64)


def tempered(log_p: FloatArray, temperature: npt.ArrayLike) -> FloatArray:
    """(N, C) probabilities whose logarithms are divided by temperatures (N,) or (1,)."""
    scaled = log_p / np.asarray(temperature, dtype=np.float64)[:, None]
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float64)


def with_temperature(p: FloatArray, temperature: float) -> FloatArray:
    """(N, C) probabilities at a temperature; at 1 they are given back as they are."""
    if temperature == 1 or not len(p):
        return p
    with np.errstate(divide="ignore"):
        return tempered(np.log(p), [temperature])


def adjusted_codes(p: FloatArray, tau: float, counts: Sequence[int]) -> IntArray:
    """(N,) the class with the greatest p / frequency ** tau among those that are not ruled out.

    A class that training did not have counts as one that it had once.

    Args:
        p: (N, C) probabilities, 0 where the kind rules a class out.
        tau: 0 for the most probable class.
        counts: (C,) training structures of each class.
    """
    if not tau:
        return np.asarray(p.argmax(axis=1), dtype=np.int64)
    with np.errstate(divide="ignore"):
        score = np.log(p) - tau * np.log(np.maximum(np.asarray(counts, dtype=np.float64), 1))
    return np.asarray(score.argmax(axis=1), dtype=np.int64)


@dataclass(frozen=True)
class CombinedClassifier:
    """Classifiers that answer as one.

    Attributes:
        members: each with a crop of its own.
        combination: how their answers become one.
    """

    members: tuple[MemberClassifier, ...]
    combination: Combination

    @property
    def crops(self) -> tuple[CropSpec, ...]:
        """How each member's crops are cut."""
        return tuple(member.crop for member in self.members)

    @property
    def head(self) -> Head:
        """What the members answer together."""
        names = heads_together([member.head for member in self.members])
        return "both" if len(names) == 2 else "seven" if "seven" in names else "binary"

    def cut(self, cut: Callable[[CropSpec], Crops]) -> list[Crops]:
        """Crops for each member; members that want the same crops share them.

        Args:
            cut: gives the crops (N, S, S) of the structures, cut as asked.
        """
        by_spec: dict[CropSpec, Crops] = {}
        for spec in self.crops:
            if spec not in by_spec:
                by_spec[spec] = cut(spec)
        return [by_spec[spec] for spec in self.crops]

    def grade(
        self,
        crops: Sequence[Crops],
        kinds: Sequence[Kind | None] | None = None,
        *,
        levels: IntArray | None = None,
        batch: int | None = None,
    ) -> Grades:
        """Grade structures, all of them in one go for each member.

        Args:
            crops: for each member (N, size, size) uint8, see `cut`.
            kinds: of each structure where it is known; the other kind's classes are ruled out.
            levels: (N,) place of each structure's level among the eleven, -1 where it is unknown.
            batch: crops per forward pass; None for the member's own.

        Raises:
            ValueError: crops of another shape, dtype or count.
        """
        counts = sorted({len(each) for each in crops})
        if len(crops) != len(self.members) or len(counts) != 1:
            msg = f"crops of {len(crops)} members ({counts} structures) for {len(self.members)}"
            raise ValueError(msg)
        known = [None] * counts[0] if kinds is None else list(kinds)
        if len(known) != counts[0]:
            raise ValueError(f"{counts[0]} crops but {len(known)} kinds")
        more = {} if batch is None else {"batch": batch}
        found = [
            member.grade(own, levels=levels, **more)
            for member, own in zip(self.members, crops, strict=True)
        ]
        return combined_grades(found, self.combination, known)


def as_one(classifier: MemberClassifier | CombinedClassifier) -> CombinedClassifier:
    """A classifier as a combination, which one alone is of itself."""
    if isinstance(classifier, CombinedClassifier):
        return classifier
    return CombinedClassifier((classifier,), Combination(equal_shares([classifier.head])))


def combined_grades(
    grades: Sequence[Grades], combination: Combination, kinds: Sequence[Kind | None]
) -> Grades:
    """What members say together of N structures.

    Args:
        grades: the members', one row for each structure.
        combination: how they are joined.
        kinds: of the structures; None where it is not known.
    """
    shares, temperature = combination.shares, combination.temperature
    found = Grades(None, None, threshold=combination.threshold)
    if "seven" in shares:
        tables = [None if g.seven is None else masked_seven(kinds, g.seven) for g in grades]
        mean = with_temperature(
            mean_probabilities(tables, shares["seven"]), temperature.get("seven", 1.0)
        )
        codes = adjusted_codes(mean, combination.tau, combination.counts)
        found = replace(found, seven=mean.astype(np.float32), seven_code=codes)
    if "binary" in shares:
        vertebra = np.array([kind == "vertebra" for kind in kinds], dtype=np.bool_)
        v5 = [None if g.binary is None else two_classes(g.binary) for g in grades]
        mean = with_temperature(
            mean_probabilities(v5, shares["binary"]), temperature.get("binary", 1.0)
        )
        yes = np.where(vertebra, 0.0, mean[:, 1] if len(mean) else 0.0)
        found = replace(found, binary=yes.astype(np.float32))
    return found


def two_classes(yes: npt.ArrayLike) -> FloatArray:
    """(N, 2) probabilities of no and yes from those of yes (N,)."""
    p = np.asarray(yes, dtype=np.float64)
    return np.stack([1 - p, p], axis=1)
